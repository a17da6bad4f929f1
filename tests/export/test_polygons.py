"""Whatever regions look like, QuPath takes the file.

``SCAAT_REGION_SETS=10000`` draws as many region sets; a few hundred by default.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon

from pathology_scaat.export.qupath.geojson import region_features, write_geojson
from pathology_scaat.export.qupath.polygons import clean_polygons, component_outline
from pathology_scaat.export.qupath.regions import Region, RegionSet
from pathology_scaat.export.qupath.validator import geojson_problems

N_SETS = int(os.environ.get("SCAAT_REGION_SETS", "300"))
MANY = settings(
    max_examples=N_SETS // 2,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
FRAME = shapely.box(0, 0, 200, 150)


def check(folder: Path, polygons: list[Polygon]) -> None:
    regions = tuple(Region(p, p.area, 0.5, 0.9) for p in polygons)
    path = folder / "regions.geojson"
    features = region_features(RegionSet(regions, 0.1, 8.0, len(regions)), "key", "Tumor", {})
    write_geojson(path, features)
    assert geojson_problems(path, (200, 150)) == []


COORDINATE = st.one_of(
    st.floats(-20, 220, allow_nan=False, width=32),
    st.integers(-5, 205).map(float),
    st.integers(0, 40).map(lambda n: n * 0.005),  # slivers around the 0.01 px grid
)
RING = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9)


@st.composite
def wild_polygons(draw: st.DrawFn) -> MultiPolygon:
    """Polygons of any points: bow-ties, spikes, holes outside, on the edge, overlapping."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        shell = draw(RING)
        holes = draw(st.lists(RING, max_size=2))
        if holes and draw(st.booleans()):  # a hole that shares an edge or a corner of the shell
            holes[0] = [*shell[:2], *holes[0][:2]]
        found.append(Polygon(shell, holes))
    return MultiPolygon(found)


@MANY
@given(wild_polygons())
def test_wild_polygons_come_out_as_qupath_takes_them(
    tmp_path_factory: pytest.TempPathFactory, shape: MultiPolygon
) -> None:
    polygons = clean_polygons(shape, FRAME)
    check(tmp_path_factory.getbasetemp(), polygons)


@MANY
@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.floats(0.02, 40),
    st.floats(-30, 30),
    st.floats(-30, 30),
)
def test_pixel_masks_come_out_as_qupath_takes_them(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, scale: float, x: float, y: float
) -> None:
    outline = component_outline(mask, (x, y), scale)
    polygons = clean_polygons(outline, FRAME)
    check(tmp_path_factory.getbasetemp(), polygons)
    inside = shapely.box(x, y, x + mask.shape[1] * scale, y + mask.shape[0] * scale)
    if FRAME.contains(inside) and scale > 4:
        assert sum(p.area for p in polygons) == pytest.approx(
            mask.sum() * scale**2, abs=0.02 * scale * mask.size
        )


def test_holes_stay_and_middle_points_go() -> None:
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    (polygon,) = clean_polygons(component_outline(mask, (10, 20), 2.0))
    assert polygon.area == (30 - 2) * 4
    assert len(polygon.interiors) == 1
    assert len(polygon.exterior.coords) == 5
    assert polygon.bounds == (10, 20, 22, 30)


def test_collections_lines_and_specks_are_dropped() -> None:
    speck, square = shapely.box(0, 0, 0.9, 0.9), shapely.box(5, 5, 8, 8)
    mixed = GeometryCollection([Point(1, 1), LineString([(0, 0), (9, 9)]), speck, square])
    (kept,) = clean_polygons(mixed)
    assert kept.area == 9
    assert clean_polygons(Polygon()) == []


def test_rings_that_are_all_but_lines_stop_nothing(tmp_path: Path) -> None:
    """Found by the generated sets: GEOS gives up on such a heap of rings ("mixed-dimension")."""
    sliver = Polygon([(0, 0), (0, 1.661e-16), (82, 7)])
    crossing = Polygon([(0, 0), (28, 2), (21, 27), (3, 21), (28, 4), (11, 22), (25, 1), (14, 23)])
    heap = MultiPolygon([sliver, crossing])
    with pytest.raises(shapely.errors.GEOSException):  # else the test tests nothing any more
        shapely.make_valid(heap)
    polygons = clean_polygons(heap, FRAME)
    alone = shapely.make_valid(crossing, method="structure", keep_collapsed=False).area
    # the sliver itself, once rounded, is no area
    assert sum(polygon.area for polygon in polygons) == pytest.approx(alone, rel=0.05)
    check(tmp_path, polygons)
