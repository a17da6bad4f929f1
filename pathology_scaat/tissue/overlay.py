"""The tissue overlay as PNG, written and read for speed: it is made for every slide."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.morphology import outline

_OUTLINE_RGB = (0, 140, 60)
_INK_RGB = (255, 140, 0)
_PALED = ((np.arange(256) + 510) // 3).astype(np.uint8)


def paint_overlay(thumbnail: RgbImage, mask: NDArray[np.bool_], ink: NDArray[np.bool_]) -> RgbImage:
    """What is no tissue paled, tissue outlined in green, ink in orange: (h, w, 3) uint8.

    ``mask`` and ``ink`` are (h, w) bool, on the pixels of ``thumbnail``.
    """
    picture: RgbImage = np.ascontiguousarray(cv2.LUT(thumbnail, _PALED))
    cv2.copyTo(np.ascontiguousarray(thumbnail), mask.view(np.uint8), picture)
    thickness = 1 + max(mask.shape) // 1500
    for area, colour in ((ink, _INK_RGB), (mask, _OUTLINE_RGB)):
        if area.any():
            picture[outline(area, thickness)] = colour
    return picture


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _deflate(lines: NDArray[np.uint8]) -> Any:
    """A zlib stream; builds of imagecodecs without zlib-ng take twice as long for the same."""
    codecs: Any = imagecodecs  # its stubs know no arrays
    if codecs.ZLIBNG.available:
        return codecs.zlibng_encode(lines, level=2)
    return codecs.deflate_encode(lines, level=1)


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND = b"\x08\x02\0\0\0"
"""Eight bits a channel, RGB, not interlaced: the end of the header."""
_UP = 2
"""The filter of a line that is stored as the difference from the one above."""


def write_png(picture: RgbImage, path: Path, words: dict[str, Any]) -> None:
    """Write an RGB picture as PNG with a text chunk ``pathology_scaat`` of JSON.

    Every line is stored as the difference from the one above, and deflated at a low level by
    zlib-ng: an eighth of the time that the usual writers take on a picture of tissue, and
    smaller.
    """
    height, width = picture.shape[:2]
    flat = np.ascontiguousarray(picture).reshape(height, width * 3)
    lines = np.empty((height, 1 + width * 3), dtype=np.uint8)
    lines[:, 0] = _UP
    lines[:1, 1:] = flat[:1]
    np.subtract(flat[1:], flat[:-1], out=lines[1:, 1:])
    packed = bytes(_deflate(lines))
    text = json.dumps(words, sort_keys=True).encode("ascii")
    with atomic_path(path) as partial, partial.open("wb") as stream:
        stream.write(_SIGNATURE)
        stream.write(_chunk(b"IHDR", struct.pack(">II", width, height) + _KIND))
        stream.write(_chunk(b"tEXt", b"pathology_scaat\0" + text))
        stream.write(_chunk(b"IDAT", packed))
        stream.write(_chunk(b"IEND", b""))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks of a PNG, up to the first that is not whole."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if data[at : at + 12 + length] != _chunk(kind, content):
            return
        yield kind, content
        at += 12 + length


def read_written_png(data: bytes) -> RgbImage | None:
    """The pixels (H, W, 3) of what :func:`write_png` wrote; None for any other or damaged data.

    In less than half of the time of readers that must know all kinds of PNG.
    """
    chunks = list(_chunks(data))
    if not data.startswith(_SIGNATURE) or [kind for kind, _ in chunks] != [
        b"IHDR", b"tEXt", b"IDAT", b"IEND",
    ]:  # fmt: skip
        return None
    header, packed = chunks[0][1], chunks[2][1]
    if header[8:] != _KIND:
        return None
    width, height = struct.unpack_from(">II", header)
    inflate: Any = imagecodecs.deflate_decode  # its stubs know no arrays
    try:
        raw = inflate(packed, out=height * (1 + 3 * width))
    except (RuntimeError, ValueError):
        return None
    if len(raw) != height * (1 + 3 * width):
        return None
    lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + 3 * width)
    if not (lines[:, 0] == _UP).all():
        return None
    flat = np.empty((height, 3 * width), np.uint8)
    flat[:1] = lines[:1, 1:]
    for row in range(1, height):  # numpy's own sum of rows takes ten times as long
        np.add(flat[row - 1], lines[row, 1:], out=flat[row])
    return flat.reshape(height, width, 3)
