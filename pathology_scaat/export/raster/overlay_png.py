"""Maps over the slide as pictures: what is drawn, what it means, how good the model is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.model_facts import ROLE_WORDS, ModelFacts
from pathology_scaat.export.raster.canvas import (
    GREY,
    WARNING,
    Canvas,
    fitting,
    fitting_name,
    font,
    warning_height,
    warning_strip,
    wrapped,
)
from pathology_scaat.export.raster.colour_scale import (
    ColourScale,
    colourize,
    evidence_scale,
    over,
    probability_scale,
    saliency_scale,
)
from pathology_scaat.export.raster.examined import Examined, enlarged, examine, hatched, paled
from pathology_scaat.saliency.cautions import meaning_of
from pathology_scaat.saliency.schema import UNLIKE_SLIDE_SHARE
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.spacing import distortion_warning, given_by
from pathology_scaat.stitching.schema import (
    EVIDENCE_PREFIX,
    PROBABILITY_PREFIX,
    saliency_channel,
)
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.system.rounding import percent

Kind = Literal["probability", "evidence", "saliency"]

DETAILED_PX = 1536
"""Small maps are drawn larger, by a whole number, as far as this: the slide shows its detail."""
NEARLY_ALL = 0.995
"""Share of a slide's tissue that counts as all of it."""
MARGIN_PX = 20
BAR_ROOM_PX = 130
LEAST_PX = (620, 320)
"""Room for a picture at least, so that the words beside it can be read."""


def zoom_of(slide_map: SlideMap, level: int) -> int:
    """Picture pixels along a map pixel: a whole number, so that both lie exactly."""
    size = slide_map.size_px(level)
    room = DETAILED_PX // max(size.width, size.height)
    return max(1, min(room, int(slide_map.level_scale_px(level))))


def all_of(share: float) -> str:
    """A share that counts as all, in a word."""
    return "all" if share >= 1 else "nearly all"


def little_evidence(class_name: str, area_um2: float) -> str:
    """Of a slide none of whose evidence is drawn: that there is none, or how little, in words."""
    if area_um2 == 0:
        return f"no evidence for {class_name}"
    return f"too little evidence for {class_name} to be drawn ({area_um2 / 1e6:.2g} mm² in all)"


@dataclass(frozen=True)
class MapPicture:
    """One map drawn over the slide.

    ``drawn_um2`` is the area that has colour; ``is_bare`` where so little of it would have any
    that none is drawn (it is the area that would have, then); ``of_no_use`` where none is drawn
    since the model has learnt nothing.
    ``withheld_um2`` is the area that has none only because it is unlike the training data;
    ``not_judged`` is the share of the tissue that is, where that is too much to call the rest
    a finding. ``nothing_seen`` where no patch of the slide was looked at.
    """

    image: RgbImage
    kind: Kind
    class_name: str
    scale: ColourScale
    drawn_um2: float
    is_bare: bool
    of_no_use: bool = False
    withheld_um2: float = 0.0
    not_judged: float = 0.0
    nothing_seen: bool = False

    @property
    def title(self) -> str:
        """What is to be seen, in words."""
        if self.nothing_seen:
            return f"{self.kind}, {self.class_name}: not judged, no patch of this slide was cut"
        if self.of_no_use:
            return f"{self.kind} for {self.class_name} is not drawn: the model has learnt nothing"
        if self.not_judged > NEARLY_ALL:
            much = all_of(self.not_judged)
            return f"{self.kind}, {self.class_name}: not judged, {much} unlike the training data"
        if self.is_bare and self.kind == "evidence":
            none = little_evidence(self.class_name, self.drawn_um2)
            return f"{none} where it was judged; {self._unjudged}" if self.not_judged else none
        of = "of" if self.kind == "probability" else "for"
        said = f"{self.kind} {of} {self.class_name}"
        return f"{said}; {self._unjudged}" if self.not_judged else said

    @property
    def _unjudged(self) -> str:
        return f"not judged: {percent(self.not_judged)}, unlike the training data"


class MapPictures:
    """The pictures of one slide's map, each made when first asked for.

    Parameters
    ----------
    slide_map : SlideMap
    level : int
        Level of the map that is drawn.
    read_base : callable
        Gives the slide under it, (h, w, 3) uint8, a whole number of times as large as the level.
    with_slide : bool
        Whether that shows the slide, or is grey since the slide is not at hand.
    facts : ModelFacts
    config : ExportConfig
    """

    def __init__(
        self, slide_map: SlideMap, level: int, read_base: Callable[[], RgbImage],
        with_slide: bool, facts: ModelFacts, config: ExportConfig,
    ) -> None:  # fmt: skip
        self.slide_map, self.level, self._read_base = slide_map, level, read_base
        self.with_slide, self.facts, self.config = with_slide, facts, config
        self.pixel_um = slide_map.mpp * 2**level / zoom_of(slide_map, level)
        self._made: dict[tuple[Kind, str], MapPicture] = {}

    @cached_property
    def base(self) -> RgbImage:
        """The slide under the map."""
        return self._read_base()

    @cached_property
    def examined(self) -> Examined:
        shown = self.base if self.with_slide else None
        return examine(
            self.slide_map,
            self.level,
            shown,
            self.pixel_um,
            (self.base.shape[0], self.base.shape[1]),
        )

    @cached_property
    def plain(self) -> RgbImage:
        """The slide, paled where nothing was looked at."""
        return paled(self.base, self.examined.looked_at)

    @property
    def least_said(self) -> float:
        """Probability below which a patch contributes little; 0 of models of patches."""
        return self.facts.least_said(len(self.slide_map.meta.class_names))

    def scale(self, kind: Kind, class_name: str) -> ColourScale:
        if kind == "probability":
            return probability_scale(self.config, self.least_said)
        if kind == "evidence":
            method = self.slide_map.meta.method
            return evidence_scale(self.facts, class_name, self.config, method)
        return saliency_scale(self.slide_map, self.facts, class_name, self.config)

    def get(self, kind: Kind, class_name: str) -> MapPicture:
        if (kind, class_name) not in self._made:
            self._made[kind, class_name] = self._draw(kind, class_name)
        return self._made[kind, class_name]

    def _draw(self, kind: Kind, class_name: str) -> MapPicture:
        channel = channel_of(kind, class_name, self.slide_map.meta.target_class)
        scale = self.scale(kind, class_name)
        values = self.slide_map.read(channel, self.level)
        looked = self.examined.looked_at
        rgba = np.asarray(enlarged(colourize(values, scale), self.base), dtype=np.uint8)
        coloured = (np.asarray(cv2.extractChannel(rgba, 3)) > 0) & looked
        seen = coloured & self.examined.shown(self.config.draw_unlike)
        area = float(np.count_nonzero(seen)) * self.pixel_um**2
        withheld = float(np.count_nonzero(coloured)) * self.pixel_um**2 - area
        # probability stays: its scale is fixed, and the model's own makes anything glow
        useless = kind != "probability" and not self.facts.has_learnt
        least = max(self.config.min_region_um2, self.pixel_um**2)
        bare = useless or (kind == "evidence" and area < least)
        image = self.plain
        if not bare:
            image = over(image, rgba, seen)
        shown = hatched(image, self.examined.hatching)
        share = self.examined.unlike_share
        unjudged = share >= UNLIKE_SLIDE_SHARE and not self.config.draw_unlike
        return MapPicture(
            shown, kind, class_name, scale, area, bare, useless, withheld, share * unjudged,
            nothing_seen=not looked.any(),
        )  # fmt: skip

    # -- words
    def meaning(self, picture: MapPicture) -> list[str]:
        """What colours and their absence mean, in sentences."""
        name, scale = picture.class_name, picture.scale
        said = {
            "probability": f"Colour: how probable {name} is to the model, patch by patch "
            f"({self.facts.calibration}).",
            "evidence": f"Colour: evidence for {name}: how sure the model is of the patch "
            f"({self.facts.calibration}), strongest where in the patch that comes from.",
            "saliency": f"Colour: {meaning_of(self.slide_map.meta.method, name)}, "
            "times probability; it does not say how probable the class is.",
        }[picture.kind]
        where = "The scale is the same on every slide of this model" if scale.is_shared else (
            "The scale is of this slide alone: colours of two slides cannot be compared"
        )  # fmt: skip
        lines = [
            f"{said} {where} (top {scale.vmax:.3g}: {scale.source}); below "
            f"{scale.floor:.3g} nothing is drawn.",
            f"Slide without colour: looked at, and below that. It does not mean that there is no "
            f"{name}. Paled: not looked at (no tissue found, or no patch).",
        ]
        if self.facts.of_slides:
            even = 1 / len(self.slide_map.meta.class_names)
            lines.append(
                "The model speaks of slides: a patch has the probability that a slide of such "
                f"patches alone would have; {even:.2g} is a patch that contributes nothing."
            )
        if self.examined.has_unlike:
            drawn = "coloured all the same, as was asked for" if self.config.draw_unlike else (
                "not judged, and without colour whatever the model says. That is no finding"
            )  # fmt: skip
            lines.append(
                "Hatched: unlike what the model was trained on "
                f"({percent(self.examined.unlike_share)} of the tissue): {drawn}."
            )
        return lines

    def model_lines(self) -> list[str]:
        """The model, how good it is, and what this slide served for."""
        facts = self.facts
        quality = facts.quality[:1].upper() + facts.quality[1:]
        slide = self.slide_map.meta.slide
        given = given_by(slide.mpp_source)
        sizes = f" Sizes by {slide.mpp:.4g} µm/px of {given[0]}, not of the file." if given else ""
        caution = facts.map_caution(self.slide_map.meta.method)
        return [
            f"Model {facts.fingerprint[:12]}, {facts.slides}. Age of its data: {facts.age}. "
            f"{quality}.",
            *([f"{caution}."] if caution else []),
            f"This slide: {ROLE_WORDS[facts.role]}.{sizes} For research only.",
        ]

    @property
    def warning(self) -> str:
        """What must be read first; empty where all is well."""
        distorted = distortion_warning(self.slide_map.meta.slide.mpp_source)
        said = [text for text in (self.facts.warning, distorted) if text]
        share = self.examined.unlike_share
        if share >= UNLIKE_SLIDE_SHARE:
            said.append(
                f"UNLIKE THE TRAINING DATA: {percent(share)} of this slide's tissue. "
                + (
                    "Its map may mean nothing."
                    if self.config.draw_unlike
                    else "It is hatched and not judged."
                )
            )
        return " ".join(said)


def channel_of(kind: Kind, class_name: str, target_class: str) -> str:
    """The map's channel that a picture draws."""
    if kind == "saliency":
        return saliency_channel(class_name, target_class)
    return (PROBABILITY_PREFIX if kind == "probability" else EVIDENCE_PREFIX) + class_name


def shown_classes(slide_map: SlideMap) -> tuple[str, ...]:
    """The explained classes, the target class first."""
    meta = slide_map.meta
    return (meta.target_class, *(n for n in meta.targets if n != meta.target_class))


def write_overlay_png(
    path: Path, pictures: MapPictures, kind: Kind, class_name: str
) -> tuple[int, int, int, int]:
    """Slide, map over it, colour bar, scale bar; title and small print say what is shown.

    Returns
    -------
    (int, int, int, int)
        Where the map lies in the picture: x, y, width, height in its pixels.
    """
    picture = pictures.get(kind, class_name)
    height, width = picture.image.shape[:2]
    room = max(width, LEAST_PX[0]), max(height, LEAST_PX[1])
    total = room[0] + 2 * MARGIN_PX + BAR_ROOM_PX
    small = font(13)
    print_lines = [
        line
        for sentence in [*pictures.meaning(picture), *pictures.model_lines(), formula(pictures)]
        for line in wrapped(sentence, small, total - 2 * MARGIN_PX)
    ]
    strip = warning_height(total, pictures.warning)
    head = strip + 64
    canvas = Canvas(total, head + room[1] + 14 + round(1.4 * 13) * len(print_lines) + MARGIN_PX)
    if strip:
        warning_strip(canvas, 0, pictures.warning)
    _title(canvas, strip + 8, pictures.slide_map.meta.slide_id, picture, total)
    canvas.paste(picture.image, MARGIN_PX, head)
    canvas.scale_bar(MARGIN_PX, head, width, height, pictures.pixel_um)
    bar = min(max(height, LEAST_PX[1]), room[1]) - 30
    canvas.colour_bar(
        MARGIN_PX + room[0] + 18, head + 10, bar, picture.scale,
        f"{kind} of {class_name}" if kind == "probability" else f"{kind} for {class_name}", "floor",
    )  # fmt: skip
    canvas.lines(MARGIN_PX, head + room[1] + 14, print_lines, 13)
    canvas.save(path)
    return MARGIN_PX, head, width, height


def _title(canvas: Canvas, y: int, slide_id: str, picture: MapPicture, total: int) -> None:
    face = font(20, bold=True)
    canvas.text(MARGIN_PX, y, fitting(slide_id, face, total - 2 * MARGIN_PX), 20, bold=True)
    colour = WARNING if not picture.scale.is_shared else GREY
    canvas.text(MARGIN_PX, y + 28, _fitting_title(picture, total), 17, colour)


def _fitting_title(picture: MapPicture, total: int) -> str:
    return fitting_name(picture.title, picture.class_name, font(17), total - 2 * MARGIN_PX)


def formula(pictures: MapPictures) -> str:
    """How the values are made, for who wants to know."""
    meta = pictures.slide_map.meta
    return f"Saliency: {meta.method}; {meta.formula}."
