"""Trust card and comparison, from artifacts to files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.comparison import compare_measurements
from pathology_scaat.evaluation.comparison_report import comparison_markdown, picture_title
from pathology_scaat.evaluation.evaluate import compare, evaluate_run
from pathology_scaat.evaluation.evaluation_set import EvaluationSet, evaluation_set_from_stores
from pathology_scaat.evaluation.measure import measure_model
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.evaluation.trust_card import build_entries
from pathology_scaat.slides.fingerprint import keyed
from pathology_scaat.training.bundle_config import slide_key, slide_mark
from pathology_scaat.training.bundle_quality import Estimate, HeldOut

SMALL = ProtocolConfig(
    n_occluded=12, n_perturbed=6, n_mosaics=6, max_images=40, batch_size=8,
    shares=(0.0, 0.5, 1.0),
)  # fmt: skip


def served(**seeds: int) -> dict[str, tuple[str, ...]]:
    """What a bundle records of the slides that ``add_slide`` made with these seeds."""
    return {split: (slide_key(f"{seed:064d}", ""),) for split, seed in seeds.items()}


class BrightCorner(torch.nn.Module):
    """Tumour is what is bright at the marked place: the right map is known."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        weights = torch.zeros(16, 16)
        weights[2:6, 2:6] = gain
        self.weights = torch.nn.Parameter(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = ((images.mean(1) - 0.5) * self.weights).sum((1, 2))
        return torch.stack([-margin / 2, margin / 2], 1)


def bright_corner_set(n: int = 24) -> EvaluationSet:
    rng = np.random.default_rng(0)
    images = rng.integers(60, 190, (n, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(n) % 2
    masks = np.zeros((n, 16, 16), dtype=bool)
    masks[labels == 1, 2:6, 2:6] = True
    images[masks] = 240
    images[labels == 0, 2:6, 2:6] = 20
    return EvaluationSet(images, labels, np.arange(n) // 4, masks=masks, name="corner")


def test_the_right_map_gets_the_right_scores() -> None:
    result = measure_model(BrightCorner(), bright_corner_set(), SMALL)
    assert result.mean("pixel_ap") == pytest.approx(1.0)
    assert result.mean("pixel_auroc") == pytest.approx(1.0)
    assert result.mean("rank_accuracy") == pytest.approx(1.0)
    assert result.mean("pixel_ap_chance") == pytest.approx(1 / 16)
    assert result.mean("gini") == pytest.approx(1 - 1 / 16, abs=1e-4)
    assert result.mean("infidelity") == pytest.approx(0, abs=1e-3)
    assert result.mean("sensitivity") == pytest.approx(0, abs=1e-5)
    for occluder in ("mean", "blur", "noisy-linear", "swap"):
        assert result.mean(f"srg/{occluder}/probability") > 0.02
    assert np.isnan(result.values["pixel_ap"][0]), "a benign image has nothing to be found"
    assert np.isfinite(result.values["srg/mean/margin"]).sum() == 12


@pytest.mark.parametrize("method", ["gradient", "smoothgrad"])
def test_no_result_depends_on_the_batch_size(method: str) -> None:
    data = bright_corner_set()
    config = SMALL.model_copy(update={"method": method, "n_samples": 2})
    referees = [BrightCorner(0.5)]
    one = measure_model(BrightCorner(), data, config, referees=referees)
    for batch in (5, 24):
        other = config.model_copy(update={"batch_size": batch})
        two = measure_model(BrightCorner(), data, other, referees=referees)
        assert one.values.keys() == two.values.keys()
        for name, values in one.values.items():
            np.testing.assert_allclose(values, two.values[name], rtol=1e-4, atol=1e-4)


def test_data_without_masks_or_of_one_class() -> None:
    data = bright_corner_set()
    one_class = replace(data.take(np.flatnonzero(data.labels == 1)), masks=None)
    result = measure_model(BrightCorner(), one_class, SMALL)
    assert "pixel_ap" not in result.values
    assert "mosaic_ap" not in result.values
    assert np.isnan(result.mean("pixel_ap"))


def test_spread_takes_classes_and_patients_in_turn() -> None:
    n = 100
    labels = (np.arange(n) < 90).astype(np.int64)
    groups = np.where(np.arange(n) < 80, 0, np.arange(n))
    data = EvaluationSet(np.zeros((n, 4, 4, 3), np.uint8), labels, groups)
    chosen = data.spread(20, seed=3)
    assert labels[chosen].tolist().count(0) == 10
    assert len(np.unique(groups[chosen])) >= 20 - 1
    np.testing.assert_array_equal(chosen, data.spread(20, seed=3))
    assert len(data.spread(1000)) == n


def test_measurement_round_trip_and_damage(tmp_path: Path) -> None:
    result = measure_model(BrightCorner(), bright_corner_set(), SMALL)
    result.facts["arm"] = "plain"
    result.save(tmp_path / "m.npz")
    again = Measurement.load(tmp_path / "m.npz")
    assert again.facts == {"arm": "plain"}
    for name, values in result.values.items():
        np.testing.assert_allclose(again.values[name], values, rtol=1e-5)
    (tmp_path / "m.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(StoreError, match="is not a measurement"):
        Measurement.load(tmp_path / "m.npz")


def test_comparison_finds_what_is_better_and_what_is_not() -> None:
    data = bright_corner_set(80)
    good = [measure_model(BrightCorner(), data, SMALL) for _ in range(5)]
    blind = []
    for seed in range(5):
        model = BrightCorner()
        torch.manual_seed(seed)
        with torch.no_grad():
            # Predicts nearly as well, but looks at the wrong places too.
            model.weights += 1.4 * (torch.rand(16, 16) < 0.05)
        blind.append(measure_model(model, data, SMALL))
    found = compare_measurements(
        {"plain": blind, "scaat": good}, data, config=SMALL, primary="pixel_ap"
    )
    row = found.row("scaat", "pixel_ap")
    assert row is not None
    assert row.improves is True
    assert row.gain is not None
    assert row.gain.low > 0
    assert len(row.seed_values) == 5
    backwards = compare_measurements(
        {"plain": good, "other": blind}, data, config=SMALL, primary="pixel_ap"
    ).row("other", "pixel_ap")
    assert backwards is not None
    assert backwards.improves is False
    assert found.arms[1].non_inferior is True
    assert "its maps are better" in found.arms[1].verdict
    assert found.row("scaat", "gini").improves is None, "sparser is not better"  # type: ignore[union-attr]
    assert (
        "are worse"
        in compare_measurements(
            {"plain": good, "other": blind}, data, config=SMALL, primary="pixel_ap"
        )
        .arms[1]
        .verdict
    )
    text = comparison_markdown(found)
    assert "**▲**" in text
    json.dumps(found.as_dict(), allow_nan=False)


def test_fewer_than_five_seeds_give_no_verdict() -> None:
    data = bright_corner_set(80)
    rng = np.random.default_rng(0)
    logits = np.stack([-data.labels, data.labels], 1).astype(np.float32)

    def arm(centre: float, n_seeds: int) -> list[Measurement]:
        return [
            Measurement(logits, {"pixel_ap": rng.normal(centre, 0.01, len(data))}, {"seed": k})
            for k in range(n_seeds)
        ]

    four = compare_measurements(
        {"plain": arm(0.5, 4), "scaat": arm(0.7, 4)}, data, primary="pixel_ap"
    )
    row = four.row("scaat", "pixel_ap")
    assert row is not None
    assert row.gain is not None
    assert row.gain.low > 0
    assert row.improves is None
    assert four.arms[1].non_inferior is None
    assert four.arms[1].verdict.startswith("no verdict: 4 seeds, at least 5 are needed")
    text = comparison_markdown(four)
    assert "these seeds only" in text
    assert "**▲**" not in text
    five = compare_measurements(
        {"plain": arm(0.5, 5), "scaat": arm(0.7, 5)}, data, primary="pixel_ap"
    )
    assert (
        five.arms[1].verdict == "prediction is not worse; its maps are better by the "
        "primary measure"
    )


def test_the_primary_measure_is_corrected_for_the_number_of_arms() -> None:
    data = bright_corner_set(80)
    rng = np.random.default_rng(3)
    logits = np.stack([-data.labels, data.labels], 1).astype(np.float32)
    arms = {
        name: [Measurement(logits, {"pixel_ap": rng.normal(0.5, 0.1, len(data))}) for _ in range(5)]
        for name in ("plain", "a", "b", "c")
    }
    found = compare_measurements(arms, data, primary="pixel_ap")
    rows = [found.row(name, "pixel_ap") for name in ("a", "b", "c")]
    raw = sorted(r.gain.p_value for r in rows if r and r.gain)
    corrected = sorted(r.p_holm for r in rows if r and r.p_holm is not None)
    assert corrected[0] == pytest.approx(min(1.0, 3 * raw[0]))


def test_arms_are_paired_by_seed() -> None:
    data = bright_corner_set(40)
    logits = np.stack([-data.labels, data.labels], 1).astype(np.float32)

    def arm(*seeds: int) -> list[Measurement]:
        return [Measurement(logits, {"pixel_ap": np.ones(40)}, {"seed": s}) for s in seeds]

    with pytest.raises(UsageError, match="has 2 seeds where the baseline has 3"):
        compare_measurements({"plain": arm(0, 1, 2), "scaat": arm(0, 1)}, data)
    with pytest.raises(UsageError, match="has other seeds than the baseline"):
        compare_measurements({"plain": arm(0, 1), "scaat": arm(1, 0)}, data)
    with pytest.raises(UsageError, match="has a seed twice"):
        compare_measurements({"plain": arm(0, 0), "scaat": arm(0, 0)}, data)


def test_comparison_needs_its_baseline_and_the_same_images() -> None:
    data = bright_corner_set()
    result = measure_model(BrightCorner(), data, SMALL)
    with pytest.raises(UsageError, match="'plain' was not measured"):
        compare_measurements({"scaat": [result]}, data)
    with pytest.raises(UsageError, match="not measured on these images"):
        compare_measurements({"plain": [result]}, data.take(np.arange(3)))


def test_a_worse_auc_is_said_before_better_maps() -> None:
    rng = np.random.default_rng(0)
    data = EvaluationSet(
        np.zeros((200, 4, 4, 3), np.uint8), np.arange(200) % 2, np.arange(200) // 2
    )

    def measurement(noise: float, maps: float) -> Measurement:
        margin = (data.labels * 2 - 1) + rng.normal(0, noise, 200)
        logits = np.stack([-margin, margin], 1).astype(np.float32)
        return Measurement(logits, {"pixel_ap": np.full(200, maps) + rng.normal(0, 0.01, 200)})

    arms = {
        "plain": [measurement(0.5, 0.4) for _ in range(5)],
        "sparse": [measurement(3.0, 0.6) for _ in range(5)],
    }
    found = compare_measurements(arms, data, primary="pixel_ap")
    assert found.arms[1].non_inferior is False
    assert found.arms[1].verdict.startswith("that prediction is not worse is not shown")
    assert "No verdicts" not in picture_title(found)
    few = {name: several[:2] for name, several in arms.items()}
    title = picture_title(compare_measurements(few, data, primary="pixel_ap"))
    assert "No verdicts: fewer than 5 seeds" in title


def test_faithfulness_stands_for_the_positive_class_alone_too() -> None:
    data = EvaluationSet(np.zeros((40, 4, 4, 3), np.uint8), np.arange(40) % 2, np.arange(40) // 4)
    logits = np.stack([-data.labels, data.labels], 1).astype(np.float32)

    def measurement(with_finding: float, without: float) -> Measurement:
        srg = np.where(data.is_positive, with_finding, without)
        return Measurement(logits, {"srg/blur/probability": srg, "mosaic_ap": np.full(8, 0.5)})

    arms = {"plain": [measurement(0.2, 0.2)], "other": [measurement(0.5, -0.1)]}
    found = compare_measurements(arms, data, config=SMALL, primary="srg/blur/probability")
    everywhere = found.row("other", "srg/blur/probability")
    positive = found.row("other", "srg/blur/probability", "positive class")
    assert everywhere is not None
    assert everywhere.value.value == pytest.approx(0.2)
    assert positive is not None
    assert positive.value.value == pytest.approx(0.5)
    assert positive.gain is not None
    assert positive.gain.value == pytest.approx(0.3)
    assert positive.gain.n == 20
    assert found.row("other", "mosaic_ap", "positive class") is None
    assert "positive class alone" in comparison_markdown(found)


def test_trust_card_of_a_run(run_folder) -> None:
    run_folder.add_slide("seen", seed=1)
    run_folder.add_slide("kept", n=16, seed=2)
    run_folder.add_slide("kept2", n=16, seed=3)
    nothing = HeldOut(
        source="test slides", n_patches=32, n_slides=2, n_patients=2, unit="block", n_units=8,
        class_counts={"Normal": 16, "tumour": 16}, auc=Estimate(value=0.5),
        balanced_accuracy=Estimate(value=0.5), chance=0.5, probability_span=0.9,
    )  # fmt: skip
    run_folder.save_model(run_folder.model, 0, slides=served(train=1), held_out=nothing)
    doubt = "of the area annotated as 'tumour' only 9% is tissue: was it drawn on another slide?"
    noted = {"notes": f"tissue: ink; {doubt}"}
    StatusTable(run_folder.out).update_many([("kept", "tile", "done", "", noted)])
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert (card.n_images, card.n_groups, card.unit, card.held_out) == (32, 2, "slides", True)
    assert "HAS LEARNT NOTHING" in card.warning
    assert card.slide_notes == (f"Slide kept: {doubt}",)
    mosaics = card.entry("mosaic_ap")
    assert mosaics is not None
    assert (mosaics.verdict, mosaics.words[:14]) == ("unclear", "2 slides only:")
    for entry in card.entries:  # limits that cannot be are of no use
        if entry.interval is not None and entry.measure in ("pixel_ap", "gini", "mosaic_ap"):
            assert entry.interval.low >= 0
            assert entry.interval.high <= 1
    auc = card.entry("auc")
    assert auc is not None
    assert auc.interval is not None
    masks = card.entry("pixel_ap")
    assert masks is not None
    assert masks.verdict == "not measured"
    everywhere = card.entry("srg/mean/probability")
    positive = card.entry("srg/mean/probability, positive class")
    assert everywhere is not None
    assert positive is not None
    assert everywhere.interval is not None
    assert positive.interval is not None
    assert 0 < positive.interval.n < everywhere.interval.n
    folder = run_folder.out / "evaluation"
    text = (folder / "trust_card.md").read_text()
    assert "not measured" in text
    assert card.warning in text
    assert card.slide_notes[0] in text
    assert str(run_folder.out) not in text
    stored = json.loads((folder / "trust_card.json").read_text())
    assert stored["schema"] == "pathology_scaat.trust_card"
    picture = (folder / "trust_card.png").read_bytes()
    assert len(list((folder / "measurements").iterdir())) == 1
    evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert (folder / "trust_card.png").read_bytes() == picture
    assert len(list((folder / "measurements").iterdir())) == 1, "taken from its file"
    named = ["seen", "kept"]
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu", slide_ids=named)
    assert not card.held_out


def test_trust_card_says_when_images_were_seen(run_folder) -> None:
    run_folder.add_slide("a", seed=1)
    run_folder.save_model(run_folder.model, 0, slides=served(train=1))
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert card.held_out is False
    assert "were seen in training" in (run_folder.out / "evaluation/trust_card.md").read_text()
    sd = card.entry("mosaic_ap")
    assert sd is not None


def test_held_out_is_what_the_bundle_says_and_not_the_table(run_folder) -> None:
    """The reviewed fault: another training on the folder rewrites slides.csv's splits."""
    run_folder.add_slide("a", n=16, seed=1)
    run_folder.add_slide("b", n=16, seed=2)
    run_folder.write_splits(a="test", b="train")
    run_folder.save_model(run_folder.model, 0, slides=served(train=1))
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert card.data == "the slides that the model has not seen"
    assert (card.n_images, card.held_out) == (16, True)
    for manifest in (["a", "b"], ["a"]):  # the last run's does not hold slide b
        StatusTable(run_folder.out).plan(manifest)
    again = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert again.data.endswith("(1 of them not in the manifest of the last run)")
    seen = evaluate_run(run_folder.out, config=SMALL, slide_ids=["a"], device="cpu")
    assert seen.held_out is False
    assert "no: 1 of 1 named slides" in seen.held_out_words


def test_a_bundle_that_does_not_show_gives_unknown(run_folder) -> None:
    run_folder.add_slide("a", n=16, seed=1)
    run_folder.write_splits(a="test")
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert card.held_out is None
    assert card.held_out_words == "unknown: this bundle does not record its training slides"
    text = (run_folder.out / "evaluation/trust_card.md").read_text()
    assert "may have been seen in training" in text


def test_slides_recorded_under_other_pseudonyms_are_not_said_to_be_held_out(run_folder) -> None:
    run_folder.add_slide("a", n=16, seed=1)
    hidden = slide_mark(keyed(f"{1:064d}", b"salt"), "")
    run_folder.save_model(run_folder.model, 0, slides={"train": (hidden,)})
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert card.held_out is None
    assert "other pseudonyms" in card.held_out_words


def test_validation_slides_and_other_slides_of_a_patient_are_not_held_out(run_folder) -> None:
    for seed, name in enumerate(("trained", "sister", "chosen_on"), start=1):
        run_folder.add_slide(name, n=16, seed=seed)
    run_folder.save_model(run_folder.model, 0, slides=served(train=1, val=3))
    people = {"trained": "p", "sister": "p", "chosen_on": "q"}
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu", patients=people)
    assert card.data.startswith("the validation slides")
    assert (card.held_out, card.unit, card.n_groups) == (False, "patients", 1)


def test_patients_are_counted_as_patients(run_folder) -> None:
    """slides.csv says which slides are of one patient, so that they count once."""
    for seed, name in enumerate(("a", "b", "c"), start=1):
        run_folder.add_slide(name, n=16, seed=seed)
    status, table = StatusTable(run_folder.out), run_folder.out / "slides.csv"
    status.plan("abc", {"a": "a", "b": "a", "c": "c"})
    table.write_text(table.read_text().replace(",", ";"))  # as spreadsheets of many countries do
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert (card.n_groups, card.unit) == (2, "patients")
    assert "2 patients" in (run_folder.out / "evaluation/trust_card.md").read_text()
    status.plan("abc", {"b": ""})
    card = evaluate_run(run_folder.out, config=SMALL, device="cpu")
    assert card.unit == "slides"
    assert (
        "Which slides are of one patient is not known"
        in (run_folder.out / "evaluation/trust_card.md").read_text()
    )


def test_trust_card_needs_labels(run_folder) -> None:
    run_folder.add_slide("a", labelled=False)
    with pytest.raises(UsageError, match="no labelled patch"):
        evaluate_run(run_folder.out, config=SMALL, device="cpu")


def test_masks_come_from_annotations(run_folder, tmp_path: Path) -> None:
    run_folder.add_slide("a", n=12, seed=1)
    square = [[8, 4], [24, 4], [24, 20], [8, 20], [8, 4]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"objectType": "annotation", "classification": {"name": "tumour"}},
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    data = evaluation_set_from_stores(
        {"a": run_folder.out / "patches/a.zarr"}, ("normal", "tumour"), "tumour",
        annotations={"a": path},
    )  # fmt: skip
    assert data is not None
    assert data.masks is not None
    expected = np.zeros((32, 32), dtype=bool)
    expected[4:20, 8:24] = True
    np.testing.assert_array_equal(data.masks[0], expected)
    assert not data.masks[1:].any()


@pytest.mark.slow
def test_compare_bundles_and_go_on_where_it_stopped(run_folder, tmp_path: Path) -> None:
    arms = {}
    for arm in ("plain", "scaat"):
        paths = [tmp_path / f"{arm}{seed}" for seed in range(2)]
        for seed, path in enumerate(paths):
            run_folder.save_model(path, seed=seed + 10 * len(arms))
        arms[arm] = paths
    rng = np.random.default_rng(0)
    data = EvaluationSet(
        rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), np.arange(16) % 2,
        np.arange(16) // 4, name="noise",
    )  # fmt: skip
    out = tmp_path / "comparison"
    found = compare(
        arms, data, out, config=SMALL, validation=data, referees=[arms["plain"][0]], device="cpu"
    )
    assert {p.name for p in out.iterdir()} == {
        "comparison.json", "comparison.md", "comparison.png", "comparison.sha256",
        "measurements",
    }  # fmt: skip
    assert found.row("scaat", "referee_srg/blur") is not None
    made = {p: p.stat().st_mtime_ns for p in (out / "measurements").iterdir()}
    assert len(made) == 4
    next(iter(made)).unlink()
    again = compare(
        arms, data, out, config=SMALL, validation=data, referees=[arms["plain"][0]], device="cpu"
    )
    now = {p: p.stat().st_mtime_ns for p in (out / "measurements").iterdir()}
    assert sum(now[p] != t for p, t in made.items()) == 1
    assert again.as_dict() == found.as_dict()
    with pytest.raises(UsageError, match="is no arm"):
        compare(arms, data, out, baseline="none")


def test_a_perfect_auc_of_patches_is_not_said_to_be_certain() -> None:
    data = replace(bright_corner_set(), groups=np.arange(24) // 2)
    scores = np.stack([-data.labels, data.labels], 1).astype(np.float32)
    result = replace(measure_model(BrightCorner(), data, SMALL), logits=scores)
    entry = next(e for e in build_entries(result, data, SMALL, 0) if e.measure == "auc")
    assert entry.interval is not None
    assert entry.interval.value == 1
    assert math.isnan(entry.interval.low)
    assert (entry.verdict, entry.words) == (
        "good", "every patch on its side: no interval can be given",
    )  # fmt: skip


def test_a_map_that_is_above_chance_is_held_against_what_has_learnt_nothing() -> None:
    data = replace(bright_corner_set(), groups=np.arange(24) // 2)
    result = measure_model(BrightCorner(), data, SMALL)
    own = result.values["pixel_ap"]
    values = {**result.values, "pixel_ap_random_weights": own + 0.01, "pixel_ap_centre": own * 0.1}
    values["pixel_ap_haematoxylin"] = own * 0.1
    found = build_entries(replace(result, values=values), data, SMALL, 0)
    entry = next(e for e in found if e.measure == "pixel_ap")
    assert entry.verdict == "good"
    assert entry.words.endswith(
        "; not shown to be better than the same network with random weights"
    )


def test_a_comparison_of_models_that_learnt_nothing_says_so_first(
    run_folder, tmp_path: Path
) -> None:
    nothing = HeldOut(
        source="test slides", n_patches=32, n_slides=2, n_patients=2, unit="block", n_units=8,
        class_counts={"Normal": 16, "tumour": 16}, auc=Estimate(value=0.5),
        balanced_accuracy=Estimate(value=0.5), chance=0.5, probability_span=0.9, painted=True,
    )  # fmt: skip
    run_folder.save_model(tmp_path / "a", seed=0, held_out=nothing)
    run_folder.save_model(tmp_path / "b", seed=1)
    data = EvaluationSet(
        np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
        np.arange(8) % 2, np.arange(8) // 2, name="noise",
    )  # fmt: skip
    arms = {"plain": [tmp_path / "a"], "other": [tmp_path / "b"]}
    found = compare(arms, data, tmp_path / "c", config=SMALL, device="cpu")
    painted, silent = found.read_first
    assert painted.startswith("1 of the 2 models learnt from painted slides")
    assert silent.startswith("plain: THIS MODEL HAS LEARNT NOTHING")
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert text.index(silent) < text.index("Primary measure")
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["read_first"]
    assert "learnt nothing" in picture_title(found)
