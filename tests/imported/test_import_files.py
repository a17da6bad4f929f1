"""Weights of every common form become the same model; what does not fit is one sentence."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pathology_scaat.errors import BundleError, ScaatError, TrainingError, UsageError
from pathology_scaat.pipeline.import_model import (
    ImportReport,
    ModelMeaning,
    ModelSource,
    import_model,
)
from pathology_scaat.training import load_bundle
from pathology_scaat.training.bundle import save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.imported.class_order import refuse_another_order
from pathology_scaat.training.imported.torchscript_tensors import read_torchscript_tensors

SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAID = ModelMeaning("resnet10t", {}, ("Normal", "Tumor"), 0.5, SIDE, MEAN, STD)


@pytest.fixture(autouse=True)
def own_trust_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCAAT_CONFIG_DIR", str(tmp_path / "settings"))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=2).train()
    with torch.no_grad():
        model(torch.rand(8, 3, SIDE, SIDE))  # statistics other than 0 and 1
    return model.eval()


def traced(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(network, torch.rand(2, 3, SIDE, SIDE), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(script, path)  # type: ignore[no-untyped-call]
    return path


def expected(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand((3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        return images, network((images - mean) / std)


def same_model(report: ImportReport, network: nn.Module) -> None:
    images, logits = expected(network)
    with torch.no_grad():
        torch.testing.assert_close(
            load_bundle(report.bundle).model(images), logits, rtol=1e-4, atol=1e-5
        )


def as_safetensors(network: nn.Module, path: Path) -> Path:
    save_file(network.state_dict(), path / "w.safetensors")
    return path / "w.safetensors"


def as_checkpoint(network: nn.Module, path: Path) -> Path:
    state = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"epoch": 3, "arch": "resnet10t", "state_dict": state}, path / "w.pth.tar")
    return path / "w.pth.tar"


def with_other_head(network: nn.Module, path: Path) -> Path:
    state = {f"encoder.{k}": v for k, v in network.state_dict().items() if "fc" not in k}
    state |= {"classifier.1.weight": network.fc.weight, "classifier.1.bias": network.fc.bias}  # type: ignore[union-attr,dict-item]
    torch.save(state, path / "w.pt")
    return path / "w.pt"


def as_torchscript(network: nn.Module, path: Path) -> Path:
    return traced(network, path / "w.pt")


@pytest.mark.parametrize("write", [as_safetensors, as_checkpoint, with_other_head, as_torchscript])
def test_every_form_of_weights_is_the_same_model(
    write: Callable[[nn.Module, Path], Path], network: nn.Module, tmp_path: Path
) -> None:
    report = import_model(ModelSource(weights=write(network, tmp_path)), tmp_path / "b", SAID)
    same_model(report, network)
    assert not (report.bundle / "script.pt").exists()


def test_a_script_runs_for_who_imported_it_and_for_nobody_else(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = traced(network, tmp_path / "model.ts")
    said = ModelMeaning(None, {}, *[getattr(SAID, f) for f in (
        "class_names", "mpp", "patch_size_px", "mean", "std")])  # fmt: skip
    report = import_model(ModelSource(torchscript=script), tmp_path / "b", said)
    same_model(report, network)
    assert any("program" in note for note in report.notes)
    monkeypatch.setenv("SCAAT_CONFIG_DIR", str(tmp_path / "somebody"))
    with pytest.raises(BundleError, match="program, and you have not imported it"):
        load_bundle(report.bundle)
    monkeypatch.setenv("SCAAT_CONFIG_DIR", str(tmp_path / "settings"))
    with (report.bundle / "script.pt").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="another one than it was saved with"):
        load_bundle(report.bundle)


def test_a_script_is_not_fine_tuned(network: nn.Module, tmp_path: Path) -> None:
    """A bundle of its new weights would name a program that has the old ones."""
    from pathology_scaat.cohort.manifest import Manifest
    from pathology_scaat.pipeline.finetune import finetune

    script = traced(network, tmp_path / "mine.ts")
    said = ModelMeaning(None, {}, *[getattr(SAID, f) for f in (
        "class_names", "mpp", "patch_size_px", "mean", "std")])  # fmt: skip
    import_model(ModelSource(torchscript=script), tmp_path / "b", said)
    with pytest.raises(UsageError, match="TorchScript program"):
        finetune(Manifest(rows=()), tmp_path / "out", tmp_path / "b")
    assert not (tmp_path / "out").exists()


def test_no_code_of_a_script_is_run_when_its_tensors_are_read(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = traced(network, tmp_path / "model.ts")
    monkeypatch.setattr(torch.jit, "load", lambda *_a, **_k: pytest.fail("a script was loaded"))
    found = read_torchscript_tensors(script)
    for key, value in network.state_dict().items():
        assert torch.equal(found[key], value), key

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "written", "x"))

    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Hostile(), protocol=2))
        archive.writestr("m/code/x.py", "")
    with pytest.raises(TrainingError, match="can be read as data"):
        read_torchscript_tensors(evil)
    assert not (tmp_path / "written").exists()


def wsinfer_zoo(network: nn.Module, folder: Path, **changes: Any) -> Path:
    """As the models of the zoo are laid out."""
    folder.mkdir()
    traced(network, folder / "torchscript_model.pt")
    value = {
        "spec_version": "1.0", "architecture": "resnet10t", "num_classes": 2,
        "class_names": ["Other", "Tumor"], "patch_size_pixels": SIDE, "spacing_um_px": 0.25,
        "transform": [
            {"name": "Resize", "arguments": {"size": SIDE}}, {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(MEAN), "std": list(STD)}},
        ],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(value | changes))
    return folder


def test_a_model_of_the_wsinfer_zoo(network: nn.Module, tmp_path: Path) -> None:
    folder = wsinfer_zoo(network, tmp_path / "zoo")
    report = import_model(ModelSource(wsinfer=folder), tmp_path / "b")
    same_model(report, network)
    config = report.config
    assert (config.class_names, config.mpp, config.positive_class) == (
        ("Other", "Tumor"), 0.25, "Tumor",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transform": [{"name": "ColorJitter"}]}, "ColorJitter"),
        ({"class_names": []}, "no WSInfer configuration"),
        ({"architecture": "inceptionv4nobn"}, "'inceptionv4nobn' is unknown"),
        ({"architecture": "resnet14t"}, "fills only"),
        ({"class_names": ["a", "b", "c"]}, "3 classes are named"),
    ],
)
def test_what_is_not_understood_of_a_wsinfer_folder_is_refused(
    network: nn.Module, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = wsinfer_zoo(network, tmp_path / "zoo", **changes)
    with pytest.raises(ScaatError, match=words):
        import_model(ModelSource(wsinfer=folder), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_our_own_wsinfer_export_comes_back(tmp_path: Path, temperature: float) -> None:
    from pathology_scaat.training.bundle import build_model

    config = BundleConfig(
        class_names=("Normal", "Tumor"), positive_class="Tumor", patch_size_px=SIDE, mpp=0.5,
        backbone="scaat-small", mean=(0.8, 0.7, 0.8), std=(0.15, 0.2, 0.15),
        temperature=temperature,
    )  # fmt: skip
    torch.manual_seed(1)
    model = build_model(config).eval()
    save_bundle(tmp_path / "ours", model, config)
    (folder,) = (tmp_path / "ours" / "wsinfer").iterdir()
    report = import_model(ModelSource(wsinfer=folder), tmp_path / "b")
    images = torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(load_bundle(report.bundle).model(images), model(images))
    assert report.config.temperature == 1.0
    assert any("temperature" in note for note in report.notes) == (temperature != 1.0)


def test_a_monai_bundle_of_one_sigmoid(tmp_path: Path) -> None:
    """As pathology_tumor_detection of its zoo: a ResNet's children in a row, one output."""
    import torchvision

    torch.manual_seed(2)
    whole = torchvision.models.resnet18(num_classes=1).eval()
    parts = list(whole.children())
    state = {
        f"features.{k}": v for k, v in nn.Sequential(*parts[:-2]).state_dict().items()
    } | {"fc.weight": whole.fc.weight[:, :, None, None], "fc.bias": whole.fc.bias}  # fmt: skip
    folder = tmp_path / "monai"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    torch.save(state, folder / "models" / "model.pt")
    image = {"num_channels": 3, "spatial_shape": [64, 64]}
    pred = {"format": "classification", "num_channels": 1, "channel_def": {"0": "metastasis"}}
    (folder / "configs" / "metadata.json").write_text(
        json.dumps({"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}})
    )
    scale = {"_target_": "ScaleIntensityRanged", "a_min": 0.0, "a_max": 255.0, "b_min": -1.0,
             "b_max": 1.0}  # fmt: skip
    network = {"_target_": "TorchVisionFCModel", "model_name": "resnet18", "num_classes": 1}
    (folder / "configs" / "inference.json").write_text(json.dumps({
        "imports": ["$import os; os._exit(9)"], "network_def": network,
        "preprocessing": {"_target_": "Compose", "transforms": [scale]},
    }))  # fmt: skip
    with pytest.raises(UsageError, match="--mpp"):
        import_model(ModelSource(monai=folder), tmp_path / "b")
    report = import_model(ModelSource(monai=folder), tmp_path / "b", ModelMeaning(mpp=0.25))
    config = report.config
    assert config.class_names == ("no metastasis", "metastasis")
    assert config.positive_class == "metastasis"
    assert config.mean == config.std == (0.5, 0.5, 0.5)
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        found = load_bundle(report.bundle).model(images).softmax(1)[:, 1]
        torch.testing.assert_close(found, whole((images - 0.5) / 0.5).sigmoid()[:, 0])


class Odd(nn.Module):
    """A network with something wrong in its answer."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "rounded":
            x = (x * 8).round()
        logits: Tensor = self.network(x)
        if self.how == "probabilities":
            return logits.softmax(1)
        if self.how == "log":
            return logits.log_softmax(1)
        if self.how == "sigmoids":
            return (logits * 3).sigmoid()
        if self.how == "one":
            return logits[:, :1]
        return torch.stack([logits, logits], 1) if self.how == "shape" else logits


@pytest.mark.parametrize(
    ("how", "words", "several"),
    [
        ("probabilities", "without its last softmax", False),
        ("probabilities", "without its last softmax", True),
        ("log", "without its last log-softmax", True),
        ("sigmoids", "without its last sigmoid", True),
        ("one", "with --multi-label", False),
        ("rounded", "no gradient", False),
        ("shape", "not a row of logits", False),
    ],
)
def test_a_script_that_cannot_be_explained_is_refused(
    network: nn.Module, tmp_path: Path, how: str, words: str, several: bool
) -> None:
    script = traced(Odd(network, how).eval(), tmp_path / "odd.ts")
    said = ModelMeaning(None, {}, ("a", "b"), 0.5, SIDE, MEAN, STD, multi_label=several)
    with pytest.raises(TrainingError, match=words):
        import_model(ModelSource(torchscript=script), tmp_path / "b", said)
    assert not (tmp_path / "b").exists()


def test_outputs_between_0_and_1_are_told_and_names_that_do_not_decide(
    network: nn.Module, tmp_path: Path
) -> None:
    script = traced(Odd(network, "sigmoids").eval(), tmp_path / "odd.ts")
    said = ModelMeaning(None, {}, ("1", "1.0"), 0.5, SIDE, MEAN, STD)
    notes = " ".join(import_model(ModelSource(torchscript=script), tmp_path / "b", said).notes)
    assert "if it ends in a sigmoid" in notes
    assert "choose with --positive." in notes


def test_the_folders_classes_in_another_order_are_refused() -> None:
    """Every map would speak of the other class."""
    refuse_another_order(("benign", "malignant"), ("Normal", "Tumor"))
    refuse_another_order(("normal", "tumor"), ("Normal", "Tumor"))
    with pytest.raises(UsageError, match=r"that is output 2 \(Normal, Tumor\)"):
        refuse_another_order(("Tumor", "Normal"), ("Normal", "Tumor"))


def test_a_script_saved_in_training_mode_is_refused(network: nn.Module, tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=2).train()
    script = traced(network, tmp_path / "odd.ts")
    said = ModelMeaning(None, {}, ("a", "b"), 0.5, SIDE, MEAN, STD)
    with pytest.raises(TrainingError, match="evaluation mode"):
        import_model(ModelSource(torchscript=script), tmp_path / "b", said)


def changed(**changes: Any) -> ModelMeaning:
    from dataclasses import replace

    return replace(SAID, **changes)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (changed(class_names=("a", "b", "c")), "classifies into 2, and 3 classes are named"),
        (changed(class_names=("a", "A")), "two classes of one name"),
        (changed(class_names=None), "--classes"),
        (changed(class_names=("Tumor",)), "certain everywhere"),
        (changed(mpp=None), "--mpp"),
        (changed(mpp=0.0005), "not a plausible µm/px"),
        (changed(mean=None), "--mean"),
        (changed(std=(0.2, 0.2, 0.0)), "--std"),
        (changed(patch_size_px=None), "--patch-size"),
        (changed(backbone=None), "--backbone"),
        (changed(backbone="resnet18"), "fills only"),
        (changed(positive="Tumour"), "--positive: 'Tumour' is no class; did you mean"),
    ],
)
def test_what_must_be_known_is_asked_for_in_one_sentence(
    network: nn.Module, tmp_path: Path, said: ModelMeaning, words: str
) -> None:
    file = as_safetensors(network, tmp_path)
    with pytest.raises(ScaatError, match=words) as caught:
        import_model(ModelSource(weights=file), tmp_path / "b", said)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_an_encoder_without_a_classifier_is_refused_with_the_way_to_train_one(
    network: nn.Module, tmp_path: Path
) -> None:
    state = {k: v for k, v in network.state_dict().items() if "fc" not in k}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(TrainingError, match="--trainable head"):
        import_model(ModelSource(weights=tmp_path / "w.safetensors"), tmp_path / "b", SAID)


def test_several_networks_in_one_file_are_not_chosen_between(
    network: nn.Module, tmp_path: Path
) -> None:
    state = {
        f"{who}.{k}": v.clone()
        for who in ("student", "ema")
        for k, v in network.state_dict().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(TrainingError, match="several networks"):
        import_model(ModelSource(weights=tmp_path / "w.safetensors"), tmp_path / "b", SAID)


def test_nothing_that_stands_there_is_replaced(network: nn.Module, tmp_path: Path) -> None:
    source = ModelSource(weights=as_safetensors(network, tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(BundleError, match="no model bundle"):
            import_model(source, tmp_path / "mine", SAID, overwrite=overwrite)
    import_model(source, tmp_path / "b", SAID)
    with pytest.raises(BundleError, match="--overwrite"):
        import_model(source, tmp_path / "b", SAID)
    import_model(source, tmp_path / "b", changed(class_names=("X", "Y")), overwrite=True)
    assert load_bundle(tmp_path / "b").config.class_names == ("X", "Y")


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_transformers_of_hugging_face_give_the_same_features(kind: str, tmp_path: Path) -> None:
    """Phikon is published as the one, Phikon-v2 as the other; tiny ones of both are tried."""
    transformers = pytest.importorskip("transformers")
    from pathology_scaat.training.backbones import create_backbone
    from pathology_scaat.training.imported.hugging_face import renamed_vit

    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
             "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    if kind == "vit":
        theirs = transformers.ViTModel(
            transformers.ViTConfig(**shape, intermediate_size=192), add_pooling_layer=False
        )
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**shape))
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.05 * torch.randn(value.shape))
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    if kind == "dinov2":
        options["init_values"] = 1.0
    ours = create_backbone("vit_tiny_patch16_224", 0, 32, options).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs.eval()(pixel_values=x).last_hidden_state[:, 0]
    for names in (dict(theirs.state_dict()), as_published(dict(theirs.state_dict()))):
        state = renamed_vit(names)
        state.pop("embeddings.mask_token", None)
        ours.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), wanted, rtol=1e-3, atol=1e-4)


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that files written by earlier versions of the library hold."""
    former = {
        "layers.": "encoder.layer.", "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    if not any(key.startswith("layers.") for key in state):
        return {f"dinov2.{key}": value for key, value in state.items()}
    found = {}
    for key, value in state.items():
        for new, old in former.items():
            key = key.replace(new, old)
        found[f"vit.{key}"] = value
    return found
