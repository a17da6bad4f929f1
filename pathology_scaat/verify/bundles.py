"""Re-reading a bundle of a folder, of a model or of a head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pathology_scaat.artifacts.checksums import folder_problem
from pathology_scaat.errors import BundleError, StoreError
from pathology_scaat.verify.findings import Report


def check_bundle(
    name: str, path: Path, deep: bool, describe: Callable[[Path], tuple[str, str]], report: Report
) -> None:
    """Load a bundle, which checks its hashes, and report what is wrong with it.

    Parameters
    ----------
    name : str
        Of the bundle in the report.
    path : Path
    deep : bool
        Whether all files of the folder are read.
    describe : callable
        Loads the bundle and gives what it is, in words, and its fingerprint.
    report : Report
    """
    from pathology_scaat.training.bundle_reading import CONFIG_NAME
    from pathology_scaat.training.decision import DECISION_NAME, read_decision

    try:
        words, fingerprint = describe(path)
        if read_decision(path, fingerprint) is not None:
            words += ", with what its validation cases chose"
    except (BundleError, StoreError) as error:
        report.add(name, [f"{error.problem}; {error.remedy}"], "")
        return
    broken = folder_problem(path, CONFIG_NAME, apart=(DECISION_NAME,)) if deep else None
    problems = [f"{broken}; train it again, or copy the whole folder anew"] if broken else []
    report.add(name, problems, words)
