"""``scaat info``: what may be known about a slide, without its identity."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.base import SlideInfo
from pathology_scaat.slides.spacing import spacing_remedy

COMMON_MPPS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""µm/px that models are commonly trained at (40x, 20x, 10x, 5x, 2.5x)."""

READ_ICC = ("tiff", "openslide")
"""Readers that look for an ICC profile."""


@dataclass(frozen=True)
class SlideReport:
    """A slide's geometry, the reader that serves it, and a µm/px to ask for.

    ``suggested_mpp`` is the common µm/px nearest to 0.5 that the slide can give without
    upsampling; None where its own µm/px is unknown.
    """

    info: SlideInfo
    suggested_mpp: float | None

    def to_dict(self) -> dict[str, Any]:
        value = asdict(self.info)
        value["size_px"] = asdict(self.info.size_px)
        value["suggested_mpp"] = self.suggested_mpp
        if self.info.reader not in READ_ICC:
            value["icc_profile_bytes"] = None
        return value

    def rows(self) -> list[tuple[str, str]]:
        """Label and value pairs for a table."""
        info = self.info
        rows = [
            ("reader", info.reader),
            ("format", info.vendor),
            ("size", f"{info.size_px.width:,} x {info.size_px.height:,} px"),
            ("µm/px", f"{info.mpp:.4f} (from {info.mpp_source})" if info.mpp else info.mpp_source),
            ("objective", f"{info.objective_power:g}x" if info.objective_power else "not stated"),
            ("scanner bounds", _box_text(info.bounds_px)),
            ("ICC profile", self._icc_text()),
        ]
        for number, level in enumerate(info.levels):
            spacing = f", {info.mpp * level.downsample:.4g} µm/px" if info.mpp else ""
            rows.append(
                (
                    f"level {number}",
                    f"{level.size_px.width:,} x {level.size_px.height:,} px, "
                    f"1/{level.downsample:g}{spacing}",
                )
            )
        if self.suggested_mpp is not None:
            rows.append(("suggested", f"--mpp {self.suggested_mpp:g}"))
        else:
            rows.append(("suggested", spacing_remedy(info.mpp_source)))
        rows.extend((f"image {number}", text) for number, text in enumerate(info.images, 1))
        rows.extend(("note", note) for note in info.notes)
        return rows

    def _icc_text(self) -> str:
        if self.info.icc_profile_bytes:
            return f"{self.info.icc_profile_bytes:,} bytes"
        return "no" if self.info.reader in READ_ICC else "this reader does not look for one"


def _box_text(box: BoxPx | None) -> str:
    return f"{box.width:,} x {box.height:,} px at {box.x:,}, {box.y:,}" if box else "whole canvas"


def suggest_mpp(mpp: float | None) -> float | None:
    """The common µm/px nearest to 0.5 that needs no upsampling (2 % of slack)."""
    if mpp is None:
        return None
    coarser = [common for common in COMMON_MPPS if common >= mpp * 0.98]
    return min(coarser, key=lambda common: abs(common - 0.5)) if coarser else mpp


def info(
    slide: str | Path | SlideUrl, *, reader: str = "auto", mpp: float | None = None
) -> SlideReport:
    """Open a slide and report its geometry; no associated image is opened.

    Parameters
    ----------
    slide : Path, SlideUrl or str
        Slide file, folder of a DICOM or OME-Zarr slide, or fsspec URL.
    reader : str
        Reader to force; ``auto`` chooses by what the file is.
    mpp : float, optional
        µm per level-0 pixel to use in place of the file's.
    """
    with open_slide(slide, reader=reader, mpp=mpp) as opened:
        return SlideReport(opened.info, suggest_mpp(opened.info.mpp))
