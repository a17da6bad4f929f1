"""Configuration of a model bundle."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.artifacts.fingerprint import fingerprint

SCHEMA_NAME = "pathology_scaat.model"


SCHEMA_VERSION = 1


SplitWord = Literal["train", "val", "test"]
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
        description="divide logits by it for calibrated probabilities; not applied",
    )
    weights_sha256: str = Field("", description="of model.safetensors")
    versions: dict[str, str] = Field(default_factory=dict)
    class_colours: dict[str, tuple[int, int, int]] | None = Field(
        None, description="of each class in QuPath; no two look alike"
    )
    # -- since these fields exist; bundles of before have none of them
    slides: dict[SplitWord, tuple[str, ...]] | None = Field(
        None, description="keyed hashes of the slides' fingerprints, by what they served for"
    )

    def role_of(self, slide_fingerprint: str) -> SplitWord | Literal["held out", "unknown"]:
        """What a slide served for in training: the bundle knows, whatever a table says.

        ``unknown`` where the bundle is of a version that did not record its slides.
        """
        if self.slides is None:
            return "unknown"
        key = slide_key(slide_fingerprint, self.training_fingerprint)
        for word in ("train", "val", "test"):
            if key in self.slides.get(word, ()):
                return word
        return "held out"


ADDED_LATER = frozenset({"slides"})
"""Fields that do not enter the fingerprint where they are absent, so that old ones still hold."""


def slide_key(slide_fingerprint: str, training_fingerprint: str) -> str:
    """Keyed hash of a slide in a bundle.

    The key is the training's own fingerprint: who has the slide and the bundle can tell whether
    the one was used for the other, and lists of two bundles cannot be joined.
    """
    key = training_fingerprint.encode()
    return hmac.new(key, slide_fingerprint.encode(), hashlib.sha256).hexdigest()[:KEY_HEX]


def model_name(config: BundleConfig) -> str:
    """A name that tells models apart: method, network, and a piece of the fingerprint."""
    plain = re.sub(r"[^\w.-]+", "-", f"{config.method}-{config.backbone}").strip("-.")
    return f"{plain}-{model_fingerprint(config)[:8]}"


def model_fingerprint(config: BundleConfig) -> str:
    """Fingerprint of a bundle; library versions, measured metrics, colours and notes do not enter.

    Nor do fields that are not there: bundles of before them keep their fingerprint.
    """
    absent = {name for name in ADDED_LATER if getattr(config, name) is None}
    left_out = {"versions", "metrics", "class_colours", "notes", *absent}
    return fingerprint(config.model_dump(mode="json", exclude=left_out))
