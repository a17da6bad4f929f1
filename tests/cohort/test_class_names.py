"""The classes of a cohort, each once, whatever annotations and labels call them."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_slides import Ring, write_annotations

from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.errors import UsageError
from pathology_scaat.patches.config import TileConfig
from pathology_scaat.pipeline.class_names import counts_text, find_classes, with_class_names

RING: Ring = [[0, 0], [9, 0], [9, 9], [0, 0]]


def rows(folder: Path, *slides: tuple[str, ...] | str) -> list[ManifestRow]:
    """A slide with annotations of some classes, or one with a label."""
    made = []
    for number, slide in enumerate(slides):
        path = folder / f"{number}.geojson"
        if isinstance(slide, tuple):
            write_annotations(path, dict.fromkeys(slide, RING))
        made.append(
            ManifestRow(
                folder / f"{number}.svs",
                str(number),
                str(number),
                label=slide if isinstance(slide, str) else None,
                annotation_path=path if isinstance(slide, tuple) else None,
            )
        )
    return made


@pytest.mark.parametrize(
    ("slides", "names"),
    [
        ([("Tumor",), ("tumor", "Normal")], ("Normal", "Tumor")),
        ([("Tumor", "", "Ignore*"), "normal"], ("Tumor", "normal")),
        ([("Tumor: Positive", "Tumor: Negative"), ("Normal",)], ("Normal", "Tumor")),
        ([("Tumor: Positive", "TUMOR")], ("Tumor",)),
        (["Grade: 1", "Grade: 2"], ("Grade: 1", "Grade: 2")),
        ([("",)], ()),
    ],
)
def test_each_class_once(
    tmp_path: Path, slides: list[tuple[str, ...] | str], names: tuple[str, ...]
) -> None:
    assert find_classes(rows(tmp_path, *slides)).names == names


def test_what_was_merged_and_what_looks_alike_is_reported(tmp_path: Path) -> None:
    found = find_classes(rows(tmp_path, ("Tumor", "tumor"), ("Tumour", "Normal: a")))
    said = "; ".join(found.notes)
    assert "'tumor' is 'Tumor' in another spelling" in said
    assert "'Tumor' and 'Tumour' differ by a letter" in said
    assert "'Normal: a' count as 'Normal'" in said


def test_classes_that_are_given_stay_and_the_background_is_spelled_as_they_are(
    tmp_path: Path,
) -> None:
    cohort = rows(tmp_path, ("Tumor",))
    given = TileConfig(class_names=("Normal", "Tumor"), background_class="normal")
    settings, notes = with_class_names(given, cohort)
    assert (settings.class_names, settings.background_class, notes) == (
        ("Normal", "Tumor"), "Normal", ()
    )  # fmt: skip
    settings, notes = with_class_names(TileConfig(background_class="Normal"), cohort)
    assert settings.class_names == ("Normal", "Tumor")
    _, notes = with_class_names(given, rows(tmp_path, "Tumor"))
    assert "changes nothing" in notes[0]
    model = TileConfig(background_class="Fat").model_copy(update={"class_names": ("Tumor",)})
    with pytest.raises(UsageError, match="none of the classes"):
        with_class_names(model, cohort)


@pytest.mark.parametrize(
    "settings",
    [
        {"class_names": ("Tumor", "tumor")},
        {"class_names": ("Tumor", "")},
        {"class_names": ("Tumor", "Ignore*")},
        {"background_class": " "},
        {"class_names": ("Tumor",), "background_class": "Normal"},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="class"):
        TileConfig.model_validate(settings)


def test_counts_are_one_cell() -> None:
    assert counts_text({"Normal": 12, "Tumor": 30}) == "Normal:12;Tumor:30"
    assert counts_text({}) == ""
