"""Which slides a model has never seen: what its bundle says, and nothing else.

``slides.csv`` holds the split of the *last* training or comparison on a folder, which need not
be that of the model in question. So it never decides whether a slide was held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.table_cells import id_cell
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.training.bundle_config import BundleConfig

UNKNOWN = "unknown: this bundle does not record its training slides"
OTHER_PSEUDONYMS = (
    "unknown: this bundle records its training slides under other pseudonyms than these slides, "
    "or the ones under some and the others under none"
)


@dataclass(frozen=True)
class SlideChoice:
    """Slides to measure on.

    Attributes
    ----------
    slide_ids : tuple of str
    words : str
        Which ones they are.
    held_out : bool or None
        Whether the model was neither trained nor selected on any of them; None where the
        bundle does not say.
    held_out_words : str
        The same in words, with what it rests on.
    """

    slide_ids: tuple[str, ...]
    words: str
    held_out: bool | None
    held_out_words: str


def patient_groups(
    slide_ids: Sequence[str], patients: Mapping[str, str] | None
) -> tuple[dict[str, str], str]:
    """What images are grouped by, slide id to group, and the word for the groups.

    "patients" only where the patient of every slide is known; else each slide is a group.

    Examples
    --------
    >>> patient_groups(["a", "b"], {"a": "p", "b": "p"})
    ({'a': 'p', 'b': 'p'}, 'patients')
    >>> patient_groups(["a", "b"], {"a": "p"})
    ({'a': 'a', 'b': 'b'}, 'slides')
    """
    known = patients or {}
    if slide_ids and all(i in known for i in slide_ids):
        return {i: known[i] for i in slide_ids}, "patients"
    return {i: i for i in slide_ids}, "slides"


def choose_slides(
    out_dir: Path,
    config: BundleConfig,
    asked: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> SlideChoice:
    """Choose the slides to measure a model on: those it has not seen, if there are any.

    Parameters
    ----------
    out_dir : Path
        Output folder of a run.
    config : BundleConfig
        Of the model; what its slides served for decides.
    asked : sequence of str, optional
        These slides and no others.
    patients : mapping of slide id to patient, optional
        A slide of a patient of whom another slide was trained on is not held out.

    Returns
    -------
    SlideChoice
        The slides, and whether they are held out. Without ``asked`` it holds, in this order of
        preference, slides that the model has not seen, those it was selected on, and all.

    Raises
    ------
    StoreError
        If a patch store of the folder cannot be read.
    """
    choice = _chosen(out_dir, config, asked, patients)
    others = set(StatusTable(out_dir).not_in_manifest())
    earlier = sum(id_cell(i) in others for i in choice.slide_ids)
    if not earlier:
        return choice
    return replace(
        choice, words=f"{choice.words} ({earlier} of them not in the manifest of the last run)"
    )


def _chosen(
    out_dir: Path,
    config: BundleConfig,
    asked: Sequence[str] | None,
    patients: Mapping[str, str] | None,
) -> SlideChoice:
    there = sorted(p.name.removesuffix(".zarr") for p in (out_dir / "patches").glob("*.zarr"))
    # What lies there of a slide that has failed since is of an earlier run.
    there = StatusTable(out_dir).without_failed("tile", there)
    if not config.knows_its_slides:
        return _unknown(out_dir, there, asked)
    roles = {
        i: config.role_of(PatchStore(out_dir / "patches" / f"{i}.zarr").meta.slide_fingerprint)
        for i in sorted({*there, *(asked or ())})
        if (out_dir / "patches" / f"{i}.zarr").is_dir()
    }
    if "unknown" in roles.values():
        return _unknown(out_dir, there, asked, OTHER_PSEUDONYMS)
    known = patients or {}

    def of(role: str) -> set[str]:
        slides = {i for i, own in roles.items() if own == role}
        people = {known[i] for i in slides if i in known}
        return slides | {i for i in roles if known.get(i) in people}

    seen, chosen_on = of("train"), of("val")
    basis = "by the fingerprints of slides in the bundle"
    basis += ", and by patient" if known else "; patients are not known"
    if asked is not None:
        touched = [i for i in asked if i in seen or i in chosen_on]
        if not touched:
            return SlideChoice(tuple(asked), "the slides named", True, f"yes ({basis})")
        many = f"{len(touched)} of {len(asked)} named slides were"
        return SlideChoice(
            tuple(asked), "the slides named", False, f"no: {many} trained or selected on ({basis})"
        )
    unseen = [i for i in roles if i not in seen and i not in chosen_on]
    if unseen:
        words = "the slides that the model has not seen"
        return SlideChoice(tuple(unseen), words, True, f"yes ({basis})")
    nearly = [i for i in roles if i in chosen_on and i not in seen]
    if nearly:
        # Training kept the best epoch on these: nearly, but not quite, unseen.
        words = "the validation slides, for there are no slides that the model has not seen"
        why = f"no: the model's best epoch was chosen on these slides ({basis})"
        return SlideChoice(tuple(nearly), words, False, why)
    words = "all slides, for the model has seen every one"
    return SlideChoice(tuple(roles), words, False, f"no: the model was trained on them ({basis})")


def _unknown(
    out_dir: Path, there: Sequence[str], asked: Sequence[str] | None, why: str = UNKNOWN
) -> SlideChoice:
    if asked is not None:
        return SlideChoice(tuple(asked), "the slides named", None, why)
    splits = StatusTable(out_dir).column("split")
    test = tuple(i for i in there if splits.get(id_cell(i)) == "test")
    if test:
        return SlideChoice(test, "the slides that slides.csv calls test", None, why)
    return SlideChoice(tuple(there), "all slides", None, why)
