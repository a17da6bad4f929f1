"""A model bundle is data: nothing in it runs, reaches out, or leaves its folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import BundleError
from pathology_scaat.training.bundle import build_model, load_bundle, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "unpickled")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads."""
    config = BundleConfig(
        class_names=("Normal", "Tumor"), positive_class="Tumor", patch_size_px=32, mpp=1.0,
        backbone="scaat-small", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("sound") / "model"
    save_bundle(path, build_model(config), config)
    load_bundle(path)
    return path


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def rewrite(bundle: Path, *, with_checksums: bool = False, **changes: Any) -> None:
    """Change config.json; ``with_checksums``: as an attacker would, with hashes that fit."""
    file = bundle / "config.json"
    value = json.loads(file.read_text(encoding="utf-8")) | changes
    if with_checksums:
        value.pop("fingerprint")
        value.pop("pathology_scaat_checksum")
        value["weights_sha256"] = file_sha256(bundle / "model.safetensors")
        value["fingerprint"] = model_fingerprint(BundleConfig.model_validate(value))
    file.write_text(json.dumps(value), encoding="utf-8")


def pickled_weights(bundle: Path) -> None:
    """Weights that are a pickle, under the right hash."""
    bomb = pickle.dumps(Bomb(bundle.parent / "unpickled"))
    (bundle / "model.safetensors").write_bytes(bomb)
    rewrite(bundle, with_checksums=True)


def torch_pickle(bundle: Path) -> None:
    torch.save({"x": Bomb(bundle.parent / "unpickled")}, bundle / "model.safetensors")
    rewrite(bundle, with_checksums=True)


def huge_header(bundle: Path) -> None:
    """A safetensors header that claims to be exabytes long."""
    (bundle / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    rewrite(bundle, with_checksums=True)


def spoil_weights(bundle: Path, value: float, *, all_of_them: bool) -> None:
    file = bundle / "model.safetensors"
    state = load_file(file)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            if all_of_them:
                tensor.fill_(value)
            elif name.endswith("head.weight"):
                tensor.view(-1)[3] = value
    save_file(state, file)
    rewrite(bundle, with_checksums=True)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "weights that are a pickle": pickled_weights,
    "weights that are a torch file": torch_pickle,
    "weights with an impossible header": huge_header,
    "other weights": lambda b: (b / "model.safetensors").write_bytes(b"x" * 100),
    "no weights": lambda b: (b / "model.safetensors").unlink(),
    "no config": lambda b: (b / "config.json").unlink(),
    "a config that is binary": lambda b: (b / "config.json").write_bytes(bytes(range(256))),
    "a config nested deeply": lambda b: (b / "config.json").write_text("[" * 200_000),
    "a config of 5 MB": lambda b: (b / "config.json").write_text('"' + "x" * 5_000_000 + '"'),
    "another major version": lambda b: rewrite(b, schema_version=2),
    "a changed class": lambda b: rewrite(b, class_names=["Normal", "Other"]),
    "an unknown setting": lambda b: rewrite(b, surprise=1),
    "a network from a download": lambda b: rewrite(
        b, with_checksums=True, backbone="hf-hub:evil/model"
    ),
    "a network from a folder": lambda b: rewrite(b, with_checksums=True, backbone="local-dir:/tmp"),
    "a network that is a path": lambda b: rewrite(b, with_checksums=True, backbone="../../x"),
    "an option that reads a file": lambda b: rewrite(
        b,
        with_checksums=True,
        backbone="resnet18",
        backbone_options={"checkpoint_path": "/etc/passwd"},
    ),
    "an option that downloads": lambda b: rewrite(
        b, with_checksums=True, backbone="resnet18", backbone_options={"pretrained": True}
    ),
    "an option that is unknown": lambda b: rewrite(
        b, with_checksums=True, backbone_options={"__class__": "x"}
    ),
    "an activation that does not exist": lambda b: rewrite(
        b, with_checksums=True, backbone="resnet18", backbone_options={"act_layer": "os.system"}
    ),
    "an activation that is a number": lambda b: rewrite(
        b, with_checksums=True, backbone="resnet18", backbone_options={"act_layer": 5}
    ),
    "a block that is a word": lambda b: rewrite(
        b, with_checksums=True, backbone="resnet18", backbone_options={"block": "x"}
    ),
    "no widths": lambda b: rewrite(b, with_checksums=True, backbone_options={"widths": []}),
    "one width": lambda b: rewrite(b, with_checksums=True, backbone_options={"widths": [16]}),
    "a width of nothing": lambda b: rewrite(
        b, with_checksums=True, backbone_options={"widths": [0, 0]}
    ),
    "widths of words": lambda b: rewrite(
        b, with_checksums=True, backbone_options={"widths": ["a", "b"]}
    ),
    "widths that fill the memory": lambda b: rewrite(
        b, with_checksums=True, backbone_options={"widths": [10**9, 10**9]}
    ),
    "a transformer that fills the memory": lambda b: rewrite(
        b,
        with_checksums=True,
        backbone="vit_small_patch16_224",
        backbone_options={"embed_dim": 4096, "depth": 96, "num_heads": 8},
    ),
    "a normalisation that does not exist": lambda b: rewrite(
        b, with_checksums=True, backbone_options={"norm": "none"}
    ),
    "heads that do not divide": lambda b: rewrite(
        b,
        with_checksums=True,
        backbone="vit_small_patch16_224",
        backbone_options={"num_heads": 7},
    ),
    "a rate that is not a number": lambda b: rewrite(
        b, backbone="vit_small_patch16_224", backbone_options={"drop_rate": float("nan")}
    ),
    "a training record that is not a number": lambda b: rewrite(b, training={"x": float("inf")}),
    "a number beyond all": lambda b: (b / "config.json").write_text(
        (b / "config.json").read_text().replace('"mpp": 1.0', '"mpp": 1e999')
    ),
    "classes that differ in case": lambda b: rewrite(
        b, with_checksums=True, class_names=["Tumor", "tumor"]
    ),
    "classes that differ in how an accent is spelled": lambda b: rewrite(
        b,
        with_checksums=True,
        class_names=["Ade\u0301nome", "Ad\xe9nome"],
        positive_class="Ad\xe9nome",
    ),
    "a class without a name": lambda b: rewrite(b, with_checksums=True, class_names=["", "Tumor"]),
    "a class with a line break": lambda b: rewrite(
        b, with_checksums=True, class_names=["Nor\nmal", "Tumor"]
    ),
    "a class with a terminal command": lambda b: rewrite(
        b, with_checksums=True, class_names=["\x1b[31mNormal", "Tumor"]
    ),
    "a class with a name of a page": lambda b: rewrite(
        b, with_checksums=True, class_names=["x" * 5000, "Tumor"]
    ),
    "weights that are not numbers": lambda b: spoil_weights(b, float("nan"), all_of_them=False),
    "weights that are infinite": lambda b: spoil_weights(b, float("inf"), all_of_them=False),
    "weights that are all zero": lambda b: spoil_weights(b, 0.0, all_of_them=True),
    "a folder that is a file": lambda b: (
        [p.unlink() for p in b.rglob("*") if p.is_file()],
        [p.rmdir() for p in sorted(b.rglob("*"), reverse=True)],
        b.rmdir(),
        b.write_text("x"),
    ),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bundles_are_refused_in_one_sentence(
    spoil: Callable[[Path], object], bundle: Path
) -> None:
    spoil(bundle)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model: ")  # it is the model's fault, and no option's
    assert str(bundle.parent) not in str(caught.value)
    assert not (bundle.parent / "unpickled").exists()


def test_another_version_is_named(bundle: Path) -> None:
    rewrite(bundle, schema_version=2)
    with pytest.raises(BundleError, match="schema version 2, not 1"):
        load_bundle(bundle)


def test_the_torchscript_is_never_loaded(bundle: Path) -> None:
    next(bundle.glob("wsinfer/*/torchscript_model.pt")).write_bytes(
        pickle.dumps(Bomb(bundle.parent / "unpickled"))
    )
    load_bundle(bundle)
    assert not (bundle.parent / "unpickled").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("weights that are not numbers", "not finite"),
        ("weights that are all zero", "all zero"),
        ("classes that differ in case", "two classes of one name"),
        ("a class without a name", "without a name"),
        ("a class with a line break", "control characters"),
        ("a block that is a word", "'block' is not accepted"),
        ("an activation that does not exist", "act_layer"),
        ("a transformer that fills the memory", "billion weights"),
    ],
)
def test_the_sentence_says_what_is_wrong_with_the_model(
    spoil: str, words: str, bundle: Path
) -> None:
    HOSTILE[spoil](bundle)
    with pytest.raises(BundleError, match=words):
        load_bundle(bundle)
