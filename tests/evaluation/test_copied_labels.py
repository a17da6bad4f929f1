"""A patch that is judged by the label of its slide says nothing: it counts in no figure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from saliency_fixtures import RunFolder, copy_label

from pathology_scaat.cli import app
from pathology_scaat.evaluation.comparison import NO_VERDICT_BY_COPIED, compare_measurements
from pathology_scaat.evaluation.comparison_report import comparison_markdown
from pathology_scaat.evaluation.evaluate import evaluate_run
from pathology_scaat.evaluation.evaluation_set import EvaluationSet, evaluation_set_from_stores
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.training.positive_class import shows_nothing

CLASSES = ("normal", "tumour")
SMALL = ProtocolConfig(
    n_occluded=6, n_perturbed=4, n_mosaics=4, max_images=40, batch_size=8, shares=(0.0, 0.5, 1.0)
)


@pytest.mark.parametrize(
    ("name", "names", "certain"),
    [
        ("Normal", ("Normal", "Tumor"), True),
        ("no tumour", ("no tumour", "tumour"), True),
        ("Non-Tumor", ("Non-Tumor", "Tumor"), True),
        ("Benign", ("Benign", "Carcinoma", "Lymphoma"), True),
        ("Tumor", ("Normal", "Tumor"), False),
        ("Normal", ("Normal", "Stroma", "Tumor"), False),
        ("Normal", ("Benign", "Normal", "Tumor"), False),
        ("Other", ("Other", "Tumor"), False),
        ("Tumor-adjacent normal", ("Tumor", "Tumor-adjacent normal"), False),
        ("LUAD", ("LUAD", "LUSC"), False),
        ("Normal", ("Normal",), False),
    ],
)
def test_which_copied_label_is_right_for_every_patch(
    name: str, names: tuple[str, ...], certain: bool
) -> None:
    assert shows_nothing(name, names) == certain


def test_patches_with_a_copied_label_are_counted_and_left_out(run_folder: RunFolder) -> None:
    stores = {i: run_folder.add_slide(i, seed=n) for n, i in enumerate(("a", "b", "c"))}
    whole = evaluation_set_from_stores(stores, CLASSES, "tumour")
    copy_label(stores["b"], "tumour")
    copy_label(stores["c"], "Normal")
    kept = evaluation_set_from_stores(stores, CLASSES, "tumour")
    assert whole is not None
    assert kept is not None
    assert (len(whole), len(kept)) == (36, 24)
    assert set(kept.groups) == {"a", "c"}, "a slide that shows nothing is right for every patch"
    assert "12 labelled patch(es) of 1 slide(s)" in kept.label_note
    assert not kept.copied
    copy_label(stores["a"], "tumour")
    copy_label(stores["c"], "tumour")
    left = evaluation_set_from_stores(stores, CLASSES, "tumour")
    assert left is not None
    assert left.copied
    assert len(left) == 36
    assert "neither good nor bad" in left.label_note


@pytest.mark.parametrize("annotated", [True, False])
def test_the_trust_card_says_what_it_is_judged_by(
    run_folder: RunFolder, annotated: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_folder.out
    for seed, slide_id in enumerate(("a", "b", "c")):
        store = run_folder.add_slide(slide_id, seed=seed)
        if slide_id != "a" or not annotated:
            copy_label(store, "tumour")
    if annotated:
        app(["evaluate", "--out", str(out), "--device", "cpu"], standalone_mode=False)
        capsys.readouterr()
    else:
        evaluate_run(out, config=SMALL, device="cpu")
    card = json.loads((out / "evaluation" / "trust_card.json").read_text())
    page = (out / "evaluation" / "trust_card.md").read_text()
    assert card["label_note"] in page
    auc = next(e for e in card["entries"] if e["measure"] == "auc")
    assert card["copied_labels"] is not annotated
    if annotated:
        assert card["n_images"] == 12
        assert "24 labelled patch(es) of 2 slide(s)" in card["label_note"]
    else:
        assert card["n_images"] == 36
        assert auc["verdict"] == "described"
        assert "copied from slides" in auc["words"]


def test_no_method_wins_by_copied_labels() -> None:
    n = 48
    rng = np.random.default_rng(0)
    data = EvaluationSet(
        np.zeros((n, 4, 4, 3), np.uint8), np.arange(n) % 2, np.arange(n) // 4,
        copied=True, label_note="judged by copied labels",
    )  # fmt: skip
    arms = {
        name: [
            Measurement(rng.normal(size=(n, 2)), {"srg/blur/probability": rng.random(n)}, {})
            for _ in range(5)
        ]
        for name in ("plain", "scaat")
    }
    found = compare_measurements(arms, data, primary="srg/blur/probability")
    assert found.arms[1].verdict == NO_VERDICT_BY_COPIED
    assert found.arms[1].non_inferior is None
    assert "judged by copied labels" in comparison_markdown(found)
