"""Pictures say the truth: one scale for a model, bare without evidence, warnings where due."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from map_stores import make_saliency_store, write_marked_slide
from PIL import Image, ImageDraw
from pydantic import ValidationError

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.export.raster import figure
from pathology_scaat.export.raster.canvas import (
    NUMBER_PX,
    Canvas,
    fitting_name,
    font,
    short_number,
    wrapped,
)
from pathology_scaat.export.raster.colour_scale import (
    FAINTEST,
    LEAST_TOP,
    ColourScale,
    colourize,
    evidence_scale,
    over,
    solid,
)
from pathology_scaat.export.raster.examined import hatch_lines, hatched, tissue_of
from pathology_scaat.export.raster.overlay_png import MapPicture, MapPictures
from pathology_scaat.export.report.cohort import write_cohort
from pathology_scaat.export.report.contact_sheet import evidence_words
from pathology_scaat.export.report.differences import Difference
from pathology_scaat.export.report.page import _exported
from pathology_scaat.export.report.records import FailedSlide
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.pipeline.cohort_page import write_cohort_page
from pathology_scaat.stitching import SlideMap, stitch_slide
from pathology_scaat.training.bundle_config import MapReference
from pathology_scaat.training.bundle_quality import Estimate, HeldOut

GRID = PatchGrid(0.0, 0.0, 1.0, 64, 32, 12, 9)


def facts(
    accuracy: float = 0.93, low: float = 0.88, role: str = "held out", **more: Any
) -> dict[str, Any]:
    held = HeldOut(
        source="test slides", n_patches=400, n_slides=8, n_patients=8, unit="patient", n_units=8,
        class_counts={"normal": 200, "tumour": 200}, auc=Estimate(value=0.97, low=0.91, high=0.99),
        balanced_accuracy=Estimate(value=accuracy, low=low, high=0.97), chance=0.5,
        probability_span=0.9,
    )  # fmt: skip
    reference = MapReference(p50=0.1, p90=0.5, p99=0.62, p995=0.65, others_p99=0.2)
    saliency = MapReference(p50=0.001, p90=0.02, p99=0.05, p995=0.06, others_p99=0.01)
    return {
        "held_out": held.model_dump(mode="json"),
        "evidence_reference": {"tumour": reference.model_dump()},
        "saliency_reference": {"tumour": saliency.model_dump()},
        "reference_settings": {"method": "gradient", "output": "margin", "stride_px": 4,
                               "n_patches": 100, "source": "held-out patches"},
        "slide_role": role,
        "n_slides": {"train": 12, "val": 4, "test": 8},
        **more,
    }  # fmt: skip


def exported(
    folder: Path, slide_id: str, probability: Any, draw_unlike: bool = False,
    slide_path: Path | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """A slide that is everywhere of one probability, or of (n,) of them, exported; its record."""
    options.setdefault("model", facts())
    rng = np.random.default_rng(0)
    kept = options.get("kept")
    n = GRID.n_cols * GRID.n_rows if kept is None else int(kept.sum())
    store = make_saliency_store(
        folder / f"{slide_id}.zarr", GRID, slide_id=slide_id,
        saliency=rng.random((n, 16, 16)) * 0.01,
        probability=np.stack([1 - np.asarray(probability), probability], axis=-1), **options,
    )  # fmt: skip
    stitch_slide(store, folder / f"{slide_id}.ome.zarr")
    config = ExportConfig(formats=("png", "figure", "geojson-plain"), draw_unlike=draw_unlike)
    export_slide(
        folder / f"{slide_id}.ome.zarr", store, folder / "o", config, slide_path=slide_path
    )
    found: dict[str, Any] = json.loads((folder / "o" / f"{slide_id}.json").read_text())
    return found


def coloured_share(folder: Path, record: dict[str, Any], name: str) -> float:
    """Share of the map's box that is not the grey of a slide that is not at hand."""
    x, y, width, height = record["files"][name]["picture_px"]
    with Image.open(folder / "o" / name) as picture:
        rgb = np.asarray(picture)[y : y + height, x : x + width].astype(int)
    return float(((rgb.max(axis=2) - rgb.min(axis=2)) > 12).mean())


def test_a_slide_without_evidence_is_bare_and_one_with_it_is_filled(tmp_path: Path) -> None:
    """Both on the model's scale; the normal slide's own maximum draws nothing."""
    tumour = exported(tmp_path, "tumour", 0.97)
    normal = exported(tmp_path, "normal", 0.12)
    assert tumour["colour_scale"] == normal["colour_scale"]
    assert normal["colour_scale"]["source"] == "99.5th percentile of the model's held-out patches"
    assert normal["slide_summary"]["drawn_um2"] == 0
    assert coloured_share(tmp_path, tumour, "tumour.png") > 0.9
    assert coloured_share(tmp_path, normal, "normal.png") == 0
    assert normal["n_regions"] == 0
    assert tumour["n_regions"] >= 1
    assert tumour["saliency_scale"]["vmax"] == normal["saliency_scale"]["vmax"] == 0.06
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "no evidence for tumour" in page
    assert "it does not mean that the class is not there" in page


def test_too_little_evidence_to_be_drawn_is_not_called_none(tmp_path: Path) -> None:
    chances = np.full(GRID.n_cols * GRID.n_rows, 0.02)
    chances[40] = 0.99
    record = exported(tmp_path, "small", chances)
    assert coloured_share(tmp_path, record, "small.png") == 0
    assert record["slide_summary"]["drawn_um2"] == 0
    area = record["slide_summary"]["too_little_um2"]
    assert 0 < area < 5000
    said = f"too little evidence for tumour to be drawn ({area / 1e6:.2g} mm² in all)"
    assert evidence_words(record) == said
    write_cohort(tmp_path / "o")
    assert said in (tmp_path / "o" / "index.html").read_text()


def test_a_model_that_has_learnt_nothing_does_not_find_slides_free_of_evidence(
    tmp_path: Path,
) -> None:
    """Nothing is drawn of it; a page that says "no evidence" of each slide would be a finding."""
    record = exported(tmp_path, "s", 0.97, model=facts(accuracy=0.52, low=0.45))
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "no evidence for" not in page
    assert "evidence for tumour not drawn: the model has learnt nothing" in page
    assert evidence_words(record) in page


def test_a_slide_of_which_nothing_was_looked_at_is_not_free_of_evidence(tmp_path: Path) -> None:
    record = exported(tmp_path, "s", 0.12, kept=np.zeros((GRID.n_rows, GRID.n_cols), bool))
    assert record["n_tiles"] == 0
    assert evidence_words(record) == "evidence for tumour not judged: no patch of it was cut"
    found = MapPicture(np.zeros((1, 1, 3), np.uint8), "evidence", "tumour",
                       ColourScale(1, "", "viridis"), 0, True, nothing_seen=True)  # fmt: skip
    assert found.title == "evidence, tumour: not judged, no patch of this slide was cut"


def test_what_was_noted_of_a_slide_before_its_export_stands_on_the_page(tmp_path: Path) -> None:
    exported(tmp_path, "s", 0.12)
    noted = "CHECK THE µm/px: the file states 7"
    write_cohort(tmp_path / "o", slide_notes={"s": f"{noted}; tissue: ink"})
    page = (tmp_path / "o" / "index.html").read_text()
    assert f'<p class="note">{noted}; tissue: ink</p>' in page
    assert "2 notes" in page  # and that there was no slide to draw on
    assert write_cohort(tmp_path / "o", slide_notes={"s": noted})


def test_pictures_of_an_earlier_map_and_tiles_that_were_not_exported_are_told(
    tmp_path: Path,
) -> None:
    record = exported(tmp_path, "s", 0.12)
    (tmp_path / "o").rename(tmp_path / "overlays")
    status = StatusTable(tmp_path)
    for stage in ("tile", "explain", "stitch", "export"):
        status.update_many([("s", stage, "done", "", {})])
    write_cohort_page(tmp_path)
    page = tmp_path / "overlays" / "index.html"
    assert "EARLIER RUN" not in page.read_text()
    assert f'<td class="n">{record["n_regions"]}<td class="n">{record["n_tiles"]}' in (
        page.read_text()
    )
    status.update_many([("s", "stitch", "done", "", {}), ("s", "export", "pending", "", {})])
    write_cohort_page(tmp_path)
    assert "OF AN EARLIER RUN: what it was made of was made anew since" in page.read_text()
    # Explaining begun again and interrupted marks that stage alone: nothing was made anew.
    status.update_many([("s", "explain", "pending", "", {}), ("s", "export", "done", "", {})])
    write_cohort_page(tmp_path)
    assert "OF AN EARLIER RUN: explain was begun since and did not end; explain it again" in (
        page.read_text()
    )
    plain = {"files": {"s.png": {"format": "png"}}, "n_tiles": 0, "n_regions": 0}
    assert _exported(plain, "n_tiles") == _exported(plain, "n_regions") == "not exported"


def test_pixels_that_are_not_square_are_told_wherever_sizes_are(tmp_path: Path) -> None:
    source = "manifest, although the pixels are not square (0.5 µm/px along x, 1 along y)"
    record = exported(tmp_path, "s", 0.97, mpp_source=source)
    objects = json.loads((tmp_path / "o" / "s.geojson").read_text())["features"]
    said = [f["properties"]["metadata"] for f in objects if "metadata" in f["properties"]]
    assert said
    assert all("not square (0.5 µm/px" in m["WARNING"] for m in said)
    assert all("of the manifest" in m["sizes by"] for m in said)
    assert record["model"]["read_first"] == ""  # it is the slide's fault, not the model's
    slide_map = SlideMap(tmp_path / "s.ome.zarr")
    pictures = MapPictures(
        slide_map, 0, lambda: np.zeros((1, 1, 3), np.uint8), False,
        ModelFacts.of(slide_map.meta), ExportConfig(),
    )  # fmt: skip
    assert "Sizes by 0.5 µm/px of the manifest" in pictures.model_lines()[-1]


def test_a_long_class_name_is_shortened_and_not_what_is_said_of_it() -> None:
    """ "evidence for a-long-name ..." stood over slides without any."""
    name, face = "n" * 150, font(12)
    for said in (
        f"training slide; evidence for {name} not drawn: the model has learnt nothing",
        f"no evidence for {name}",
        f"1:  p({name}) 0.54",
    ):
        shown = fitting_name(said, name, face, 600)
        assert face.getlength(shown) <= 600
        before, after = said.split(name)
        assert shown.startswith(before)
        assert shown.endswith(after)
        assert "…" in shown
    assert fitting_name("evidence for Tumor", "Tumor", face, 600) == "evidence for Tumor"


def test_a_percent_for_evidence_is_refused() -> None:
    """Regions above it there are none: a cohort would look free of them."""
    with pytest.raises(ValidationError, match="from 0 to 1"):
        ExportConfig(region_threshold=50)
    assert ExportConfig(region_threshold=50, drawn="saliency").region_threshold == 50


def test_probability_is_a_picture_of_its_own_on_a_fixed_scale(tmp_path: Path) -> None:
    record = exported(tmp_path, "s", 0.97)
    entry = record["files"]["s.probability.png"]
    assert (entry["shows"], entry["class"], entry["main"]) == ("probability", "tumour", False)
    assert record["files"]["s.png"]["main"] is True
    assert coloured_share(tmp_path, record, "s.probability.png") > 0.9


def test_page_and_record_name_the_model_its_quality_and_the_slides_part(tmp_path: Path) -> None:
    exported(tmp_path, "a", 0.9, model=facts(role="train"))
    exported(tmp_path, "b", 0.9)
    failed = [FailedSlide("lost", "tile", "slide: is empty; copy it again.")]
    write_cohort(tmp_path / "o", failed=failed, card="../evaluation/trust_card.md")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "AUC 0.97 (0.91 to 0.99)" in page
    assert "balanced accuracy 0.93 (0.88 to 0.97)" in page
    assert "trained on 12 slides" in page
    assert "training slide: the model has seen it" in page
    assert "held out: it took no part in training" in page
    assert "1 slide without a result" in page
    assert "is empty; copy it again" in page
    assert '<a href="../evaluation/trust_card.md">the one there</a> is of a model that is' in page
    assert "LEARNT NOTHING" not in page
    record = json.loads((tmp_path / "o" / "a.json").read_text())
    assert record["model"]["slide_role"] == "train"
    region = next(
        f for f in json.loads((tmp_path / "o" / "a.geojson").read_text())["features"]
        if f["properties"]["objectType"] == "annotation"
    )  # fmt: skip
    assert "AUC 0.97" in region["properties"]["metadata"]["model quality"]
    # the page is made again when a slide fails, or the card comes
    assert write_cohort(tmp_path / "o", failed=failed, card="../evaluation/trust_card.md") == []
    assert write_cohort(tmp_path / "o", failed=[], card=None)
    # the card may be of another model, or of one of these
    card, mine = "../evaluation/trust_card.md", str(record["model_fingerprint"])
    for name, said in (("e" * 64, f"of another model (<code>{'e' * 16}</code>)"),
                       (mine, "Trust card</a>: how far its maps can be trusted")):  # fmt: skip
        assert write_cohort(tmp_path / "o", card=card, card_of=name)
        assert said in (tmp_path / "o" / "index.html").read_text()
    # or models differ: on the slide's card, or in a table where it has none
    differ = {
        name: Difference(f"The models differ about {name}.", f"../disagreement/{name}.geojson.gz")
        for name in ("a", "z")
    }
    assert write_cohort(tmp_path / "o", differences=differ)
    page = (tmp_path / "o" / "index.html").read_text()
    card = page[page.index('<section id="a">') : page.index('<section id="b">')]
    assert "The models differ about a." in card
    assert 'href="../disagreement/a.geojson.gz"' in card
    table = page[page.index("Slides without a map") : page.index("<section")]
    assert "The models differ about z." in table
    assert "differ about a." not in table


def test_a_model_that_has_learnt_nothing_draws_no_evidence_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figure, "solid", lambda *a: drawn.append(a) or solid(*a))
    slide = write_marked_slide(tmp_path / "slide.tiff", [], SizePx(800, 640), 0.5)
    of_slide: dict[str, Any] = {"slide_path": slide, "size": SizePx(800, 640), "mpp": 0.5}
    (tmp_path / "good").mkdir()
    exported(tmp_path / "good", "s", 0.9, **of_slide)
    assert drawn  # evidence of a patch, below it, of a model that has learnt something
    drawn.clear()
    record = exported(tmp_path, "s", 0.9, model=facts(accuracy=0.52, low=0.44), **of_slide)
    assert "guessing gives 0.50" in record["model"]["nothing_learnt"]
    assert coloured_share(tmp_path, record, "s.png") == 0
    assert record["n_regions"] == 0
    features = json.loads((tmp_path / "o" / "s.geojson").read_text())["features"]
    assert features
    for feature in features:  # no region is there to say it
        assert feature["properties"]["classification"]["name"] == "Model has learnt nothing"
    with Image.open(tmp_path / "o" / "s.png") as picture:
        assert picture.getpixel((3, 3)) == (176, 0, 0)  # the strip across its top
    with Image.open(tmp_path / "o" / "s.figure.png") as picture:
        assert picture.getpixel((3, 3)) == (176, 0, 0)
    assert drawn == []
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "THIS MODEL HAS LEARNT NOTHING" in page


@pytest.mark.parametrize(
    ("drawn", "by_hand"),
    [("evidence", {"region_threshold": 0.001}), ("saliency", {"region_quantile": 0.1})],
)
def test_no_threshold_by_hand_makes_a_region_of_a_model_that_has_learnt_nothing(
    tmp_path: Path, drawn: Literal["evidence", "saliency"], by_hand: dict[str, float]
) -> None:
    """An outline on a slide is taken for a finding, whatever stands beside it."""
    settings = ExportConfig(formats=("geojson-plain",), min_region_um2=0, drawn=drawn, **by_hand)
    for name, model in {"good": facts(), "useless": facts(accuracy=0.52, low=0.44)}.items():
        exported(tmp_path, name, 0.9, model=model)
        slide_map, store = tmp_path / f"{name}.ome.zarr", tmp_path / f"{name}.zarr"
        export_slide(slide_map, store, tmp_path / "again", settings)
        record = json.loads((tmp_path / "again" / f"{name}.json").read_text())
        features = json.loads((tmp_path / "again" / f"{name}.geojson").read_text())["features"]
        regions = [f for f in features if f["properties"]["objectType"] == "annotation"]
        assert bool(regions) == bool(record["n_regions"]) == (name == "good")
    (setting,) = by_hand
    said = f"{setting} made no region: the model has learnt nothing that can be relied on"
    assert said in record["notes"]


def test_a_model_whose_quality_nobody_recorded_says_so_before_any_colour(tmp_path: Path) -> None:
    of_unknown = {name: value for name, value in facts().items() if name != "held_out"}
    record = exported(tmp_path, "s", 0.9, model=of_unknown)
    assert "NOT KNOWN HOW GOOD THIS MODEL IS" in record["model"]["read_first"]
    for name in ("s.png", "s.figure.png"):
        with Image.open(tmp_path / "o" / name) as picture:
            assert picture.getpixel((3, 3)) == (176, 0, 0)
    features = json.loads((tmp_path / "o" / "s.geojson").read_text())["features"]
    regions = [f["properties"] for f in features if f["properties"]["objectType"] == "annotation"]
    assert regions
    assert all("NOT KNOWN HOW GOOD" in r["metadata"]["WARNING"] for r in regions)
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert '<p class="bad">NOT KNOWN HOW GOOD THIS MODEL IS' in page
    good = exported(tmp_path, "t", 0.9)
    assert good["model"]["read_first"] == ""


def test_what_is_unlike_the_training_data_is_hatched_and_reported(tmp_path: Path) -> None:
    far = exported(tmp_path, "far", 0.9, unlike=100.0)
    near = exported(tmp_path, "near", 0.9, unlike=40.0)
    features = json.loads((tmp_path / "o" / "near.geojson").read_text())["features"]
    tiles = [f["properties"] for f in features if f["properties"]["objectType"] == "tile"]
    assert {t["measurements"]["SCAAT: Unlike training (percentile)"] for t in tiles} == {40.0}
    assert far["slide_summary"]["unlike_share"] == 1.0
    assert near["slide_summary"]["unlike_share"] == 0.0
    boxes = []
    for name, record in (("far", far), ("near", near)):
        x, y, width, height = record["files"][f"{name}.png"]["picture_px"]
        with Image.open(tmp_path / "o" / f"{name}.png") as picture:
            boxes.append(np.asarray(picture)[y : y + height, x : x + width])
    dark = [(box.max(axis=2) < 40).mean() for box in boxes]
    assert dark[0] > 0.1
    assert dark[1] < 0.02  # the scale bar
    with Image.open(tmp_path / "o" / "far.png") as picture:
        assert picture.getpixel((3, 3)) == (176, 0, 0)


def classes_of(folder: Path, slide_id: str) -> set[str]:
    features = json.loads((folder / "o" / f"{slide_id}.geojson").read_text())["features"]
    return {
        f["properties"]["classification"]["name"]
        for f in features
        if f["properties"]["objectType"] == "tile"
    }


def test_what_the_model_cannot_judge_has_no_colour_region_or_class(tmp_path: Path) -> None:
    """Whatever the model says of it: pictures, tiles, regions and page alike; unless asked for."""
    far = exported(tmp_path, "far", 0.97, unlike=100.0)
    assert coloured_share(tmp_path, far, "far.png") == 0
    assert coloured_share(tmp_path, far, "far.probability.png") == 0
    assert far["n_regions"] == 0
    assert classes_of(tmp_path, "far") == {"Unlike training"}
    assert far["slide_summary"]["drawn_um2"] == 0
    assert any("tiles are unlike the training data" in note for note in far["notes"])
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "evidence for tumour not judged: all unlike the training data" in page
    asked = exported(tmp_path / "asked", "far", 0.97, draw_unlike=True, unlike=100.0)
    assert coloured_share(tmp_path / "asked", asked, "far.png") > 0.5  # under the hatching
    assert asked["n_regions"] >= 1
    assert classes_of(tmp_path / "asked", "far") == {"Tumor"}
    with Image.open(tmp_path / "asked" / "o" / "far.png") as picture:
        assert picture.getpixel((3, 3)) == (176, 0, 0)


def test_a_part_that_cannot_be_judged_is_left_out_and_the_rest_drawn(tmp_path: Path) -> None:
    odd = np.where(np.arange(GRID.n_cols * GRID.n_rows) % GRID.n_cols < 6, 100.0, 40.0)
    half = exported(tmp_path, "half", 0.97, unlike=odd)
    assert 0.3 < coloured_share(tmp_path, half, "half.png") < 0.7
    assert classes_of(tmp_path, "half") == {"Unlike training", "Tumor"}
    features = json.loads((tmp_path / "o" / "half.geojson").read_text())["features"]
    (region,) = (f for f in features if f["properties"]["objectType"] == "annotation")
    left = min(x for x, _ in region["geometry"]["coordinates"][0])
    assert left > 4 * 32  # nothing of the left half, where only unlike patches are
    assert half["slide_summary"]["not_judged"] == pytest.approx(0.5, abs=0.15)


def test_every_picture_page_and_object_shows_the_age_of_the_data(tmp_path: Path) -> None:
    years = {"trained": 2026, "first": 2015, "last": 2019, "n_dated": 12, "n_slides": 16}
    with_facts = exported(tmp_path, "told", 0.97, model=facts(data_years=years))
    untold = exported(tmp_path, "untold", 0.97)
    said = "scans of 2015 to 2019 (12 of 16 slides state a year), trained in 2026"
    assert with_facts["model"]["age_of_data"] == said
    assert untold["model"]["age_of_data"].startswith("not recorded")
    write_cohort(tmp_path / "o")
    assert "Age of its data: " in (tmp_path / "o" / "index.html").read_text()
    for name, words in (("told", said), ("untold", "not recorded")):
        assert words in (tmp_path / "o" / f"{name}.geojson").read_text()
        pictures = ModelFacts.of(SlideMap(tmp_path / f"{name}.ome.zarr").meta)
        assert words in pictures.age


def test_glass_under_a_patch_is_not_coloured(tmp_path: Path) -> None:
    size = SizePx(800, 640)
    tissue = [BoxPx(150, 120, 500, 480)]
    slide = write_marked_slide(tmp_path / "slide.tiff", [], size, 0.5)
    # stained tissue, where write_marked_slide draws black
    import tifffile

    image = np.full((size.height, size.width, 3), 250, np.uint8)
    box = tissue[0]
    rng = np.random.default_rng(0)
    image[box.y : box.bottom, box.x : box.right] = np.clip(
        rng.normal((190, 110, 170), 14, (box.height, box.width, 3)), 0, 255
    )
    with tifffile.TiffWriter(slide) as writer:
        writer.write(
            image, tile=(256, 256), photometric="rgb", compression="deflate",
            resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 32, 24, 19)
    store = make_saliency_store(
        tmp_path / "s.zarr", grid, slide_id="s", model=facts(), size=size, mpp=0.5,
        saliency=0.01, probability=np.array([0.05, 0.95]),
    )  # fmt: skip
    stitch_slide(store, tmp_path / "s.ome.zarr")
    export_slide(
        tmp_path / "s.ome.zarr", store, tmp_path / "o", ExportConfig(formats=("png",)),
        slide_path=slide,
    )  # fmt: skip
    record = json.loads((tmp_path / "o" / "s.json").read_text())
    x, y, width, height = record["files"]["s.png"]["picture_px"]
    with Image.open(tmp_path / "o" / "s.png") as picture:
        rgb = np.asarray(picture)[y : y + height, x : x + width].astype(int)
    yellow = (rgb[..., 0] - rgb[..., 2]) > 60
    scale = width / size.width
    middle = yellow[int(250 * scale) : int(400 * scale), int(280 * scale) : int(420 * scale)]
    glass = yellow[: int(90 * scale)]
    assert middle.mean() > 0.95
    assert glass.mean() == 0
    # colour ends with the tissue, to the picture's pixel and not to that of a coarse mask
    beyond = yellow[int(250 * scale) : int(400 * scale), math.ceil(652 * scale) + 1 :]
    assert beyond.mean() == 0
    # the values stay in the map
    assert SlideMap(tmp_path / "s.ome.zarr").read("evidence: tumour")[0, 0] > 0.5


def test_the_scale_of_evidence_never_brightens_what_is_weak() -> None:
    """A reference without the class must not end the scale at nothing."""
    nothing = MapReference(p50=0, p90=0, p99=0.001, p995=0.002, others_p99=None)
    model = ModelFacts("f", None, "unknown", {}, {}, {"t": nothing}, None)
    scale = evidence_scale(model, "t", ExportConfig())
    assert scale.vmax == LEAST_TOP
    assert scale.floor == pytest.approx(FAINTEST * LEAST_TOP)
    poor = MapReference(p50=0.4, p90=0.5, p99=0.6, p995=0.62, others_p99=0.59)
    model = ModelFacts("f", None, "unknown", {}, {}, {"t": poor}, None)
    scale = evidence_scale(model, "t", ExportConfig())
    # what other classes reach is not drawn, but something is left of the scale
    assert 0.5 < scale.floor < scale.vmax
    rgba = colourize(np.array([[0.0, scale.floor - 1e-3, scale.vmax, np.nan]], np.float32), scale)
    assert (rgba[0, :, 3] > 0).tolist() == [False, False, True, False]


def test_compositing_is_exact_at_both_ends() -> None:
    base = np.full((1, 2, 3), 200, np.uint8)
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    assert over(base, rgba).tolist() == [[[200, 200, 200], [10, 20, 30]]]


def test_small_parts() -> None:
    face = font(13)
    lines = wrapped("a " * 200 + "w" * 500, face, 300)
    assert all(face.getlength(line) <= 300 for line in lines)
    assert wrapped("", face, 300) == []
    grey = np.full((64, 64, 3), 128, np.uint8)
    lines = hatch_lines(np.ones((64, 64), bool))
    assert 0.1 < lines.mean() < 0.25
    assert np.array_equal(lines[1:, :-1], lines[:-1, 1:])
    assert (hatched(grey, lines) == np.where(lines, 30, 128)[..., None]).all()
    assert hatched(grey, np.zeros((64, 64), bool)) is grey
    assert not tissue_of(np.full((64, 64, 3), 245, np.uint8), 8.0).any()


def test_a_canvas_draws_what_pillow_draws_also_over_its_edges() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    canvas, image = Canvas(120, 90), Image.fromarray(picture)
    canvas.paste(picture, 0, 0)
    draw = ImageDraw.Draw(image)
    for x, y in ((60.4, 40.7), (3.2, 2.1), (117.0, 88.5), (300, 300)):
        canvas.number(x, y, 3)
        draw.ellipse((x - 10, y - 10, x + 10, y + 10), fill="white", outline=(25, 25, 25))
        draw.text((x, y), "3", fill=(25, 25, 25), font=font(13, bold=True), anchor="mm")
    for x, y, anchor in ((20, 20, "lm"), (100, 3, "ls"), (90, 80, "la"), (0, 0, "la")):
        canvas.text(x, y, "gypsum µm", 14, (176, 0, 0), anchor=anchor)
        draw.text((x, y), "gypsum µm", fill=(176, 0, 0), font=font(14), anchor=anchor)
    canvas.fill(10, 60, 200, 70, (1, 2, 3))
    draw.rectangle((10, 60, 200, 70), fill=(1, 2, 3))
    part = picture[:50, :40]
    for x, y in ((100, 70), (-5, 30), (50, -20)):
        canvas.paste(part, x, y)
        image.paste(Image.fromarray(part), (x, y))
    assert np.array_equal(canvas.pixels, np.asarray(image))


@given(st.floats(1e-12, 9e4))
def test_numbers_beside_a_colour_bar_are_whole_and_right(value: float) -> None:
    text = short_number(value)
    assert font(13).getlength(text) + 7 <= NUMBER_PX
    assert float(text) == pytest.approx(value, rel=0.051)


def test_a_patch_that_is_nearly_certain_is_not_called_certain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Canvas, "text", lambda self, x, y, words, *rest, **more: said.append(words))
    grey = np.full((figure.PATCH_PICTURE_PX,) * 2 + (3,), 128, np.uint8)
    patches = [figure.TopPatch(grey, np.zeros((4, 4), np.float32), p, (0, 0)) for p in (0.997, 1)]
    figure._patch_rows(Canvas(2080, 600), 0, patches, "Tumor", None, 128.0)
    assert said[1:] == ["1:  p(Tumor) 0.997", "2:  p(Tumor) 1.00"]


def test_saliency_of_a_model_that_has_learnt_nothing_is_not_drawn_either(tmp_path: Path) -> None:
    """Its scale is the model's own: it glows however little the model has learnt."""
    for name, model in {"good": facts(), "useless": facts(accuracy=0.52, low=0.44)}.items():
        exported(tmp_path, name, 0.97, model=model)
        map_path, store = tmp_path / f"{name}.ome.zarr", tmp_path / f"{name}.zarr"
        config = ExportConfig(formats=("png", "rgb-tiff"), drawn="saliency")
        export_slide(map_path, store, tmp_path / "o", config)
        record = json.loads((tmp_path / "o" / f"{name}.json").read_text())
        assert (coloured_share(tmp_path, record, f"{name}.png") > 0) == (name == "good")
        assert coloured_share(tmp_path, record, f"{name}.probability.png") > 0.9
        (tiff,) = (n for n, entry in record["files"].items() if entry["format"] == "rgb-tiff")
        pixels = tifffile.imread(tmp_path / "o" / tiff, key=0)
        assert (pixels < 255).any() == (name == "good")
        pictures = pictures_of(tmp_path, name)
        assert pictures.get("saliency", "tumour").is_bare == (name == "useless")
    said = "saliency for tumour not drawn: the model has learnt nothing"
    assert evidence_words(record) == said
    assert said.replace("not drawn", "is not drawn") == pictures.get("saliency", "tumour").title


def pictures_of(folder: Path, name: str) -> MapPictures:
    slide_map = SlideMap(folder / f"{name}.ome.zarr")
    size = slide_map.size_px(0)
    grey = np.full((size.height, size.width, 3), 235, np.uint8)
    model = ModelFacts.of(slide_map.meta)
    return MapPictures(slide_map, 0, lambda: grey, False, model, ExportConfig())


def test_the_scale_beside_patches_has_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It showed colours over white, and patches have none of white: no evidence looked strong."""
    said: list[str] = []
    monkeypatch.setattr(Canvas, "text", lambda self, x, y, words, *rest, **more: said.append(words))
    scale = ColourScale(0.8, "", "viridis", 0.2)
    side = figure.PATCH_PICTURE_PX
    patches = [
        figure.TopPatch(
            np.full((side, side, 3), 128, np.uint8), np.full((4, 4), value), 0.9, (0, 0)
        )
        for value in np.array([0, 0.1, 0.35, 0.8], np.float32)
    ]
    canvas = Canvas(2080, 700)
    figure._patch_rows(canvas, 0, patches, "Tumor", scale, 128.0)
    step = side + figure.GAP_PX
    top = 50 + step
    left = figure.GAP_PX + len(patches) * step + 10
    bar = canvas.pixels[top + 1 : top + side - 1, left + 8].astype(int)
    for number, _ in enumerate(patches):
        colour = canvas.pixels[top + 9, figure.GAP_PX + number * step + 9].astype(int)
        assert np.abs(bar - colour).max(axis=1).min() <= 4, number
    assert "on the slide it is drawn from 0.2 on" in said[0]
    assert "0.2" in said


def test_words_of_a_scale_are_whole(tmp_path: Path) -> None:
    """ "not to be compared with othe..." stood beside the bar."""
    exported(tmp_path, "s", 0.97, model={})
    pictures = pictures_of(tmp_path, "s")
    for kind in figure.ROW_KINDS:
        words = f"top: {pictures.scale(kind, 'tumour').source}"
        assert font(10).getlength(words) <= figure.PANEL_PX - 16
        assert ": fixed:" not in words
    assert not pictures.scale("saliency", "tumour").is_shared


def test_the_contact_sheet_cuts_no_caption_and_no_word_on_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "(0.00051 m…" is another area than the one that is meant."""
    chances = np.full(GRID.n_cols * GRID.n_rows, 0.02)
    chances[40] = 0.99
    foreign = np.full(GRID.n_cols * GRID.n_rows, 100.0, np.float32)
    exported(tmp_path, "little", chances, model=facts(role="train"))
    exported(tmp_path, "foreign", 0.97, unlike=foreign)
    said: list[str] = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text",
        lambda self, at, words, **how: (said.append(words), draw(self, at, words, **how))[1],
    )  # fmt: skip
    write_cohort(tmp_path / "o")
    assert not [words for words in said if "…" in words]
    whole = " ".join(said)
    assert "mm² in all)" in whole
    assert "evidence for tumour not judged: all unlike the training data" in whole
    assert "balanced accuracy 0.93 (0.88 to 0.97)" in whole
    for number in ("0", "0.2", "0.65"):  # where the bar begins, is drawn from, and ends
        assert number in said


def test_the_page_fits_a_small_screen_and_says_of_what_its_shares_are(tmp_path: Path) -> None:
    exported(tmp_path, "patches", 0.9)
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table") == page.count('<div class="wide"><table')
    assert "<th>of them unlike the training data" in page
    assert "<th>tiles unlike the training data" in page
    for word in ("Slide prediction", "Possible at 90 %", "Tile<dd>"):
        assert word in page[: page.index("</details>")]
    assert "learnt from whole slides" not in page
    assert "{" not in page[page.index("<details>") : page.index("</details>")]
    exported(tmp_path, "slides", 0.5, model=facts(of_slides=True))
    write_cohort(tmp_path / "o")
    page = (tmp_path / "o" / "index.html").read_text()
    assert "0.5 of two: that is what the tiles of a slide without the class have" in page
