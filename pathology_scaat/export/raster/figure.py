"""One figure a slide: probability, evidence and saliency on the slide, tissue, the top patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.errors import SlideReadError
from pathology_scaat.export.raster.canvas import (
    GREY,
    Canvas,
    fitting,
    fitting_name,
    font,
    length_text,
    resized,
    short_number,
    warning_height,
    warning_strip,
    wrapped,
)
from pathology_scaat.export.raster.colour_scale import ColourScale, solid
from pathology_scaat.export.raster.overlay_png import (
    Kind,
    MapPicture,
    MapPictures,
    formula,
    shown_classes,
)
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.geometry import BoxPx
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.stitching.source import SaliencySource
from pathology_scaat.system.rounding import decimals

N_TOP = 6
PATCH_PICTURE_PX = 256
WIDTH_PX = 2080
PANEL_PX = 490
"""Side of the square that a map is fitted into."""
BAR_PX = 118
GAP_PX = 16
TITLE_POINTS, SMALL_POINTS = 17, 14
EVIDENCE_NOT_DRAWN = "their evidence is not drawn: the model has learnt nothing"
ROW_KINDS: tuple[Kind, ...] = ("probability", "evidence", "saliency")


@dataclass(frozen=True)
class TopPatch:
    """A patch as seen on the slide, and its evidence.

    Attributes
    ----------
    picture : (P, P, 3) uint8
        P is :data:`PATCH_PICTURE_PX`.
    evidence : (s, s) float32
        In the pixels of the patch's saliency; for the target class.
    probability : float
        Of the target class.
    centre_px : tuple of float
        x, y in level-0 pixels.
    """

    picture: RgbImage
    evidence: NDArray[np.float32]
    probability: float
    centre_px: tuple[float, float]


def read_patch(slide: Slide, box_px: BoxPx, side_px: int) -> RgbImage | None:
    """A level-0 box of the slide as a picture of ``side_px``; None where it cannot be decoded."""
    info = slide.info
    wanted = box_px.width / side_px
    finer = [i for i, d in enumerate(info.level_downsamples) if d <= wanted * 1.001]
    level = max(finer, key=lambda i: info.level_downsamples[i]) if finer else 0
    ds = info.level_downsamples[level]
    box = BoxPx(
        round(box_px.x / ds), round(box_px.y / ds),
        max(round(box_px.width / ds), 1), max(round(box_px.height / ds), 1),
    )  # fmt: skip
    try:
        pixels = slide.read_level(level, box)
    except SlideReadError:
        return None
    picture = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.uint8)


def top_patches(
    source: SaliencySource, table: TileTable, slide: Slide, unjudged: NDArray[np.bool_]
) -> list[TopPatch]:
    """The patches of highest probability of the target class, then saliency; overlapping ones
    only once, and none of those that are ``unjudged``, (N,)."""
    chosen: list[TopPatch] = []
    taken: list[NDArray[np.int32]] = []
    side = source.meta.grid.patch_size_level0_px
    probabilities = table.probability[:, table.target_index]
    order = np.lexsort((-table.saliency_mean, -np.round(probabilities, 3)))
    for i in order[~unjudged[order]][: 50 * N_TOP].tolist():
        corner = table.patch_px[i, :2]
        if any(np.abs(corner - other).max() < side for other in taken):
            continue
        left, top, right, bottom = table.patch_px[i].tolist()
        picture = read_patch(slide, BoxPx(left, top, right - left, bottom - top), PATCH_PICTURE_PX)
        if picture is None:
            continue
        probability = float(probabilities[i])
        evidence = patch_evidence(source.read(i, i + 1), np.array([probability]))[0]
        taken.append(corner)
        centre = ((left + right) / 2, (top + bottom) / 2)
        chosen.append(TopPatch(picture, evidence.astype(np.float32), probability, centre))
        if len(chosen) == N_TOP:
            break
    return chosen


def _fit(width: int, height: int) -> tuple[int, int]:
    """Size of a panel: a picture fitted into its square."""
    scale = PANEL_PX / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _panel(canvas: Canvas, x: int, y: int, picture: MapPicture) -> tuple[int, int]:
    """A picture under its title; returns the size it is drawn in."""
    width, height = _fit(picture.image.shape[1], picture.image.shape[0])
    room, face = PANEL_PX + BAR_PX - GAP_PX, font(TITLE_POINTS)
    title = fitting_name(picture.title, picture.class_name, face, room)
    canvas.text(x, y, title, TITLE_POINTS)
    canvas.paste(resized(picture.image, width, height), x, y + 26)
    return width, height


def _mark(canvas: Canvas, corner: tuple[int, int], ratio: float, patches: list[TopPatch],
          pictures: MapPictures) -> None:  # fmt: skip
    """Numbers on the slide where the patches below come from."""
    frame = pictures.slide_map.frame_px
    level0 = pictures.pixel_um / pictures.slide_map.meta.slide.mpp / ratio
    for number, patch in enumerate(patches, start=1):
        x = corner[0] + (patch.centre_px[0] - frame.x) / level0
        y = corner[1] + (patch.centre_px[1] - frame.y) / level0
        canvas.number(x, y, number)


def _map_row(
    canvas: Canvas, y: int, pictures: MapPictures, class_name: str, patches: list[TopPatch],
    tissue: RgbImage | None,
) -> None:  # fmt: skip
    """The maps of one class side by side, with their scales."""
    x = GAP_PX
    for kind in ROW_KINDS:
        picture = pictures.get(kind, class_name)
        width, height = _panel(canvas, x, y, picture)
        ratio = width / picture.image.shape[1]
        if kind == "evidence":
            pixel_um = pictures.pixel_um / ratio
            canvas.scale_bar(x, y + 26, width, height, pixel_um)
            _mark(canvas, (x, y + 26), ratio, patches, pictures)
        words = f"top: {picture.scale.source}"
        canvas.colour_bar(x + width + 12, y + 30, max(height - 16, 90), picture.scale, words, "f")
        x += PANEL_PX + BAR_PX
    if tissue is not None:
        width, height = PANEL_PX // 2, PANEL_PX // 2
        room = WIDTH_PX - x - GAP_PX
        scale = min(room / tissue.shape[1], PANEL_PX / tissue.shape[0])
        size = max(round(tissue.shape[1] * scale), 1), max(round(tissue.shape[0] * scale), 1)
        canvas.text(x, y, fitting("tissue found (green)", font(TITLE_POINTS), room), TITLE_POINTS)
        canvas.paste(resized(tissue, *size), x, y + 26)


def _patch_rows(
    canvas: Canvas, y: int, patches: list[TopPatch], target: str, scale: ColourScale | None,
    side_um: float,
) -> None:  # fmt: skip
    """The patches above their evidence, in the colours of the map.

    Without a scale the patches alone: what a model that has learnt nothing calls evidence is not
    drawn, here as on the slide.
    """
    below = "below them where in the patch the evidence lies"
    if scale:
        below += f"; on the slide it is drawn from {short_number(scale.floor)} on"
    canvas.text(
        GAP_PX, y, f"Patches of highest probability of {target}, each {length_text(side_um)} wide; "
        f"{below if scale else EVIDENCE_NOT_DRAWN}", TITLE_POINTS,
    )  # fmt: skip
    step = PATCH_PICTURE_PX + GAP_PX
    for k, patch in enumerate(patches):
        x = GAP_PX + k * step
        words = f"{k + 1}:  p({target}) {decimals(patch.probability, 2)}"
        words = fitting_name(words, target, font(SMALL_POINTS), PATCH_PICTURE_PX)
        canvas.text(x, y + 28, words, SMALL_POINTS, GREY)
        canvas.paste(patch.picture, x, y + 50)
        if scale is None:
            continue
        shown = solid(patch.evidence, scale.vmax, scale.colormap)
        canvas.paste(resized(shown, PATCH_PICTURE_PX, PATCH_PICTURE_PX), x, y + 50 + step)
    if scale is None:
        return
    canvas.colour_bar(
        GAP_PX + len(patches) * step + 10, y + 50 + step, PATCH_PICTURE_PX, scale,
        f"evidence for {target}", "floor", opaque=True,
    )  # fmt: skip


def write_figure(
    path: Path,
    pictures: MapPictures,
    patches: list[TopPatch],
    tissue: RgbImage | None,
    patch_um: float,
) -> None:
    """Write the figure as a PNG: a row of maps for each explained class, then patches."""
    classes = shown_classes(pictures.slide_map)
    height, width = pictures.base.shape[:2]
    row = _fit(width, height)[1] + 26 + 2 * GAP_PX
    target = classes[0]
    small = font(SMALL_POINTS)
    said = [
        line
        for sentence in [
            *pictures.meaning(pictures.get("probability", target))[:1],
            *pictures.meaning(pictures.get("evidence", target)),
            *pictures.meaning(pictures.get("saliency", target))[:1],
            *pictures.model_lines(),
            formula(pictures),
        ]
        for line in wrapped(sentence, small, WIDTH_PX - 2 * GAP_PX)
    ]
    strip = warning_height(WIDTH_PX, pictures.warning, 18)
    head = strip + 50
    drawn = pictures.scale("evidence", target) if pictures.facts.has_learnt else None
    patch_height = (1 + bool(drawn)) * (PATCH_PICTURE_PX + GAP_PX) + 62 if patches else 0
    print_height = round(1.4 * SMALL_POINTS) * len(said)
    canvas = Canvas(WIDTH_PX, head + len(classes) * row + patch_height + print_height + 2 * GAP_PX)
    if strip:
        warning_strip(canvas, 0, pictures.warning, 18)
    slide_id = pictures.slide_map.meta.slide_id
    canvas.text(GAP_PX, strip + 10, fitting(slide_id, font(24, bold=True), WIDTH_PX - 40), 24,
                bold=True)  # fmt: skip
    y = head
    for number, class_name in enumerate(classes):
        first = number == 0
        _map_row(
            canvas, y, pictures, class_name, patches if first else [], tissue if first else None
        )
        y += row
    if patches:
        _patch_rows(canvas, y, patches, target, drawn, patch_um)
        y += patch_height
    canvas.lines(GAP_PX, y + GAP_PX, said, SMALL_POINTS)
    canvas.save(path)
