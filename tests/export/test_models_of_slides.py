"""A patch about even says nothing under a model of whole slides: no class, no colour."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from map_stores import make_saliency_store
from PIL import Image

from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.export.raster.colour_scale import FAINTEST
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.pipeline.members import _n_apart
from pathology_scaat.review.map_scale import channel_scales
from pathology_scaat.stitching import SlideMap, stitch_slide
from pathology_scaat.training.bags.patch_meaning import least_said, most_against

SHOWN = np.array([0.97, 0.56, 0.54, 0.501, 0.499, 0.46, 0.44, 0.03])
"""Probability of tumour of eight patches in a row."""
LITTLE = "Contributes little"


def export(folder: Path, of_slides: bool, model: dict[str, object]) -> tuple[Path, list[str]]:
    """Overlays of a slide whose patches are of these probabilities; its notes."""
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 8, 1)
    store = make_saliency_store(
        folder / "s.zarr", grid, saliency=1.0, probability=np.stack([1 - SHOWN, SHOWN], 1),
        class_names=("Normal", "Tumour"), stride_px=8, of_slides=of_slides, model=model,
    )  # fmt: skip
    stitch_slide(store, folder / "m.ome.zarr")
    config = ExportConfig(
        formats=("geojson", "annotation-store", "tile-png"), region_threshold=0.01,
        min_region_um2=0, region_mpp=0.5,
    )  # fmt: skip
    found = export_slide(folder / "m.ome.zarr", store, folder / "o", config)
    return folder / "o", list(found.notes)


def classes(overlays: Path) -> tuple[list[str], list[float]]:
    """Class of each tile from left to right, and the right ends of the regions."""
    objects = json.loads(gzip.decompress((overlays / "S1.geojson.gz").read_bytes()))["features"]
    tiles = [o for o in objects if o["properties"]["objectType"] == "tile"]
    tiles.sort(key=lambda o: o["geometry"]["coordinates"][0][0][0])
    rest = [o for o in objects if o["properties"]["objectType"] != "tile"]
    ends = [max(x for x, _ in o["geometry"]["coordinates"][0]) for o in rest]
    return [o["properties"]["classification"]["name"] for o in tiles], ends


def test_tiles_about_even_have_no_class(tmp_path: Path) -> None:
    overlays, notes = export(tmp_path, of_slides=True, model={})
    said = ["Tumor", "Tumor", LITTLE, LITTLE, LITTLE, LITTLE, "Normal", "Normal"]
    found, ends = classes(overlays)
    assert found == said
    assert max(ends) == pytest.approx(128, abs=1)  # nor do regions reach over them
    assert any("4 of 8 tiles contribute little" in note for note in notes)
    with sqlite3.connect(next(overlays.glob("*.db"))) as database:
        rows = database.execute("select properties from annotations order by cx").fetchall()
    database.close()
    assert [json.loads(row[0])["type"] for row in rows] == said
    with Image.open(next(overlays.glob("*tiles.png"))) as picture:
        assert (np.asarray(picture)[0, :, 3] > 0).tolist() == [True, True, *[False] * 6]


def test_a_model_of_patches_speaks_of_each_of_them(tmp_path: Path) -> None:
    overlays, notes = export(tmp_path, of_slides=False, model={})
    found, ends = classes(overlays)
    assert found == ["Tumor"] * 4 + ["Normal"] * 4
    assert max(ends) == pytest.approx(256, abs=1)
    assert not any("contribute little" in note for note in notes)


@pytest.mark.parametrize(("of_slides", "floor"), [(True, 0.55), (False, FAINTEST)])
def test_the_review_and_the_pictures_draw_from_the_same_probability(
    tmp_path: Path, of_slides: bool, floor: float
) -> None:
    model: dict[str, object] = {"of_slides": True} if of_slides else {}
    export(tmp_path, of_slides, model)
    slide_map = SlideMap(tmp_path / "m.ome.zarr")
    facts = ModelFacts.of(slide_map.meta)
    scales = {s.channel: s for s in channel_scales(slide_map, facts)}
    assert scales["probability: Tumour"].floor == pytest.approx(floor)


def test_even_is_one_class_of_all() -> None:
    for n in (2, 3, 9):
        assert most_against(n) < 1 / n < least_said(n)
    assert least_said(3) == pytest.approx(0.4)


def test_models_of_slides_differ_where_one_speaks_for_and_one_against() -> None:
    """Two models that hardly look at a patch fall to either side of even by chance."""
    said = np.array([[0.501, 0.9, 0.9, 0.56], [0.499, 0.5, 0.1, 0.44]], np.float32)
    assert _n_apart(said, 2, of_slides=True) == 2
    assert _n_apart(said, 2, of_slides=False) == 4
