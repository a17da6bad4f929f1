"""A tissue mask that the user gives: a picture over the slide's frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pathology_scaat.errors import UsageError
from pathology_scaat.slides.base import SlideInfo
from pathology_scaat.tissue.mask import TissueMask

MAX_MASK_PX = 20_000 * 20_000

PICTURE_FORMATS = ("PNG", "TIFF", "JPEG", "JPEG2000", "BMP", "GIF", "PPM", "WEBP")
"""Formats that Pillow decodes itself; it gives EPS to Ghostscript, which runs a program."""


def mask_values(image: Image.Image) -> NDArray[Any]:
    """Read a mask picture's pixels as numbers.

    Parameters
    ----------
    image : PIL.Image.Image
        Indexed (as QuPath exports label images): its indices count, whatever colours the palette
        gives them. Grey: its levels. In colour: its lightness. Fully transparent pixels are 0.

    Returns
    -------
    (H, W) array of numbers
        0 where there is no tissue.
    """
    if image.mode in ("P", "1", "L") or image.mode.startswith(("I", "F")):
        return np.asarray(image)
    if image.mode == "PA":
        index, alpha = np.asarray(image.getchannel("P")), np.asarray(image.getchannel("A"))
        return np.where(alpha > 0, index, 0)
    values = np.asarray(image.convert("L"))
    if "A" in image.getbands():
        return np.where(np.asarray(image.getchannel("A")) > 0, values, 0)
    return values


def _notes(values: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[str, ...]:
    if not mask.size or not mask.all():
        return ()
    found = np.unique(values)
    if len(found) == 1:
        return ("the tissue mask has no background: all of the slide counts as tissue",)
    shown = ", ".join(f"{value:g}" for value in found[:4].tolist())
    more = ", ..." if len(found) > 4 else ""
    return (
        f"the tissue mask has no background (values {shown}{more}, and no 0): "
        "all of the slide counts as tissue",
    )


def read_given_mask(path: Path, info: SlideInfo) -> TissueMask:
    """Read a mask picture that covers the slide's frame; non-zero is tissue.

    Indices count where the picture has a palette; a mask without any background is said in
    ``notes``.

    Raises
    ------
    UsageError
        If it cannot be read, or its shape is not that of the frame.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_MASK_PX:
                raise UsageError(path.name, "is too large for a mask", "make it smaller")
            values = mask_values(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError):
        raise UsageError(path.name, "is not a picture that can be read", "give a PNG") from None
    mask = np.asarray(values > 0)
    frame = info.frame_px
    height, width = mask.shape
    scale_x, scale_y = frame.width / width, frame.height / height
    # Mask sizes are rounded: up to one mask pixel of difference is that, more is another frame.
    if abs(scale_x * height - frame.height) > max(scale_x, scale_y) * 1.5:
        raise UsageError(
            path.name,
            f"its shape ({width} x {height}) is not that of the slide's frame "
            f"({frame.width} x {frame.height})",
            "draw it over the whole slide, or over the scanner's bounds where it has them",
        )
    grey = np.where(mask, 160, 255).astype(np.uint8)
    return TissueMask(
        mask=mask,
        scale_px=max(scale_x, scale_y),
        frame_px=frame,
        thumbnail=np.repeat(grey[..., None], 3, axis=2),
        flags=() if mask.any() else ("no-tissue",),
        origin_px=(float(frame.x), float(frame.y)),
        ink=np.zeros_like(mask),
        notes=_notes(values, mask),
    )
