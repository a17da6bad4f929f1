"""What a map says about its model: how good it is, what the slide served for, the model's scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pathology_scaat.metrics.functional.calibration import ended_at
from pathology_scaat.saliency.cautions import map_caution
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.training.bags.patch_meaning import least_said
from pathology_scaat.training.bundle_config import (
    NO_YEARS,
    DataYears,
    MapReference,
    ReferenceSettings,
)
from pathology_scaat.training.bundle_quality import (
    COPIED_LABELS,
    NOTHING_LEARNT,
    QUALITY_NOT_KNOWN,
    HeldOut,
    nothing_learnt_warning,
)
from pathology_scaat.training.imported.record import ImportRecord

__all__ = ["NOTHING_LEARNT", "NO_YEARS", "ROLE_WORDS", "ModelFacts"]

ROLE_WORDS = {
    "train": "training slide: the model has seen it, its map says nothing about new slides",
    "val": "validation slide: the model was not trained on it, but chosen by it",
    "test": "held out (test slide)",
    "held out": "held out: it took no part in training",
    "unknown": "not known whether the model was trained on it",
}
"""What a slide served for, by the model's own record."""


@dataclass(frozen=True)
class ModelFacts:
    """A model's record as the exports state it.

    Attributes
    ----------
    fingerprint : str
    held_out : HeldOut or None
        Quality on held-out tissue; None where the bundle did not record it.
    role : str
        What this slide served for (keys of :data:`ROLE_WORDS`).
    n_slides : dict
        Slides by what they served for.
    saliency, evidence : dict
        Values on held-out patches by class; empty where the bundle has none.
    settings : ReferenceSettings or None
        How the reference maps were made.
    temperature : float or None
        Logits were divided by it; 1 where nothing was fitted, None where it is not recorded.
    imported : ImportRecord or None
        Where a model came from that was trained elsewhere.
    data_years : DataYears or None
        How old model and data are; None where the bundle does not record it.
    of_slides : bool
        Whether the model learnt from labels of slides: a patch's probability then says what the
        slide would be given if all its patches contributed as this one does.
    began : str
        What the network was before its training, where that was not random.
    backbone : str
        Name of the network; empty where it is not recorded.
    """

    fingerprint: str
    held_out: HeldOut | None
    role: str
    n_slides: dict[str, int]
    saliency: dict[str, MapReference]
    evidence: dict[str, MapReference]
    settings: ReferenceSettings | None
    temperature: float | None = None
    imported: ImportRecord | None = None
    data_years: DataYears | None = None
    of_slides: bool = False
    began: str = ""
    backbone: str = ""

    @classmethod
    def of(cls, meta: SlideMapMeta) -> ModelFacts:
        """From a map; what it does not hold, or holds damaged, is not known."""
        return cls.of_json(meta.model, meta.model_fingerprint)

    @classmethod
    def of_json(cls, value: dict[str, Any], fingerprint: str) -> ModelFacts:
        """From what the bundle's configuration wrote of itself."""
        try:
            held = value.get("held_out")
            settings = value.get("reference_settings")
            role = str(value.get("slide_role", "unknown"))
            warm, imported = value.get("temperature"), value.get("imported")
            years = value.get("data_years")
            return cls(
                fingerprint,
                HeldOut.model_validate(held) if held else None,
                role if role in ROLE_WORDS else "unknown",
                {str(k): int(v) for k, v in (value.get("n_slides") or {}).items()},
                _references(value.get("saliency_reference")),
                _references(value.get("evidence_reference")),
                ReferenceSettings.model_validate(settings) if settings else None,
                None if warm is None else float(warm),
                ImportRecord.model_validate(imported) if imported else None,
                DataYears.model_validate(years) if years else None,
                value.get("of_slides") is True,
                str(value.get("began", "")),
                str(value.get("backbone", "")),
            )
        except (ValidationError, TypeError, ValueError, AttributeError):
            return cls(fingerprint, None, "unknown", {}, {}, {}, None)

    def map_caution(self, method: str) -> str:
        """Why a map by a method may lie beside the tumour; empty where nothing is known of that."""
        return map_caution(self.began, method, self.backbone, self.of_slides)

    def least_said(self, n_classes: int) -> float:
        """Probability of a class below which a patch contributes little to it; 0 of patch models.

        See :func:`~pathology_scaat.training.bags.patch_meaning.least_said`.
        """
        return least_said(n_classes) if self.of_slides else 0.0

    @property
    def nothing_learnt(self) -> str:
        """Why the model counts as having learnt nothing; empty where it has, or is not known."""
        return self.held_out.nothing_learnt if self.held_out is not None else ""

    @property
    def has_learnt(self) -> bool:
        """Whether evidence may be drawn: not where the model is known to have learnt nothing."""
        return not self.nothing_learnt

    @property
    def warning(self) -> str:
        """What must be read before any colour, as a sentence; empty where all is well.

        A model whose quality nobody recorded colours slides as firmly as a good one.
        """
        if self.nothing_learnt:
            return nothing_learnt_warning(self.nothing_learnt)
        if self.held_out is None:
            return (
                f"{QUALITY_NOT_KNOWN}: it has no record of what it does on tissue that it was not "
                "trained on. Its maps may mean nothing."
            )
        if self.held_out.judged == COPIED_LABELS:
            return (
                f"{QUALITY_NOT_KNOWN} PATCH BY PATCH: it learnt from labels copied from slides, "
                "and was judged by them."
            )
        return ""

    @property
    def quality(self) -> str:
        """The model's quality in one sentence."""
        if self.held_out is None:
            return "quality not known: the model does not record it; run 'scaat evaluate'"
        return self.held_out.text()

    @property
    def calibration(self) -> str:
        """What a probability is, in an adjective: ``calibrated`` only where that is known."""
        if self.temperature is None:
            return "perhaps not calibrated"
        if self.held_out is not None and self.held_out.judged == COPIED_LABELS:
            return "not calibrated: there were only labels copied from slides to go by"
        if (bound := ended_at(self.temperature)) is not None:
            return f"not calibrated: the temperature ended at {bound}"
        return "calibrated" if self.temperature != 1.0 else "not calibrated"

    @property
    def scale_source(self) -> str:
        """Which patches the model's scale of colours was measured on, in words."""
        source = self.settings.source if self.settings is not None else "held-out patches"
        if source == "reference patches":
            return "the reference patches given when the model was imported"
        return f"the model's {source}"

    @property
    def slides(self) -> str:
        """How many slides the model was made with, in words."""
        counts = self.n_slides
        if self.imported is not None:
            return "imported: trained elsewhere, on slides that are not known"
        if not counts:
            return "its training slides are not recorded"
        train, val, test = (counts.get(word, 0) for word in ("train", "val", "test"))
        # Of training slides parts are held out where patches are learnt, and not where slides are.
        parts = "none" if self.of_slides or self.held_out is None else "parts of them"
        return (
            f"trained on {train} slide{'' if train == 1 else 's'}, validated on "
            f"{val or parts}, tested on {test or 'none'}"
        )

    @property
    def age(self) -> str:
        """How old its data are, in words."""
        if self.data_years is not None:
            return self.data_years.text()
        return NO_YEARS if self.imported is None else "not known: trained elsewhere"

    def as_record(self) -> dict[str, Any]:
        """For the record beside the exports."""
        return {
            "fingerprint": self.fingerprint,
            "quality": self.quality,
            "probability": self.calibration,
            "slides": self.slides,
            "age_of_data": self.age,
            "slide_role": self.role,
            "nothing_learnt": self.nothing_learnt,
            "read_first": self.warning,
            "imported": self.imported is not None,
            "of_slides": self.of_slides,
        }


def _references(value: Any) -> dict[str, MapReference]:
    return {str(k): MapReference.model_validate(v) for k, v in (value or {}).items()}
