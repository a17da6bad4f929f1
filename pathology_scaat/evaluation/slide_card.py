"""The trust card of a model for bags: measured on whole slides that it has not seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.held_out import choose_slides, patient_groups
from pathology_scaat.evaluation.performance.slide_scores import BATCH
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.evaluation.slide_faithfulness import (
    RIVALS,
    Floats,
    SlideFeatures,
    measure_slide,
)
from pathology_scaat.evaluation.trust_card import NOT_MEASURED, TrustCard, TrustEntry
from pathology_scaat.evaluation.verdicts import judge, judged_auc, verdict_words
from pathology_scaat.evaluation.warnings import doubts_of_model, doubts_of_slides, model_warning
from pathology_scaat.metrics.functional.statistics import (
    clustered_auc,
    clustered_mean,
)
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.system.names import spelled_as
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import encode
from pathology_scaat.training.bundle import ModelBundle

EXPLANATION = "contribution x position"
NO_MAPS = "there are no maps of this model: 'scaat explain' makes them"
BETTER_OR_WORSE: Mapping[str, str] = {
    "good": "better, interval included",
    "poor": "worse, interval included",
}
"""What is said of a difference between the map's order and another one."""
TAKE_TILES = ": to see what the model uses, patch by patch, take the tiles and not the map's shades"
Progress = Callable[[str, int, int], None]


def slide_features(
    bundle: ModelBundle, store: Path, target: int, device: torch.device
) -> SlideFeatures | None:
    """All patches of a slide as the head sees them; None where there are fewer than two."""
    patches = PatchStore(store)
    if len(patches) < 2:
        return None
    assert isinstance(bundle.model, BagModel)  # noqa: S101  (for the type checker)
    batches = (torch.from_numpy(part).to(device) for part in patches.iter_batches(BATCH))
    return SlideFeatures(encode(bundle.model, batches), target, bundle.config.temperature)


def evidence_of_patches(
    bundle: ModelBundle, saliency: Path, patches: Path, target: str
) -> Floats | None:
    """Mean evidence in each patch as its map has it, (n,); None where this model has no map."""
    try:
        store = SaliencyStore(saliency)
        meta = store.meta
        mine = (bundle.fingerprint, PatchStore(patches).meta.fingerprint)
        if (meta.model_fingerprint, meta.patch_fingerprint) != mine or target not in meta.targets:
            return None
        chance = store.probability[:, meta.class_names.index(target)]
        found = []
        for start in range(0, len(store), BATCH):
            part = slice(start, min(start + BATCH, len(store)))
            values = patch_evidence(store.read_saliency(part, target), chance[part])
            found.append(values.mean(axis=(1, 2)))
    except StoreError:
        return None
    return np.concatenate(found) if found else None


def slide_seed(slide_id: str, seed: int) -> int:
    """Seed of a slide's random orders: two slides do not share theirs."""
    return zlib.crc32(f"{seed} {slide_id}".encode())


def slide_card(
    out_dir: Path,
    bundle: ModelBundle,
    config: ProtocolConfig,
    *,
    slide_ids: Sequence[str] | None,
    patients: Mapping[str, str] | None,
    labels: Mapping[str, str] | None,
    device: torch.device,
    progress: Progress | None = None,
) -> TrustCard:
    """Measure a bag model's maps on whole slides.

    Probability and maps are those of the class that the model speaks of, on the slides that it
    gives that class: where it finds nothing there is nothing to explain.

    Raises
    ------
    UsageError
        If there is no slide to measure on.
    """
    names, target = bundle.config.class_names, bundle.config.positive_class
    at = names.index(target)
    assert isinstance(bundle.model, BagModel)  # noqa: S101  (for the type checker)
    head = bundle.model.head
    choice = choose_slides(out_dir, bundle.config, slide_ids, patients)
    rows: dict[str, dict[str, float]] = {}
    scores: dict[str, float] = {}
    for number, slide_id in enumerate(choice.slide_ids):
        patches = out_dir / "patches" / f"{slide_id}.zarr"
        if not patches.is_dir():
            continue
        slide = slide_features(bundle, patches, at, device)
        if slide is None:
            continue
        with torch.no_grad():
            logits = head(slide.features) / slide.temperature
        scores[slide_id] = float(logits.softmax(dim=-1)[at])
        if int(logits.argmax()) == at:
            saliency = out_dir / "saliency" / f"{slide_id}.zarr"
            evidence = evidence_of_patches(bundle, saliency, patches, target)
            seed = slide_seed(slide_id, config.seed)
            rows[slide_id] = measure_slide(head, slide, seed, evidence=evidence)
        if progress is not None:
            progress("slides", number + 1, len(choice.slide_ids))
    if not scores:
        raise UsageError(out_dir.name, "has no tiled slide to evaluate on", "tile slides first")
    groups, unit = patient_groups(list(scores), patients)
    return TrustCard(
        model_fingerprint=bundle.fingerprint,
        training_method=bundle.config.method,
        explanation_method=EXPLANATION,
        target_class=target,
        data=f"{choice.words}; maps on the {len(rows)} that the model calls {target}",
        n_images=len(scores),
        n_groups=len(set(groups.values())),
        unit=unit,
        held_out=choice.held_out,
        held_out_words=choice.held_out_words,
        temperature=float(bundle.config.temperature),
        entries=tuple(
            _entries(rows, scores, groups, unit, target, names, _as_classes(labels or {}, names))
        ),
        settings=config.model_dump(mode="json"),
        images="slide",
        warning=model_warning(bundle.config.held_out),
        slide_notes=(*doubts_of_model(bundle.config), *doubts_of_slides(out_dir, choice.slide_ids)),
    )


def _entries(
    rows: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, float],
    groups: Mapping[str, str],
    unit: str,
    target: str,
    names: Sequence[str],
    labels: Mapping[str, str],
) -> list[TrustEntry]:
    clusters = [groups[s] for s in rows]

    def values(measure: str) -> Floats:
        return np.array([row.get(measure, np.nan) for row in rows.values()], np.float64)

    def entry(
        question: str,
        measure: str,
        found: Floats,
        chance: float | None,
        words: str = "",
        missing: str = "",
    ) -> TrustEntry:
        if not len(found) or np.isnan(found).all():
            why = f"{NOT_MEASURED}: {missing or 'no slide that this applies to'}"
            return TrustEntry(question, measure, None, None, "not measured", why)
        interval = clustered_mean(found, clusters)
        verdict = "described" if chance is None else judge(interval, chance)
        if " - " in measure and verdict in BETTER_OR_WORSE:
            words = BETTER_OR_WORSE[verdict]
            if verdict == "poor" and measure.endswith("contribution"):
                words += TAKE_TILES
        sentence = words or verdict_words(verdict, interval, unit)
        return TrustEntry(question, measure, interval, chance, verdict, sentence)

    entries = [_auc(scores, groups, unit, target, names, labels)]
    # A patch's place in the map is its mean evidence: what it contributes, times where in it.
    main = values("flipping/evidence")
    no_maps = bool(rows) and bool(np.isnan(main).all())
    entries.append(
        entry("Do the maps name the patches the model uses? (patch flipping, gain)",
              "flipping/evidence", main, 0.0, missing=NO_MAPS if no_maps else "")
    )  # fmt: skip
    for name, (_, how) in RIVALS.items():
        reference = values(f"flipping/{name}")
        entries.append(
            entry(f"... {how}", f"flipping/{name}", reference, None, "a yardstick for the map")
        )
        entries.append(
            entry(f"Is the map's order better than that {how}?",
                  f"flipping/evidence - {name}", main - reference, 0.0,
                  missing=NO_MAPS if no_maps else "")
        )  # fmt: skip
    entries.append(
        entry("... in random order", "flipping/random", values("flipping/random"), None,
              "a control: 0 but for chance")
    )  # fmt: skip
    for measure, question in (
        ("necessity", f"Does the probability of {target} fall without the marked patches?"),
        ("sufficiency", f"Do the marked patches alone give the probability of {target}?"),
    ):
        chance = values(f"{measure}/random")
        known = chance[~np.isnan(chance)]
        level = float(known.mean()) if len(known) else None
        entries.append(entry(f"{question} (chance: as many random patches)", measure,
                             values(measure), level))  # fmt: skip
    entries.append(
        entry("How much of a slide is marked?", "marked_share", values("marked_share"), None)
    )
    entries.append(
        TrustEntry(
            "Is annotated tumour found within the slide?", "pixel_ap", None, None, "not measured",
            f"{NOT_MEASURED}: a model for bags is judged by its slides here",
        )
    )  # fmt: skip
    return entries


def _as_classes(labels: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Labels in the spelling of the model's classes; what is none of them stays as it is."""
    return {slide_id: spelled_as(label, names) for slide_id, label in labels.items() if label}


def _auc(
    scores: Mapping[str, float],
    groups: Mapping[str, str],
    unit: str,
    target: str,
    names: Sequence[str],
    labels: Mapping[str, str],
) -> TrustEntry:
    question = "How well does the model tell slides apart? (AUC)"
    known = [s for s in scores if labels.get(s) in names]
    strange = sum(labels.get(s, "") not in ("", *names) for s in scores)
    left_out = f"{strange} of the labels name no class of the model" if strange else ""
    truth = np.array([labels[s] == target for s in known], bool)
    if not known or truth.all() or not truth.any():
        why = "the slides are all of one class" if known else "no labels of slides were given"
        if left_out:
            why = f"{left_out}; the other slides are all of one class" if known else left_out
        return TrustEntry(question, "auc", None, None, "not measured", f"{NOT_MEASURED}: {why}")
    found = clustered_auc([scores[s] for s in known], truth, [groups[s] for s in known])
    verdict, words = judged_auc(found, truth, [groups[s] for s in known], unit, "slide")
    words += f"; without these slides: {left_out}" if left_out else ""
    return TrustEntry(question, "auc", found, 0.5, verdict, words)
