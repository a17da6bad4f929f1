"""``auto``: maps are made as the model's reference maps were, and everything says by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saliency_fixtures import RunFolder

from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.protocol import ProtocolConfig, with_method
from pathology_scaat.evaluation.report.run_files import RunFiles
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.evaluate import evaluate
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.saliency import ExplainConfig, SaliencyStore
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.explanation import chosen_method
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bundle import load_bundle, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig, ReferenceSettings
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.references import measure_maps

SMALL_VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
HERE = EngineConfig(workers=0)
FUSED = ReferenceSettings(method="fused-cam", stride_px=4, n_patches=8)
TOKENS = ReferenceSettings(method="token-cam", stride_px=4, n_patches=8)
GRADIENT = ReferenceSettings(stride_px=4, n_patches=8)


def stored(folder: RunFolder, config: ExplainConfig | None = None) -> SaliencyStore:
    explain(folder.out, config=config, device="cpu", engine=HERE)
    return SaliencyStore(folder.out / "saliency/s.zarr")


@pytest.mark.parametrize(
    ("recorded", "method"), [(FUSED, "fused-cam"), (GRADIENT, "gradient"), (None, "gradient")]
)
def test_maps_are_made_as_the_reference_was(
    run_folder: RunFolder, recorded: ReferenceSettings | None, method: str
) -> None:
    run_folder.save_model(run_folder.model, 0, reference_settings=recorded)
    run_folder.add_slide("s")
    store = stored(run_folder)
    assert store.meta.method == store.meta.parameters["method"] == method
    pixels = PatchStore(run_folder.out / "patches/s.zarr").read(slice(None))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    wanted = attribution(load_bundle(run_folder.model).model, images, 1, method)
    wanted = torch.nn.functional.avg_pool2d(wanted[:, None], 4)[:, 0]
    np.testing.assert_allclose(store.read_saliency(slice(None)), wanted, rtol=0.01, atol=1e-4)


def test_a_method_by_name_goes_before_and_the_same_one_is_not_made_again(
    run_folder: RunFolder,
) -> None:
    run_folder.save_model(run_folder.model, 0, reference_settings=FUSED)
    run_folder.add_slide("s")
    assert stored(run_folder, ExplainConfig(method="gradient")).meta.method == "gradient"
    by_itself = stored(run_folder).meta
    assert by_itself.method == "fused-cam"
    report = explain(
        run_folder.out, config=ExplainConfig(method="fused-cam"), device="cpu", engine=HERE
    )
    assert report.skipped == ["s"]


def references(network: str, options: dict[str, Any], folder: RunFolder) -> ReferenceSettings:
    torch.manual_seed(0)
    body = create_backbone(network, 2, folder.patch_px, options)
    model = Classifier(body, (0.5,) * 3, (0.25,) * 3)
    stores = [PatchStore(folder.out / "patches/s.zarr")]
    table = PatchTable(
        stores, np.zeros(12, np.int64), np.arange(12), np.asarray(stores[0].labels, np.int64)
    )
    found = measure_maps(
        model, table, ("normal", "tumour"), 1.0, torch.device("cpu"), "held-out patches",
        multi_label=False,
    )  # fmt: skip
    assert set(found.saliency) == set(found.evidence) == {"normal", "tumour"}
    return found.settings


def test_a_network_records_class_activation_of_its_layers_or_of_its_tokens(
    run_folder: RunFolder,
) -> None:
    run_folder.add_slide("s")
    assert references("scaat-small", {}, run_folder).method == "fused-cam"
    assert references("resnet18", {}, run_folder).method == "fused-cam"
    assert references("vit_tiny_patch16_224", SMALL_VIT, run_folder).method == "token-cam"


@pytest.mark.parametrize(
    ("recorded", "method"), [(TOKENS, "token-cam"), (GRADIENT, "gradient"), (None, "gradient")]
)
def test_a_transformer_is_explained_as_recorded_and_those_of_before_keep_the_gradient(
    run_folder: RunFolder, recorded: ReferenceSettings | None, method: str
) -> None:
    torch.manual_seed(0)
    body = create_backbone("vit_tiny_patch16_224", 2, run_folder.patch_px, SMALL_VIT)
    config = read_bundle_config(run_folder.model).model_copy(
        update={
            "backbone": "vit_tiny_patch16_224", "backbone_options": SMALL_VIT,
            "reference_settings": recorded,
        }
    )  # fmt: skip
    model = Classifier(body, config.mean, config.std)
    save_bundle(run_folder.model, model, config, wsinfer=False)
    run_folder.add_slide("s")
    store = stored(run_folder)
    assert store.meta.method == method
    pixels = PatchStore(run_folder.out / "patches/s.zarr").read(slice(None))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    wanted = attribution(load_bundle(run_folder.model).model, images, 1, method)
    wanted = torch.nn.functional.avg_pool2d(wanted[:, None], 4)[:, 0]
    np.testing.assert_allclose(store.read_saliency(slice(None)), wanted, rtol=0.01, atol=1e-4)


def test_the_trust_card_measures_the_maps_that_the_run_shows(run_folder: RunFolder) -> None:
    run_folder.save_model(run_folder.model, 0, reference_settings=FUSED)
    run_folder.add_slide("s", n=16)
    run_folder.write_splits(s="test")
    small = ProtocolConfig(max_images=8, n_occluded=2, n_perturbed=2, n_mosaics=0)
    assert evaluate(run_folder.out, config=small, device="cpu").explanation_method == "fused-cam"
    stored(run_folder, ExplainConfig(method="grad-cam"))
    card = evaluate(run_folder.out, config=small, device="cpu")
    assert card.explanation_method == "grad-cam"
    named = small.model_copy(update={"method": "gradient"})
    assert evaluate(run_folder.out, config=named, device="cpu").explanation_method == "gradient"


def test_models_explained_by_different_methods_are_not_compared(run_folder: RunFolder) -> None:
    base = read_bundle_config(run_folder.model)
    models = [base.model_copy(update={"reference_settings": each}) for each in (FUSED, GRADIENT)]
    with pytest.raises(UsageError, match=r"different methods \(fused-cam and gradient\)"):
        with_method(ProtocolConfig(), models)
    assert with_method(ProtocolConfig(), models[:1]).method == "fused-cam"
    assert with_method(ProtocolConfig(method="gradient"), models).method == "gradient"


def test_compiling_is_told_to_have_no_effect(run_folder: RunFolder) -> None:
    from pathology_scaat.artifacts.notes import read_notes

    run_folder.save_model(run_folder.model, 0, reference_settings=FUSED)
    run_folder.add_slide("s")
    stored(run_folder, ExplainConfig(compile=True))
    (note,) = read_notes(run_folder.out)["explain"]
    assert note.startswith("Not compiled: 'fused-cam' looks at single layers")


def test_auto_of_a_bundle_that_says_nothing_is_the_gradient(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    config: BundleConfig = read_bundle_config(folder.model)
    assert config.reference_settings is None
    assert chosen_method("auto", config) == "gradient"
    assert chosen_method("rise", config) == "rise"


@pytest.mark.parametrize(
    ("asked", "recorded", "said"),
    [
        ("auto", {"method": "fused-cam"}, "maps by 'fused-cam'"),
        ("auto", None, "maps by 'gradient'"),
        ("rise", {"method": "fused-cam"}, "maps by 'rise'"),
    ],
)
def test_reports_name_the_method_and_not_auto(
    tmp_path: Path, asked: str, recorded: dict[str, str] | None, said: str
) -> None:
    files = RunFiles(tmp_path, model_file="model/config.json")
    files.found["model/config.json"] = {"reference_settings": recorded}
    files.found["run.json"] = {"config": {"explain": {"method": asked}}}
    assert [fact.text for fact in files.method_of_maps("maps by '{}'")] == [said]
