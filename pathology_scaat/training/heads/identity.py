"""What identifies the training of a head: its data and settings, and who took part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.training.bundle_config import slide_key
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import SCHEMA_VERSION, Target, Unit
from pathology_scaat.training.heads.data import FeatureBag
from pathology_scaat.training.heads.settings import NOT_OF_HEADS, USED, bag_settings


def identity_of(
    train: Sequence[FeatureBag],
    val: Sequence[FeatureBag],
    config: TrainConfig,
    target: Target,
    unit: Unit,
    seed: int,
) -> str:
    """Fingerprint of the data and settings that a training depends on."""
    return fingerprint(
        {
            "schema_version": SCHEMA_VERSION,
            "target": target.model_dump(mode="json"),
            "unit": unit,
            "data": [
                [b.bag_id, b.patient_id, b.split, b.label, b.time, b.event,
                 [f.fingerprint for f in b.files]]
                for b in sorted([*train, *val], key=lambda b: b.bag_id)
            ],
            "config": config.model_dump(mode="json", include=USED - {"cache_bytes", "bag"}),
            "bag": bag_settings(config, target).model_dump(mode="json", exclude=NOT_OF_HEADS),
            "seed": seed,
        }
    )  # fmt: skip


def keys_by_split(pairs: Sequence[tuple[str, str]], identity: str) -> dict[str, tuple[str, ...]]:
    """Keyed hashes of (split, text) pairs by split: who took part, without saying who that is."""
    found: dict[str, set[str]] = {}
    for split, text in pairs:
        if split:
            found.setdefault(split, set()).add(slide_key(text, identity))
    return {split: tuple(sorted(marks)) for split, marks in sorted(found.items())}


def counts_by_class(train: Sequence[FeatureBag], target: Target) -> dict[str, int]:
    """Training bags by class; of survival, events and censored."""
    if target.kind == "survival":
        events = sum(bool(b.event) for b in train)
        return {"event": events, "censored": len(train) - events}
    counts = Counter(b.label for b in train)
    return {name: counts.get(name, 0) for name in target.names}
