"""What exports say of the model behind a map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from pathology_scaat.training.class_colours import Colour

LEAST_HEX = 16
"""Characters of a fingerprint that tell models apart."""


@dataclass(frozen=True)
class ModelWords:
    """Facts of one model, in words where exports show words; what is None is left out.

    Attributes
    ----------
    model_fingerprint : str
        Of the bundle; facts of another model than the map's are left out.
    name : str, optional
        Name that tells models apart.
    held_out : str, optional
        How it did on tissue that it was not trained on.
    unlike_training : str, optional
        How unlike the training tissue this slide is.
    warning : str, optional
        Why its maps should not be believed: that it has learnt nothing, for example.
    class_colours : tuple of (str, colour), optional
        Colours of the classes as the bundle keeps them.
    prediction : str, optional
        What the model says of the whole slide.
    otherwise : ModelWords, optional
        Facts of another model, which the map may be of instead.
    """

    model_fingerprint: str = ""
    name: str | None = None
    held_out: str | None = None
    unlike_training: str | None = None
    warning: str | None = None
    class_colours: tuple[tuple[str, Colour], ...] | None = None
    prediction: str | None = None
    otherwise: ModelWords | None = None

    def of_map(self, model_fingerprint: str) -> ModelWords:
        """These facts, or none where the map is another model's.

        A fingerprint of which only the beginning is known is enough.
        """
        mine = self.model_fingerprint
        known = len(mine) >= LEAST_HEX and model_fingerprint.startswith(mine)
        if known:
            return replace(self, otherwise=None)
        return self.otherwise.of_map(model_fingerprint) if self.otherwise else ModelWords()

    def colours(self) -> dict[str, Colour] | None:
        return None if self.class_colours is None else dict(self.class_colours)

    def as_json(self) -> dict[str, Any]:
        """What is known, as records and fingerprints hold it."""
        return {name: value for name, value in asdict(self).items() if value}

    def metadata(self) -> dict[str, str]:
        """What objects in QuPath carry."""
        facts = {
            "model name": self.name,
            "held out": self.held_out,
            "unlike training": self.unlike_training,
            "warning": self.warning,
            "slide prediction": self.prediction,
        }
        return {name: value for name, value in facts.items() if value}
