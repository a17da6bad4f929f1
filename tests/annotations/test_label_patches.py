"""Patch labels against brute force, and the rule for overlaps."""

from __future__ import annotations

import time

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from pathology_scaat.annotations import LabelledPolygon, label_patches
from pathology_scaat.errors import UsageError

CLASSES = ("Normal", "Tumor")


def area(name: str, *bounds: float) -> LabelledPolygon:
    return LabelledPolygon(name, box(*bounds))


def star(rng: np.random.Generator, centre: tuple[float, float], radius: float, n: int) -> object:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    reach = radius * rng.uniform(0.5, 1.0, n)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None] + centre
    return shapely.Polygon(points)


def brute_force(polygons: list[LabelledPolygon], origins: np.ndarray, side: float) -> np.ndarray:
    """Each patch alone: walk the polygons from the smallest up, each takes what is free."""
    out = np.zeros((len(origins), len(CLASSES)))
    order = sorted(range(len(polygons)), key=lambda i: (polygons[i].geometry.area, -i))
    for index, (x, y) in enumerate(origins):
        free = box(x, y, x + side, y + side)
        for i in order:
            taken = free.intersection(polygons[i].geometry)
            if polygons[i].class_name in CLASSES:
                out[index, CLASSES.index(polygons[i].class_name)] += taken.area / side**2
            free = free.difference(polygons[i].geometry)
    return out


@given(seed=st.integers(0, 2**32 - 1), side=st.floats(2, 80))
def test_coverage_is_exact(seed: int, side: float) -> None:
    rng = np.random.default_rng(seed)
    polygons = [
        LabelledPolygon(
            str(rng.choice(["Tumor", "Normal", "Ignore*", "Stroma"])),
            star(rng, tuple(rng.uniform(0, 200, 2)), rng.uniform(5, 120), int(rng.integers(3, 40))),
        )
        for _ in range(rng.integers(0, 6))
    ]
    origins = rng.uniform(-50, 250, (12, 2))
    labels, coverage = label_patches(polygons, CLASSES, origins, side, 0.4)
    expected = brute_force(polygons, origins, side)
    np.testing.assert_allclose(coverage, expected, atol=1e-5)
    assert (coverage.sum(axis=1) <= 1 + 1e-5).all()
    sure = np.abs(expected.max(axis=1) - 0.4) > 1e-4
    sure &= np.abs(expected[:, 0] - expected[:, 1]) > 1e-4
    wanted = np.where(expected.max(axis=1) >= 0.4, expected.argmax(axis=1), -1)
    np.testing.assert_array_equal(labels[sure], wanted[sure])


def test_shapes_and_kinds_of_the_answer() -> None:
    labels, coverage = label_patches([area("Tumor", 0, 0, 50, 100)], CLASSES, [(0, 0), (50, 0)], 50)
    assert labels.tolist() == [1, -1]
    assert labels.dtype == np.int16
    assert coverage.dtype == np.float32
    np.testing.assert_allclose(coverage, [[0, 1], [0, 0]])
    labels, coverage = label_patches([], CLASSES, np.zeros((0, 2)), 50)
    assert labels.shape == (0,)
    assert coverage.shape == (0, 2)


def test_a_patch_covered_exactly_enough_has_its_label() -> None:
    labels, _ = label_patches([area("Tumor", 0, 0, 50, 100)], CLASSES, [(0, 0)], 100, 0.5)
    assert labels.tolist() == [1]


def test_the_smaller_polygon_lies_on_top() -> None:
    outline, detail = area("Tumor", 0, 0, 100, 100), area("Normal", 0, 0, 60, 100)
    for order in ([outline, detail], [detail, outline]):
        labels, coverage = label_patches(order, CLASSES, [(0, 0)], 100)
        np.testing.assert_allclose(coverage, [[0.6, 0.4]])
        assert labels.tolist() == [0]


def test_of_equal_polygons_the_later_lies_on_top() -> None:
    pair = [area("Tumor", 0, 0, 100, 100), area("Normal", 0, 0, 100, 100)]
    assert label_patches(pair, CLASSES, [(0, 0)], 100)[0].tolist() == [0]
    assert label_patches(pair[::-1], CLASSES, [(0, 0)], 100)[0].tolist() == [1]


@pytest.mark.parametrize(
    ("other", "left"), [("Ignore*", 0.4), ("Stroma", 0.4), ("", 1.0), ("tumor", 1.0)]
)
def test_other_classes_take_area_but_no_class_does_not(other: str, left: float) -> None:
    found = label_patches(
        [area("Tumor", 0, 0, 100, 100), area(other, 0, 0, 60, 100)], CLASSES, [(0, 0)], 100
    )[1]
    np.testing.assert_allclose(found, [[0, left]], atol=1e-6)


def test_one_class_twice_is_counted_once() -> None:
    pair = [area("Tumor", 0, 0, 100, 100), area("Tumor", 20, 20, 80, 80)]
    np.testing.assert_allclose(label_patches(pair, CLASSES, [(0, 0)], 100)[1], [[0, 1]])


@pytest.mark.parametrize("name", ["Tumor", "TUMOR", " tumor", "Tumor: Positive", "tumor: x: y"])
def test_names_match_without_case_and_by_their_base(name: str) -> None:
    assert label_patches([area(name, 0, 0, 9, 9)], CLASSES, [(0, 0)], 9)[0].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_names": ("a", "A")}, "twice"),
        ({"side_px": 0.0}, "length"),
        ({"side_px": float("nan")}, "length"),
        ({"min_coverage": 0.0}, "above 0"),
        ({"min_coverage": 1.5}, "above 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], words: str) -> None:
    given_options = {"class_names": CLASSES, "origins_px": [(0, 0)], "side_px": 9.0, **options}
    with pytest.raises(UsageError, match=words):
        label_patches([], **given_options)


def test_a_hundred_thousand_patches_and_a_detailed_outline_take_seconds() -> None:
    rng = np.random.default_rng(0)
    outline = star(rng, (50_000, 50_000), 45_000, 20_000)
    cols, rows = np.meshgrid(np.arange(0, 100_000, 316.0), np.arange(0, 100_000, 316.0))
    origins = np.stack([cols.ravel(), rows.ravel()], axis=1)
    start = time.perf_counter()
    _, coverage = label_patches([LabelledPolygon("Tumor", outline)], CLASSES, origins, 316.0)
    seconds = time.perf_counter() - start
    assert coverage[:, 1].sum(dtype=float) * 316.0**2 == pytest.approx(outline.area, rel=1e-5)
    assert seconds < 60  # about 5 on one core
