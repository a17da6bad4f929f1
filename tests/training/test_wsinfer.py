r"""The exported model inside another program: ``wsinfer run`` gives our probabilities.

WSInfer needs older libraries than ours, so it lives in an environment of its own; name its Python
in SCAAT_WSINFER_PYTHON to run this test. One that serves (Python 3.11, wsinfer 0.6.1, torch 2.14)::

    pip install wsinfer openslide-python openslide-bin "zarr<2.18" "numcodecs<0.13" "numpy<2" \
        "pandas<2.3" "scipy<1.14" "scikit-image<0.25" "tifffile<2025" "imagecodecs<2025" \
        "tiffslide<2.5" "opencv-python-headless<4.12"
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch
from PIL import Image

from pathology_scaat.training.bundle import build_model, load_bundle, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig

# Its command line asks the model zoo for a list of models before anything else; an empty list
# will do, and needs no network.
DRIVER = """
import wsinfer_zoo, wsinfer_zoo.client as client
client.load_registry = lambda *a, **k: client.ModelRegistry(models={})
from wsinfer.cli.cli import cli
cli()
"""


@pytest.fixture
def wsinfer_python() -> str:
    named = os.environ.get("SCAAT_WSINFER_PYTHON")
    if not named:
        pytest.skip("name a Python that has wsinfer in SCAAT_WSINFER_PYTHON")
    return named


@pytest.mark.slow
@pytest.mark.real
def test_wsinfer_gives_our_probabilities(
    wsinfer_python: str, data_dir: Path, tmp_path: Path
) -> None:
    config = BundleConfig(
        class_names=("normal", "tumour"), positive_class="tumour", patch_size_px=256, mpp=0.5,
        backbone="scaat-small", mean=(0.8, 0.7, 0.8), std=(0.15, 0.2, 0.15),
    )  # fmt: skip
    torch.manual_seed(3)
    model = build_model(config).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 3, 256, 256))  # running statistics other than 0 and 1
    save_bundle(tmp_path / "model", model.eval(), config)
    slides = tmp_path / "slides"
    slides.mkdir()
    name = "CMU-1-Small-Region.svs"
    shutil.copy(data_dir / "slides" / name, slides / name)
    (exported,) = (tmp_path / "model" / "wsinfer").iterdir()
    arguments = [
        "--backend", "openslide", "run", "--wsi-dir", slides, "--results-dir", tmp_path / "results",
        "--config", exported / "config.json", "--model-path", exported / "torchscript_model.pt",
        "--num-workers", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [wsinfer_python, "-c", DRIVER, *map(str, arguments)],
        env={**os.environ, "WSINFER_FORCE_CPU": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    table = tmp_path / "results" / "model-outputs-csv" / "CMU-1-Small-Region.csv"
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) > 10
    ours = load_bundle(tmp_path / "model").model
    with openslide.OpenSlide(slides / name) as slide:
        for row in rows[:8]:
            box = [int(row[k]) for k in ("minx", "miny", "width", "height")]
            region = slide.read_region((box[0], box[1]), 0, (box[2], box[3])).convert("RGB")
            patch = np.asarray(region.resize((256, 256), Image.Resampling.BILINEAR))
            x = torch.from_numpy(patch.copy()).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                expected = torch.softmax(ours(x), 1)[0].tolist()
            found = [float(row["prob_normal"]), float(row["prob_tumour"])]
            assert found == pytest.approx(expected, abs=1e-4)
