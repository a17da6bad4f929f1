"""Exporting adds files; only pruning deletes, and only what a record says is ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_export_slide import made

from pathology_scaat.cli import app, run_command
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.qupath.model_words import ModelWords

FIRST = ("geojson", "ome-tiff", "png")


def config(*formats: str, **more: Any) -> ExportConfig:
    return ExportConfig(formats=formats, region_quantile=0.5, min_region_um2=0, **more)


def record_of(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "S1.json").read_text())
    return record


def names(out: Path) -> set[str]:
    return {p.name for p in out.iterdir()} - {"S1.json"}


def test_another_format_is_added(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    out = tmp_path / "o"
    first = export_slide(slide_map, store, out, config(*FIRST))
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    record_before = record_of(out)
    second = export_slide(slide_map, store, out, config("csv"))
    assert names(out) == {
        "S1.geojson.gz", "S1.ome.tiff", "S1.png", "S1.probability.png", "S1.csv"
    }  # fmt: skip
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (second.n_tiles, second.n_regions) == (first.n_tiles, first.n_regions)
    record = record_of(out)
    assert set(record["files"]) == names(out)
    for key in ("coordinates", "colour_scale", "n_tiles", "n_regions", "notes"):
        assert record[key] == record_before[key]
    assert export_slide(slide_map, store, out, config(*FIRST)).skipped
    assert export_slide(slide_map, store, out, config("csv", "png")).skipped


def test_only_pruning_deletes(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    out = tmp_path / "o"
    export_slide(slide_map, store, out, config(*FIRST, "csv"))
    (out / "S1.notes.txt").write_text("of the user")
    (out / "S1.png").write_bytes(b"the user painted on it")
    result = export_slide(slide_map, store, out, config("csv"), prune=True)
    assert names(out) == {"S1.csv", "S1.notes.txt", "S1.png"}
    assert set(record_of(out)["files"]) == {"S1.csv"}
    assert result.notes == ("S1.png was changed since it was exported and is left there",)
    assert export_slide(slide_map, store, out, config("csv"), prune=True).skipped


def test_the_command_adds_and_prunes_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("maps", "saliency"):
        (tmp_path / folder).mkdir()
    slide_map, store = made(tmp_path)
    slide_map.rename(tmp_path / "maps" / "S1.ome.zarr")
    store.rename(tmp_path / "saliency" / "S1.zarr")

    def scaat(*more: str) -> None:
        arguments = ["export", "--out", str(tmp_path), "--workers", "0", "-q", *more]
        assert run_command(lambda: app(arguments, standalone_mode=False)) == 0

    scaat("--formats", "geojson")
    assert "then press F" in " ".join(capsys.readouterr().out.split())
    scaat("--formats", "csv")
    there = {p.name for p in (tmp_path / "overlays").glob("S1*")}
    assert there == {"S1.geojson.gz", "S1.csv", "S1.json"}
    scaat("--formats", "csv", "--prune")
    assert {p.name for p in (tmp_path / "overlays").glob("S1*")} == {"S1.csv", "S1.json"}


def test_files_of_an_earlier_map_stay_and_are_reported(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    out = tmp_path / "o"
    export_slide(slide_map, store, out, config(*FIRST))
    (tmp_path / "again").mkdir()
    slide_map, store = made(tmp_path / "again", seed=5)
    attributes = store / "zarr.json"
    attributes.write_text(attributes.read_text())
    other = slide_map / "zarr.json"
    other.write_text(other.read_text().replace(record_of(out)["map_fingerprint"], "f" * 64))
    result = export_slide(slide_map, store, out, config("csv"))
    assert names(out) == {
        "S1.geojson.gz", "S1.ome.tiff", "S1.png", "S1.probability.png", "S1.csv"
    }  # fmt: skip
    record = record_of(out)
    assert set(record["files"]) == {"S1.csv"}
    assert set(record["earlier_files"]) == {
        "S1.geojson.gz", "S1.ome.tiff", "S1.png", "S1.probability.png"
    }  # fmt: skip
    assert any("S1.png" in n and "of an earlier map" in n for n in result.notes)
    export_slide(slide_map, store, out, config("png", "csv"))
    assert set(record_of(out)["earlier_files"]) == {"S1.geojson.gz", "S1.ome.tiff"}
    export_slide(slide_map, store, out, config("csv"), prune=True)
    assert names(out) == {"S1.csv"}
    assert "earlier_files" not in record_of(out)


def test_a_failed_addition_forgets_no_other_file(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    out = tmp_path / "o"
    export_slide(slide_map, store, out, config("csv"))
    with pytest.raises(OSError, match="absent"):
        export_slide(slide_map, store, out, config("png"), slide_path=tmp_path / "absent.svs")
    assert set(record_of(out)["files"]) == {"S1.csv"}


def test_another_setting_makes_its_own_files_anew_and_leaves_others(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    out = tmp_path / "o"
    export_slide(slide_map, store, out, config("geojson", "png"))
    coordinates = record_of(out)["coordinates"]
    export_slide(slide_map, store, out, config("csv", vmax=3.0, qupath_origin="full"))
    record = record_of(out)
    assert record["coordinates"] == coordinates  # those of the GeoJSON, which is as it was
    assert record["saliency_scale"]["source"] != "set for the cohort"
    assert not export_slide(slide_map, store, out, config("png", vmax=3.0)).skipped
    assert record_of(out)["saliency_scale"]["vmax"] == 3.0
    assert any("--vmax" in note for note in record_of(out)["notes"])  # evidence is drawn


def test_too_many_classes_for_colours_are_reported(tmp_path: Path) -> None:
    names = tuple(f"class {n}" for n in range(50))
    slide_map, store = made(tmp_path, class_names=names)
    result = export_slide(slide_map, store, tmp_path / "o", config("geojson", max_regions=0))
    assert any("look alike in QuPath" in note for note in result.notes)


def test_facts_of_the_model_are_reported_where_they_are_known(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    colours = (("normal", (1, 2, 3)), ("tumour", (200, 0, 0)))
    facts = ModelWords("d" * 64, "scaat-resnet18-1a2b", "AUC 0.93", "no", "learnt nothing", colours)
    export_slide(slide_map, store, tmp_path / "o", config("geojson-plain"), facts=facts)
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    metadata = [f["properties"]["metadata"] for f in features if "metadata" in f["properties"]]
    assert metadata
    for one in metadata:
        assert one["model name"] == "scaat-resnet18-1a2b"
        assert one["held out"] == "AUC 0.93"
        assert one["warning"] == "learnt nothing"
    record = record_of(tmp_path / "o")
    assert record["model"]["warning"] == "learnt nothing"
    assert record["classes"][0]["color"] == [1, 2, 3]
    plain = config("geojson-plain")
    export_slide(slide_map, store, tmp_path / "p", plain, facts=ModelWords("e" * 64, "another"))
    assert not {"name", "held_out", "warning"} & record_of(tmp_path / "p")["model"].keys()
