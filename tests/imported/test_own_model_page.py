"""The page on own models: its snippet and each of its commands run, and its table is the code's."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from drawn_slides import make_cohort
from safetensors.torch import save_file
from torch import nn

from pathology_scaat.cli import app, run_command
from pathology_scaat.training.encoders import ENCODERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8")
SIDE = 64


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all the files that the page names."""
    folder = tmp_path_factory.mktemp("desk")
    make_cohort(folder, 352).rename(folder / "slides.csv")
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=2).eval()
    save_file(network.state_dict(), folder / "resnet18.safetensors")
    save_file(
        timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=0).state_dict(),
        folder / "vit.safetensors",
    )
    own = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip
    torch.save(own.state_dict(), folder / "mine.pt")
    (folder / "wsinfer-model").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model, path in (
            (network, folder / "wsinfer-model" / "torchscript_model.pt"),
            (own.eval(), folder / "mine.ts"),
        ):
            script = torch.jit.trace(model, torch.rand(2, 3, SIDE, SIDE))  # type: ignore[no-untyped-call]
            torch.jit.save(script, path)  # type: ignore[no-untyped-call]
    config = {
        "spec_version": "1.0", "architecture": "resnet18", "num_classes": 2,
        "class_names": ["Normal", "Tumor"], "patch_size_pixels": SIDE, "spacing_um_px": 1.0,
        "transform": [{"name": "ToTensor"}],
    }  # fmt: skip
    (folder / "wsinfer-model" / "config.json").write_text(json.dumps(config))
    bundle = folder / "monai-bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    data = {
        "inputs": {"image": {"num_channels": 3, "spatial_shape": [SIDE, SIDE]}},
        "outputs": {"pred": {"format": "classification", "num_channels": 2,
                             "channel_def": {"0": "Normal", "1": "Tumor"}}},
    }  # fmt: skip
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": data}))
    scale = {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}
    network_def = {"_target_": "TorchVisionFCModel", "model_name": "resnet18"}
    (bundle / "configs" / "inference.json").write_text(
        json.dumps({"network_def": network_def, "preprocessing": [scale]})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCAAT_CONFIG_DIR", str(folder / "settings"))
        patch.chdir(folder)
        yield folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_snippet_runs_as_it_is_printed(desk: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for line in snippet.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 20
    exec(compile(snippet, "own-model.md", "exec"), {})
    assert (desk / "my-out" / "overlays" / "index.html").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_command_runs(desk: Path) -> None:
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
        for line in block.strip().splitlines()
    ]
    assert len(commands) >= 7
    for line in commands:
        name, *arguments = shlex.split(line)
        assert name == "scaat"
        if arguments[0] == "train":  # on what is tiled by then, as the page's reader has it
            tiled = ["tile", "--manifest", "slides.csv", "--out", "trained", "--mpp", "1",
                     "--patch-size", "64", "--workers", "0"]  # fmt: skip
            assert run_command(lambda t=tiled: app(t, standalone_mode=False)) == 0
        code = run_command(lambda a=arguments: app(a, standalone_mode=False))
        # a classifier of random weights may well have learnt nothing, and says so by its code
        assert code == 0 or (arguments[0] == "train" and code == 4), line
    assert (desk / "out" / "overlays" / "index.html").is_file()


def test_the_table_of_encoders_is_the_registry() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+?) \| (\d+) \| ([\d,]+) \| (.+?) \|$", PAGE,
                      re.MULTILINE)  # fmt: skip
    assert rows == [
        (e.name, e.title, e.page, str(e.input_px), f"{e.n_parameters / 1e6:,.0f}", e.licence)
        for e in ENCODERS.values()
    ]
