"""The whole job through the real command: artifacts, status, exit codes, doing nothing twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.annotations import read_annotations
from pathology_scaat.stitching import SlideMap

pytestmark = pytest.mark.slow

SMALL = ("--mpp", "1.0", "--patch-size", "64", "--overlap", "0.5", "--workers", "0")


def statuses(out: Path) -> dict[str, dict[str, str]]:
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        return {row["slide_id"]: row for row in csv.DictReader(stream)}


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.parts[-1] not in {"slides.csv", "run.json", "run.log"}
        and "logs" not in path.relative_to(out).parts
        and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def whole(scaat: Any, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = scaat("run", "--manifest", cohort, "--out", out, "--epochs", 2, *SMALL)
    return out, done


def test_a_broken_slide_gives_exit_code_three_and_stops_no_other(whole: tuple[Path, Any]) -> None:
    out, done = whole
    assert done.returncode == 3, done.stderr
    assert "broken.svs" in done.stderr
    assert "Traceback" not in done.stderr
    rows = statuses(out)
    assert rows["slide-broken"]["tile"] == "failed"
    assert rows["slide-broken"]["reason"]
    assert {rows[f"slide-{n}"]["mpp_source"] for n in range(3)} == {"slide"}
    for number in range(3):
        assert [rows[f"slide-{number}"][s] for s in ("tile", "explain", "stitch", "export")] == [
            "done"
        ] * 4


def test_the_output_folder_holds_what_the_contract_says(whole: tuple[Path, Any]) -> None:
    out, _ = whole
    assert json.loads((out / "run.json").read_text())["config"]["tile"]["mpp"] == 1.0
    for number in range(3):
        for name in (
            f"tissue/slide-{number}.png",
            f"patches/slide-{number}.zarr",
            f"saliency/slide-{number}.zarr",
            f"maps/slide-{number}.ome.zarr",
            f"overlays/slide-{number}.geojson.gz",
            f"overlays/slide-{number}.ome.tiff",
            f"overlays/slide-{number}.png",
        ):
            assert (out / name).exists(), name
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "model" / "config.json").exists()
    assert not list(out.rglob("*.partial-*"))


def test_results_of_the_model_before_are_not_called_done(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    """A training puts another model into the folder: its maps are still to be made."""
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    again = ("train", "--manifest", cohort, "--out", out, "--epochs")
    before = statuses(out)
    assert scaat(*again, 2).returncode == 0  # the right model is there
    assert statuses(out) == before
    assert before["slide-0"]["predicted"]
    assert scaat(*again, 1).returncode in (0, 4)
    for number in range(3):
        row = statuses(out)[f"slide-{number}"]
        waiting = [row[s] for s in ("tile", "explain", "stitch", "export")]
        assert waiting == ["done", *["pending"] * 3]
        assert not row["predicted"] + row["probabilities"] + row["uncertainty"]
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert "3 slides (3 of them of an earlier run)" in page
    assert "made anew since; explain it again" in page
    checked = scaat("verify", "--out", out).stdout
    assert "FAULT predictions.csv: was made by another model" in checked
    assert "FAULT saliency/slide-0.zarr: was made by another model" in checked


def test_new_labels_and_pixels_kept_outdate_no_map(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    """The patches are as they were: the table said that their maps were still to be made."""
    out, slides = tmp_path / "out", tmp_path / "slides"
    shutil.copytree(cohort.parent, slides)
    words = ("--manifest", slides / "cohort.csv", "--out", out, *SMALL)
    given = ("run", *words, "--model", whole[0] / "model")
    assert scaat(*given).returncode == 3
    before = statuses(out)
    assert before["slide-0"]["export"] == "done"
    text = (slides / "s0.geojson").read_text(encoding="utf-8")
    (slides / "s0.geojson").write_text(text.replace("Tumor", "Carcinoma"), encoding="utf-8")
    assert scaat("tile", *words).returncode == 3  # now with their pixels, and with other labels
    after = statuses(out)
    assert not (out / "patches/slide-1.zarr/patches").exists()
    assert (out / "patches/slide-1.zarr/blocks").exists()
    stages = ("tile", "explain", "stitch", "export", "predicted")
    for name in ("slide-0", "slide-1", "slide-2"):
        assert [after[name][s] for s in stages] == [before[name][s] for s in stages]
    (slides / "s0.geojson").write_text(text, encoding="utf-8")
    assert "were read anew" in scaat("tile", *words).stderr
    assert statuses(out)["slide-0"]["export"] == "done"
    scaat("export", "--out", out)
    assert "made anew since" not in (out / "overlays" / "index.html").read_text(encoding="utf-8")


def test_a_slide_that_fails_now_keeps_nothing_of_the_run_before(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    """Its file is another one by now: numbers and maps of it are those of the old one."""
    out, slides = tmp_path / "out", tmp_path / "slides"
    shutil.copytree(whole[0], out)
    shutil.copytree(cohort.parent, slides)
    (slides / "s2.tiff").write_bytes(b"not a slide")
    done = scaat("run", "--manifest", slides / "cohort.csv", "--out", out, "--workers", 0,
                 "--model", whole[0] / "model")  # fmt: skip
    assert done.returncode == 3
    row = statuses(out)["slide-2"]
    assert (row["tile"], row["explain"]) == ("failed", "pending")
    assert statuses(whole[0])["slide-2"]["n_patches"]
    kept = {name for name, cell in row.items() if cell}
    assert kept == {
        "slide_id", "tile", "explain", "stitch", "export", "reason", "split", "patient",
        "in_manifest",
    }  # fmt: skip
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert "OF AN EARLIER RUN: the last run failed in tile" in page
    assert "made anew since" not in page


def test_the_terminal_says_which_measures_are_of_the_uncalibrated_model(
    whole: tuple[Path, Any],
) -> None:
    """Loss and calibration error are taken before the temperature is fitted, the others not."""
    lines = [line.split("  ")[0].strip() for line in whole[1].stdout.splitlines()]
    for name in ("val_loss", "val_ece", "test_loss", "test_ece"):
        assert f"{name}, before calibration" in lines
        assert name not in lines
    assert {"val_auc", "val_accuracy", "n_epochs"} <= set(lines)


def test_a_dry_run_takes_its_times_from_the_run_before(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    out, _ = whole
    before = snapshot(out)
    done = scaat("run", "--manifest", cohort, "--out", out, *SMALL, "--dry-run", "--json")
    assert done.returncode == 3, done.stderr  # the broken slide
    plan = json.loads(done.stdout)["plan"]
    assert snapshot(out) == before
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    for name in ("tile", "explain", "stitch", "export"):
        assert stages[name]["source"].startswith("as the run before in this folder: 3 slides")
    assert stages["tile"]["seconds"] == 0  # all is cut already
    assert stages["explain"]["seconds"] > 0
    assert stages["train"]["seconds"] is None
    # What is counted is what was cut.
    counts = {row["slide_id"]: row["n_patches"] for row in statuses(out).values()}
    for slide in plan["slides"]:
        if not slide["problem"]:
            assert str(slide["n_patches"]) == counts[slide["slide_id"]]
    # In a new folder with a model: measured here.
    words = ("--out", tmp_path / "new", "--model", out / "model", "--dry-run", "--json")
    done = scaat("run", "--manifest", cohort, *words)
    plan = json.loads(done.stdout)["plan"]
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    for name in ("tile", "explain"):
        assert stages[name]["source"].startswith("measured here: ")
        assert stages[name]["seconds"] > 0
    assert stages["stitch"]["seconds"] is None
    assert plan["saliency_bytes"] > 0
    assert not (tmp_path / "new").exists()


def test_running_again_does_nothing(scaat: Any, cohort: Path, whole: tuple[Path, Any]) -> None:
    out, _ = whole
    before = snapshot(out)
    done = scaat("run", "--manifest", cohort, "--out", out, "--epochs", 2, *SMALL)
    assert done.returncode == 3
    assert "tile: 0 done, 3 already there, 1 failed" in done.stdout
    assert "export: 0 done, 3 already there, 0 failed" in done.stdout
    assert snapshot(out) == before


def test_a_trained_model_is_applied_without_training(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    out, _ = whole
    new = tmp_path / "new.csv"
    new.write_text(f"slide_path,slide_id\n{cohort.parent / 's2.tiff'},fresh\n")
    done = scaat(
        "run",
        "--manifest",
        new,
        "--out",
        tmp_path / "out",
        "--model",
        out / "model",
        "--workers",
        0,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "overlays" / "fresh.geojson.gz").exists()
    assert not (tmp_path / "out" / "model").exists()
    assert statuses(tmp_path / "out")["fresh"]["export"] == "done"


def test_single_verbs_redo_only_what_a_setting_changes(scaat: Any, whole: tuple[Path, Any]) -> None:
    out, _ = whole
    done = scaat("explain", "--out", out, "--workers", 0)
    assert "explain: 0 done, 3 already there, 0 failed" in done.stdout
    done = scaat("stitch", "--out", out, "--weighting", "none", "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert "stitch: 3 done, 0 already there, 0 failed" in done.stdout
    done = scaat("stitch", "--out", out, "--map-mpp", 8, "--ngff", "0.4", "--workers", 0)
    assert done.returncode == 0, done.stderr
    made = SlideMap(next((out / "maps").glob("*.ome.zarr")))
    assert (made.mpp, made.ngff) == (8.0, "0.4")
    done = scaat("export", "--out", out, "--formats", "geojson", "--max-tiles", 3, "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert "export: 3 done" in done.stdout
    assert scaat("verify", "--out", out).returncode == 0
    # the sheet of all slides showed the maps before: it is no part of these results
    assert "All at a glance" not in (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert not (out / "overlays" / "contact_sheet.png").exists()
    done = scaat("stitch", "--out", out, "--ngff", "0.6")
    assert done.returncode == 2
    assert "ngff" in done.stderr


def test_corrected_annotations_come_back_as_labels(
    scaat: Any, cohort: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    out, _ = whole
    corrected = tmp_path / "slide-1.geojson"
    corrected.write_bytes((cohort.parent / "s1.geojson").read_bytes())
    done = scaat("import-annotations", corrected, "--out", out, "--to", tmp_path / "labels")
    assert done.returncode == 0, done.stderr
    back = read_annotations(next((tmp_path / "labels").glob("slide-1*")))
    given = read_annotations(cohort.parent / "s1.geojson")
    assert {p.class_name: p.geometry.area for p in back} == pytest.approx(
        {p.class_name: p.geometry.area for p in given}
    )


def test_another_format_is_added_and_only_prune_removes(
    scaat: Any, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    before = {p.name for p in (out / "overlays").iterdir()}
    done = scaat("export", "--out", out, "--formats", "csv", "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert "press F" in " ".join(done.stdout.split())
    csvs = {f"slide-{number}.csv" for number in range(3)}
    assert {p.name for p in (out / "overlays").iterdir()} == before | csvs
    assert scaat("verify", "--out", out).returncode == 0
    done = scaat("export", "--out", out, "--formats", "csv", "--prune", "--workers", 0)
    assert done.returncode == 0, done.stderr
    left = {p.name for p in (out / "overlays").glob("slide-*")}
    assert left == csvs | {f"slide-{number}.json" for number in range(3)}
    assert scaat("verify", "--out", out).returncode == 0


def test_verify_finds_a_sound_run_sound_and_names_a_fault(
    scaat: Any, whole: tuple[Path, Any]
) -> None:
    out, _ = whole
    assert scaat("verify", "--out", out).returncode == 0
    overlay = out / "overlays" / "slide-0.geojson.gz"
    whole_bytes = overlay.read_bytes()
    try:
        overlay.write_bytes(whole_bytes[:-20])
        done = scaat("verify", "--out", out)
        assert done.returncode == 3
        assert "FAULT overlays/slide-0.geojson.gz" in done.stdout
    finally:
        overlay.write_bytes(whole_bytes)


def test_evaluate_writes_a_trust_card(scaat: Any, cohort: Path, whole: tuple[Path, Any]) -> None:
    out, _ = whole
    done = scaat("evaluate", "--out", out, "--manifest", cohort)
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "evaluation" / "trust_card.json").read_text())
    assert card["held_out"] is True
    assert (card["n_groups"], card["unit"]) == (1, "patients")
    assert "not measured" in (out / "evaluation" / "trust_card.md").read_text()
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert '<a href="../evaluation/trust_card.md">Trust card</a>: how far its maps' in page
