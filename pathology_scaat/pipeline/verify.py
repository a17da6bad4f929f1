"""``scaat verify``: is what stands in an output folder whole, and made of what it says?"""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.verify import Finding, verify_run


def verify(
    out: Path,
    *,
    quick: bool = False,
    manifest: Path | Manifest | None = None,
    deep: bool = False,
) -> tuple[Finding, ...]:
    """Re-read every artifact of an output folder.

    Parameters
    ----------
    out : Path
        Output folder of a run.
    quick : bool
        Check metadata, sizes and the chain of fingerprints, but decode no pixels and hash
        no files.
    manifest : Path or Manifest, optional
        The cohort: its slides are compared with what the patches were cut from.
    deep : bool
        Read every byte of these slides, also where a file looks unchanged since it was read.

    Returns
    -------
    tuple of Finding
        One line of each sound artifact and of each fault.
    """
    cohort = load_cohort(manifest) if manifest is not None else None
    return tuple(verify_run(out, deep=not quick, cohort=cohort, read_slides=deep))
