"""Heads on features through the real commands: classes, grades, survival, bags of patients."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from forked_command import run_forked
from made_features import WIDTH, document, patch_features, table, write_trident

from pathology_scaat.errors import BundleError, ManifestError, TrainingError, UsageError
from pathology_scaat.pipeline.contributions import write_contributions
from pathology_scaat.pipeline.head_predictions import predict_heads
from pathology_scaat.pipeline.head_targets import targets_of
from pathology_scaat.pipeline.head_training import train_heads
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.heads.bundle import load_head, read_head_config
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.feature_files import read_feature_file

QUICK = TrainConfig(epochs=3)


@pytest.fixture(scope="module")
def classes(feature_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head for the label, trained and applied by the commands."""
    out = tmp_path_factory.mktemp("classes") / "out"
    common = ("--features", feature_cohort / "h5", "--manifest", feature_cohort / "cohort.csv",
              "--out", out)  # fmt: skip
    printed = document("train", *common, "--epochs", 25)
    assert printed["heads"] == {"label": str(out / "head")}
    assert printed["metrics"]["val_auc"] > 0.9
    printed = document("predict", *common)
    assert printed["performance"]["auroc"] > 0.9
    return out


def test_verify_reads_heads_and_their_predictions(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(classes, out)
    checked = document("verify", "--out", out)
    assert checked["n_faults"] == 0
    assert {"head", "predictions.csv", "run.json"} <= {f["artifact"] for f in checked["findings"]}
    weights = out / "head" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    table = out / "predictions.csv"
    table.write_text(table.read_text().replace("p20", "p99"))
    found = run_forked(["verify", "--out", out])
    assert found.returncode == 3
    assert "FAULT head: has a head.safetensors that is not the one" in found.stdout
    assert "FAULT predictions.csv: " in found.stdout


def test_classes_are_learnt_without_slides(classes: Path, feature_cohort: Path) -> None:
    rows = table(classes / "predictions.csv")
    cohort = {r["slide_id"]: r for r in table(feature_cohort / "cohort.csv")}
    assert len(rows) == len(cohort) == 48
    assert {r["slide_id"]: r["split"] for r in rows} == {s: r["split"] for s, r in cohort.items()}
    assert {r["slide_id"]: r["label"] for r in rows} == {s: r["label"] for s, r in cohort.items()}
    assert len(table(classes / "predictions_patients.csv")) == 40
    record = json.loads((classes / "performance.json").read_text())
    assert record["evaluated_on"] == "test slides"
    assert record["n"] == 12
    assert "a head on features" in record["prediction"]["rule"]
    assert read_head_config(classes / "head").encoder == "uni_v1"


def test_validation_labels_that_do_not_follow_calibrate_nothing(
    feature_cohort: Path, tmp_path: Path
) -> None:
    """The table of performance called such a head calibrated, and training said nothing."""
    lines = (feature_cohort / "cohort.csv").read_text().splitlines()
    swap = {"Tumor": "Normal", "Normal": "Tumor"}
    for at, line in enumerate(lines):
        cells = line.split(",")
        if cells[-1] == "val":
            lines[at] = ",".join([*cells[:2], swap[cells[2]], *cells[3:]])
    (tmp_path / "swapped.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    common = ("--features", feature_cohort / "h5", "--manifest", tmp_path / "swapped.csv",
              "--out", tmp_path / "out", "--quiet")  # fmt: skip
    trained = run_forked(["train", *common, "--epochs", 5])
    assert trained.returncode == 4, trained.stderr
    notes = read_head_config(tmp_path / "out" / "head").notes
    assert any(note.startswith("The temperature ended at its upper bound") for note in notes)
    assert run_forked(["predict", *common]).returncode == 0
    page = (tmp_path / "out" / "performance.md").read_text()
    assert "not calibrated: on the validation bags the temperature ended at its upper" in page


def test_what_was_given_for_features_or_a_table_is_named(
    feature_cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "clam" / "pt_files").mkdir(parents=True)
    (tmp_path / "clam" / "pt_files" / "a.pt").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    table_path = feature_cohort / "cohort.csv"
    for given, words in (
        (tmp_path / "lost", "--features: 'lost' is not there; give the folder with one .h5"),
        (table_path, "--features: 'cohort.csv' is a table, not a folder; give the folder with"),
        (tmp_path / "empty", "--features: 'empty' holds no features (.h5); give the folder with"),
        (feature_cohort, "holds no features (.h5); give the folder in it: h5."),
        (tmp_path / "clam" / "pt_files", "'pt_files' holds .pt files, and features are read from"),
    ):
        found = run_forked(["train", "--features", given, "--manifest", table_path,
                            "--out", tmp_path / "out"])  # fmt: skip
        assert found.returncode == 2
        assert words in found.stderr
    found = run_forked(["make-manifest", tmp_path / "empty", "--slides", feature_cohort / "h5"])
    assert "empty: is a folder, not a table; give the file (CSV" in found.stderr


def test_contributions_add_up_and_lie_where_the_patches_do(
    classes: Path, feature_cohort: Path
) -> None:
    bundle = load_head(classes / "head")
    row = next(r for r in table(classes / "predictions.csv") if r["slide_id"] == "s31-0")
    parts = table(classes / "contributions" / "s31-0.csv")
    sums = np.array([[float(p[f"contribution to {n}"]) for n in ("Normal", "Tumor")]
                     for p in parts]).sum(axis=0)  # fmt: skip
    chance = np.exp(sums / bundle.config.temperature)
    assert chance[1] / chance.sum() == pytest.approx(float(row["p_Tumor"]), abs=1e-4)
    with h5py.File(feature_cohort / "h5" / "s31-0.h5") as file:
        features, coords = file["features"][0], file["coords"][:]
    shows = features[:, 0] > 2
    margin = np.array(
        [float(p["contribution to Tumor"]) - float(p["contribution to Normal"]) for p in parts]
    )
    assert margin[shows].mean() > margin[~shows].mean()
    with gzip.open(classes / "contributions" / "s31-0.geojson.gz") as stream:
        tiles = json.load(stream)["features"]
    assert len(tiles) == len(parts) == len(coords)
    for tile, corner, part in zip(tiles, coords.tolist(), parts, strict=True):
        ring = tile["geometry"]["coordinates"][0]
        assert ring[0] == corner
        assert ring[2] == [corner[0] + 512, corner[1] + 512]
        assert tile["properties"]["measurements"]["SCAAT: Contribution to Tumor"] == pytest.approx(
            float(part["contribution to Tumor"]), rel=1e-3
        )


def test_coordinates_that_do_not_lie_on_the_slide_are_reported(tmp_path: Path) -> None:
    write_trident(tmp_path / "a.h5", patch_features(20, 0, 1))  # to 7 x 512, 2 x 512 px
    file = read_feature_file(tmp_path / "a.h5", "a")
    values = np.linspace(-1, 1, 40).reshape(20, 2)
    target = Target(names=("Normal", "Tumor"))
    sizes = {"whole": (1600, 4200), "other": (800, 4200)}
    for name, shape in sizes.items():
        tifffile.imwrite(
            tmp_path / f"{name}.tiff", np.full((*shape, 3), 200, np.uint8), tile=(256, 256),
            photometric="rgb", compression="deflate", resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    out = tmp_path / "out"
    found, problem = write_contributions(out, file, values, target, tmp_path / "whole.tiff")
    assert (found.table, found.squares, problem) == (True, True, "")
    found, problem = write_contributions(out, file, values, target, tmp_path / "other.tiff")
    assert (found.table, found.squares) == (True, False)
    assert "of another scan, or of another level" in problem
    assert [p.name for p in out.iterdir()] == ["a.csv"]  # what no longer holds is gone
    # left of or above any slide, whether the slide is at hand or not
    with h5py.File(tmp_path / "a.h5", "a") as written:
        written["coords"][...] = written["coords"][...] - np.array([600, 0])
    file = read_feature_file(tmp_path / "a.h5", "a")
    for slide in (None, tmp_path / "whole.tiff"):
        found, problem = write_contributions(out, file, values, target, slide)
        assert (found.table, found.squares) == (True, False)
        assert "coordinates reach from -600, 0 to 2984, 1024 px" in problem


def test_features_of_painted_slides_and_of_several_sizes_are_told(
    feature_cohort: Path, tmp_path: Path
) -> None:
    """What is measured on them says nothing of tissue; patches of two sizes are not alike."""
    features = tmp_path / "h5"
    shutil.copytree(feature_cohort / "h5", features)
    common = ("--features", features, "--manifest", feature_cohort / "cohort.csv",
              "--out", tmp_path / "out")  # fmt: skip
    for number, path in enumerate(sorted(features.iterdir())):
        with h5py.File(path, "a") as file:
            file["coords"].attrs["scaat_painted"] = True
            if number == 0:
                file["coords"].attrs["target_magnification"] = 10
            if number == 1:
                file["coords"][...] = file["coords"][...] - 600
    trained = document("train", *common, "--epochs", 2)
    learnt = "The model learnt from painted slides (scaat demo), not from patients' tissue."
    assert learnt in trained["notes"]
    mixed = "patches of several sizes (47 of 256 px at 20x; 1 of 256 px at 10x)"
    assert any(mixed in note for note in trained["notes"])
    printed = document("predict", *common)
    record = json.loads((tmp_path / "out" / "performance.json").read_text())
    assert learnt in record["notes"]
    assert record["read_first"][0].startswith("PAINTED SLIDES: All slides that were measured")
    assert any("a slide begins at 0, 0" in note for note in printed["notes"])
    assert not any("do not say where patches lie" in note for note in printed["notes"])
    out = ("--out", tmp_path / "survival")
    document("train", *common[:4], *out, "--time", "months", "--event", "dead", "--epochs", 2)
    document("predict", *common[:4], *out)
    record = json.loads((tmp_path / "survival" / "performance.json").read_text())
    assert learnt in record["notes"]
    assert record["read_first"][0].startswith("PAINTED SLIDES: All slides that were measured")


def test_the_same_training_is_not_done_twice_and_repeats_itself(
    classes: Path, feature_cohort: Path, tmp_path: Path
) -> None:
    common = (feature_cohort / "cohort.csv", classes, feature_cohort / "h5")
    again = train_heads(*common, config=TrainConfig(epochs=25))[0]
    assert again.skipped
    anew = train_heads(common[0], tmp_path / "o", common[2], config=TrainConfig(epochs=25))[0]
    assert anew.config.weights_sha256 == again.config.weights_sha256
    other = train_heads(*common, config=TrainConfig(epochs=3))[0]
    assert not other.skipped
    train_heads(*common, config=TrainConfig(epochs=25))


def test_a_head_judges_another_cohort_and_remembers_its_patients(
    classes: Path, feature_cohort: Path, tmp_path: Path
) -> None:
    """New slides: one of a patient that was trained on, others of nobody known.

    The other table writes a class in another way: it is the head's class all the same.
    """
    lines = ["slide_id,case_id,label"]
    for k in range(6):
        share = k % 2
        write_trident(tmp_path / "h5" / f"n{k}.h5", patch_features(24, 12 * share, 900 + k))
        lines.append(f"n{k},{'p00' if k == 0 else f'q{k}'},{'tumor' if share else 'Normal'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = predict_heads(
        tmp_path / "t.csv", tmp_path / "o", tmp_path / "h5", models=[classes / "head"]
    )[0]
    assert found.classes is not None
    splits = {p.slide_id: p.split for p in found.classes.predictions}
    assert splits == {"n0": "train", **{f"n{k}": "external test" for k in range(1, 6)}}
    assert found.classes.performance is not None
    assert found.classes.performance.slide.n == 5
    assert {p.label for p in found.classes.predictions} == {"Normal", "Tumor"}
    write_trident(tmp_path / "wide" / "n0.h5", np.zeros((3, WIDTH + 1), np.float32))
    with pytest.raises(BundleError, match="13 features a patch, and the head wants 12"):
        predict_heads(tmp_path / "t.csv", tmp_path / "p", tmp_path / "wide",
                      models=[classes / "head"])  # fmt: skip


def test_a_bag_of_all_slides_of_a_patient(feature_cohort: Path, tmp_path: Path) -> None:
    common = (feature_cohort / "cohort.csv", tmp_path / "o", feature_cohort / "h5")
    train_heads(*common, config=QUICK, unit="patient")
    predict_heads(*common)
    rows = table(tmp_path / "o" / "predictions.csv")
    assert len(rows) == len({r["patient_id"] for r in rows}) == 40
    pair = next(r for r in rows if r["patient_id"] == "p35")
    assert pair["slide_id"] == "s35-0; s35-1"
    bundle = load_head(tmp_path / "o" / "head")
    sums = np.zeros(2)
    for slide in ("s35-0", "s35-1"):  # one bag: contributions of both slides add up together
        for part in table(tmp_path / "o" / "contributions" / f"{slide}.csv"):
            sums += [float(part[f"contribution to {n}"]) for n in ("Normal", "Tumor")]
    chance = np.exp(sums / bundle.config.temperature)
    assert chance[1] / chance.sum() == pytest.approx(float(pair["p_Tumor"]), abs=1e-4)
    notes = json.loads((tmp_path / "o" / "performance.json").read_text())["notes"]
    assert any("all slides of a patient" in note for note in notes)
    shutil.copy(feature_cohort / "cohort.csv", tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text().replace("s35-1,p35,Tumor", "s35-1,p35,Normal")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match="patient 'p35'"):
        train_heads(tmp_path / "t.csv", tmp_path / "q", feature_cohort / "h5", unit="patient")


def test_survival_is_of_patients(feature_cohort: Path, tmp_path: Path) -> None:
    common = (feature_cohort / "cohort.csv", tmp_path / "o", feature_cohort / "h5")
    targets = targets_of([], [], "months", "dead")
    trained = train_heads(*common, targets=targets, config=TrainConfig(epochs=15))[0]
    assert trained.metrics["val_c_index"] > 0.5
    record = predict_heads(*common)[0].performance
    assert record is not None
    assert record["evaluated_on"] == "test patients"
    assert record["c_index"] > 0.55
    low, high = record["intervals_95"]["c_index"]
    assert low < record["c_index"] < high
    rows = table(tmp_path / "o" / "predictions.csv")
    assert len(rows) == 40
    assert {r["risk_group"] for r in rows} == {"low", "high"}
    config = read_head_config(tmp_path / "o" / "head")
    assert (config.target.kind, config.unit) == ("survival", "patient")
    assert any("Efron" in note for note in config.notes)
    assert config.counts["event"] + config.counts["censored"] == 20
    assert "C-index" in (tmp_path / "o" / "performance.md").read_text()


def test_grades_have_an_order(feature_cohort: Path, tmp_path: Path) -> None:
    common = (feature_cohort / "cohort.csv", tmp_path / "o", feature_cohort / "h5")
    targets = targets_of(["grade"], ["G0", "G1", "G2", "G3"])
    train_heads(*common, targets=targets, config=TrainConfig(epochs=25))
    predict_heads(*common)
    rows = [r for r in table(tmp_path / "o" / "predictions.csv") if r["split"] == "test"]
    chances = np.array([[float(r[f"p_G{k}"]) for k in range(4)] for r in rows])
    assert chances.sum(axis=1) == pytest.approx(1, abs=1e-4)
    expected = chances @ np.arange(4)
    truth = np.array([int(r["label"][1]) for r in rows])
    assert np.corrcoef(expected, truth)[0, 1] > 0.8
    head = table(tmp_path / "o" / "contributions" / "s31-0.csv")[0]
    assert list(head) == ["x_px", "y_px", "contribution to higher grade"]
    with pytest.raises(ManifestError, match="does not name: G3"):
        train_heads(
            feature_cohort / "cohort.csv", tmp_path / "p", feature_cohort / "h5",
            targets=targets_of(["grade"], ["G0", "G1", "G2"]),
        )  # fmt: skip


def test_several_columns_have_a_head_each(feature_cohort: Path, tmp_path: Path) -> None:
    common = (feature_cohort / "cohort.csv", tmp_path / "o", feature_cohort / "h5")
    trained = train_heads(*common, targets=targets_of(["diagnosis", "site"]), config=QUICK)
    assert [r.config.target.column for r in trained] == ["label", "site"]
    assert [one.n_predicted for one in predict_heads(*common)] == [48, 48]
    for name, values in (("label", {"Normal", "Tumor"}), ("site", {"north", "south"})):
        rows = table(tmp_path / "o" / "targets" / name / "predictions.csv")
        assert {r["label"] for r in rows} == values
        assert (tmp_path / "o" / "targets" / name / "performance.json").is_file()


def test_what_does_not_go_together_is_refused(feature_cohort: Path, tmp_path: Path) -> None:
    cohort, features = feature_cohort / "cohort.csv", feature_cohort / "h5"
    for arguments, words in (
        ((["a"], [], "t", "e"), "survival alone"),
        (([], [], "t", None), "needs both columns"),
        ((["a", "a"], [], None, None), "names 'a' twice"),
        ((["a", "b"], ["1", "2"], None, None), "of one column"),
        ((["a"], ["1"], None, None), "two or more"),
    ):
        with pytest.raises(UsageError, match=words):
            targets_of(*arguments)  # type: ignore[arg-type]
    for update, words in (
        ({"method": "scaat"}, "works on pixels"),
        ({"backbone": "resnet18"}, "no use for features"),
        ({"trainable": "all"}, "the head alone"),
        ({"labels": "copy"}, "is slide for features"),
    ):
        with pytest.raises(UsageError, match=words):
            train_heads(cohort, tmp_path / "a", features, config=TrainConfig(**update))  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="no column nothing"):
        train_heads(cohort, tmp_path / "a", features, targets=[Target(column="nothing")])
    with pytest.raises(UsageError, match="holds no features"):
        train_heads(cohort, tmp_path / "a", tmp_path)
    with pytest.raises(UsageError, match="holds no head"):
        predict_heads(cohort, tmp_path / "a", features)
    shutil.copytree(features, tmp_path / "mixed")
    with h5py.File(tmp_path / "mixed" / "s03-0.h5", "r+") as file:
        file["features"].attrs["encoder"] = "virchow"
    with pytest.raises(TrainingError, match="'virchow', and"):
        train_heads(cohort, tmp_path / "b", tmp_path / "mixed")
    text = cohort.read_text().replace(",1,train", ",maybe,train")
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(ManifestError, match="neither an event nor none"):
        train_heads(tmp_path / "odd.csv", tmp_path / "c", features,
                    targets=targets_of([], [], "months", "dead"))  # fmt: skip
    refused = run_forked(
        ["train", "--manifest", cohort, "--out", tmp_path / "d", "--target", "site"]
    )
    assert refused.returncode == 2
    assert "does nothing without --features" in refused.stderr


def test_two_spellings_of_a_class_are_refused_before_training(
    feature_cohort: Path, tmp_path: Path
) -> None:
    text = (feature_cohort / "cohort.csv").read_text().replace("north,G1", "North,G1")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"column site: has two classes of one name"):
        train_heads(tmp_path / "t.csv", tmp_path / "o", feature_cohort / "h5",
                    targets=targets_of(["site"]))  # fmt: skip
    assert not (tmp_path / "o" / "head").exists()


def test_what_is_missing_is_counted(feature_cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(feature_cohort / "h5", tmp_path / "h5")
    for name in ("s01-0", "s02-0"):
        (tmp_path / "h5" / f"{name}.h5").unlink()
    write_trident(tmp_path / "h5" / "stranger.h5", patch_features(5, 0, 1))
    text = (feature_cohort / "cohort.csv").read_text().replace("p03,Tumor", "p03,")
    (tmp_path / "t.csv").write_text(text)
    train_heads(tmp_path / "t.csv", tmp_path / "o", tmp_path / "h5", config=QUICK)
    notes = (tmp_path / "o" / "notes.json").read_text()
    assert "2 slide(s) of the table have no file of features (s01-0, s02-0)" in notes
    assert "1 file(s) of features are of no slide of the table" in notes
    found = predict_heads(tmp_path / "t.csv", tmp_path / "o", tmp_path / "h5")[0]
    assert found.classes is not None
    assert found.n_predicted == 46
    without = next(p for p in found.classes.predictions if p.slide_id == "s03-0")
    assert without.label == without.split == ""
