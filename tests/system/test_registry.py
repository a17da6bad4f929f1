"""Registries: names once, near misses named, and a package that adds its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from drawn_slides import draw_slide
from map_stores import run_with_maps
from saliency_fixtures import RunFolder

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.system.registry import Registry
from pathology_scaat.training.bundle_reading import read_bundle_config

PLUG_IN = """
import numpy as np
from pathology_scaat.saliency.attribution import gradient_map
from pathology_scaat.scaat.methods.plain import Plain

class Louder(Plain):
    pass

def broken():
    raise AssertionError

def uniform(model, images, classes, output, options):
    maps, logits = gradient_map(model, images, classes, output, options)
    return maps * 0 + 0.25, logits

def upside_down(path, mpp):
    from pathology_scaat.slides import open_slide
    return open_slide(path, reader="tiff", mpp=mpp)

def channel_list(path, context):
    path.write_text("\\n".join(context.slide_map.channel_names), encoding="utf-8")
    return context.map_frame

channel_list.suffix = ".txt"
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed as pip installs one: a module and its metadata."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "scaat_plug_in.py").write_text(PLUG_IN)
    info = site / "scaat_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scaat-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [pathology_scaat.methods]
            louder = scaat_plug_in:Louder
            absent = scaat_plug_in_that_is_gone:Nothing
            scaat = scaat_plug_in:Louder

            [pathology_scaat.attributions]
            uniform = scaat_plug_in:uniform

            [pathology_scaat.readers]
            upside-down = scaat_plug_in:upside_down

            [pathology_scaat.exporters]
            channel-list = scaat_plug_in:channel_list
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(site))
    return site


def test_every_built_in_method_can_be_imported() -> None:
    assert [METHODS.load(name) for name in METHODS.names]


def test_a_package_adds_a_method_and_cannot_replace_ours(plug_in: Path) -> None:
    registry = Registry("training method", "pathology_scaat.methods")
    registry.register("scaat", "pathology_scaat.scaat.scaat:SCAAT", "ours")
    assert registry.names == ("scaat", "louder", "absent")
    assert registry.load("louder").__name__ == "Louder"
    assert registry.load("scaat").__name__ == "SCAAT"
    with pytest.raises(UsageError, match="scaat-plug-in cannot be imported"):
        registry.load("absent", "--method")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'scaat'"):
        METHODS.load("SCAT", "--method")
    with pytest.raises(ValueError, match="did you mean 'sgt'"):
        METHODS.check("sgtt")


def scaat(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pathology_scaat", *map(str, words)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_a_method_that_a_package_adds_trains(plug_in: Path, run_folder: RunFolder) -> None:
    rows = ["slide_path,slide_id,patient_id,split"]
    for seed, split in enumerate(("train", "val")):
        run_folder.add_slide(split, seed=seed)
        rows.append(f"{split}.tiff,{split},{split},{split}")
    manifest = run_folder.out.parent / "cohort.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (run_folder.out / "slides.csv").write_text("slide_id\n")
    done = scaat(
        "train", "--manifest", manifest, "--out", run_folder.out, "--method", "louder",
        "--backbone", "scaat-small", "--epochs", 1, "--device", "cpu", "--overwrite",
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert read_bundle_config(run_folder.out / "model").method == "louder", done.stderr


def test_a_reader_that_a_package_adds_opens_a_slide(plug_in: Path, tmp_path: Path) -> None:
    draw_slide(tmp_path / "s.tiff", 1, side_px=256)
    shown = scaat("info", tmp_path / "s.tiff", "--reader", "upside-down")
    assert shown.returncode == 0, shown.stderr
    refused = scaat("info", tmp_path / "s.tiff", "--reader", "upsidedown")
    assert refused.returncode == 2
    assert "did you mean 'upside-down'" in refused.stderr.replace("\n", " ")


def test_an_attribution_that_a_package_adds_explains(plug_in: Path, run_folder: RunFolder) -> None:
    run_folder.add_slide("s1")
    done = scaat("explain", "--out", run_folder.out, "--method", "uniform", "--workers", 0)
    assert done.returncode == 0, done.stderr
    store = SaliencyStore(run_folder.out / "saliency" / "s1.zarr")
    assert store.meta.method == "uniform"
    assert np.allclose(store.read_saliency(slice(None)), 0.25)


def test_an_exporter_that_a_package_adds_writes_its_file(plug_in: Path, tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    done = scaat("export", "--out", out, "--formats", "channel-list", "--workers", 0)
    assert done.returncode == 0, done.stderr
    text = (out / "overlays" / "s1.plugin-channel-list.txt").read_text()
    assert "saliency" in text
