"""How objects show themselves at a Python prompt and in a notebook."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PX = 320


class Described:
    """Gives a class ``repr`` and ``_repr_html_`` out of a title, a few facts and a thumbnail."""

    def _title(self) -> str:
        """What it is of, such as a slide's id."""
        return ""

    def _facts(self) -> Mapping[str, str]:
        """Name and value of what a user wants to know first."""
        return {}

    def _thumbnail(self) -> NDArray[np.uint8] | None:
        """A small picture, (height, width, 3) uint8, or None."""
        return None

    def __repr__(self) -> str:
        facts = "; ".join(f"{name} {value}" for name, value in self._facts().items())
        title = self._title()
        return f"<{type(self).__name__}{f' {title!r}' if title else ''}: {facts}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        head = html.escape(f"{type(self).__name__} {self._title()}".rstrip())
        picture = self._thumbnail()
        shown = "" if picture is None else f"<img alt='{head}' src='{_data_url(picture)}'>"
        return f"<div><strong>{head}</strong><table>{rows}</table>{shown}</div>"


def _data_url(picture: NDArray[np.uint8]) -> str:
    from imagecodecs import png_encode

    encoded = png_encode(np.ascontiguousarray(picture))
    return "data:image/png;base64," + base64.b64encode(bytes(encoded)).decode()


def shrunk(picture: NDArray[np.uint8], max_px: int = THUMBNAIL_PX) -> NDArray[np.uint8]:
    """Every n-th pixel of a picture (H, W, ...), so that no side is longer than ``max_px``."""
    step = max(1, -(-max(picture.shape[:2]) // max_px))
    return picture[::step, ::step]


def tiled(pictures: NDArray[np.uint8], columns: int = 8) -> NDArray[np.uint8]:
    """Pictures (N, P, P, 3) side by side in rows, white where there are fewer; (H, W, 3)."""
    n, height, width = pictures.shape[:3]
    rows = -(-n // columns)
    sheet = np.full((rows * height, min(n, columns) * width, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return sheet


def grey(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values (h, w) as grey levels from 0 to their largest, (h, w, 3) uint8; NaN is white."""
    finite = np.nan_to_num(values, nan=0.0)
    top = float(finite.max()) if finite.size else 0.0
    level = np.round(255 * np.clip(finite / top, 0, 1)) if top > 0 else np.zeros_like(finite)
    shade = np.where(np.isnan(values), 255, level).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def shown_maps(
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]], n: int, most: int = 16
) -> NDArray[np.uint8] | None:
    """Some of `n` maps, spread over all, each as grey levels of its own; None where n is 0.

    `read` gives the maps (k, h, w) of indices (k,); the picture is (H, W, 3) uint8.
    """
    if not n:
        return None
    spread: NDArray[np.int64] = np.unique(np.linspace(0, n - 1, most).astype(np.int64))
    return tiled(np.stack([shrunk(grey(values), 64) for values in read(spread)]))
