"""What a model bundle says about its model: how it was made, how good it is, on what."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.metrics.functional.calibration import ended_at
from pathology_scaat.slides.fingerprint import key_of
from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bundle_quality import COPIED_LABELS, LEARNT_FROM_PAINTED, HeldOut
from pathology_scaat.training.encoders import encoder_of
from pathology_scaat.training.imported.record import ImportRecord

SCHEMA_NAME = "pathology_scaat.model"


SCHEMA_VERSION = 1


SplitName = Literal["train", "val", "test"]
KEY_HEX = 32

MAX_PATCH_PX = 8192
MAX_CLASSES = 10_000
MAX_NAME_CHARACTERS = 200

_Finite = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


def class_names_problem(names: Sequence[str]) -> str | None:
    """What makes names unusable as the classes of a model, in words; None where nothing does.

    Two names that differ in case, or in how an accent is spelled, are one class to whoever reads
    them.
    """
    if len(names) > MAX_CLASSES:
        return f"has more than {MAX_CLASSES} classes"
    seen: set[str] = set()
    for name in names:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)[:60]
        if not name.strip():
            return "has a class without a name"
        if not name.isprintable() or name != name.strip():
            return f"has a class with control characters or outer spaces in its name ('{shown}')"
        if len(name) > MAX_NAME_CHARACTERS:
            return f"has a class with a name of {len(name)} characters ('{shown}…')"
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            return f"has two classes of one name ('{shown}')"
        seen.add(key)
    return None


class MapReference(BaseModel):
    """Values that one class's map takes on held-out patches: what colours are measured by.

    Quantiles over the pixels of all patches; ``others_p99`` over those of patches of other
    classes (None where there was none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50: float = Field(ge=0)
    p90: float = Field(ge=0)
    p99: float = Field(ge=0)
    p995: float = Field(ge=0)
    others_p99: float | None = Field(None, ge=0)


class ReferenceSettings(BaseModel):
    """How the reference maps were made: maps made otherwise are not comparable with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "gradient"
    output: str = "margin"
    stride_px: int = Field(gt=0)
    n_patches: int = Field(ge=0)
    source: Literal["held-out patches", "training patches", "reference patches"] = Field(
        "held-out patches",
        description="reference patches: given when a model was imported; they may be anything",
    )


_Year = Annotated[int, Field(ge=1990, le=9999)]


class DataYears(BaseModel):
    """How old a model and its data are, in years: a day or month of a scan may identify."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained: _Year = Field(description="year of the training")
    first: _Year | None = Field(None, description="year of the oldest scan that states one")
    last: _Year | None = Field(None, description="year of the newest scan that states one")
    n_dated: int = Field(ge=0, description="slides whose file states a year")
    n_slides: int = Field(ge=0, description="slides that it learnt from or was chosen by")

    def text(self) -> str:
        """``scans of 2015 to 2019 (12 of 16 slides state a year), trained in 2026``."""
        if self.first is None or self.last is None:
            scans = f"none of its {self.n_slides} slides states the year of its scan"
        else:
            years = f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
            scans = f"scans of {years} ({self.n_dated} of {self.n_slides} slides state a year)"
        return f"{scans}, trained in {self.trained}"


GIVEN_WEIGHTS = "Given weights:"
"""How the note begins that says of a bundle that its training began with the weights of a file."""

NO_YEARS = "not recorded (training with data_years records years)"
"""What is said of the age of a model's data where its bundle does not say."""


class Ancestor(BaseModel):
    """A bundle that a model was fine-tuned from: its weights have seen those slides too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str = Field(description="of the bundle")
    method: str = Field(description="what it was trained with")
    training_fingerprint: str = Field("", description="key of its slides' hashes")
    slides: dict[SplitName, tuple[str, ...]] | None = Field(
        None, description="as the bundle had them; none where it did not know them"
    )


class BundleConfig(BaseModel):
    """What a bundle says about its model."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_name: str = Field(SCHEMA_NAME, description="always pathology_scaat.model")
    schema_version: int = Field(SCHEMA_VERSION, description="version of this file's form")
    class_names: tuple[str, ...] = Field(min_length=1, description="in the order of the logits")
    positive_class: str = Field(description="class the saliency speaks of by default")
    multi_label: bool = Field(False, description="sigmoid for each class instead of softmax")
    patch_size_px: int = Field(gt=0, le=MAX_PATCH_PX, description="side of a patch, px")
    mpp: float = Field(gt=0, le=1000, allow_inf_nan=False, description="µm per patch px")
    backbone: str = Field(description="network name")
    backbone_options: dict[str, Any] = Field(default_factory=dict)
    mean: tuple[_Finite, _Finite, _Finite] = Field(
        description="subtracted inside the model, [0, 1]"
    )
    std: tuple[_Positive, _Positive, _Positive] = Field(
        description="divided by inside the model, [0, 1]"
    )
    method: str = Field("plain", description="training method")
    method_options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict, description="training settings, seed")
    dataset_fingerprint: str = Field("", description="of patches, labels and splits")
    training_fingerprint: str = Field("", description="of data, settings and seed")
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = Field((), description="what was to be said about the training")
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="logits are divided by it wherever a probability is made: calibration",
    )
    weights_sha256: str = Field("", description="of model.safetensors")
    versions: dict[str, str] = Field(default_factory=dict)
    # -- since these fields exist; bundles of before have none of them
    held_out: HeldOut | None = None
    saliency_reference: dict[str, MapReference] | None = Field(
        None, description="of each class: probability x saliency"
    )
    evidence_reference: dict[str, MapReference] | None = Field(
        None, description="of each class: the evidence map"
    )
    reference_settings: ReferenceSettings | None = None
    class_colours: dict[str, tuple[int, int, int]] | None = Field(
        None, description="of each class in QuPath; no two look alike"
    )
    slides: dict[SplitName, tuple[str, ...]] | None = Field(
        None, description="keyed hashes of the slides' fingerprints, by what they served for"
    )
    training_counts: dict[str, int] | None = Field(
        None, description="training patches of each class; of a model for bags, slides"
    )
    data_years: DataYears | None = Field(
        None, description="how old model and data are; only where it was asked for"
    )
    feature_reference_sha256: str | None = Field(
        None, description="of features.safetensors: what training patches look like to the model"
    )
    neighbours_sha256: str | None = Field(
        None, description="of neighbours.safetensors: features of training patches, no pixels"
    )
    bag: BagHeadConfig | None = Field(
        None, description="additive head of a model for bags; none for a model for patches"
    )
    bag_of: Literal["patient"] | None = Field(
        None, description="what one bag is, where it is not one slide"
    )
    imported: ImportRecord | None = Field(
        None, description="where a model came from that was trained elsewhere"
    )
    ancestors: tuple[Ancestor, ...] | None = Field(
        None, description="bundles that it was fine-tuned from, the first one first"
    )

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature was fitted, so that probabilities are calibrated.

        A fitted temperature is hardly ever 1 to the last digit; where there was nothing to fit it
        on (no validation patches of two classes, several labels, an imported model) it is 1.
        Labels copied from slides calibrate nothing: they are wrong for many patches. Neither does a
        temperature that ended at a bound of what is tried.
        """
        copied = self.held_out is not None and self.held_out.judged == COPIED_LABELS
        return self.temperature != 1.0 and ended_at(self.temperature) is None and not copied

    @property
    def trained_by(self) -> str:
        """The training method, in words."""
        return self.method if self.imported is None else "unknown: imported, trained elsewhere"

    @property
    def began(self) -> str:
        """What the network was before this training, in words; empty where it was random.

        As far as it is recorded: notes tell of weights that were given since there are bundles.
        """
        if self.imported is not None:
            return "imported: what its training began with is not known"
        given = any(note.startswith(GIVEN_WEIGHTS) for note in self.notes)
        return "its training began with the weights of another one" if given else ""

    @property
    def terms(self) -> str:
        """Under which terms the weights are, where that is known; else empty."""
        if self.imported is not None and self.imported.licence:
            return f"The imported weights are under: {self.imported.licence}"
        encoder = encoder_of(self.backbone)
        return encoder.terms if encoder is not None else ""

    @property
    def nothing_learnt(self) -> str:
        """Why the model counts as having learnt nothing; empty where it has, or is not known."""
        return self.held_out.nothing_learnt if self.held_out is not None else ""

    @property
    def of_painted(self) -> bool:
        """Whether it learnt from slides that ``scaat demo`` painted, as far as it records it."""
        known = self.held_out is not None and self.held_out.painted
        return known or LEARNT_FROM_PAINTED in self.notes

    def role_of(self, slide_fingerprint: str) -> SplitName | Literal["held out", "unknown"]:
        """What a slide served for in training: the bundle knows, whatever a table says.

        Of a fine-tuned model, what it served for in any of its trainings: ``train`` before
        ``val``, and both before ``test``. ``unknown`` where that would have to be known of a
        training that did not record its slides (an older version's, or another program's), or
        that recorded them under other pseudonyms than the slide's: such hashes tell nothing.
        """
        roles = {
            _role(own, slide_fingerprint, key)
            for own, key in (
                (self.slides, self.training_fingerprint),
                *((a.slides, a.training_fingerprint) for a in self.ancestors or ()),
            )
        }
        order: tuple[SplitName | Literal["unknown"], ...] = ("train", "val", "unknown", "test")
        return next((role for role in order if role in roles), "held out")

    @property
    def knows_its_slides(self) -> bool:
        """Whether all slides that the weights have seen are recorded."""
        return self.slides is not None and all(a.slides is not None for a in self.ancestors or ())

    def facts(self, slide_fingerprint: str) -> dict[str, Any]:
        """What maps and pictures of a slide carry of their model, as JSON."""
        names = {"backbone", "method", "mpp", "patch_size_px", "temperature", "held_out",
                 "saliency_reference", "evidence_reference", "reference_settings",
                 "training_counts", "imported"}  # fmt: skip
        if self.data_years is not None:
            names.add("data_years")
        # a patch's probability means another thing under a model of whole slides
        more: dict[str, Any] = {"of_slides": True} if self.bag is not None else {}
        if self.began:
            more["began"] = self.began
        return {
            **more,
            **self.model_dump(mode="json", include=names),
            "fingerprint": model_fingerprint(self),
            "slide_role": self.role_of(slide_fingerprint),
            "n_slides": {k: len(v) for k, v in (self.slides or {}).items()},
        }


ADDED_LATER = frozenset(
    {
        "held_out", "saliency_reference", "evidence_reference", "reference_settings", "slides",
        "training_counts", "data_years", "feature_reference_sha256", "neighbours_sha256", "bag",
        "bag_of", "imported", "ancestors",
    }
)  # fmt: skip
"""Fields that do not enter the fingerprint where they are absent, so that old ones still hold."""
HELD_OUT_ADDED_LATER: dict[str, object] = {"judged": None, "n_copied": 0, "painted": False}
"""The same of the record of quality: what does not enter where it has this value."""


def slide_key(slide_fingerprint: str, training_fingerprint: str) -> str:
    """Keyed hash of a slide in a bundle.

    The key is the training's own fingerprint: who has the slide and the bundle can tell whether
    the one was used for the other, and lists of two bundles cannot be joined.
    """
    key = training_fingerprint.encode()
    return hmac.new(key, slide_fingerprint.encode(), hashlib.sha256).hexdigest()[:KEY_HEX]


def slide_mark(slide_fingerprint: str, training_fingerprint: str) -> str:
    """A slide in a bundle's record: its keyed hash, and under which pseudonyms it was hashed."""
    key = key_of(slide_fingerprint)
    mark = slide_key(slide_fingerprint, training_fingerprint)
    return f"{key}-{mark}" if key else mark


def _role(
    slides: dict[SplitName, tuple[str, ...]] | None, slide_fingerprint: str, key: str
) -> SplitName | Literal["held out", "unknown"]:
    """What a slide served for in one training."""
    if slides is None:
        return "unknown"
    mark = slide_mark(slide_fingerprint, key)
    words: tuple[SplitName, ...] = ("train", "val", "test")
    role = next((word for word in words if mark in slides.get(word, ())), None)
    if role is not None:
        return role
    mine = key_of(slide_fingerprint)
    others = any(key_of(one) != mine for several in slides.values() for one in several)
    return "unknown" if others else "held out"


def model_name(config: BundleConfig) -> str:
    """A name that tells models apart: method, network, and a piece of the fingerprint."""
    made = config.method if config.imported is None else "imported"
    plain = re.sub(r"[^\w.-]+", "-", f"{made}-{config.backbone}").strip("-.")
    return f"{plain}-{model_fingerprint(config)[:8]}"


def model_fingerprint(config: BundleConfig) -> str:
    """Fingerprint of a bundle; library versions, measured metrics, colours and notes do not enter.

    Nor do fields that are not there: bundles of before them keep their fingerprint.
    """
    absent = {name for name in ADDED_LATER if getattr(config, name) is None}
    left_out = {"versions", "metrics", "class_colours", "notes", *absent}
    content = config.model_dump(mode="json", exclude=left_out)
    if config.held_out is not None:
        held_out = content["held_out"]
        for name, default in HELD_OUT_ADDED_LATER.items():
            if held_out[name] == default:
                del held_out[name]
    return fingerprint(content)
