"""A tissue mask that the user gives: a picture over the slide's frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pathology_scaat.errors import UsageError
from pathology_scaat.slides.base import SlideInfo
from pathology_scaat.tissue.mask import TissueMask

MAX_MASK_PX = 20_000 * 20_000

PICTURE_FORMATS = ("PNG", "TIFF", "JPEG", "JPEG2000", "BMP", "GIF", "PPM", "WEBP")
"""Formats that Pillow decodes itself; it gives EPS to Ghostscript, which runs a program."""


def read_given_mask(path: Path, info: SlideInfo) -> TissueMask:
    """Read a mask picture that covers the slide's frame; non-zero is tissue.

    Raises
    ------
    UsageError
        If it cannot be read, or its shape is not that of the frame.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_MASK_PX:
                raise UsageError(path.name, "is too large for a mask", "make it smaller")
            mask = np.asarray(image.convert("L")) > 0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError):
        raise UsageError(path.name, "is not a picture that can be read", "give a PNG") from None
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
    )
