"""The synthetic cohort: real files, a true answer, and colour that gives nothing away."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import numpy as np
import pytest
import shapely
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pathology_scaat.annotations import label_patches, read_annotations
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.demo import DemoCohort, DemoSlide, make_demo_cohort
from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.pipeline.info import SlideReport
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.painted import PAINTED_NOTE, is_painted
from pathology_scaat.tissue.mask import find_tissue

CLASSES = ("Normal", "Tumor")
PATCH_UM = 128.0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> DemoCohort:
    return make_demo_cohort(tmp_path_factory.mktemp("demo"), seed=0, size_px=2304)


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    seen = []
    for name in ("a", "b"):
        make_demo_cohort(
            tmp_path / name, 3, 1, 1024, progress=lambda done, total, text: seen.append(text)
        )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert seen == ["demo-01", "demo-01"]
    make_demo_cohort(tmp_path / "c", 4, 1, 1024)
    assert digests(tmp_path / "a") != digests(tmp_path / "c")
    assert len(digests(tmp_path / "a")) == 4


def test_the_manifest_is_patient_disjoint(cohort: DemoCohort) -> None:
    manifest = read_manifest(cohort.manifest_path)
    assert len(manifest) == 6
    patients: dict[str, str | None] = {row.patient_id: row.split for row in manifest.rows}
    assert len(patients) >= 5
    assert [row.split for row in manifest.rows].count("train") == 3
    assert {row.split for row in manifest.rows} == {"train", "val", "test"}
    assert str(cohort.manifest_path.parent) not in cohort.manifest_path.read_text()


def test_the_slides_are_pyramids_that_know_their_spacing(cohort: DemoCohort) -> None:
    vendors = set()
    for slide in cohort.slides:
        with open_slide(slide.slide_path) as opened:
            vendors.add(opened.info.vendor)
            assert opened.info.mpp == pytest.approx(slide.mpp, abs=1e-4)
            assert opened.info.level_downsamples[:2] == (1.0, 4.0)
            assert opened.info.size_px.width * slide.mpp == pytest.approx(1152, abs=1)
            assert opened.info.notes == (PAINTED_NOTE,)
    assert vendors == {"aperio, painted by scaat demo", "generic-tiff, painted by scaat demo"}
    with open_slide(cohort.slides[0].slide_path, reader="openslide") as opened:
        assert is_painted(opened.info.vendor)


@pytest.mark.filterwarnings("ignore")  # tiatoolbox's dependencies warn at import
def test_tiatoolbox_is_not_believed_where_it_does_not_look(cohort: DemoCohort) -> None:
    pytest.importorskip("tiatoolbox")
    generic = next(s for s in cohort.slides if s.slide_path.suffix == ".tiff")
    with open_slide(generic.slide_path, reader="tiatoolbox") as opened:
        found = opened.info
    assert is_painted(found.vendor)
    assert found.vendor.startswith("unknown")
    assert PAINTED_NOTE in found.notes
    # the file does state it: this reader does not find it
    assert found.mpp_source == "none: tiatoolbox finds no µm/px in the file"
    gc.collect()  # it leaves a file open, which is told where it is collected
    rows = dict(SlideReport(found, None).rows())
    assert rows["ICC profile"] == "this reader does not look for one"


def test_tissue_is_found_and_the_pen_is_not(cohort: DemoCohort) -> None:
    flagged = []
    for slide in cohort.slides:
        with open_slide(slide.slide_path) as opened:
            found = find_tissue(opened)
        assert 0.3 < found.tissue_share < 0.65
        flagged.append("ink" in found.flags)
    assert flagged == [False, False, True, False, False, False]


def test_truth_and_annotations_agree(cohort: DemoCohort) -> None:
    for slide in cohort.slides:
        drawn = read_annotations(slide.annotation_path)
        truth = read_annotations(slide.truth_path)
        assert {p.class_name for p in drawn} == set(CLASSES)
        assert {p.class_name for p in truth} == {"Tumor"}
        nests = shapely.union_all([p.geometry for p in truth])
        share = {
            name: nests.intersection(area).area / area.area
            for name in CLASSES
            for area in [shapely.union_all([p.geometry for p in drawn if p.class_name == name])]
        }
        assert 0.3 < share["Tumor"] < 0.75
        assert share["Normal"] < 0.1


def patches(slide: DemoSlide) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours and labels of the annotated patches of a slide."""
    side = PATCH_UM / slide.mpp
    with open_slide(slide.slide_path) as opened:
        size = opened.info.size_px
        pixels = opened.read_level(0, BoxPx(0, 0, size.width, size.height))
    grid = np.arange(0, size.width - side, side / 2)
    origins = np.stack([m.ravel() for m in np.meshgrid(grid, grid)], axis=1)
    labels, _ = label_patches(read_annotations(slide.annotation_path), CLASSES, origins, side, 0.8)
    kept = labels >= 0
    means = [
        pixels[int(y) : int(y + side), int(x) : int(x + side)].mean(axis=(0, 1))
        for x, y in origins[kept]
    ]
    return np.array(means), labels[kept]


def test_mean_colour_shows_nothing(cohort: DemoCohort) -> None:
    by_split: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for slide in cohort.slides:
        means, labels = patches(slide)
        by_split.setdefault(slide.split, []).append((means, labels))
        gap = means[labels == 1].mean(axis=0) - means[labels == 0].mean(axis=0)
        assert np.abs(gap).max() < 8
    train = [np.concatenate(part) for part in zip(*by_split["train"], strict=True)]
    test = [np.concatenate(part) for part in zip(*by_split["test"], strict=True)]
    model = LogisticRegression(C=100, max_iter=5000).fit(*train)
    assert roc_auc_score(test[1], model.decision_function(test[0])) < 0.7


def test_looks_differ_between_patients_more_than_within(cohort: DemoCohort) -> None:
    means = [patches(slide)[0].mean(axis=0) for slide in cohort.slides]
    same = np.abs(means[1] - means[2]).max()
    others = [np.abs(means[i] - means[j]).max() for i, j in ((0, 1), (0, 3), (3, 4), (4, 5))]
    assert same < max(others)


@pytest.mark.parametrize("options", [{"n_slides": 0}, {"n_slides": 61}, {"size_px": 100}])
def test_impossible_cohorts_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        make_demo_cohort(tmp_path, **options)
