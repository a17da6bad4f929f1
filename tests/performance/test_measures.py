"""Clinical measures against scikit-learn, intervals against an independent bootstrap."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    roc_auc_score,
)
from sklearn.metrics import mean_absolute_error as sklearn_mean_absolute_error

from pathology_scaat.evaluation.performance import measures as m
from pathology_scaat.evaluation.performance.bootstrap import intervals
from pathology_scaat.evaluation.performance.figures import write_figure
from pathology_scaat.evaluation.performance.headings import NO_PREDICTIVE_VALUES, SEVERAL_CLASSES
from pathology_scaat.evaluation.performance.levels import measure_level, with_thresholds
from pathology_scaat.evaluation.performance.predictions import LARGEST_RULE, MEAN_RULE, Prediction
from pathology_scaat.evaluation.performance.report import measure_performance
from pathology_scaat.evaluation.performance.report_files import (
    csv_text,
    markdown,
    write_performance,
)
from pathology_scaat.evaluation.performance.survival import survival_markdown
from pathology_scaat.training.bundle_quality import NOTHING_LEARNT

NAMES = ("normal", "tumour")


def cases(n: int, seed: int, shift: float = 1.4) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities and truth of n cases, a third of them positive, AUC about 0.84."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    score = rng.normal(0, 1, n) + shift * positive
    return 1 / (1 + np.exp(-score)), positive


def predictions(n: int, seed: int, *, slides_each: int = 1) -> list[Prediction]:
    score, positive = cases(n, seed)
    return [
        Prediction(
            f"p{i // slides_each}", f"s{i}", None, "test", NAMES[int(positive[i])],
            np.array([1 - score[i], score[i]]), 0.6,
        )
        for i in range(n)
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), st.booleans(), st.integers(0, 3)),
        min_size=2,
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_measures_equal_those_of_scikit_learn(rows: list[tuple[float, bool, int]]) -> None:
    score = np.array([r[0] for r in rows])
    truth = np.array([r[1] for r in rows])
    weight = np.array([r[2] for r in rows], np.float64)
    one = weight[None]
    if weight[truth].sum() == 0 or weight[~truth].sum() == 0:
        assert np.isnan(m.auroc(score, truth, one)[0])
        return
    called = score >= 0.5
    assert m.auroc(score, truth, one)[0] == pytest.approx(
        roc_auc_score(truth, score, sample_weight=weight)
    )
    assert m.auprc(score, truth, one)[0] == pytest.approx(
        average_precision_score(truth, score, sample_weight=weight)
    )
    assert m.brier(score, truth, one)[0] == pytest.approx(
        brier_score_loss(truth, score, sample_weight=weight)
    )
    sens, spec = m.sensitivity(called, truth, one), m.specificity(called, truth, one)
    assert (sens + spec)[0] / 2 == pytest.approx(
        balanced_accuracy_score(truth, called, sample_weight=weight)
    )
    table = confusion_matrix(truth, called, sample_weight=weight, labels=[False, True])
    ppv, npv = m.predictive_values(sens, spec, weight[truth].sum() / weight.sum())
    if table[:, 1].sum():
        assert ppv[0] == pytest.approx(table[1, 1] / table[:, 1].sum())
    if table[:, 0].sum():
        assert npv[0] == pytest.approx(table[0, 0] / table[:, 0].sum())


def test_intervals_agree_with_an_independent_bootstrap() -> None:
    """Patients of three slides each; drawn, scored and sorted by other code with other numbers."""
    rows = predictions(240, 3, slides_each=3)
    level = measure_level(rows, NAMES, "tumour", n_resamples=20_000)
    assert level is not None
    rng = np.random.default_rng(12345)
    score = np.array([r.probability[1] for r in rows])
    truth = np.array([r.label == "tumour" for r in rows])
    own: dict[str, list[float]] = {"auroc": [], "balanced_accuracy": [], "brier": []}
    for _ in range(4000):
        drawn = rng.integers(0, 80, 80)
        index = (drawn[:, None] * 3 + np.arange(3)).ravel()
        up, down = score[index][truth[index]], score[index][~truth[index]]
        own["auroc"].append(float((up[:, None] > down).mean() + (up[:, None] == down).mean() / 2))
        own["balanced_accuracy"].append(
            (
                (score[index] >= 0.6)[truth[index]].mean()
                + (score[index] < 0.6)[~truth[index]].mean()
            )
            / 2
        )
        own["brier"].append(float(((score[index] - truth[index]) ** 2).mean()))
    for name, values in own.items():
        low, high = np.quantile(values, [0.025, 0.975])
        estimate = level.estimates[name]
        assert estimate.low == pytest.approx(low, abs=0.005)
        assert estimate.high == pytest.approx(high, abs=0.005)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """AUC of two normal distributions a known distance apart, 600 cohorts of 150 patients."""
    from scipy.stats import norm

    shift = 1.4
    truth = norm.cdf(shift / np.sqrt(2))
    patients = [str(i) for i in range(150)]
    hits = 0
    for seed in range(600):
        score, positive = cases(150, 1000 + seed, shift)
        found = intervals(
            lambda w, s=score, p=positive: {"auroc": m.auroc(s, p, w)},
            patients,
            n_resamples=400,
            seed=seed,
        )["auroc"]
        assert found.low is not None
        hits += found.low <= truth <= found.high  # type: ignore[operator]
    assert 0.93 <= hits / 600 <= 0.97


def test_slides_of_a_patient_go_together() -> None:
    """Each patient's slides are copies: the interval is that of the patients, not of the slides."""
    single = predictions(60, 1)
    copied = [
        Prediction(r.patient_id, f"{r.slide_id}-{k}", None, "test", r.label, r.probability, 0.6)
        for r in single
        for k in range(4)
    ]
    one = measure_level(single, NAMES, "tumour", n_resamples=2000)
    four = measure_level(copied, NAMES, "tumour", n_resamples=2000)
    assert one is not None
    assert four is not None
    for name in ("auroc", "sensitivity", "brier"):
        a, b = one.estimates[name], four.estimates[name]
        assert a.value == pytest.approx(b.value)
        assert a.low == pytest.approx(b.low, abs=1e-9)


def test_too_few_patients_give_no_interval() -> None:
    level = measure_level(predictions(12, 0), NAMES, "tumour")
    assert level is not None
    assert level.estimates["auroc"].value is not None
    assert level.estimates["auroc"].low is None
    assert "no interval" in level.estimates["auroc"].text()


def test_the_threshold_is_chosen_on_validation_alone() -> None:
    rows = predictions(60, 5)
    val = [Prediction(f"v{i}", f"v{i}", None, "val", NAMES[i % 2],
                      np.array([0.9, 0.1]) if i % 2 == 0 else np.array([0.6, 0.4]))
           for i in range(10)]  # fmt: skip
    given, notes = with_thresholds([*rows, *val], NAMES, "tumour")
    assert {row.threshold for row in given} == {0.25}
    assert notes["values"][0]["chosen_on"] == "validation cases"
    given, notes = with_thresholds(rows, NAMES, "tumour")
    assert {row.threshold for row in given} == {0.5}
    assert notes["values"][0]["chosen_on"].startswith("nothing")


def test_three_classes_are_measured_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    labels = np.arange(90) % 3
    logits = rng.normal(0, 1, (90, 3)) + 1.2 * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [Prediction(f"p{i}", f"s{i}", None, "test", names[labels[i]], p[i]) for i in range(90)]
    level = measure_level(rows, names, "b", n_resamples=200)
    assert level is not None
    expected = roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert level.estimates["auroc"].value == pytest.approx(expected)
    assert level.estimates["auroc: b"].value == pytest.approx(roc_auc_score(labels == 1, p[:, 1]))
    assert level.estimates["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(labels, p.argmax(axis=1))
    )
    assert sum(sum(row.values()) for row in level.confusion.values()) == 90


def test_nobody_wrong_is_no_certainty() -> None:
    rows = [
        Prediction(f"p{i}", f"s{i}", None, "test", NAMES[i % 2],
                   np.array([0.9, 0.1]) if i % 2 == 0 else np.array([0.2, 0.8]), 0.5)
        for i in range(20)
    ]  # fmt: skip
    level = measure_level(rows, NAMES, "tumour", n_resamples=500)
    assert level is not None
    assert level.estimates["auroc"].value == 1
    assert level.estimates["auroc"].low is None
    assert level.estimates["brier"].low is not None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=60),
    st.integers(0, 1000),
)
def test_how_far_grades_are_off_is_as_elsewhere(pairs: list[tuple[int, int]], seed: int) -> None:
    called, truth = np.array(pairs).T
    weights = np.random.default_rng(seed).integers(0, 4, len(pairs)).astype(float)
    weights[:2] = 1
    both = np.stack([np.ones(len(pairs)), weights])
    kappa = m.quadratic_kappa(called, truth, both)
    error = m.mean_absolute_error(called, truth, both)
    for row, own_kappa, own_error in zip(both, kappa, error, strict=True):
        assert own_error == pytest.approx(
            sklearn_mean_absolute_error(truth, called, sample_weight=row), abs=1e-12
        )
        kept = row > 0
        if len({*called[kept], *truth[kept]}) == 1:
            assert np.isnan(own_kappa), "of one grade alone chance is as good as anything"
            continue
        expected = cohen_kappa_score(
            truth, called, weights="quadratic", labels=range(5), sample_weight=row
        )
        assert own_kappa == pytest.approx(expected, abs=1e-12)


def test_grades_have_kappa_with_an_interval_and_classes_have_none() -> None:
    rng = np.random.default_rng(1)
    names = ("G1", "G2", "G3")
    truth = np.arange(60) % 3
    said = np.clip(truth + rng.integers(-1, 2, 60), 0, 2)
    rows = [
        Prediction(f"p{i}", f"s{i}", None, "test", names[truth[i]], np.eye(3)[said[i]])
        for i in range(60)
    ]
    level = measure_level(rows, names, "G3", ordered=True, n_resamples=300)
    assert level is not None
    kappa = level.estimates["quadratic_kappa"]
    assert kappa.value == pytest.approx(cohen_kappa_score(truth, said, weights="quadratic"))
    assert kappa.low is not None
    assert kappa.high is not None
    assert kappa.low < kappa.value < kappa.high
    assert level.estimates["mean_absolute_error"].value == np.abs(truth - said).mean()
    plain = measure_level(rows, names, "G3", n_resamples=0)
    assert plain is not None
    assert "quadratic_kappa" not in plain.estimates


def test_folds_have_intervals_of_their_own_or_say_why_not() -> None:
    rows = [
        replace(row, fold=0 if k < 24 else 1, split="test")
        for k, row in enumerate(predictions(30, 3))
    ]
    found = measure_performance(rows, NAMES, "tumour", how={}).performance
    assert found is not None
    folds = found.as_dict()["folds"]
    low, high = folds["0"]["intervals_95"]["auroc"]
    assert low < folds["0"]["auroc"] < high
    assert folds["0"]["no_intervals"] == ""
    alone = measure_level(rows[:24], NAMES, "tumour")
    assert alone is not None
    assert (low, high) == (alone.estimates["auroc"].low, alone.estimates["auroc"].high)
    assert folds["1"]["intervals_95"]["auroc"] is None
    assert folds["1"]["no_intervals"].startswith("fewer than 5 patients of a class (")
    page = markdown(found)
    assert "No intervals: fold 1: fewer than 5 patients of a class" in page


def test_no_curve_is_drawn_of_a_class_that_does_not_occur(tmp_path: Path) -> None:
    """It had the mean over the other classes for its area."""
    names = ("G1", "G2", "G3")
    rows = [
        Prediction(f"p{n}", f"s{n}", None, "test", names[n % 2], np.array([0.5, 0.3, 0.2]))
        for n in range(12)
    ]
    level = measure_level(rows, names, "G3")
    assert level is not None
    write_figure(tmp_path / "f.svg", rows, level, names, "G3", "patients")  # warnings are errors
    drawn = (tmp_path / "f.svg").read_text()
    assert "<!-- ROC: not measurable, -->" in drawn
    write_figure(tmp_path / "g.svg", rows, level, names, "G2", "patients")
    drawn = (tmp_path / "g.svg").read_text()
    assert "<!-- ROC: G2 0.500" in drawn
    for words in ("(area under the curve)", "share that is G2", "call all G2", "(dotted: chance)"):
        assert words in drawn  # what a curve, a dot and a line are
    assert "<dc:title>patients</dc:title>" in drawn


def test_long_names_of_classes_run_into_no_number_of_a_figure(tmp_path: Path) -> None:
    names = ("Lymphocyte-rich stroma", "Invasive carcinoma of no special type", "Normal")
    rows = [
        Prediction(f"p{n}", f"s{n}", None, "test", names[n % 3], np.eye(3)[n % 3] * 0.7 + 0.1)
        for n in range(30)
    ]
    level = measure_level(rows, names, names[1])
    assert level is not None
    write_figure(tmp_path / "f.svg", rows, level, names, names[1], "patients")
    drawn = (tmp_path / "f.svg").read_text()
    lines = re.findall("<!-- (.*?) -->", drawn)
    assert "ROC: Invasive carcin…" in lines
    assert "Names in full: Lymphocyte-rich stroma, Invasive carcinoma of no special type" in lines
    assert max(len(line) for line in lines if "Names in full" not in line) <= 32


def test_that_the_model_has_learnt_nothing_is_read_before_any_figure(tmp_path: Path) -> None:
    rows = [replace(row, split="test") for row in predictions(14, 3)]
    note = f"fold 1: {NOTHING_LEARNT}: its balanced accuracy is 0.50; guessing gives 0.5."
    found = measure_performance(
        rows, NAMES, "tumour", how={}, notes=("Something else.", note)
    ).performance
    assert found is not None
    page = markdown(found).splitlines()
    assert page[2] == f"> **{note}**"
    assert sum(note in line for line in page) == 1
    assert "- Something else." in page
    assert found.as_dict()["read_first"] == [note]
    write_performance(tmp_path, found)
    assert NOTHING_LEARNT in (tmp_path / "performance_slides.svg").read_text()


def test_of_survival_as_well() -> None:
    note = f"{NOTHING_LEARNT}: its C-index on the validation patients is 0.480; guessing gives 0.5."
    record = {
        "evaluated_on": "test patients", "n": 9, "n_events": 4, "c_index": 0.5,
        "intervals_95": {"c_index": None}, "definition": "d", "intervals": "i",
        "notes": ["Something else.", note],
    }  # fmt: skip
    page = survival_markdown(record).splitlines()
    assert page[2] == f"> **{note}**"
    assert sum(note in line for line in page) == 1
    assert "- Something else." in page


def test_that_slides_are_painted_is_read_before_any_figure(tmp_path: Path) -> None:
    rows = [replace(row, split="test") for row in predictions(14, 3)]
    every = {row.slide_id for row in rows}
    for painted, said in (
        (every, "PAINTED SLIDES: All slides that were measured were painted"),
        ({"s3", "other"}, "PAINTED SLIDES: 1 of the 14 slides that were measured was painted"),
    ):
        found = measure_performance(rows, NAMES, "tumour", how={}, painted=painted).performance
        assert found is not None
        (note,) = found.as_dict()["read_first"]
        assert note.startswith(said)
        assert markdown(found).splitlines()[2] == f"> **{note}**"
        write_performance(tmp_path, found)
        drawn = (tmp_path / "performance_slides.svg").read_text()
        assert "PAINTED SLIDES" in drawn
        assert NOTHING_LEARNT not in drawn
    real = measure_performance(rows, NAMES, "tumour", how={}).performance
    assert real is not None
    assert real.read_first == ()


def test_the_record_says_of_intervals_what_the_page_does() -> None:
    rows = [replace(row, split="test") for row in predictions(14, 3)]
    found = measure_performance(rows, NAMES, "tumour", how={}).performance
    assert found is not None
    assert found.as_dict()["intervals"].endswith("or where all samples agree")
    assert "or where all samples agree" in markdown(found)


def graded(n: int = 60) -> list[Prediction]:
    """Three classes, of which the last is told apart worst; two slides a patient in three folds."""
    rng = np.random.default_rng(3)
    rows = []
    for k in range(n):
        label = (k // 2) % 3
        logits = rng.normal(0, 1, 3)
        logits[label] += (2.0, 2.0, 0.3)[label]
        p = np.exp(logits) / np.exp(logits).sum()
        rows.append(Prediction(f"p{k // 2}", f"s{k}", (k // 2) // 3 % 3, "test", "abc"[label], p))
    return rows


def test_means_over_classes_are_not_taken_for_those_of_one_class() -> None:
    found = measure_performance(graded(), tuple("abc"), "c", how={}, prevalence=0.1,
                                subgroups={"site": {f"s{k}": "xy"[k // 30] for k in range(60)}},
                                ).performance  # fmt: skip
    assert found is not None
    assert found.patient.estimates["sensitivity"] != found.patient.estimates["sensitivity: c"]
    text = markdown(found)
    assert "Positive class" not in text
    assert "Curves in the figures are of c against the other classes." in text
    for row in ("| AUROC, mean over classes |", "| Sensitivity, mean over classes |",
                "| Sensitivity of c |", "| Brier score, summed over classes (0 to 2) |",
                "| site | patients (by class) | AUROC, mean over classes | Sens"):  # fmt: skip
        assert row in text
    assert "threshold of their own" not in text
    assert "Threshold" not in text
    assert [note for note in found.notes if note in (SEVERAL_CLASSES, NO_PREDICTIVE_VALUES)] == [
        SEVERAL_CLASSES,
        NO_PREDICTIVE_VALUES,
    ]
    plain = measure_performance(graded(), tuple("abc"), "c", how={}).performance
    assert plain is not None
    assert NO_PREDICTIVE_VALUES not in plain.notes


def test_folds_are_told_by_patient_and_their_mean_too() -> None:
    rows = [replace(r, label="ab"[r.label == "c"], probability=np.array([1 - p, p]))
            for r in graded() for p in [float(r.probability[2])]]  # fmt: skip
    found = measure_performance(rows, ("a", "b"), "b", how={}).performance
    assert found is not None
    assert [level.n for level in found.folds.values()] == [24, 18, 18]
    assert [level.n for level in found.fold_patients.values()] == [12, 9, 9]
    record = found.as_dict()
    aurocs = [record["folds"][fold]["patient"]["auroc"] for fold in "012"]
    mean = record["mean_of_folds"]
    assert mean["n_folds"] == 3
    assert mean["auroc"]["mean"] == pytest.approx(np.mean(aurocs))
    assert mean["auroc"]["standard_deviation"] == pytest.approx(np.std(aurocs, ddof=1))
    text = markdown(found)
    assert text.index("## Folds (patients)") < text.index("## Folds (slides)")
    assert f"Mean of 3 folds: {mean['auroc']['mean']:.3f}, standard deviation" in text
    assert "patient,0,auroc," in csv_text(found)


def test_the_threshold_stands_where_sensitivity_does() -> None:
    rows = [Prediction(f"p{k}", f"s{k}", None, "val" if k < 8 else "test", "ab"[k % 2],
                       np.array([0.4, 0.6]) if k % 2 else np.array([0.8, 0.2]))
            for k in range(24)]  # fmt: skip
    found = measure_performance(rows, ("a", "b"), "b", how={}).performance
    assert found is not None
    assert "(Youden): 0.4 (chosen on 8 validation cases)." in markdown(found)
    blind = measure_performance(rows[8:], ("a", "b"), "b", how={}).performance
    assert blind is not None
    assert ": 0.5 (chosen on nothing: the validation cases do not hold both" in markdown(blind)


def test_how_slides_became_patients_is_told_as_it_was() -> None:
    """It read "the mean" of patients who were called by their largest slide, as all are then."""
    rows = [Prediction(f"p{k // 2}", f"s{k}", None, "test", "ab"[k // 2 % 2],
                       np.array([1 - p, p]))
            for k in range(24) for p in [0.2 + 0.02 * k]]  # fmt: skip
    alike = measure_performance(rows, ("a", "b"), "b", how={}).performance
    assert alike is not None
    assert alike.as_dict()["patient_rule"] == MEAN_RULE
    assert alike.patient_rows[0].probability[1] == pytest.approx(0.21)
    rows[3] = replace(rows[3], label="a")
    mixed = measure_performance(rows, ("a", "b"), "b", how={}).performance
    assert mixed is not None
    assert mixed.as_dict()["patient_rule"] == LARGEST_RULE
    assert LARGEST_RULE in markdown(mixed)
    assert mixed.patient_rows[0].probability[1] == pytest.approx(0.22)  # of all alike


def test_a_cohort_without_labels_is_told_how_it_is_called() -> None:
    """A model that is applied elsewhere brings no validation cases along: .5, and no referrals."""
    rows = [Prediction(f"p{k}", f"s{k}", None, "", "", np.array([0.4, 0.6])) for k in range(6)]
    found = measure_performance(rows, ("a", "b"), "b", how={})
    assert found.performance is None
    assert found.slides[0].refer is None
    threshold, referrals = found.uncalled
    assert threshold.startswith("Cases are called from a probability of 0.5 on: no validation")
    assert referrals.startswith("Nobody is referred for want of certainty")
    assert measure_performance(graded(), tuple("abc"), "c", how={}).uncalled == ()
