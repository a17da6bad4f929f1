"""Whether the slides are still those that the patches were cut from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import SlideError, StoreError
from pathology_scaat.patches import PatchStore
from pathology_scaat.slides.fingerprint import keyed, location_fingerprint, slide_fingerprint
from pathology_scaat.verify.findings import Report


def check_slides(
    cohort: Manifest, stores: Mapping[str, Path], *, anew: bool, report: Report
) -> None:
    """Compare each slide's bytes with the fingerprint in its patch store.

    Problems are reported, not raised.

    Parameters
    ----------
    cohort : Manifest
        Where the slides are; under pseudonyms if the run was.
    stores : mapping
        Patch stores by slide id.
    anew : bool
        Read every byte again; else what was remembered of an unchanged file is enough.
    report : Report
        Gets one line per slide.
    """
    for slide_id in sorted(stores.keys() - set(cohort.slide_ids)):
        report.add(
            f"slide of {slide_id}",
            ["is in no row of the manifest: it was not compared; give the run's manifest"],
            "",
        )
    for row in cohort.rows:
        path = stores.get(row.slide_id)
        if path is None:
            continue
        name = f"slide of {row.slide_id}"
        try:
            meta = PatchStore(path).meta
        except StoreError:
            continue  # said of the store itself
        location = slide_location(row.slide_path)
        try:
            if isinstance(location, Path):
                digest = slide_fingerprint(location, remembered=not anew)
            else:
                digest = location_fingerprint(location)
        except SlideError as error:
            report.add(name, [f"{error.problem}; {error.remedy}"], "")
            continue
        problems = []
        if keyed(digest, cohort.fingerprint_key) != meta.slide_fingerprint:
            problems.append("has other bytes than when it was tiled; tile it again")
        report.add(name, problems, "the bytes that were tiled")
