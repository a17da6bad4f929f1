"""What is known of a slide beside its map: the model's score for it, and what readers said."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

WITH_FINDINGS: Final = frozenset(("dicom-sr",))
"""Export formats that hold them, and are made anew when they change."""


@dataclass(frozen=True)
class SlideScore:
    """The model's score for a whole slide.

    Attributes
    ----------
    model_fingerprints : tuple of str
        Of the models that may have made it (one per fold).
    probabilities : tuple of (str, float)
        Of each class, summing to one.
    threshold : float or None
        Probability of the positive class from which the slide is called positive.
    called : str
        The class that it is called.
    split : str
        The slide's part in the model's training; empty where it is not known.
    rule, calibration : str
        How it came about, in words.
    """

    model_fingerprints: tuple[str, ...]
    probabilities: tuple[tuple[str, float], ...]
    threshold: float | None
    called: str
    split: str
    rule: str
    calibration: str


@dataclass(frozen=True)
class ReaderVerdict:
    """What one reader said of a region, or of the whole slide (``region_id`` is empty).

    Attributes
    ----------
    reader : int
        Readers are counted, not named.
    region_id : str
        Id of the region in the exported GeoJSON.
    target_class : str
    answer : {"yes", "no", "unsure"}
        Whether the class is there.
    blind : bool
        Given before the map was shown.
    """

    reader: int
    region_id: str
    target_class: str
    answer: str
    blind: bool


@dataclass(frozen=True)
class SlideFindings:
    """Score and verdicts of one slide; false where there is neither."""

    score: SlideScore | None = None
    verdicts: tuple[ReaderVerdict, ...] = ()

    def __bool__(self) -> bool:
        return self.score is not None or bool(self.verdicts)

    def of_map(self, model_fingerprint: str) -> SlideFindings:
        """The same without a score that another model than the map's has given."""
        if self.score is None or model_fingerprint in self.score.model_fingerprints:
            return self
        return replace(self, score=None)

    def as_json(self) -> dict[str, Any]:
        """As fingerprints hold it."""
        return asdict(self)
