"""Drawing text, bars and pictures on a plain RGB canvas: what the pictures share.

Done with an array, and Pillow for the letters, rather than with a plotting library: a cohort has
thousands of pictures, and laying out one plot costs more than reading the slide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pathology_scaat.export.raster.colour_scale import ColourScale, legend_colours
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.overlay import write_png

INK = (25, 25, 25)
GREY = (95, 95, 95)
WARNING = (176, 0, 0)
SCALE_BAR_STEPS = (1, 2, 5)
BAR_PX = 22

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]


@cache
def font(size_px: int, bold: bool = False) -> Font:
    """DejaVu Sans, which knows most scripts; the file comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    # the simple layout takes a third of the time
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def _width(word: str, size_px: int, bold: bool) -> float:
    return float(font(size_px, bold).getlength(word))


def wrapped(text: str, face: Font, width_px: int) -> list[str]:
    """Lines of a sentence that fit a width; a single word that does not is cut."""
    bold = "Bold" in str(face.getname()[1])
    space = _width(" ", int(face.size), bold)
    lines: list[str] = []
    line, used = "", 0.0
    for word in text.split():
        wide = _width(word, int(face.size), bold) if len(word) < 40 else face.getlength(word)
        if line and used + space + wide <= width_px:
            line, used = f"{line} {word}", used + space + wide
            continue
        if line:
            lines.append(line)
        line = word if wide <= width_px else fitting(word, face, width_px)
        used = min(wide, width_px)
    return [*lines, line] if line else lines


@lru_cache(maxsize=512)
def _written(
    text: str, size_px: int, bold: bool, anchor: str
) -> tuple[NDArray[np.uint16], int, int]:
    """A line of text as a mask (h, w, 1) of 0 to 255, and where its corner lies from the anchor.

    Most lines stand in every picture.
    """
    mask, (left, top) = font(size_px, bold).getmask2(text, "L", anchor=anchor)
    width, height = mask.size
    shape = (height, width, 1)
    return np.frombuffer(bytes(mask), np.uint8).reshape(shape).astype(np.uint16), left, top


def fitting(text: str, face: Font, width_px: int) -> str:
    """The text, its end cut off where it is too long."""
    return _fitting(text, int(face.size), "Bold" in str(face.getname()[1]), width_px)


def fitting_name(text: str, name: str, face: Font, width_px: int) -> str:
    """The text, a name in it cut off where it is too long: what is said of the name stays."""
    if face.getlength(text) <= width_px or not name:
        return fitting(text, face, width_px)
    room = int(width_px - face.getlength(text.replace(name, "", 1)))
    return fitting(text.replace(name, fitting(name, face, room), 1), face, width_px)


@lru_cache(maxsize=4096)
def _fitting(text: str, size_px: int, bold: bool, width_px: int) -> str:
    face = font(size_px, bold)
    if face.getlength(text) <= width_px:
        return text
    while text and face.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=128)
def _upright(words: str, height: int) -> RgbImage:
    """What stands beside a colour bar, from below upwards."""
    sizes = (size for size in (13, 12, 11, 10) if font(size).getlength(words) <= height)
    face = font(next(sizes, 10))
    words = fitting(words, face, height)
    label = Image.new("RGB", (round(face.getlength(words)) + 2, 18), "white")
    ImageDraw.Draw(label).text((0, 1), words, fill=INK, font=face)
    upright: RgbImage = np.array(label.transpose(Image.Transpose.ROTATE_90), dtype=np.uint8)
    upright.flags.writeable = False  # kept for the next picture
    return upright


NUMBER_PX = 58
"""Between a colour bar and the words beside it: room for its numbers."""
LONGEST_NUMBER = 6


def short_number(value: float) -> str:
    """Three digits, or fewer where they would not fit beside a colour bar: a number that is cut
    off says another one.

    Examples
    --------
    >>> short_number(0.5), short_number(0.0719), short_number(0.000359), short_number(1.43e-05)
    ('0.5', '0.0719', '3.6e-4', '1.4e-5')
    >>> short_number(0.00303)
    '0.003'
    """
    for text in (f"{value:.3g}", f"{value:.2g}"):
        if len(text) <= LONGEST_NUMBER and "e" not in text:
            return text
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def scale_bar_um(width_um: float) -> float:
    """A round length of about a sixth of the picture's width."""
    goal = width_um / 6
    decade = 10.0 ** np.floor(np.log10(goal))
    return float(max(step * decade for step in SCALE_BAR_STEPS if step * decade <= goal))


def length_text(length_um: float) -> str:
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A picture (H, W) or (H, W, 3) in another size in pixels, each at least 1.

    Area means where it becomes narrower; nearest pixels, so no invented values, where wider.
    """
    shrinks = width <= picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    out: NDArray[np.uint8] = np.asarray(
        cv2.resize(picture, (max(width, 1), max(height, 1)), interpolation=how)
    )
    return out


class Canvas:
    """A white picture that grows no more, and what is drawn on it; what lies outside is cut off.

    The pixels lie in an array: Pillow keeps a picture in another form, and turning a whole one
    into it and back took as long as drawing it. Letters are drawn on the few pixels under them.

    Parameters
    ----------
    width, height : int
        In pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels: RgbImage = np.full((height, width, 3), 255, np.uint8)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def paste(self, picture: RgbImage, x: int, y: int) -> None:
        part = picture[max(-y, 0) :, max(-x, 0) :]
        onto = self.pixels[max(y, 0) :, max(x, 0) :]
        rows, columns = (min(a, b) for a, b in zip(part.shape[:2], onto.shape[:2], strict=True))
        onto[:rows, :columns] = part[:rows, :columns]

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """A rectangle of one colour, its last column and row included."""
        self.pixels[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = colour

    @contextmanager
    def _pen(
        self, left: float, top: float, right: float, bottom: float
    ) -> Iterator[tuple[Image.Image, int, int]]:
        """The pixels around a box for Pillow to draw on, and which pixel their corner is."""
        x, y = max(math.floor(left) - 2, 0), max(math.floor(top) - 2, 0)
        under = self.pixels[y : max(math.ceil(bottom) + 3, 0), x : max(math.ceil(right) + 3, 0)]
        if not under.size:
            yield Image.new("RGB", (1, 1)), x, y
            return
        part = Image.fromarray(under)
        yield part, x, y
        under[:] = np.asarray(part)

    def text(
        self, x: float, y: float, text: str, size_px: int, colour: Colour = INK,
        *, bold: bool = False, anchor: str = "la",
    ) -> None:  # fmt: skip
        """A line with its anchor (by Pillow's name) at the whole pixel nearest to (x, y)."""
        mask, left, top = _written(text, size_px, bold, anchor)
        left, top = round(x) + left, round(y) + top
        mask = mask[max(-top, 0) :, max(-left, 0) :]
        under = self.pixels[max(top, 0) :, max(left, 0) :][: len(mask), : mask.shape[1]]
        mask = mask[: len(under), : under.shape[1]]
        # As Pillow blends: rounded, in whole numbers that fit 16 bits.
        mixed = under * (255 - mask)
        mixed += np.array(colour, np.uint16) * mask
        mixed += 128
        mixed += mixed >> 8
        under[:] = mixed >> 8

    def lines(
        self, x: int, y: int, lines: Sequence[str], size_px: int, colour: Colour = GREY,
    ) -> int:  # fmt: skip
        """Lines below each other; returns the y below them."""
        for line in lines:
            self.text(x, y, line, size_px, colour)
            y += round(1.4 * size_px)
        return y

    def number(self, x: float, y: float, number: int) -> None:
        """A number in a white disc around (x, y)."""
        with self._pen(x - 10, y - 10, x + 10, y + 10) as (part, x0, y0):
            x, y, draw = x - x0, y - y0, ImageDraw.Draw(part)
            draw.ellipse((x - 10, y - 10, x + 10, y + 10), fill="white", outline=INK)
            draw.text((x, y), str(number), fill=INK, font=font(13, bold=True), anchor="mm")

    def scale_bar(self, x: int, y: int, width: int, height: int, pixel_um: float) -> None:
        """A bar with its length in the lower left corner of a picture at (x, y)."""
        length_um = scale_bar_um(width * pixel_um)
        length = max(round(length_um / pixel_um), 1)
        pad = max(round(0.02 * width), 6)
        low = y + height - pad
        words, left = length_text(length_um), x + pad
        right = left + int(max(length, font(14).getlength(words)))
        self.fill(left - 4, low - 28, right + 4, low + 4, (255, 255, 255))
        self.fill(left, low - 5, left + length, low, (0, 0, 0))
        self.text(left, low - 8, words, 14, (0, 0, 0), anchor="ls")

    def colour_bar(
        self, x: int, y: int, height: int, scale: ColourScale, words: str, floor_words: str = "",
        *, opaque: bool = False,
    ) -> None:  # fmt: skip
        """An upright legend with numbers; ``words`` stand beside it, from below upwards.

        ``opaque`` where what it explains does not let the slide through.
        """
        strip = legend_colours(scale, max(height, 2), opaque)[::-1]
        right, low = x + BAR_PX, y + height - 1
        self.paste(np.repeat(strip[:, None], BAR_PX, axis=1), x, y)
        for line in ((x, y, right - 1, y), (x, low, right - 1, low),
                     (x, y, x, low), (right - 1, y, right - 1, low)):  # fmt: skip
            self.fill(*line, GREY)
        marks = [(0.0, short_number(scale.vmax)), (0.5, short_number(scale.vmax / 2)), (1.0, "0")]
        for share, number in marks:
            at = y + round(share * (height - 1))
            self.fill(right, at, right + 4, at, GREY)
            self.text(right + 7, at, number, 13, anchor="lm")
        if scale.floor > 0 and floor_words:
            at = y + round((1 - scale.floor / scale.vmax) * (height - 1))
            self.fill(x - 4, at, right + 4, at, WARNING)
            if min(abs(share - (1 - scale.floor / scale.vmax)) * height for share, _ in marks) > 12:
                self.text(right + 7, at, short_number(scale.floor), 13, WARNING, anchor="lm")
        upright = _upright(words, height)
        self.paste(upright, right + NUMBER_PX, y + (height - len(upright)) // 2)

    def save(self, path: Path) -> None:
        """Write a PNG without software or time in it, whole or not at all."""
        write_png(self.pixels, path, {})


def warning_strip(canvas: Canvas, y: int, words: str, size_px: int = 15) -> int:
    """A red strip across the canvas with what must not be missed; returns the y below it."""
    face = font(size_px, bold=True)
    lines = wrapped(words, face, canvas.width - 24)
    height = round(1.4 * size_px) * len(lines) + 10
    canvas.fill(0, y, canvas.width, y + height, WARNING)
    for number, line in enumerate(lines):
        canvas.text(12, y + 5 + number * round(1.4 * size_px), line, size_px, (255, 255, 255),
                    bold=True)  # fmt: skip
    return y + height


def warning_height(width: int, words: str, size_px: int = 15) -> int:
    """How high :func:`warning_strip` will be."""
    if not words:
        return 0
    lines = wrapped(words, font(size_px, bold=True), width - 24)
    return round(1.4 * size_px) * len(lines) + 10
