"""``scaat compare``: train several methods on a run's patches and compare them, resumably."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.evaluation.comparison import Comparison
from pathology_scaat.evaluation.evaluate import compare
from pathology_scaat.evaluation.evaluation_set import EvaluationSet, evaluation_set_from_stores
from pathology_scaat.evaluation.measure import Progress
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.training import TrainConfig, TrainingSlide, train_model

logger = logging.getLogger(__name__)

REFEREE_SEED = 1000

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names of arms become names of folders."""


class ArmConfig(BaseModel):
    """One training method of a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(description="Training method, as in 'scaat train --method'.")
    method_options: dict[str, Any] = Field(default_factory=dict, description="Its options.")
    epochs_factor: float = Field(
        default=1.0, gt=0, le=100, description="Epochs over those of the others."
    )


def _default_arms() -> dict[str, ArmConfig]:
    return {
        "plain": ArmConfig(method="plain"),
        "plain-2x": ArmConfig(method="plain", epochs_factor=2.0),
        "scaat": ArmConfig(method="scaat"),
        "sgt": ArmConfig(method="sgt"),
        "random-mask": ArmConfig(method="random-mask"),
    }


class CompareConfig(BaseModel):
    """A comparison, written down before training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: dict[str, ArmConfig] = Field(
        default_factory=_default_arms, description="Name to method; the baseline among them."
    )
    baseline: str = Field(default="plain", description="Arm the others are compared with.")
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2, 3, 4),
        min_length=1,
        description="One model per arm and seed; with fewer than five there is no verdict.",
    )
    train: TrainConfig = Field(
        default_factory=TrainConfig, description="All that is the same for the arms."
    )
    protocol: ProtocolConfig = Field(
        default_factory=ProtocolConfig, description="What is measured; names the primary measure."
    )
    referees: int = Field(
        default=2, ge=0, le=10, description="Plainly trained models that judge all maps too."
    )
    referee_backbone: str = Field(
        default="resnet18", description="Network of the referees: another one than the arms'."
    )

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed stands twice: it would train the same model again")
        return seeds

    @field_validator("arms")
    @classmethod
    def _safe_names(cls, arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        import re

        for name in arms:
            if not re.match(SAFE_NAME, name):
                raise ValueError(f"'{name}' is no name for an arm: use letters, digits, . _ -")
        return arms


def _set_of(
    slides: Sequence[TrainingSlide],
    split: str,
    bundle: Path,
    annotations: Mapping[str, Path] | None,
    protocol: ProtocolConfig,
) -> EvaluationSet | None:
    from pathology_scaat.training.bundle_reading import read_bundle_config

    chosen = [s for s in slides if s.split == split]
    if not chosen:
        return None
    config = read_bundle_config(bundle)
    return evaluation_set_from_stores(
        {s.slide_id: Path(s.store) for s in chosen},
        config.class_names,
        config.positive_class,
        # A patient that the table does not name stands under the name of its slide.
        patients={s.slide_id: s.patient_id for s in chosen if s.patient_id != s.slide_id},
        annotations=annotations,
        max_patches=protocol.max_images,
        max_pixels=protocol.max_pixels,
        seed=protocol.seed,
        name=f"the {split} slides",
    )


def compare_methods(
    slides: Sequence[TrainingSlide],
    out_dir: Path,
    config: CompareConfig | None = None,
    *,
    annotations: Mapping[str, Path] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Comparison:
    """Train every arm with every seed and compare their maps on the test slides.

    Parameters
    ----------
    slides : sequence of TrainingSlide
        Patch stores with patients and splits; there must be test slides of both classes.
    out_dir : Path
        ``models/<arm>-s<seed>``, ``measurements`` and ``comparison.{json,md,png}`` come here.
        What is there and fits is not made again.
    config : CompareConfig, optional
    annotations : mapping of slide id to annotation file, optional
        Give the test patches their masks.
    device : str
    overwrite : bool
        Train and measure everything anew.
    progress : callable, optional
        Called with (what, done, all).
    announce : callable, optional
        Called with the name of each model as its training begins.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If the baseline is no arm.
    TrainingError
        If there are no labelled test patches, or training cannot be done.
    """
    config = config or CompareConfig()
    out_dir = Path(out_dir)
    if config.baseline not in config.arms:
        raise UsageError(
            "baseline", f"'{config.baseline}' is no arm", f"have {', '.join(config.arms)}"
        )
    if not any(s.split == "test" for s in slides):
        raise TrainingError(
            "the cohort", "has no test slides", "keep some patients for the split 'test'"
        )

    def train(folder: str, settings: TrainConfig, seed: int) -> Path:
        path = out_dir / "models" / folder
        if announce is not None:
            announce(folder)
        train_model(slides, path, settings, device=device, seed=seed, overwrite=overwrite)
        return path

    referees = [
        train(
            f"referee-s{k}",
            config.train.model_copy(
                update={
                    "method": "plain", "method_options": {},
                    "backbone": config.referee_backbone, "backbone_options": {},
                }
            ),
            REFEREE_SEED + k,
        )
        for k in range(config.referees)
    ]  # fmt: skip
    bundles: dict[str, list[Path]] = {name: [] for name in config.arms}
    # Seed by seed: what is there after an interruption is balanced over the arms.
    for seed in config.seeds:
        for name, arm in config.arms.items():
            epochs = max(1, round(config.train.epochs * arm.epochs_factor))
            settings = config.train.model_copy(
                update={
                    "method": arm.method, "method_options": dict(arm.method_options),
                    "epochs": epochs,
                }
            )  # fmt: skip
            bundles[name].append(train(f"{name}-s{seed}", settings, seed))
    first = bundles[config.baseline][0]
    data = _set_of(slides, "test", first, annotations, config.protocol)
    if data is None:
        raise TrainingError("the test slides", "have no labelled patch", "annotate some")
    return compare(
        bundles,
        data,
        out_dir,
        baseline=config.baseline,
        config=config.protocol,
        validation=_set_of(slides, "val", first, None, config.protocol),
        referees=referees,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )
