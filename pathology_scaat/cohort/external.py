"""An external test cohort beside the one that a model is made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pathology_scaat.cohort.ids import id_key
from pathology_scaat.cohort.manifest import Manifest, assign_splits
from pathology_scaat.errors import ManifestError

DEVELOPMENT_FRACTIONS = (0.75, 0.25, 0.0)
"""Train and validation where the test is another cohort; nobody of the first is kept for it."""


def with_external_test(cohort: Manifest, external: Manifest, seed: int) -> Manifest:
    """Both cohorts as one, all of the external one as test slides.

    The first cohort's own splits are kept; where it gives none, its patients are assigned to
    train and validation only.

    Raises
    ------
    ManifestError
        If a slide or a patient is in both, or the external table says of a slide that it is to
        be trained on.
    """
    refuse_shared_with(cohort, external)
    own = cohort
    if any(row.split is None for row in cohort.rows):
        own = assign_splits(cohort, DEVELOPMENT_FRACTIONS, seed)
    tested = tuple(replace(row, split="test") for row in external.rows)
    return replace(own, rows=(*own.rows, *tested), notes=(*own.notes, *external.notes))


def refuse_shared_with(cohort: Manifest, external: Manifest) -> None:
    """Refuse an external cohort that is none.

    Raises
    ------
    ManifestError
        If a slide, file or patient is in both tables, or the external one says of a slide that it
        is to be trained on.
    """
    _refuse_shared("slide", (r.slide_id for r in cohort.rows), (r.slide_id for r in external.rows))
    _refuse_shared(
        "patient", (r.patient_id for r in cohort.rows), (r.patient_id for r in external.rows)
    )
    _refuse_shared(
        "slide file",
        (str(r.slide_path) for r in cohort.rows),
        (str(r.slide_path) for r in external.rows),
    )
    wrong = [r.slide_id for r in external.rows if r.split not in (None, "test")]
    if wrong:
        raise ManifestError(
            "--test-manifest", f"gives '{wrong[0]}' another split than test", "leave split out"
        )


def _refuse_shared(what: str, first: Iterable[str], second: Iterable[str]) -> None:
    known = {id_key(name) for name in first}
    shared = sorted({name for name in second if id_key(name) in known})
    if shared:
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise ManifestError(
            "--test-manifest",
            f"shares the {what} '{shared[0][-60:]}'{more} with the cohort that is trained on",
            "test on others, or give ids that tell the two cohorts apart",
        )
