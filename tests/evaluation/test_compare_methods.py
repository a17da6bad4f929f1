"""Training and comparing methods, from patch stores to a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cli.options import numbers
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import ConfigError, TrainingError, UsageError
from pathology_scaat.evaluation.compare_methods import ArmConfig, CompareConfig, compare_methods
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.pipeline.evaluate import load_compare_config
from pathology_scaat.pipeline.train import training_slides
from pathology_scaat.training import TrainConfig, TrainingSlide

PROTOCOL = ProtocolConfig(
    n_occluded=6, n_perturbed=4, n_mosaics=4, shares=(0.0, 0.5, 1.0),
    occluders=("mean", "blur"),
)  # fmt: skip
CONFIG = CompareConfig(
    arms={"plain": ArmConfig(method="plain"), "scaat": ArmConfig(method="scaat")},
    seeds=(0,),
    train=TrainConfig(epochs=1, batch_size=8),
    protocol=PROTOCOL,
    referees=1,
    referee_backbone="scaat-small",
)


def slides(run_folder, splits: tuple[str, ...]) -> list[TrainingSlide]:
    return [
        TrainingSlide(
            store=run_folder.add_slide(f"s{i}", n=16, seed=i), slide_id=f"s{i}",
            patient_id=f"p{i}", split=split,
        )
        for i, split in enumerate(splits)
    ]  # fmt: skip


def test_methods_are_trained_measured_and_not_twice(run_folder, tmp_path: Path) -> None:
    cohort = slides(run_folder, ("train", "train", "val", "test", "test"))
    said: list[str] = []
    found = compare_methods(cohort, tmp_path / "c", CONFIG, device="cpu", announce=said.append)
    assert said == ["referee-s0", "plain-s0", "scaat-s0"]
    assert [a.arm for a in found.arms] == ["plain", "scaat"]
    assert found.n_images == 32
    assert (found.n_groups, found.unit) == (2, "patients")
    assert found.row("scaat", "referee_srg/blur") is not None
    weights = tmp_path / "c/models/scaat-s0/model.safetensors"
    made = weights.stat().st_mtime_ns
    again = compare_methods(cohort, tmp_path / "c", CONFIG, device="cpu")
    assert weights.stat().st_mtime_ns == made
    assert again.as_dict() == found.as_dict()


def test_a_cohort_without_test_slides_is_refused(run_folder, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no test slides"):
        compare_methods(slides(run_folder, ("train", "val")), tmp_path / "c", CONFIG)


def test_the_baseline_must_be_an_arm(run_folder, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"baseline": "none"})
    with pytest.raises(UsageError, match="is no arm"):
        compare_methods(slides(run_folder, ("train", "test")), tmp_path / "c", config)


def test_names_of_arms_cannot_leave_the_folder() -> None:
    with pytest.raises(ValidationError, match="no name for an arm"):
        CompareConfig(arms={"../plain": ArmConfig(method="plain")})


def test_a_comparison_keeps_the_split_of_the_run(run_folder, tmp_path: Path) -> None:
    """The reviewed fault: comparing gave another split than training had used."""
    names = [f"s{i}" for i in range(10)]
    for i, name in enumerate(names):
        run_folder.add_slide(name, n=8, seed=i + 1)
    rows = tuple(ManifestRow(tmp_path / n, n, f"patient-{n}") for n in names)
    cohort = Manifest(rows=rows)

    def splits(seed: int | None) -> dict[str, str]:
        return {s.slide_id: s.split for s in training_slides(cohort, run_folder.out, seed)}

    of_run = splits(7)
    assert splits(None) == of_run
    assert splits(0) != of_run
    table = StatusTable(run_folder.out).rows()
    assert {row["slide_id"]: row["patient"] for row in table} == {n: n for n in names}


def test_seeds_on_the_command_line(tmp_path: Path) -> None:
    assert load_compare_config(None).seeds == (0, 1, 2, 3, 4)
    assert load_compare_config(None, seeds=numbers("3, 5,8", "--seeds")).seeds == (3, 5, 8)
    with pytest.raises(UsageError, match="no list of whole numbers"):
        numbers("1,x", "--seeds")
    with pytest.raises(ConfigError, match="a seed stands twice"):
        load_compare_config(None, seeds=[1, 1])
