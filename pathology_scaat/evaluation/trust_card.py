"""A trust card: what is known about one model's maps on its own test slides, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_names import CARD_SUMS
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.evaluation.verdicts import Verdict, count, judge, judged_auc, verdict_words
from pathology_scaat.metrics.functional.calibration import temperature_problem
from pathology_scaat.metrics.functional.statistics import (
    MIN_PATIENTS,
    Interval,
    clustered_auc,
    clustered_mean,
    within,
)
from pathology_scaat.saliency.attributions import SIGNED
from pathology_scaat.system.markdown import cell, without_tags
from pathology_scaat.system.rounding import decimals

SCHEMA_NAME = "pathology_scaat.trust_card"
SCHEMA_VERSION = 2
NOT_MEASURED = "not measured"
BY_COPIED = "by labels copied from slides, which are wrong for many patches: neither good nor bad"
_CAUTION = {
    "slides": " Which slides are of one patient is not known: with several slides of a patient the "
    "intervals are too narrow."
}

_HIDDEN_BY = {
    "mean": "the mean colour stands in their place",
    "blur": "they are blurred",
    "noisy-linear": "they are filled in from their neighbours, with a little noise",
    "swap": "the same place of another image stands there, tissue for tissue",
}
_PLURAL = {"patch": ("patch", "patches"), "slide": ("slide", "slides")}


@dataclass(frozen=True)
class TrustEntry:
    """One question with its answer.

    ``interval`` is None where it was not measured; ``chance`` is what a map without knowledge
    would have; ``words`` say what it means or why it is missing.
    """

    question: str
    measure: str
    interval: Interval | None
    chance: float | None
    verdict: Verdict
    words: str


@dataclass(frozen=True)
class TrustCard:
    """What is known about one model's maps.

    ``n_groups`` counts patients, or slides where patients are not known: ``unit`` says which.
    ``images`` is what was measured on (patch or slide), ``n_images`` how many.
    ``held_out`` says whether the images were kept from training, as far as the bundle records it;
    None where it does not. ``terms`` are those of the weights, where they are known.
    ``label_note`` is what is to be said of the images' labels; ``copied_labels`` whether they are
    those of slides, copied onto every patch: what rests on them decides nothing.
    ``warning`` is what must be read before any figure: that the model has learnt nothing.
    ``slide_notes`` are sentences on slides whose annotations or µm/px are in doubt.
    """

    model_fingerprint: str
    training_method: str
    explanation_method: str
    target_class: str
    data: str
    n_images: int
    n_groups: int
    unit: str
    held_out: bool | None
    held_out_words: str
    temperature: float
    entries: tuple[TrustEntry, ...]
    settings: dict[str, Any]
    images: str = "patch"
    terms: str = ""
    label_note: str = ""
    copied_labels: bool = False
    warning: str = ""
    slide_notes: tuple[str, ...] = ()

    @property
    def measured_on(self) -> str:
        """How many patches or slides, in words."""
        return count(self.n_images, *_PLURAL[self.images])

    def entry(self, measure: str) -> TrustEntry | None:
        """The entry of a measure, or None."""
        return next((e for e in self.entries if e.measure == measure), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        plain = asdict(self)
        plain["entries"] = [
            {**asdict(e), "interval": e.interval.as_dict() if e.interval else None}
            for e in self.entries
        ]
        return {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **plain}


_SHARES = ("mosaic_ap", "pixel_ap", "gini")
_AT_LEAST_0 = ("sensitivity",)
_CORRELATIONS = ("weight_randomisation", "stability_spearman")
_CHANGES_OF_PROBABILITY = "/probability"


def _limits(measure: str) -> tuple[float, float]:
    """Between what values a measure can be: the interval of few patients would go beyond."""
    if measure.startswith(_SHARES):
        return 0.0, 1.0
    if measure.startswith(_CORRELATIONS) or measure.endswith(_CHANGES_OF_PROBABILITY):
        return -1.0, 1.0
    return (0.0, math.inf) if measure.startswith(_AT_LEAST_0) else (-math.inf, math.inf)


class _Builder:
    def __init__(self, result: Measurement, data: EvaluationSet, config: ProtocolConfig) -> None:
        self.result, self.data, self.config = result, data, config
        self.entries: list[TrustEntry] = []

    def interval(self, measure: str, *, positive_only: bool = False) -> Interval | None:
        values = self.result.values.get(measure)
        if values is None:
            return None
        if positive_only:
            values = np.where(self.data.is_positive, values, np.nan)
        groups = range(len(values)) if measure.startswith("mosaic") else self.data.groups
        found = within(clustered_mean(values, list(groups)), *_limits(measure))
        return found if found.n else None

    def missing(self, question: str, measure: str, why: str) -> None:
        self.entries.append(
            TrustEntry(question, measure, None, None, "not measured", f"{NOT_MEASURED}: {why}")
        )

    def add(
        self,
        question: str,
        measure: str,
        chance: float | None,
        why_missing: str,
        words: str = "",
        *,
        positive_only: bool = False,
    ) -> None:
        found = self.interval(measure, positive_only=positive_only)
        measure += ", positive class" if positive_only else ""
        if found is None:
            self.missing(question, measure, why_missing)
            return
        by_labels = positive_only or measure.startswith("mosaic")
        verdict: Verdict = "described" if chance is None else judge(found, chance)
        if self.data.copied and by_labels:
            verdict, words = "described", BY_COPIED
        unit = self.data.unit
        if measure.startswith("mosaic") and verdict != "described":
            # Many mosaics are made of the patches of few patients: that makes no finding.
            found_of = replace(found, n_clusters=len(np.unique(self.data.groups)))
            if found_of.n_clusters < MIN_PATIENTS:
                verdict, words = "unclear", verdict_words("unclear", found_of, unit)
        sentence = words or verdict_words(verdict, found, unit)
        self.entries.append(TrustEntry(question, measure, found, chance, verdict, sentence))

    def hold_against(self, measure: str, yardsticks: Mapping[str, str]) -> None:
        """Add to the words on the last measure which yardsticks it is not shown to beat."""
        last = self.entries[-1]
        if last.verdict != "good":
            return
        own = self.result.values[measure]
        beaten_by = []
        for name, what in yardsticks.items():
            other = self.result.values.get(name)
            if other is None or np.isnan(other).all():
                continue
            gain = clustered_mean(own - other, list(self.data.groups))
            if not gain.low > 0:
                beaten_by.append(what)
        if beaten_by:
            words = f"{last.words}; not shown to be better than {', nor than '.join(beaten_by)}"
            self.entries[-1] = replace(last, words=words)


YARDSTICKS = (
    ("pixel_ap_haematoxylin", "... by the density of haematoxylin, without any model?",
     "the density of haematoxylin"),
    ("pixel_ap_centre", "... by pointing to the middle?", "pointing to the middle"),
    ("pixel_ap_random_weights", "... by the same network with random weights?",
     "the same network with random weights"),
)  # fmt: skip
"""What finds annotated regions without having learnt: measure, question, and what it is called."""


def build_entries(
    result: Measurement, data: EvaluationSet, config: ProtocolConfig, n_referees: int
) -> tuple[TrustEntry, ...]:
    """The card's questions, each answered or marked as not measured."""
    build = _Builder(result, data, config)
    _prediction(build)
    one_class = "the images are all of one class"
    for occluder in ("mean", "blur", "noisy-linear", "swap"):
        build.add(
            f"Do the maps name the pixels the model uses? (hidden by {occluder})",
            f"srg/{occluder}/probability", 0.0, "this occluder was not asked for",
        )  # fmt: skip
        # Where the class is absent nothing can be taken away: those images tell which class an
        # emptied picture falls to, and say little of the maps that a reader looks at.
        build.add(
            f"... on patches of the positive class alone? (hidden by {occluder})",
            f"srg/{occluder}/probability", 0.0, "no such patch, or not asked for",
            positive_only=True,
        )  # fmt: skip
    build.add(
        "Would independent models agree with the ranking?", "referee_srg/blur", 0.0,
        "no referee models were given" if not n_referees else "no images",
    )  # fmt: skip
    no_sign = (
        "the size of an attribution does not distinguish evidence for the class from evidence "
        "against it; "
        if config.method in SIGNED
        else ""
    )
    build.add(
        "In mosaics of both classes, is the target's tissue found? (interval over mosaics)",
        "mosaic_ap", 0.5, one_class,
        f"{no_sign}mosaics share patients, so that the interval is too narrow",
    )  # fmt: skip
    chance = result.mean("pixel_ap_chance")
    no_masks = "there are no annotated regions on these slides that leave other tissue in a patch"
    build.add(
        "Is the annotated region found within a patch?", "pixel_ap",
        None if math.isnan(chance) else chance, no_masks,
    )  # fmt: skip
    build.hold_against("pixel_ap", {name: what for name, _, what in YARDSTICKS})
    for name, question, _ in YARDSTICKS:
        build.add(question, name, None, no_masks, "a yardstick: the model's map should beat it")
    build.add("Do the maps depend on what was learned?", "weight_randomisation", None,
              "no images", "rank correlation with maps of shuffled weights: 0 is right",
              )  # fmt: skip
    build.add("Does a map stay when the image hardly changes?", "stability_spearman", None,
              "no images", "rank correlation under noise of 2/255: near 1 is steady")  # fmt: skip
    build.add("How much does a map change relative to its size?", "sensitivity", None, "no images",
              "largest relative change under noise: lower is steadier")  # fmt: skip
    build.add("How concentrated are the maps?", "gini", None, "no images")
    return tuple(build.entries)


def _prediction(build: _Builder) -> None:
    from pathology_scaat.evaluation.comparison import positive_scores

    data, question = build.data, "How well does the model tell the classes apart? (AUC)"
    auc = clustered_auc(
        positive_scores(build.result.logits, data.positive_class), data.is_positive, data.groups
    )
    if math.isnan(auc.value):
        build.missing(question, "auc", "the images are all of one class")
        return
    verdict, words = judged_auc(auc, data.is_positive, list(data.groups), data.unit, "patch")
    if data.copied:
        verdict, words = "described", BY_COPIED
    build.entries.append(TrustEntry(question, "auc", auc, 0.5, verdict, words))


def format_interval(interval: Interval | None) -> str:
    """``0.123 (0.100 to 0.150)``, or "not measured"."""
    if interval is None:
        return NOT_MEASURED
    if math.isnan(interval.low):
        return decimals(interval.value)
    low, high = decimals(interval.low), decimals(interval.high)
    return f"{decimals(interval.value)} ({low} to {high})"


def card_markdown(card: TrustCard) -> str:
    """The card as Markdown."""
    warning = {
        True: "",
        False: "\n> **These images were seen in training: every number here is too good.**\n",
        None: "\n> **These images may have been seen in training: then every number here is too "
        "good.**\n",
    }[card.held_out]
    lines = [
        "# Trust card",
        "",
        *((f"> **{card.warning}**", "") if card.warning else ()),
        f"Model `{card.model_fingerprint[:12]}`, trained by *{card.training_method}*, "
        f"explained by *{card.explanation_method}* for the class **{card.target_class}**.",
        f"Measured on {card.measured_on} of "
        f"{count(card.n_groups, card.unit.removesuffix('s'), card.unit)} ({card.data}). "
        f"Held out: {card.held_out_words}. Intervals are 95 %, over {card.unit}, for this one "
        f"trained model: another seed gives another.{_CAUTION.get(card.unit, '')}",
        warning,
        *_beside(card),
        "| question | result | chance | verdict | meaning |",
        "|---|---|---|---|---|",
    ]
    for e in card.entries:
        chance = "" if e.chance is None else decimals(e.chance)
        lines.append(
            f"| {cell(e.question)} | {format_interval(e.interval)} | {chance} | {e.verdict} "
            f"| {cell(e.words)} |"
        )
    lines += [
        "",
        *_hiding(card),
        "A map shows what moved this model's decision. It is no diagnosis, and it does not show "
        "that the decision is right.",
        "",
    ]
    return without_tags("\n".join(lines))


def _hiding(card: TrustCard) -> list[str]:
    """What the words of the questions on hidden pixels mean, where any was asked."""
    asked = {e.measure.split("/")[1] for e in card.entries if e.measure.startswith("srg/")}
    words = [f"*{name}*: {what}" for name, what in _HIDDEN_BY.items() if name in asked]
    if not words:
        return []
    return [
        "Hidden pixels: the model looks again at each image with the pixels hidden that the map "
        "calls the most important, and then the least. The result is how much lower its "
        "probability is by the first than by the second, on average: 0 where the map knows no "
        f"more than chance, below 0 where it is the wrong way round. {'; '.join(words)}.",
        "",
    ]


def _beside(card: TrustCard) -> list[str]:
    """Lines on calibration and licence, where there is something to be said."""
    said = [card.label_note, ""] if card.label_note else []
    for note in card.slide_notes:
        said += [f"> {note}", ""]
    if card.temperature == 1.0:
        said += ["Its probabilities are not calibrated: no temperature was fitted to them.", ""]
    elif problem := temperature_problem(card.temperature):
        said += [problem, ""]
    if card.terms:
        said += [f"{card.terms}.", ""]
    return said


def write_card(card: TrustCard, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``trust_card.json``, ``.md``, ``.png`` and their checksums; the paths of the three."""
    from pathology_scaat.evaluation.card_figure import draw_card
    from pathology_scaat.evaluation.comparison import without_nan

    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"trust_card.{suffix}" for suffix in ("json", "md", "png"))
    (folder / CARD_SUMS).unlink(missing_ok=True)
    write_json(paths[0], without_nan(card.as_dict()))
    with atomic_path(paths[1]) as partial:
        partial.write_text(card_markdown(card), encoding="utf-8")
    draw_card(card, paths[2])
    write_sums(folder, CARD_SUMS, [path.name for path in paths])
    return paths[0], paths[1], paths[2]
