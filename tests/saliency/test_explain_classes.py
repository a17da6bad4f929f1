"""Several classes side by side, calibrated probabilities, and what is unlike the training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import UsageError
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.stitching import SlideMap, stitch_slide
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bundle import load_bundle, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.feature_reference import FeatureReference

THREE = ("normal", "stroma", "tumour")


@pytest.fixture
def three_classes(run_folder):  # type: ignore[no-untyped-def]
    """A model of three classes, with what its training patches look like."""
    torch.manual_seed(0)
    side = run_folder.patch_px
    model = Classifier(create_backbone("scaat-small", 3, side), (0.5,) * 3, (0.25,) * 3).eval()
    rng = np.random.default_rng(0)
    features = FeatureReference.fit(
        50 + rng.normal(size=(200, 128)), 50 + rng.normal(size=(200, 128))
    )
    config = BundleConfig(
        class_names=THREE, positive_class="tumour", patch_size_px=side, mpp=0.5,
        backbone="scaat-small", mean=(0.5,) * 3, std=(0.25,) * 3, temperature=2.5,
    )  # fmt: skip
    save_bundle(run_folder.model, model, config, wsinfer=False, features=features)
    return run_folder


def test_probabilities_are_calibrated_everywhere(three_classes, tmp_path: Path) -> None:
    patches = three_classes.add_slide("a")
    explain_slide(patches, three_classes.model, tmp_path / "a.zarr", device="cpu")
    store = SaliencyStore(tmp_path / "a.zarr")
    images = torch.from_numpy(PatchStore(patches).read(slice(None))).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = load_bundle(three_classes.model).model(images)
    np.testing.assert_allclose(store.probability, (logits / 2.5).softmax(1).numpy(), atol=1e-6)
    assert np.abs(store.probability - logits.softmax(1).numpy()).max() > 1e-3
    assert store.meta.parameters["temperature"] == 2.5
    assert store.unlike is not None
    assert store.unlike.shape == (12,)
    assert ((store.unlike >= 0) & (store.unlike <= 100)).all()


def test_every_class_has_its_own_map_in_one_folder(three_classes, tmp_path: Path) -> None:
    patches = three_classes.add_slide("a")
    explain_slide(patches, three_classes.model, tmp_path / "a.zarr", device="cpu")
    store = SaliencyStore(tmp_path / "a.zarr")
    assert store.meta.targets == THREE
    assert store.meta.target_class == "tumour"
    images = torch.from_numpy(PatchStore(patches).read(slice(None))).permute(0, 3, 1, 2) / 255
    model = load_bundle(three_classes.model).model
    for k, name in enumerate(THREE):
        full = attribution(model, images, k)
        expected = torch.nn.functional.avg_pool2d(full[:, None], 4)[:, 0].numpy()
        found = store.read_saliency(slice(None), name)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-7)
    stitch_slide(tmp_path / "a.zarr", tmp_path / "a.ome.zarr")
    names = SlideMap(tmp_path / "a.ome.zarr").channel_names
    assert names == (
        *(f"probability: {n}" for n in THREE), *(f"evidence: {n}" for n in THREE),
        "saliency: normal", "saliency: stroma", "saliency", "unlike training", "patches",
    )  # fmt: skip


def test_a_second_target_adds_and_never_replaces(three_classes, tmp_path: Path) -> None:
    patches, out = three_classes.add_slide("a"), tmp_path / "a.zarr"
    one = ExplainConfig(target="tumour")
    explain_slide(patches, three_classes.model, out, one, device="cpu")
    before = SaliencyStore(out).read_saliency(slice(None), "tumour")
    assert SaliencyStore(out).meta.targets == ("tumour",)
    two = ExplainConfig(target="stroma")
    assert not explain_slide(patches, three_classes.model, out, two, device="cpu").skipped
    store = SaliencyStore(out)
    assert store.meta.targets == ("stroma", "tumour")
    assert store.meta.target_class == "tumour"
    np.testing.assert_array_equal(store.read_saliency(slice(None), "tumour"), before)
    for again in (one, two, ExplainConfig(target="tumour, stroma")):
        assert explain_slide(patches, three_classes.model, out, again, device="cpu").skipped
    # another model's classes are not kept
    three_classes.save_model(three_classes.model, seed=3)
    explain_slide(patches, three_classes.model, out, ExplainConfig(target="normal"), device="cpu")
    assert SaliencyStore(out).meta.targets == ("normal",)


def test_two_classes_share_one_map(run_folder, tmp_path: Path) -> None:
    patches, out = run_folder.add_slide("a"), tmp_path / "a.zarr"
    explain_slide(patches, run_folder.model, out, ExplainConfig(target="normal,tumour"), "cpu")
    store = SaliencyStore(out)
    assert store.meta.targets == ("normal", "tumour")
    assert not (out / "saliency_0").exists()
    images = torch.from_numpy(PatchStore(patches).read(slice(None))).permute(0, 3, 1, 2) / 255
    full = attribution(load_bundle(run_folder.model).model, images, 0)
    expected = torch.nn.functional.avg_pool2d(full[:, None], 4)[:, 0].numpy()
    found = store.read_saliency(slice(None), "normal")
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-7)


def test_a_wrong_class_is_one_mistake_and_touches_nothing(run_folder) -> None:
    run_folder.add_slide("a")
    run_folder.add_slide("b", seed=1)
    explain(run_folder.out, device="cpu")
    before = StatusTable(run_folder.out).rows()
    with pytest.raises(UsageError, match="'Foo' is no class of the model; choose from normal"):
        explain(run_folder.out, config=ExplainConfig(target="Foo"), device="cpu")
    assert StatusTable(run_folder.out).rows() == before


def test_the_table_says_how_much_is_unlike_the_training_data(three_classes) -> None:
    three_classes.add_slide("a")
    notes: list[str] = []

    class Listener:
        def begin(self, stage: str, total: int) -> None: ...
        def advance(self, stage: str, text: str = "") -> None: ...
        def update(self, stage: str, completed: float, text: str = "") -> None: ...
        def end(self, stage: str) -> None: ...
        def note(self, text: str) -> None:
            notes.append(text)

    explain(three_classes.out, device="cpu", reporter=Listener())
    (row,) = StatusTable(three_classes.out).rows()
    assert float(row["unlike_training"]) == 1.0  # no feature of it is anywhere near 50
    assert any("unlike the model's training data" in text for text in notes)
