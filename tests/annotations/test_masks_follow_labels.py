"""Masks say of an area what labels say of it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from pathology_scaat.annotations import Background, LabelledPolygon, label_patches
from pathology_scaat.annotations.rasterize import area_mask, patch_masks
from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import BoxPx

CLASSES = ("Normal", "Tumor")
FRAME = BoxPx(0, 0, 256, 256)


def area(name: str, *bounds: float) -> LabelledPolygon:
    return LabelledPolygon(name, box(*bounds))


def masks_of(
    polygons: list[LabelledPolygon], name: str, background: Background | None = None
) -> np.ndarray:
    return patch_masks(polygons, name, CLASSES, np.array([[0, 0]]), 100.0, 50, background)


def test_an_island_of_another_class_is_no_part_of_the_mask() -> None:
    polygons = [area("Tumor", 0, 0, 100, 100), area("Stroma", 0, 0, 50, 50)]
    _, coverage = label_patches(polygons, CLASSES, [(0, 0)], 100.0)
    assert coverage[0, 1] == pytest.approx(0.75)
    assert masks_of(polygons, "Tumor").mean() == pytest.approx(0.75)


def test_spellings_and_derived_classes_are_masked_as_they_are_labelled() -> None:
    for name in ("tumor", "TUMOR ", "Tumor: Positive"):
        assert masks_of([area(name, 0, 0, 100, 100)], "Tumor").all()


@given(seed=st.integers(0, 2**32 - 1), with_background=st.booleans())
def test_the_share_of_a_mask_is_the_coverage(seed: int, with_background: bool) -> None:
    rng = np.random.default_rng(seed)
    polygons = []
    for _ in range(rng.integers(0, 6)):
        x, y, w, h = *rng.integers(0, 200, 2), *rng.integers(5, 120, 2)
        name = str(rng.choice(["Tumor", "normal", "Stroma", "Ignore*", ""]))
        polygons.append(area(name, x, y, x + w, y + h))
    background = Background("Normal", FRAME) if with_background else None
    origins = rng.integers(0, 200, (5, 2))
    _, coverage = label_patches(polygons, CLASSES, origins, 64, background=background)
    for index, name in enumerate(CLASSES):
        masks = patch_masks(polygons, name, CLASSES, origins, 64.0, 64, background)
        np.testing.assert_allclose(masks.mean(axis=(1, 2)), coverage[:, index], atol=1e-6)


def test_a_hole_of_one_polygon_erases_no_other() -> None:
    ring = shapely.Polygon(
        [(0, 0), (90, 0), (90, 90), (0, 90)], [[(30, 30), (60, 30), (60, 60), (30, 60)]]
    )
    island = box(40, 40, 50, 50)
    for order in ([ring, island], [island, ring]):
        mask = area_mask(order, (0.0, 0.0), 1.0, (100, 100))
        assert mask.sum() == 90 * 90 - 30 * 30 + 10 * 10
        assert mask[45, 45]
        assert not mask[35, 35]


def test_an_area_beyond_the_grid_is_cut_and_not_wrapped() -> None:
    assert area_mask([box(-50, -50, 10, 10)], (0, 0), 1.0, (100, 100)).sum() == 100
    assert not area_mask([box(200, 0, 300, 50)], (0, 0), 1.0, (100, 100)).any()


# ----- the class of the rest
def test_tissue_outside_the_annotations_gets_the_background_class() -> None:
    polygons = [area("Tumor", 0, 0, 100, 100)]
    labels, coverage = label_patches(
        polygons, CLASSES, [(0, 0), (100, 0), (75, 0)], 100, background=Background("normal", FRAME)
    )
    assert labels.tolist() == [1, 0, 0]
    np.testing.assert_allclose(coverage, [[0, 1], [1, 0], [0.75, 0.25]])


@pytest.mark.parametrize("name", ["Stroma", "Ignore*"])
def test_what_is_drawn_as_something_else_is_no_background(name: str) -> None:
    polygons = [area("Tumor", 200, 200, 250, 250), area(name, 0, 0, 100, 100)]
    labels, _ = label_patches(
        polygons, CLASSES, [(0, 0), (100, 0)], 100, background=Background("Normal", FRAME)
    )
    assert labels.tolist() == [-1, 0]


@pytest.mark.parametrize("polygons", [[], [area("Tumor", 9000, 0, 9100, 99)]])
def test_a_file_that_labels_nothing_makes_no_background(polygons: list[LabelledPolygon]) -> None:
    labels, _ = label_patches(
        polygons, CLASSES, [(0, 0)], 100, background=Background("Normal", FRAME)
    )
    assert labels.tolist() == [-1]


def test_a_background_class_that_is_no_class_is_refused() -> None:
    with pytest.raises(UsageError, match="none of the classes"):
        label_patches(
            [area("Tumor", 0, 0, 9, 9)], CLASSES, [(0, 0)], 9, background=Background("Fat", FRAME)
        )
