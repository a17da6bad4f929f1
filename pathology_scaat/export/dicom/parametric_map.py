"""The map's values as a DICOM Parametric Map: floats, bit for bit, over the slide."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.export.dicom.shared import (
    MAX_MAP_PX,
    SCHEME,
    add_facts,
    common,
    map_geometry,
    with_fixed_date,
)
from pathology_scaat.export.dicom.source import need_highdicom
from pathology_scaat.stitching.schema import COUNT_CHANNEL, UNLIKE_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap

MAX_VALUES = 64 << 20
"""Values of all channels held at once: 256 MiB as float32, and as much again while tiled."""


def parametric_map_level(slide_map: SlideMap) -> int:
    """The finest level of the map whose channels fit into memory together."""
    level = slide_map.level_for(MAX_MAP_PX)
    n_channels = len(slide_map.channel_names)
    while level < slide_map.n_levels - 1 and (
        slide_map.size_px(level).area * n_channels > MAX_VALUES
    ):
        level += 1
    return level


def _mapping(number: int, channel: str, values: Any) -> Any:
    """What the stored values of a channel are: themselves, and of what."""
    hd = need_highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    kind = channel.partition(":")[0]
    top = {UNLIKE_CHANNEL: 100.0, "probability": 1.0, "evidence": 1.0}.get(kind)
    seen = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    unit = codes.UCUM.Percent if kind == UNLIKE_CHANNEL else codes.UCUM.NoUnits
    code = {UNLIKE_CHANNEL: "unlike", COUNT_CHANNEL: "patches"}.get(kind, kind)
    return hd.pm.RealWorldValueMapping(
        lut_label=f"{code}-{number}",
        lut_explanation=channel[:64],
        unit=unit,
        value_range=(0.0, max(top or 0.0, seen)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code(code, SCHEME, channel[:64]),
    )


def write_parametric_map(
    path: Path, slide_map: SlideMap, source: Any, facts: dict[str, str]
) -> int:
    """Write every channel of a map as float32, tiled; returns the level of the map it holds.

    Parameters
    ----------
    path : Path
    slide_map : SlideMap
    source : pydicom.Dataset
        What may be taken of the slide's header (:func:`..source.read_source`).
    facts : dict of str to str
        What is known of model and map.

    Notes
    -----
    NaN, the map's *no data*, stays NaN, which the object states as its padding value.
    """
    hd = need_highdicom()
    level = parametric_map_level(slide_map)
    channels = slide_map.channel_names
    size = slide_map.size_px(level)
    pixels = np.empty((1, size.height, size.width, len(channels)), np.float32)
    for number, channel in enumerate(channels):
        pixels[0, ..., number] = slide_map.read(channel, level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of empty names in the source
        dataset = hd.pm.ParametricMap(
            source_images=[source],
            pixel_array=pixels,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                [_mapping(number, channel, pixels[..., number])]
                for number, channel in enumerate(channels)
            ],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
            content_label="SCAAT_MAP",
            **map_geometry(slide_map, source, level),
            **common(slide_map, "map", 9003, fingerprint(dict(facts))),
        )
    dataset.FloatPixelPaddingValue = float("nan")
    dataset.FloatPixelPaddingRangeLimit = float("nan")
    spacing = f"{slide_map.mpp * 2**level:.6g} um/px (level {level} of the map; level 0 has "
    add_facts(dataset, {**facts, "values at": f"{spacing}{slide_map.mpp:.6g})"})
    # wanted of a slide, which has no patient's directions, as an empty value (type 2C)
    dataset.PatientOrientation = None
    with atomic_path(path) as partial:
        with_fixed_date(dataset, source).save_as(partial)
    return level
