"""``scaat verify``: is what stands in an output folder whole, and made of what it says?"""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.verify import Finding, verify_run


def verify(out: Path, *, quick: bool = False) -> tuple[Finding, ...]:
    """Re-read every artifact of an output folder.

    Parameters
    ----------
    out : Path
        Output folder of a run.
    quick : bool
        Check metadata, sizes and the chain of fingerprints, but decode no pixels and hash
        no files.

    Returns
    -------
    tuple of Finding
        One line of each sound artifact and of each fault.
    """
    return tuple(verify_run(out, deep=not quick))
