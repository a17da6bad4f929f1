"""The names at the top of the package: light to import, callable, and they show themselves."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_slides import draw_slide, make_cohort
from saliency_fixtures import RunFolder

import pathology_scaat as ps
from pathology_scaat.system.representation import Described

HEAVY = ("torch", "zarr", "dask", "matplotlib", "numba", "tensorstore", "scipy", "openslide")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, pathology_scaat; print([m for m in {HEAVY!r} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ps.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert name in dir(ps)
    assert (getattr(ps, name).__doc__ or "").strip()


def test_export_is_a_package_and_a_step(tmp_path: Path) -> None:
    from pathology_scaat.errors import UsageError
    from pathology_scaat.export import ExportConfig

    assert ExportConfig is ps.export.ExportConfig
    with pytest.raises(UsageError, match="stitch"):
        ps.export(tmp_path)


@pytest.mark.parametrize(
    "package", ["saliency", "export", "stitching", "training", "scaat", "demo"]
)
def test_lazy_names_complete(package: str) -> None:
    module = importlib.import_module(f"pathology_scaat.{package}")
    assert set(module.__all__) <= set(dir(module))


def test_a_patch_store_shows_itself(run_folder: RunFolder) -> None:
    store = ps.PatchStore(run_folder.add_slide("s1"))
    assert repr(store).startswith("<PatchStore 's1': patches 12; size 32 px at 0.5")
    shown = store._repr_html_()
    assert "<img" in shown
    assert "data:image/png;base64," in shown


def test_names_are_escaped_in_a_notebook() -> None:
    class Slide(Described):
        def _title(self) -> str:
            return "<script>alert(1)</script>"

        def _thumbnail(self) -> np.ndarray:
            return np.zeros((4, 4, 3), np.uint8)

    assert "<script>" not in Slide()._repr_html_()


@pytest.mark.parametrize(
    "module",
    ["patches.reader", "scaat.scaat", "scaat.target", "saliency.attribution", "slides.opening"],
)
def test_examples_in_docstrings_run(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"pathology_scaat.{module}"))
    assert failed == 0
    assert tried


def test_examples_on_the_folder_of_a_run(run_folder: RunFolder) -> None:
    """Each step's example makes what the next one's reads."""
    run_folder.add_slide("s1")
    for module in (
        "pipeline.explain", "pipeline.stitch", "pipeline.export", "saliency.store",
        "stitching.slide_map", "training.bundle",
    ):  # fmt: skip
        failed, tried = doctest.testmod(
            importlib.import_module(f"pathology_scaat.{module}"), extraglobs={"out": run_folder.out}
        )
        assert failed == 0, module
        assert tried, module


def test_examples_from_slides_to_overlays(tmp_path: Path) -> None:
    """What tiling makes is trained on, and what training makes is applied."""
    given = {"manifest": make_cohort(tmp_path), "out": tmp_path / "out"}
    for module in ("pipeline.tile", "pipeline.train", "pipeline.run"):
        failed, tried = doctest.testmod(
            importlib.import_module(f"pathology_scaat.{module}"), extraglobs=given
        )
        assert failed == 0, module
        assert tried, module


def test_a_slide_shows_itself_without_its_name(tmp_path: Path) -> None:
    draw_slide(tmp_path / "SMITH_JOHN.tiff", seed=0, side_px=256)
    with ps.open_slide(tmp_path / "SMITH_JOHN.tiff") as slide:
        shown = f"{slide!r} {slide._repr_html_()}"  # type: ignore[attr-defined]
    assert "256 x 256 px at 0.5 µm/px" in shown
    assert "data:image/png;base64," in shown
    assert "SMITH" not in shown


def test_a_saliency_store_shows_some_of_its_maps(run_folder: RunFolder) -> None:
    run_folder.add_slide("s1")
    ps.explain(run_folder.out, device="cpu")
    store = ps.SaliencyStore(run_folder.out / "saliency" / "s1.zarr")
    assert "data:image/png;base64," in store._repr_html_()
