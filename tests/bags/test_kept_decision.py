"""What validation cases chose goes with the model, through the real commands."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from forked_command import run_forked

from pathology_scaat.artifacts.checksums import write_checked_json
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.decision import DECISION_NAME

SMALL: dict[str, Any] = {
    "tile": {"mpp": 0.5, "patch_size_px": 32, "overlap": "0"},
    "train": {
        "epochs": 4, "patience": 4, "learning_rate": 1e-2, "backbone_options": {"widths": [8, 16]},
        "bag": {"patches_per_bag": 16, "draws_per_epoch": 3, "attention_width": 8,
                "attention_steps": 20},
    },
    "export": {"formats": ["geojson"], "min_region_um2": 1000},
    "engine": {"workers": 0},
    "device": "cpu",
}  # fmt: skip
N_VAL = 10


def draw(path: Path, seed: int, n_nuclei: int) -> None:
    """Pink tissue on glass with dark nuclei, few or many."""
    rng = np.random.default_rng(seed)
    image = np.full((256, 256, 3), 244, np.uint8)
    image[24:-24, 24:-24] = (222, 160, 196)
    for x, y in zip(rng.integers(140, 224, n_nuclei), rng.integers(24, 224, n_nuclei), strict=True):
        image[y : y + 6, x : x + 6] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    tifffile.imwrite(
        path, image, tile=(128, 128), photometric="rgb", compression="deflate",
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip


def write_table(path: Path, rows: Sequence[str], header: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 slides to train on and 10 to validate, a patient each; eight new ones of six patients."""
    folder = tmp_path_factory.mktemp("hospital")
    rows = []
    for number in range(12 + N_VAL):
        positive = number % 2 == 1
        # what validates is harder: some positive slides have few nuclei, some negative ones a few
        hard = number >= 12
        nuclei = (3 * (number - 11) if hard else 70) if positive else (number % 5 if hard else 0)
        draw(folder / f"s{number:02d}.tiff", number, nuclei)
        label = ("Normal", "Tumor")[positive]
        split = "val" if hard else "train"
        rows.append(f"s{number:02d}.tiff,secretpatient{number:02d},{label},{split}")
    write_table(folder / "cohort.csv", rows, "slide_path,patient_id,label,split")
    new = []
    for number in range(8):
        draw(folder / f"n{number}.tiff", 100 + number, 6 * number)
        new.append(f"n{number}.tiff,new{number % 6}")
    write_table(folder / "new.csv", new, "slide_path,patient_id")
    labelled = [f"{row},{('Normal', 'Tumor')[k % 6 > 2]}" for k, row in enumerate(new)]
    write_table(folder / "labelled.csv", labelled, "slide_path,patient_id,label")
    both = [*rows[12:], *(f"{row},," for row in new)]
    write_table(folder / "both.csv", both, "slide_path,patient_id,label,split")
    (folder / "run.json").write_text(json.dumps(SMALL))
    apply = {key: SMALL[key] for key in ("tile", "export", "engine", "device")}
    (folder / "apply.json").write_text(json.dumps(apply))
    return folder


def scaat(*arguments: object) -> Any:
    return run_forked([str(a) for a in arguments])


def succeeded(found: Any) -> str:
    assert found.returncode in (0, 4), found.stderr
    return " ".join((found.stdout + found.stderr).split())


def trained(cohort: Path, out: Path, *more: object) -> str:
    return succeeded(
        scaat("run", cohort / "run.json", "--manifest", cohort / "cohort.csv", "--out", out, *more)
    )


def applied(cohort: Path, out: Path, model: Path, manifest: str = "new.csv") -> Any:
    return scaat("run", cohort / "apply.json", "--manifest", cohort / manifest, "--out", out,
                 "--model", model)  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def record(out: Path, name: str = "predictions.json") -> Any:
    return json.loads((out / name).read_text(encoding="utf-8"))


def kept(model: Path) -> Any:
    return json.loads((model / DECISION_NAME).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, trained(cohort, out)


@pytest.fixture
def copied(whole: tuple[Path, str], tmp_path: Path) -> Path:
    """The bundle in another hospital."""
    return Path(shutil.copytree(whole[0] / "model", tmp_path / "elsewhere" / "bundle"))


def test_a_copied_model_calls_and_refers_new_slides_as_it_was_validated(
    whole: tuple[Path, str], cohort: Path, copied: Path, tmp_path: Path
) -> None:
    out, said = whole
    assert f"is kept with the model ({DECISION_NAME})" in said
    own = record(out, "performance.json")
    thresholds = {u: own["thresholds"][u]["values"][0]["threshold"] for u in ("slide", "patient")}
    assert thresholds["patient"] != 0.5
    assert record(out)["decision"]["source"] == "table"
    at = tmp_path / "applied"
    told = succeeded(applied(cohort, at, copied))
    shown = f"{thresholds['patient']:.4g}".lstrip("0")
    assert f"Threshold 0{shown} of patients, chosen on 10 validation patients when the" in told
    assert "Referrals at 90%, calibrated on 10 validation patients when the model was made" in told
    assert "no threshold is kept" not in told
    rows = table(at / "predictions.csv")
    assert len(rows) == 8
    assert {row["threshold"] for row in rows} == {f"{thresholds['slide']:.6g}"}
    assert "px apart here" not in told
    found = record(at)["decision"]
    assert found["source"] == "model"
    assert found["thresholds"]["patient"]["values"] == [
        {"fold": None, "threshold": thresholds["patient"], "n_validation": N_VAL,
         "chosen_on": "validation patients when the model was made", "kept_with_model": True},
    ]  # fmt: skip
    assert found["referral"]["n_calibration"] == N_VAL
    # the limit is the largest score of ten calibration patients at 90 %
    scores = sorted(1 - float(row[f"p_{row['label']}"])
                    for row in table(out / "predictions_patients.csv")
                    if row["split"] == "val")  # fmt: skip
    limit = scores[math.ceil((N_VAL + 1) * 0.9) - 1]
    for row in table(at / "predictions_patients.csv"):
        possible = [c for c in ("Normal", "Tumor") if 1 - float(row[f"p_{c}"]) <= limit + 1e-5]
        assert row["possible"] == (" | ".join(possible) or "none")
        assert row["predicted"] == (
            "Tumor" if float(row["p_Tumor"]) >= thresholds["patient"] else "Normal"
        )
        sure = len(possible) == 1 and "unlike" not in row["refer_reason"]
        assert row["refer"] == ("no" if sure else "yes")


def test_new_slides_beside_those_that_validated_are_called_the_same(
    whole: tuple[Path, str], cohort: Path, copied: Path, tmp_path: Path
) -> None:
    """With the model's own validation slides in the table, these are used, and that is said."""
    away = tmp_path / "away"
    succeeded(applied(cohort, away, copied))
    beside = tmp_path / "beside"
    told = succeeded(applied(cohort, beside, copied, "both.csv"))
    assert (
        "by the labelled validation slides in this table; what is kept with the model was" in told
    )
    assert record(beside)["decision"]["source"] == "table"
    wanted = ("slide_id", "predicted", "threshold", "p_Tumor", "possible", "refer", "refer_reason")
    alone = [[row[k] for k in wanted] for row in table(away / "predictions.csv")]
    with_them = [[row[k] for k in wanted] for row in table(beside / "predictions.csv")
                 if row["slide_id"].startswith("n")]  # fmt: skip
    assert alone == with_them


def test_labels_of_a_new_cohort_choose_nothing(
    cohort: Path, copied: Path, tmp_path: Path, whole: tuple[Path, str]
) -> None:
    before = (copied / DECISION_NAME).read_bytes()
    out = tmp_path / "measured"
    succeeded(applied(cohort, out, copied, "labelled.csv"))
    assert (copied / DECISION_NAME).read_bytes() == before
    found = record(out, "performance.json")
    own = record(whole[0], "performance.json")["thresholds"]["patient"]["values"][0]
    value = found["thresholds"]["patient"]["values"][0]
    assert value["threshold"] == own["threshold"]
    assert found["abstention"]["judged"]["external test"]["n"] == 6
    assert found["abstention"]["kept_with_model"] is True
    text = (out / "performance.md").read_text()
    assert "(chosen on 10 validation patients when the model was made)" in text
    assert "calibrated on 10 validation patients when the model was made" in text
    assert any("Threshold" in n and "when the model was made" in n for n in found["notes"])
    again = succeeded(
        scaat("predict", "--manifest", cohort / "new.csv", "--out", out, "--model", copied,
              "--device", "cpu")
    )  # fmt: skip
    assert "chosen on 10 validation patients when the model was made" in again
    succeeded(scaat("report", out, "--model", copied))
    facts = "".join(p.read_text() for p in (out / "report").glob("*.md"))
    assert "chosen on 10 validation patients when the model was made" in facts


def test_nobody_is_named_and_no_case_is_in_the_file(whole: tuple[Path, str]) -> None:
    text = (whole[0] / "model" / DECISION_NAME).read_text()
    assert "secretpatient" not in text
    assert "s12" not in text
    assert json.loads(text)["step_px"] == 32
    numbers = [n for n in json.loads(text)["alone"].values() if isinstance(n, dict)]
    assert sum(len(n) for n in numbers) == 7  # two thresholds, a limit, how many cases, and 0.1


def test_slides_tiled_otherwise_are_told(cohort: Path, copied: Path, tmp_path: Path) -> None:
    denser = scaat("run", cohort / "apply.json", "--manifest", cohort / "new.csv",
                   "--out", tmp_path / "denser", "--model", copied, "--overlap", 0.5)  # fmt: skip
    assert "Patches lie 16 px apart here, and 32 px on the slides that chose" in succeeded(denser)


def test_a_bundle_of_before_speaks_as_it_did(cohort: Path, copied: Path, tmp_path: Path) -> None:
    (copied / DECISION_NAME).unlink()
    out = tmp_path / "old"
    told = succeeded(applied(cohort, out, copied))
    assert "Cases are called from a probability of 0.5 on: no validation cases of both" in told
    assert "Nobody is referred for want of certainty, and no class is ruled out" in told
    assert {row["threshold"] for row in table(out / "predictions.csv")} == {"0.5"}
    assert record(out)["decision"]["source"] == "nothing"
    assert not (copied / DECISION_NAME).exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-30]), "that cannot be read"),
        (lambda p: p.write_text(p.read_text().replace('"n": 10', '"n": 11')),
         "that was altered or is damaged"),
        (lambda p: write_checked_json(p, {**json.loads(p.read_text()), "model": "0" * 64}),
         "of another model"),
        (lambda p: write_checked_json(p, {**json.loads(p.read_text()), "schema_version": 2}),
         "of schema version 2, not 1"),
        (lambda p: write_checked_json(
            p, {**json.loads(p.read_text()), "calibration": {"slope": "steep"}}),
         "a damaged decision.json ('calibration.slope')"),
        (lambda p: p.write_text('{"a": 1}'), "no record of what validation cases chose"),
        (lambda p: (p.unlink(), p.mkdir()), "that cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_one_sentence_before_any_work(
    cohort: Path, copied: Path, tmp_path: Path, damage: Any, words: str
) -> None:
    damage(copied / DECISION_NAME)
    out = tmp_path / "refused"
    found = applied(cohort, out, copied)
    assert found.returncode == 2
    told = " ".join(found.stderr.split())
    assert told.count("bundle: has a") == 1
    assert words in told
    assert "copy decision.json anew from where the model was made, or remove it" in told
    assert not (out / "patches").exists()


def test_verify_reads_what_is_kept(whole: tuple[Path, str], cohort: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    told = succeeded(scaat("verify", "--out", out))
    assert "with what its validation cases chose" in told
    path = out / "model" / DECISION_NAME
    good = path.read_text()
    path.write_text(good.replace('"n": 10', '"n": 11'))
    found = scaat("verify", "--out", out)
    assert found.returncode == 3
    assert "FAULT model: has a decision.json that was altered or is damaged" in " ".join(
        found.stdout.split()
    )
    path.write_text(good)
    os.replace(out / "model" / "training_log.csv", out / "model" / "log.csv")
    assert scaat("verify", "--out", out).returncode == 3  # every other file is still checked


def test_what_is_kept_stays_until_the_model_is_another(
    whole: tuple[Path, str], cohort: Path, tmp_path: Path
) -> None:
    """Predicting without the validation slides keeps what is there; training starts anew."""
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    before = kept(out / "model")
    assert before["model"] == json.loads((out / "model" / "config.json").read_text())["fingerprint"]
    told = succeeded(scaat("predict", "--manifest", cohort / "cohort.csv", "--out", out,
                           "--device", "cpu"))  # fmt: skip
    assert "is kept with the model" not in told  # nothing has changed
    lines = (cohort / "cohort.csv").read_text().splitlines()
    blank = [",".join([*line.split(",")[:2], "", ""]) for line in lines[1:]]
    unlabelled = write_table(cohort / "unlabelled.csv", blank, lines[0])
    told = succeeded(scaat("predict", "--manifest", unlabelled, "--out", out, "--device", "cpu"))
    assert "chosen on 10 validation patients when the model was made" in told
    assert kept(out / "model") == before
    (out / "model" / DECISION_NAME).unlink()
    succeeded(scaat("predict", "--manifest", cohort / "cohort.csv", "--out", out,
                    "--device", "cpu"))  # fmt: skip
    assert kept(out / "model") == before
    succeeded(scaat("train", "--manifest", cohort / "cohort.csv", "--out", out, "--epochs", 1,
                    "--device", "cpu"))  # fmt: skip
    assert read_bundle_config(out / "model")
    assert not (out / "model" / DECISION_NAME).exists()


def test_the_rule_of_patients_goes_with_the_model(
    whole: tuple[Path, str], cohort: Path, tmp_path: Path
) -> None:
    """Validated by the largest, since slides of a patient differ, and applied by the largest."""
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    text = (cohort / "cohort.csv").read_text().replace("secretpatient13", "secretpatient12")
    differing = write_table(tmp_path / "differing.csv", text.splitlines()[1:], text.splitlines()[0])
    rows = [line.replace("s", f"{cohort}/s", 1) for line in differing.read_text().splitlines()[1:]]
    write_table(differing, rows, text.splitlines()[0])
    succeeded(scaat("predict", "--manifest", differing, "--out", out, "--device", "cpu"))
    assert kept(out / "model")["alone"]["patient_rule"] == "largest"
    at = tmp_path / "applied"
    told = succeeded(applied(cohort, at, out / "model"))
    assert "Of every patient the slide with the largest probability of the positive" in told
    slides: dict[str, list[float]] = {}
    for row in table(at / "predictions.csv"):
        slides.setdefault(row["patient_id"], []).append(float(row["p_Tumor"]))
    assert any(len(own) > 1 for own in slides.values())
    for row in table(at / "predictions_patients.csv"):
        assert float(row["p_Tumor"]) == max(slides[row["patient_id"]])


def test_models_for_patches_bring_their_calibration_along(cohort: Path, tmp_path: Path) -> None:
    """Their threshold is one of calibrated probabilities: the calibration is kept with it."""
    out = tmp_path / "out"
    trained(cohort, out, "--labels", "copy", "--method", "plain")
    assert (
        kept(out / "model")["calibration"]["text"] == "calibrated on 10 validation slides (Platt)"
    )
    copied = Path(shutil.copytree(out / "model", tmp_path / "elsewhere" / "bundle"))
    away, beside = tmp_path / "away", tmp_path / "beside"
    succeeded(applied(cohort, away, copied))
    succeeded(applied(cohort, beside, copied, "both.csv"))
    wanted = ("slide_id", "predicted", "threshold", "p_Tumor", "possible", "refer", "refer_reason")
    alone = [[row[k] for k in wanted] for row in table(away / "predictions.csv")]
    assert alone == [[row[k] for k in wanted] for row in table(beside / "predictions.csv")
                     if row["slide_id"].startswith("n")]  # fmt: skip
    assert record(away)["calibration"] == (
        "calibrated on 10 validation slides (Platt), when the model was made"
    )
    tuned = scaat("finetune", "--model", out / "model", "--manifest", cohort / "cohort.csv",
                  "--out", out, "--epochs", 1, "--device", "cpu")  # fmt: skip
    succeeded(tuned)
    assert (out / "finetuned" / "config.json").exists()
    assert not (out / "finetuned" / DECISION_NAME).exists()
