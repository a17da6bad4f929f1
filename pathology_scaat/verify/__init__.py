"""``scaat verify``: re-read every artifact of an output folder and say what is wrong."""

from pathology_scaat.verify.findings import Finding
from pathology_scaat.verify.run import verify_run

__all__ = ["Finding", "verify_run"]
