"""Model bundles: what is saved is what is loaded, or nothing is."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch

from pathology_scaat.errors import BundleError
from pathology_scaat.training.bundle import (
    build_model,
    load_bundle,
    read_bundle_config,
    save_bundle,
)
from pathology_scaat.training.bundle_config import (
    BundleConfig,
    model_fingerprint,
    model_name,
)


def config_for(backbone: str = "scaat-small", side: int = 32) -> BundleConfig:
    return BundleConfig(
        class_names=("normal", "tumour", "other"),
        positive_class="tumour",
        patch_size_px=side,
        mpp=0.5,
        backbone=backbone,
        mean=(0.8, 0.7, 0.8),
        std=(0.15, 0.2, 0.15),
        metrics={"val_auc": 0.9},
    )


def saved(path: Path, backbone: str = "scaat-small", side: int = 32) -> Path:
    config = config_for(backbone, side)
    torch.manual_seed(0)
    model = build_model(config).eval()
    save_bundle(path, model, config, training_log="epoch\n1\n")
    return path


def wsinfer_folder(path: Path) -> Path:
    (folder,) = (path / "wsinfer").iterdir()
    return folder


def images(side: int = 32, n: int = 3) -> torch.Tensor:
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(0))


def test_round_trip(tmp_path: Path) -> None:
    path = saved(tmp_path / "model")
    torch.manual_seed(0)
    before = build_model(config_for()).eval()
    bundle = load_bundle(path)
    assert torch.equal(bundle.model(images()), before(images()))
    assert bundle.config.class_names == ("normal", "tumour", "other")
    assert (path / "training_log.csv").read_text() == "epoch\n1\n"
    assert not any(p.requires_grad for p in bundle.model.parameters())


def test_same_model_same_bytes_and_no_path_inside(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "a" / "model"), saved(tmp_path / "b" / "model")
    for file in sorted(p for p in one.rglob("*") if p.is_file()):
        data = file.read_bytes()
        assert data == (two / file.relative_to(one)).read_bytes(), file.name
        assert str(tmp_path).encode() not in data
        assert not re.search(rb"site-packages|/home/|/usr/", data), file.name
    assert load_bundle(one).fingerprint == load_bundle(two).fingerprint


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        ("scaat-small", 32),
        ("resnet18", 64),
        ("convnext_atto", 64),
        ("vit_tiny_patch16_224", 64),
    ],
)
def test_torchscript_gives_the_same_logits(tmp_path: Path, backbone: str, side: int) -> None:
    path = saved(tmp_path / "model", backbone, side)
    model = load_bundle(path).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(wsinfer_folder(path) / "torchscript_model.pt")  # type: ignore[no-untyped-call]
    for n in (1, 5):
        with torch.no_grad():
            x = images(side, n)
            torch.testing.assert_close(script(x), model(x), rtol=1e-5, atol=1e-6)
    stated = json.loads((wsinfer_folder(path) / "config.json").read_text())
    assert stated["spec_version"] == "1.0"
    assert stated["num_classes"] == len(stated["class_names"]) == 3
    assert stated["patch_size_pixels"] == side
    assert stated["spacing_um_px"] == 0.5
    assert {t["name"] for t in stated["transform"]} <= {"Resize", "ToTensor", "Normalize"}


def test_the_wsinfer_folder_is_named_after_the_model_and_reports_it(tmp_path: Path) -> None:
    """QuPath's extension lists local models by folder, and shows README.md on request."""
    one, two = saved(tmp_path / "a" / "model"), saved(tmp_path / "b" / "model", side=64)
    names = {wsinfer_folder(path).name for path in (one, two)}
    assert len(names) == 2
    name = model_name(read_bundle_config(one))
    assert name in names
    assert name.startswith("plain-scaat-small-")
    readme = (wsinfer_folder(one) / "README.md").read_text(encoding="utf-8")
    for text in (
        name,
        "normal, tumour, other",
        "0.5 um/px",
        "val_auc: 0.9",
        "not a medical device",
    ):
        assert text in readme


def test_class_colours_travel_with_the_bundle_and_are_not_its_meaning(tmp_path: Path) -> None:
    config = config_for()
    coloured = config.model_copy(update={"class_colours": {"normal": (1, 2, 3)}})
    assert model_fingerprint(config) == model_fingerprint(coloured)
    save_bundle(tmp_path / "model", build_model(coloured).eval(), coloured, wsinfer=False)
    assert read_bundle_config(tmp_path / "model").class_colours == {"normal": (1, 2, 3)}


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def change(path: Path, **values: object) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **values}))


def test_altered_bundles_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model")
    weights, config = path / "model.safetensors", path / "config.json"
    original = weights.read_bytes(), config.read_text()

    flip_byte(weights)
    with pytest.raises(BundleError, match="not the one it was saved with"):
        load_bundle(path)
    weights.write_bytes(original[0])
    for values in (
        {"class_names": ["tumour", "normal", "other"]},
        {"mpp": 0.25},
        {"weights_sha256": "0" * 64},
        {"fingerprint": None},
    ):
        change(config, **values)
        with pytest.raises(BundleError, match="altered"):
            load_bundle(path)
        config.write_text(original[1])
    change(config, schema_version=99)
    with pytest.raises(BundleError, match="schema version 99"):
        load_bundle(path)
    change(config, schema_version=1, surprise=1)
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(path)
    config.write_text("[" * 100_000)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(path)
    config.write_text("[]")
    with pytest.raises(BundleError, match="not a model bundle"):
        load_bundle(path)
    config.write_text(original[1])
    weights.unlink()
    with pytest.raises(BundleError, match=r"no model\.safetensors"):
        load_bundle(path)
    with pytest.raises(BundleError, match="not a model bundle"):
        read_bundle_config(tmp_path / "nothing")


def test_error_names_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(tmp_path / "secret-place" / "model")
    assert "secret-place" not in str(caught.value)
