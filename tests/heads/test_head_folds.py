"""Heads by folds through the real commands: out-of-fold, external cohort, subgroups, refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_command import run_forked
from hypothesis import given
from hypothesis import strategies as st
from made_features import document, patch_features, table, write_trident
from sklearn.metrics import roc_auc_score

from pathology_scaat.cohort.folds import FoldSlide, slide_folds, split_of
from pathology_scaat.errors import BundleError, ManifestError, TrainingError, UsageError
from pathology_scaat.evaluation.performance.conformal import score_limit
from pathology_scaat.evaluation.performance.survival import Risk, concordance_of
from pathology_scaat.pipeline.head_folds import Member
from pathology_scaat.pipeline.head_predictions import predict_heads
from pathology_scaat.pipeline.head_scoring import _silent
from pathology_scaat.pipeline.head_targets import targets_of
from pathology_scaat.pipeline.head_training import train_heads
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.bundle_quality import nothing_learnt_warning
from pathology_scaat.training.heads.bundle import load_head, read_head_config

QUICK = TrainConfig(epochs=8)
N_FOLDS = 4


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 slides of 16 patients of another hospital, features in a folder of their own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rng = np.random.default_rng(11)
    lines = ["slide_id,case_id,label,site,ward,grade,months,dead"]
    for k in range(16):
        share = (k % 4) / 4
        write_trident(folder / "h5" / f"e{k}.h5", patch_features(24, round(24 * share), 500 + k))
        months = rng.exponential(60 * np.exp(-7 * share)) + 0.1
        lines.append(f"e{k},q{k},{'Tumor' if share else 'Normal'},west,{k % 2},G{k % 4},"
                     f"{months:.2f},1")  # fmt: skip
    (folder / "external.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cohort(feature_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort with a column of hospitals, of several patients each, and one more slide without
    a label."""
    path = tmp_path_factory.mktemp("cohort") / "cohort.csv"
    lines = (feature_cohort / "cohort.csv").read_text(encoding="utf-8").splitlines()
    head, rows = f"{lines[0]},hospital,ward", []
    for line in lines[1:]:
        patient = int(line.split(",")[1][1:])
        rows.append(f"{line},h{patient // 4},{patient % 2}")
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    shutil.copytree(feature_cohort / "h5", path.parent / "h5")
    return path


@pytest.fixture(scope="module")
def by_folds(
    cohort: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Heads of four folds, sites kept together, applied to their own and to another cohort."""
    out = tmp_path_factory.mktemp("folds") / "out"
    common = ("--features", cohort.parent / "h5", "--manifest", cohort, "--out", out,
              "--test-manifest", elsewhere / "external.csv")  # fmt: skip
    told = document("train", *common, "--folds", N_FOLDS, "--preserve-site", "hospital",
                    "--epochs", 10)  # fmt: skip
    assert told["heads"] == {
        "label": {str(k): str(out / "folds" / str(k) / "head") for k in range(N_FOLDS)}
    }
    told = document("predict", *common, "--test-features", elsewhere / "h5",
                    "--subgroups", "site,ward")  # fmt: skip
    return out, told


def test_each_patient_is_predicted_by_a_head_that_never_saw_it(
    by_folds: tuple[Path, dict[str, Any]], cohort: Path
) -> None:
    out, _ = by_folds
    rows = [r for r in table(out / "predictions.csv") if r["split"] == "test"]
    own = {r["slide_id"]: r for r in table(cohort)}
    assert sorted(r["slide_id"] for r in rows) == sorted(own)
    folds: dict[str, set[str]] = {}
    hospitals: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row["patient_id"], set()).add(row["fold"])
        hospitals.setdefault(own[row["slide_id"]]["hospital"], set()).add(row["fold"])
        head = load_head(out / "folds" / row["fold"] / "head")
        assert head.role_of("", row["patient_id"]) == "test"
        assert row["model"] == head.fingerprint[:16]
    assert {len(found) for found in folds.values()} == {1}
    assert {len(found) for found in hospitals.values()} == {1}
    assert Counter(next(iter(f)) for f in folds.values()).keys() == set("0123")
    assert not (out / "head").exists()


def test_copied_heads_call_and_refer_others_as_they_were_validated(
    by_folds: tuple[Path, dict[str, Any]], elsewhere: Path, tmp_path: Path
) -> None:
    """Of the heads of all folds together what the out-of-fold predictions chose; labels of the
    other cohort choose nothing, and none are needed."""
    out, _ = by_folds
    heads = [Path(shutil.copytree(out / "folds" / str(k) / "head", tmp_path / f"head{k}"))
             for k in range(N_FOLDS)]  # fmt: skip
    lines = (elsewhere / "external.csv").read_text(encoding="utf-8").splitlines()
    at = lines[0].split(",").index("label")
    blank = [[c for k, c in enumerate(line.split(",")) if k != at] for line in lines]
    (tmp_path / "new.csv").write_text("\n".join(map(",".join, blank)) + "\n", encoding="utf-8")
    wanted = ("slide_id", "predicted", "threshold", "possible", "refer", "p_Tumor")

    def applied(name: str, models: list[Path]) -> list[list[str]]:
        given = [part for path in models for part in ("--model", path)]
        document("predict", "--features", elsewhere / "h5", "--manifest", tmp_path / "new.csv",
                 "--out", tmp_path / name, *given)  # fmt: skip
        rows = table(tmp_path / name / "predictions.csv")
        return sorted([row[key] for key in wanted] for row in rows)

    own = table(out / "predictions.csv")
    beside = sorted([row[key] for key in wanted] for row in own if not row["fold"])
    assert {row[4] for row in beside} <= {"yes", "no"}
    assert applied("together", heads) == beside
    told = json.loads((tmp_path / "together" / "predictions.json").read_text())["decision"]
    assert told["source"] == "model"
    assert told["referral"]["n_calibration"] == 40
    assert told["thresholds"]["patient"]["values"][0]["chosen_on"] == (
        "out-of-fold predictions of patients when the models were made"
    )
    kept = json.loads((heads[0] / "decision.json").read_text())
    alone = {row[2] for row in applied("alone", heads[:1])}
    assert alone == {f"{kept['alone']['slide']['threshold']:.6g}"}
    assert {row[2] for row in applied("two", heads[:2])} == {"0.5"}
    for path in heads:
        assert not any(p in (path / "decision.json").read_text() for p in ("p00", "s00"))
    shutil.copy(heads[1] / "decision.json", heads[0])
    refused = run_forked(
        ["predict", "--features", elsewhere / "h5", "--manifest", tmp_path / "new.csv",
         "--out", tmp_path / "refused", "--model", heads[0]]
    )  # fmt: skip
    assert refused.returncode == 2
    assert "head0: has a decision.json of another model" in refused.stderr
    assert not (tmp_path / "refused").exists()


def test_figures_of_folds_equal_those_computed_apart(
    by_folds: tuple[Path, dict[str, Any]],
) -> None:
    out, told = by_folds
    rows = [r for r in table(out / "predictions.csv") if r["split"] == "test"]
    record = json.loads((out / "performance.json").read_text())
    assert record["evaluated_on"].startswith(f"out-of-fold predictions of {N_FOLDS} folds")
    truth = np.array([r["label"] == "Tumor" for r in rows])
    chance = np.array([float(r["p_Tumor"]) for r in rows])
    slide = record["levels"]["slide"]
    assert slide["auroc"] == pytest.approx(roc_auc_score(truth, chance), abs=1e-5)
    fold = np.array([r["fold"] for r in rows])
    for k in range(N_FOLDS):
        mine = fold == str(k)
        found = record["folds"][str(k)]
        assert found["counts"] == {"Normal": int((mine & ~truth).sum()),
                                   "Tumor": int((mine & truth).sum())}  # fmt: skip
        assert found["auroc"] == pytest.approx(roc_auc_score(truth[mine], chance[mine]), abs=1e-5)
    low, high = record["intervals_95"]["auroc"] or (0, 1)
    assert low <= record["auroc"] <= high
    # subgroups: patients of a ward by themselves
    patients = [r for r in table(out / "predictions_patients.csv") if r["split"] == "test"]
    ward = {f"p{k:02d}": str(k % 2) for k in range(40)}
    for value, group in record["subgroups"]["ward"].items():
        mine = [r for r in patients if ward[r["patient_id"]] == value]
        assert group["n_patients"] == len(mine) == 20
        if group["measurable"]:
            assert group["auroc"] == pytest.approx(
                roc_auc_score([r["label"] == "Tumor" for r in mine],
                              [float(r["p_Tumor"]) for r in mine]), abs=1e-5)  # fmt: skip
    assert record["subgroups"]["site"]["south"]["measurable"] is False
    text = (out / "performance.md").read_text()
    assert "| 1 | 0 |" not in text
    assert "not measurable: patients of one class" in text
    assert told["performance"]["auroc"] == record["auroc"]


def test_another_cohort_is_predicted_by_all_heads_together(
    by_folds: tuple[Path, dict[str, Any]], elsewhere: Path
) -> None:
    out, told = by_folds
    rows = {r["slide_id"]: r for r in table(out / "predictions.csv")}
    heads = [load_head(out / "folds" / str(k) / "head") for k in range(N_FOLDS)]
    import h5py

    for slide in ("e0", "e3"):
        with h5py.File(elsewhere / "h5" / f"{slide}.h5") as file:
            features = torch.from_numpy(file["features"][:])
        chances = []
        for head in heads:
            with torch.no_grad():
                logits = head.model.logits(head.model.scores(features)[None]).double().numpy()[0]
            odds = np.exp(logits / head.config.temperature)
            chances.append(odds / odds.sum())
        row = rows[slide]
        assert (row["fold"], row["split"], row["model"]) == ("", "external test", "")
        assert float(row["p_Tumor"]) == pytest.approx(np.mean(chances, axis=0)[1], abs=1e-4)
        assert float(row["disagreement"]) == pytest.approx(np.std(chances, axis=0)[1], abs=1e-4)
        assert not (out / "contributions" / f"{slide}.csv").exists()
    record = json.loads((out / "performance_external.json").read_text())
    assert (record["evaluated_on"], record["n"]) == ("external test slides", 16)
    assert told["external_performance"]["auroc"] == record["auroc"]
    # referrals: calibrated on the out-of-fold patients, and the same by hand
    inside = [r for r in table(out / "predictions_patients.csv") if r["split"] == "test"]
    limit = score_limit(np.array([1 - float(r[f"p_{r['label']}"]) for r in inside]))
    for row in table(out / "predictions_patients.csv"):
        if row["split"] == "external test":
            possible = [n for n in ("Normal", "Tumor") if 1 - float(row[f"p_{n}"]) <= limit + 1e-6]
            assert row["possible"] == (" | ".join(possible) or "none")
            assert row["refer"] == ("no" if len(possible) == 1 else "yes")
    assert record["abstention"]["n_calibration"] == 40


def test_looks_at_the_same_cases_are_counted(
    by_folds: tuple[Path, dict[str, Any]], cohort: Path, elsewhere: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(by_folds[0], out)
    again = {"test_manifest": elsewhere / "external.csv", "test_features": elsewhere / "h5"}
    first = predict_heads(cohort, out, cohort.parent / "h5", **again)[0]  # type: ignore[arg-type]
    assert first.performance is not None
    assert first.performance["earlier_looks_at_these_cases"] == 0
    # one fold's head alone judges the external cohort: another look at it
    other = predict_heads(
        elsewhere / "external.csv", out, elsewhere / "h5",
        models=[by_folds[0] / "folds" / "0" / "head"],
    )[0]  # fmt: skip
    assert other.performance is not None
    assert other.performance["evaluated_on"] == "external test slides"
    assert other.performance["earlier_looks_at_these_cases"] == 1
    assert "looked at 1 time(s) before" in (out / "performance.md").read_text()
    assert not (out / "performance_external.json").exists()


def test_who_is_new_in_the_table_is_tested_and_not_taken_for_external(
    cohort: Path, tmp_path: Path
) -> None:
    """A patient more changes what most folds learn from; the fold that tests it learns the same."""
    lines = cohort.read_text().splitlines()
    fewer = tmp_path / "fewer.csv"
    header = lines[0].replace(",split,", ",unused,")
    given = [f"{line},{int(line.split(',')[1][1:]) % 3}" for line in lines[1:]]
    fewer.write_text("\n".join([f"{header},fold", *given[:-1]]) + "\n")
    more = tmp_path / "more.csv"
    more.write_text("\n".join([f"{header},fold", *given]) + "\n")
    new = lines[-1].split(",")[0]
    common = (tmp_path / "out", cohort.parent / "h5")
    train_heads(fewer, *common, config=TrainConfig(epochs=2), n_folds=3)
    before = read_head_config(tmp_path / "out" / "folds" / "0" / "head")
    results = train_heads(more, *common, config=TrainConfig(epochs=2), n_folds=3)
    assert [r.skipped for r in results] == [int(lines[-1].split(",")[1][1:]) % 3 == k
                                            for k in range(3)]  # fmt: skip
    assert before.weights_sha256 == results[0].config.weights_sha256
    found = predict_heads(more, *common)[0]
    assert found.classes is not None
    row = next(p for p in found.classes.predictions if p.slide_id == new)
    assert (row.split, row.fold) == ("test", int(lines[-1].split(",")[1][1:]) % 3)


def test_survival_of_folds_compares_within_each(
    cohort: Path, elsewhere: Path, tmp_path: Path
) -> None:
    common = (cohort, tmp_path / "o", cohort.parent / "h5")
    targets = targets_of([], [], "months", "dead")
    train_heads(*common, targets=targets, config=QUICK, n_folds=N_FOLDS)
    found = predict_heads(
        *common, test_manifest=elsewhere / "external.csv", test_features=elsewhere / "h5",
        subgroups=["ward"],
    )[0]  # fmt: skip
    record, outside = found.performance, found.external_performance
    assert record is not None
    assert outside is not None
    rows = table(tmp_path / "o" / "predictions.csv")
    inside = [r for r in rows if r["split"] == "test"]
    assert len(inside) == len({r["patient_id"] for r in inside}) == 40
    assert record["c_index"] == pytest.approx(by_hand(inside), abs=1e-6)
    for k in range(N_FOLDS):
        own = [r for r in inside if r["fold"] == str(k)]
        one = record["folds"][str(k)]
        assert one["c_index"] == pytest.approx(by_hand(own), abs=1e-6)
        assert one["n"] == len(own)
        low, high = one["intervals_95"]["c_index"]
        assert low <= one["c_index"] <= high
    ward = {f"p{k:02d}": str(k % 2) for k in range(40)}
    for value, group in record["subgroups"]["ward"].items():
        mine = [r for r in inside if ward[r["patient_id"]] == value]
        assert group["c_index"] == pytest.approx(by_hand(mine), abs=1e-6)
    far = [r for r in rows if r["split"] == "external test"]
    assert (len(far), outside["n"]) == (16, 16)
    assert outside["c_index"] == pytest.approx(by_hand(far), abs=1e-6)
    assert all(r["model"] == "" and r["disagreement"] for r in far)
    text = (tmp_path / "o" / "performance.md").read_text()
    assert "have no common zero" in text
    assert "Not given: a log hazard orders patients and is no probability" in text
    assert (tmp_path / "o" / "performance_external.md").is_file()
    sheet = table(tmp_path / "o" / "performance.csv")
    assert {(r["unit"], r["fold"]) for r in sheet} == {
        ("patient", "all"), *(("patient", str(k)) for k in range(N_FOLDS)),
        ("patient, ward=0", "all"), ("patient, ward=1", "all"),
    }  # fmt: skip
    with pytest.raises(UsageError, match="is of classes"):
        predict_heads(*common, prevalence=0.1)


def by_hand(rows: list[dict[str, str]]) -> float:
    """Harrell's C over the pairs of each fold, pair by pair."""
    right = pairs = 0.0
    for a in rows:
        for b in rows:
            if a["fold"] != b["fold"] or a["event"] != "1":
                continue
            first, second = float(a["time"]), float(b["time"])
            if first < second or (first == second and b["event"] == "0"):
                ahead = float(a["log_hazard"]) - float(b["log_hazard"])
                pairs += 1
                right += 1.0 if ahead > 0 else 0.5 if ahead == 0 else 0.0
    return right / pairs


def test_heads_of_two_folds_are_not_compared() -> None:
    """Each fold is ordered rightly, and the second one's hazards have another zero."""
    risks = [
        Risk(f"{f}{k}", (f"s{f}{k}",), "test", 100.0 * f - k, False, k + 1.0, True, fold=f)
        for f in (0, 1)
        for k in range(6)
    ]
    assert concordance_of(risks).estimate.value == 1.0
    lonely = [r for r in risks if r.patient_id in ("00", "10")]
    assert concordance_of(lonely).estimate.value is None  # no two patients of one fold


def test_grades_by_folds(cohort: Path, tmp_path: Path) -> None:
    common = (cohort, tmp_path / "o", cohort.parent / "h5")
    targets = targets_of(["grade"], ["G0", "G1", "G2", "G3"])
    train_heads(*common, targets=targets, config=QUICK, n_folds=3, unit="patient")
    found = predict_heads(*common, subgroups=["ward"])[0].performance
    assert found is not None
    assert found["n"] == 40
    assert found["auroc"] > 0.7
    # two slides of a patient are one bag: its ward is theirs
    assert {k: v["n_patients"] for k, v in found["subgroups"]["ward"].items()} == {"0": 20, "1": 20}
    assert set(found["folds"]) == {"0", "1", "2"}
    # how far grades are off, wherever they are judged, and why a fold has no interval
    assert 0.3 < found["quadratic_kappa"] <= 1
    assert found["intervals_95"]["quadratic_kappa"][0] < found["quadratic_kappa"]
    assert found["mean_absolute_error"] < 1
    parts = [*found["folds"].values(), *found["subgroups"]["ward"].values()]
    assert all("quadratic_kappa" in part for part in parts)
    assert all("fewer than 5 patients" in part["no_intervals"] for part in found["folds"].values())
    page = (tmp_path / "o" / "performance.md").read_text()
    assert "| Kappa of grades, quadratic weights |" in page
    assert "| Mean absolute error, in grades |" in page
    measures = {row["measure"] for row in table(tmp_path / "o" / "performance.csv")}
    assert {"quadratic_kappa", "mean_absolute_error"} <= measures


@given(
    st.lists(
        st.tuples(st.integers(0, 25), st.sampled_from("ab"), st.integers(0, 5)), min_size=1,
        max_size=60,
    ),
    st.integers(3, 4),
    st.integers(0, 2),
    st.booleans(),
)  # fmt: skip
def test_no_patient_and_no_site_is_in_two_folds(
    rows: list[tuple[int, str, int]], n_folds: int, seed: int, keep_sites: bool
) -> None:
    slides = [
        FoldSlide(f"s{k}", f"p{patient}", label) for k, (patient, label, _) in enumerate(rows)
    ]
    site_of_patient = {f"p{patient}": f"h{site}" for patient, _, site in reversed(rows)}
    sites = {s.slide_id: site_of_patient[s.patient_id] for s in slides} if keep_sites else None
    groups = set(site_of_patient.values()) if keep_sites else {s.patient_id for s in slides}
    if len(groups) < n_folds:
        with pytest.raises(ManifestError, match=r"for \d folds"):
            slide_folds(slides, n_folds, seed, sites)
        return
    found = slide_folds(slides, n_folds, seed, sites)
    assert found.keys() == {s.slide_id for s in slides}
    for tested in range(n_folds):
        parts: dict[str, set[str]] = {}
        for slide in slides:
            split = split_of(found[slide.slide_id], tested, n_folds)
            who = slide.patient_id if sites is None else sites[slide.slide_id]
            parts.setdefault(who, set()).add(split)
        assert all(len(splits) == 1 for splits in parts.values())


def test_folds_of_the_table_that_part_a_site_are_refused() -> None:
    slides = [FoldSlide(f"s{k}", f"p{k}", "a", k % 3) for k in range(9)]
    assert slide_folds(slides, 3) == {f"s{k}": k % 3 for k in range(9)}
    sites = {f"s{k}": "one" for k in range(3)}
    with pytest.raises(ManifestError, match="does not go with the manifest's folds"):
        slide_folds(slides, 3, 0, sites)
    with pytest.raises(ManifestError, match="has 3 folds"):
        slide_folds(slides, 4)


def test_cohorts_that_share_anything_are_refused(
    by_folds: tuple[Path, dict[str, Any]], cohort: Path, elsewhere: Path, tmp_path: Path
) -> None:
    out, features = by_folds[0], cohort.parent / "h5"
    shared = tmp_path / "shared.csv"
    shared.write_text("slide_id,case_id,label\ne0,p00,Normal\ne1,q1,Tumor\n")
    refused = run_forked(
        ["train", "--features", features, "--manifest", cohort, "--out", tmp_path / "o",
         "--test-manifest", shared]
    )  # fmt: skip
    assert refused.returncode == 2
    assert "shares the patient 'p00'" in refused.stderr
    assert not (tmp_path / "o").exists()
    # the table is shorter than the one that was trained on: the heads remember
    lines = cohort.read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join([lines[0], *lines[10:]]) + "\n")
    with pytest.raises(ManifestError, match=r"holds 'e0' of patient 'p00', which the head was"):
        predict_heads(tmp_path / "short.csv", out, features, test_manifest=shared,
                      test_features=elsewhere / "h5")  # fmt: skip
    # the same slide under another name and patient
    shutil.copytree(elsewhere / "h5", tmp_path / "h5")
    shutil.copy(features / "s01-0.h5", tmp_path / "h5" / "e1.h5")
    shared.write_text("slide_id,case_id,label\ne0,q0,Normal\ne1,q1,Tumor\n")
    with pytest.raises(ManifestError, match=r"'s01-0', 'e1': have the same features"):
        predict_heads(cohort, out, features, test_manifest=shared, test_features=tmp_path / "h5")
    shutil.copy(tmp_path / "h5" / "e2.h5", tmp_path / "h5" / "e3.h5")
    with pytest.raises(ManifestError, match="different patients"):
        train_heads(elsewhere / "external.csv", tmp_path / "p", tmp_path / "h5", config=QUICK)


def test_folds_that_cannot_be_are_refused(
    by_folds: tuple[Path, dict[str, Any]], cohort: Path, elsewhere: Path, tmp_path: Path
) -> None:
    out, features = by_folds[0], cohort.parent / "h5"
    with pytest.raises(UsageError, match="holds heads of 4 folds"):
        train_heads(cohort, out, features, config=QUICK)
    with pytest.raises(UsageError, match="holds heads of more than 3 folds"):
        train_heads(cohort, out, features, config=QUICK, n_folds=3)
    with pytest.raises(UsageError, match="does nothing without --folds"):
        train_heads(cohort, tmp_path / "a", features, config=QUICK, preserve_site="hospital")
    shutil.copytree(out, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "folds" / "3")
    with pytest.raises(BundleError, match="holds heads of 3 folds, and that of fold 0 is of 4"):
        predict_heads(cohort, tmp_path / "part", features)
    with pytest.raises(ManifestError, match="patients with a label for 50 folds"):
        train_heads(cohort, tmp_path / "b", features, config=QUICK, n_folds=50)
    # a site each: some fold trains on one class
    few = tmp_path / "few.csv"
    few.write_text("slide_id,case_id,label,fold\ns01-0,a,Tumor,0\ns02-0,b,Tumor,1\n"
                   "s04-0,c,Normal,2\ns08-0,d,Normal,2\n")  # fmt: skip
    with pytest.raises(TrainingError, match=r"^fold 0: the training slides: have labels of fewer"):
        train_heads(few, tmp_path / "c", features, config=QUICK, n_folds=3)
    for option in ("--folds", "--preserve-site", "--test-manifest"):
        refused = run_forked(["train", "--manifest", cohort, "--out", tmp_path / "d", option, "5"])
        assert refused.returncode == 2
        assert "for slides: scaat run" in refused.stderr


def test_a_fold_of_one_class_is_told(cohort: Path, tmp_path: Path) -> None:
    """Fold 3 tests Tumor alone: it has no AUROC, and is counted all the same."""
    lines = cohort.read_text().splitlines()
    header = lines[0].replace(",split,", ",unused,")
    rows = []
    for line in lines[1:]:
        patient, tumour = int(line.split(",")[1][1:]), ",Tumor," in line
        rows.append(f"{line},{patient // 4 % 4 if tumour else patient // 4 % 3}")
    table_path = tmp_path / "t.csv"
    table_path.write_text("\n".join([f"{header},fold", *rows]) + "\n")
    common = (table_path, tmp_path / "o", cohort.parent / "h5")
    train_heads(*common, config=QUICK, n_folds=4)
    record = predict_heads(*common)[0].performance
    assert record is not None
    assert record["folds"]["3"]["measurable"] is False
    assert record["folds"]["3"]["counts"]["Normal"] == 0
    assert sum(one["n"] for one in record["folds"].values()) == record["levels"]["slide"]["n"]
    text = (tmp_path / "o" / "performance.md").read_text()
    assert "(Normal 0, Tumor " in text
    assert "not measurable: slides of one class" in text
    sheet = table(tmp_path / "o" / "performance.csv")
    own = [r for r in sheet if r["fold"] == "3"]
    assert [(r["measure"], r["value"]) for r in own] == [("auroc", "")]


def test_of_several_heads_it_is_said_which_has_learnt_nothing(
    by_folds: tuple[Path, dict[str, Any]],
) -> None:
    head = load_head(by_folds[0] / "folds" / "0" / "head")
    told = nothing_learnt_warning("it says the same of all")
    silent = replace(head, config=head.config.model_copy(update={"notes": (told,)}))
    assert silent.config.nothing_learnt == "it says the same of all"
    assert _silent([Member(None, silent)]) == [told]
    assert _silent([Member(None, head), Member(None, silent)]) == [f"model 2 of 2: {told}"]
    assert _silent([Member(3, silent)]) == [f"fold 3: {told}"]
