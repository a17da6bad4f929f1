"""What the writers of one slide's exports share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.errors import ExportError
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.model_facts import ROLE_WORDS, ModelFacts
from pathology_scaat.export.qupath.model_words import ModelWords
from pathology_scaat.export.qupath.palette import (
    QuPathClass,
    qupath_classes,
)
from pathology_scaat.export.qupath.regions import RegionSet, find_regions
from pathology_scaat.export.raster.overlay_png import (
    MapPictures,
    zoom_of,
)
from pathology_scaat.export.raster.thumbnail import blank, frame_thumbnail
from pathology_scaat.export.slide_findings import SlideFindings
from pathology_scaat.export.tiles import TileTable, tile_table
from pathology_scaat.geometry import SizePx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.slides.spacing import distortion_warning, given_by
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource

REGIONS_BY_HAND = ("region_threshold", "region_quantile")
"""Settings that put another threshold of regions in the place of the model's."""


@dataclass
class Context:
    """What the writers of one slide share; each part is made when first asked for."""

    slide_map: SlideMap
    source: SaliencySource
    config: ExportConfig
    slide_path: SlideLocation | None
    mpp: float | None
    tissue_path: Path | None
    words: ModelWords = field(default_factory=ModelWords)
    findings: SlideFindings = field(default_factory=SlideFindings)
    notes: list[str] = field(default_factory=list)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    n_tiles: int = 0
    _slide: Slide | None = None

    def opened_slide(self, path: SlideLocation) -> Slide:
        """The slide at hand (``slide_path``), opened once for all; :meth:`close` closes it.

        Raises
        ------
        SlideOpenError
            If it cannot be opened.
        """
        if self._slide is None:
            self._slide = open_slide(path, mpp=self.mpp)
        return self._slide

    def close(self) -> None:
        if self._slide is not None:
            self._slide.close()
            self._slide = None

    @property
    def key(self) -> str:
        """What object ids are made from, beside an object's kind and position.

        The slide alone: the overlay of another model takes the place of the last.
        """
        return self.slide_map.meta.slide_fingerprint

    @cached_property
    def qupath_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, self.config.qupath_origin)

    @cached_property
    def map_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, "bounds")

    @cached_property
    def full_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, "full")

    @cached_property
    def stitch_config(self) -> StitchConfig:
        return StitchConfig(**self.slide_map.meta.parameters)

    @cached_property
    def classes(self) -> tuple[QuPathClass, ...]:
        return qupath_classes(self.slide_map.meta.class_names, self.words.colours())

    @cached_property
    def tiles(self) -> TileTable:
        return tile_table(self.source, self.stitch_config, self.config.tile_shape)

    @cached_property
    def unjudged(self) -> NDArray[np.bool_]:
        """Which tiles get no class, since they are unlike the training data, (N,)."""
        return self.tiles.unlike & (not self.config.draw_unlike)

    @cached_property
    def regions(self) -> RegionSet:
        target = self.slide_map.meta.target_class
        threshold, config = self.pictures.scale(self.config.drawn, target).floor, self.config
        if not self.facts.has_learnt:
            # No region where nothing is drawn, by hand neither: an outline on a slide is taken for
            # a finding, whatever stands beside it.
            threshold, config = math.inf, config.model_copy(update=dict.fromkeys(REGIONS_BY_HAND))
            asked = [name for name in REGIONS_BY_HAND if getattr(self.config, name) is not None]
            if asked:
                self.notes.append(
                    f"{' and '.join(asked)} made no region: the model has learnt nothing that can "
                    "be relied on"
                )
        shown = self.pictures.examined.shown(self.config.draw_unlike)
        found = find_regions(
            self.slide_map, self.qupath_frame, config, threshold, shown,
            self.pictures.least_said,
        )  # fmt: skip
        if found.n_left_out:
            self.notes.append(
                f"{found.n_left_out} of {found.n_found} regions of high {found.drawn} left out "
                f"(the largest {len(found.regions)} are kept)"
            )
        return found

    @cached_property
    def facts(self) -> ModelFacts:
        found = ModelFacts.of(self.slide_map.meta)
        # maps of earlier versions do not say so themselves
        return replace(found, of_slides=found.of_slides or self.source.of_slides)

    @property
    def object_metadata(self) -> dict[str, str]:
        """What every object of the slide carries of its model, by name; a warning where due."""
        facts, meta = self.facts, self.slide_map.meta
        found = {
            "model": meta.model_fingerprint[:16],
            "model quality": facts.quality,
            "probability": facts.calibration,
            "age of the model's data": facts.age,
            "slide": ROLE_WORDS[facts.role],
            "method": meta.method,
            **self.words.metadata(),
        }
        if caution := facts.map_caution(meta.method):
            found["caution"] = caution
        if given := given_by(meta.slide.mpp_source):
            found["sizes by"] = (
                f"{meta.slide.mpp:.5g} um/px of {given[0]}, not of the file: sizes "
                "that other programs measure by the file may differ"
            )
        warnings = (facts.warning, distortion_warning(meta.slide.mpp_source))
        if warning := " ".join(filter(None, warnings)):
            found["WARNING"] = warning
        return found

    @cached_property
    def pictures(self) -> MapPictures:
        return MapPictures(
            self.slide_map, self.picture_level, lambda: self.base, self.slide_path is not None,
            self.facts, self.config,
        )  # fmt: skip

    @cached_property
    def picture_level(self) -> int:
        return self.slide_map.level_for(self.config.png_max_px)

    @cached_property
    def base(self) -> RgbImage:
        """The slide under the map, (H, W, 3) uint8; grey where the slide is not at hand.

        Raises
        ------
        ExportError
            If the slide has another frame than the map.
        """
        zoom = zoom_of(self.slide_map, self.picture_level)
        whole = self.slide_map.size_px(self.picture_level)
        size = SizePx(whole.width * zoom, whole.height * zoom)
        if self.slide_path is None:
            self.notes.append("pictures show no slide: it was not given")
            return blank(size)
        slide = self.opened_slide(self.slide_path)
        if slide.info.frame_px != self.slide_map.frame_px:
            raise ExportError(
                self.slide_map.name,
                "the slide at hand has another frame than the map",
                "give the slide that was tiled",
            )
        scale_px = self.slide_map.level_scale_px(self.picture_level) / zoom
        return frame_thumbnail(slide, size, scale_px)
