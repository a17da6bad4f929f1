"""Explaining a slide: the right values, once, whole, and the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.errors import UsageError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.batch_explainer import BatchExplainer
from pathology_scaat.saliency.schema import SCHEMA_NAME, SCHEMA_VERSION
from pathology_scaat.training.bundle import load_bundle


def tree_hash(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def test_values_are_the_attribution_averaged_over_the_stride(run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("a")
    seen: list[tuple[int, int]] = []
    result = explain_slide(
        patches, run_folder.model, tmp_path / "a.zarr", ExplainConfig(batch_size=5),
        device="cpu", progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert (result.slide_id, result.n_patches, result.skipped) == ("a", 12, False)
    store, source = SaliencyStore(tmp_path / "a.zarr"), PatchStore(patches)
    images = torch.from_numpy(source.read(np.arange(12))).permute(0, 3, 1, 2).float() / 255
    model = load_bundle(run_folder.model).model
    full = attribution(model, images, 1)
    expected = torch.nn.functional.avg_pool2d(full[:, None], 4)[:, 0].numpy()
    np.testing.assert_allclose(store.read_saliency(slice(None)), expected, rtol=2e-3, atol=1e-7)
    with torch.no_grad():
        probability = model(images).softmax(1).numpy()
    np.testing.assert_allclose(store.probability, probability, atol=1e-6)
    assert result.mean_probability == pytest.approx(probability[:, 1].mean(), abs=1e-5)
    assert store.meta.target_class == "tumour"
    assert store.meta.fingerprint == result.fingerprint
    np.testing.assert_array_equal(store.origins_px, source.origins_px)
    np.testing.assert_array_equal(store.grid_index, source.grid_index)


def test_what_is_there_is_not_made_again_and_what_differs_is(run_folder, tmp_path: Path) -> None:
    patches, out = run_folder.add_slide("a"), tmp_path / "a.zarr"
    first = explain_slide(patches, run_folder.model, out, device="cpu")
    again = explain_slide(patches, run_folder.model, out, device="cpu")
    assert again.skipped
    assert again.fingerprint == first.fingerprint
    assert again.mean_probability == pytest.approx(first.mean_probability)
    other_batch = ExplainConfig(batch_size=3)
    assert explain_slide(patches, run_folder.model, out, other_batch, device="cpu").skipped
    changed = ExplainConfig(target="normal")
    assert not explain_slide(patches, run_folder.model, out, changed, device="cpu").skipped
    run_folder.save_model(run_folder.model, seed=1)
    assert not explain_slide(patches, run_folder.model, out, changed, device="cpu").skipped
    assert not explain_slide(
        patches, run_folder.model, out, changed, device="cpu", overwrite=True
    ).skipped


def test_a_damaged_store_is_made_again(run_folder, tmp_path: Path) -> None:
    patches, out = run_folder.add_slide("a"), tmp_path / "a.zarr"
    explain_slide(patches, run_folder.model, out, device="cpu")
    (out / "saliency" / "zarr.json").write_text("{}")
    assert not explain_slide(patches, run_folder.model, out, device="cpu").skipped


def test_bytes_are_the_same_each_time_and_name_no_path(run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("a")
    for name in ("x.zarr", "y.zarr"):
        explain_slide(patches, run_folder.model, tmp_path / name, device="cpu")
    assert tree_hash(tmp_path / "x.zarr") == tree_hash(tmp_path / "y.zarr")
    for file in (tmp_path / "x.zarr").rglob("zarr.json"):
        assert str(tmp_path) not in file.read_text()


def test_a_slide_without_patches(run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("empty", n=0)
    result = explain_slide(patches, run_folder.model, tmp_path / "e.zarr", device="cpu")
    assert result.n_patches == 0
    assert np.isnan(result.mean_probability)
    assert explain_slide(patches, run_folder.model, tmp_path / "e.zarr", device="cpu").skipped


@pytest.mark.parametrize(
    "method", ["smoothgrad", "integrated-gradients", "grad-cam", "lrp", "rise"]
)
def test_other_methods(method: str, run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("a", n=4)
    config = ExplainConfig(method=method, n_samples=2, n_masks=4)
    explain_slide(patches, run_folder.model, tmp_path / "a.zarr", config, device="cpu")
    assert SaliencyStore(tmp_path / "a.zarr").meta.method == method


@pytest.mark.parametrize(
    ("method", "known"),
    [("gradient", set()), ("occlusion", {"square_px"}), ("rise", {"square_px", "n_masks"})],
)
def test_settings_of_other_methods_decide_nothing(
    method: str, known: set[str], run_folder, tmp_path: Path
) -> None:
    patches, out = run_folder.add_slide("a", n=2), tmp_path / "a.zarr"

    def made(**settings: int) -> bool:
        config = ExplainConfig(method=method, **{"n_masks": 4, "square_px": 16, **settings})
        return not explain_slide(patches, run_folder.model, out, config, device="cpu").skipped

    assert made()
    parameters = SaliencyStore(out).meta.parameters
    assert {"n_masks", "square_px"} & set(parameters) == known
    assert made(n_masks=5) == ("n_masks" in known)
    assert made(n_masks=5, square_px=12) == ("square_px" in known)


@pytest.mark.parametrize(
    ("method", "arrays"), [("occlusion", 1), ("lrp", 1), ("grad-cam", 2), ("advise", 2)]
)
def test_one_map_serves_two_classes_only_where_it_is_a_size(
    method: str, arrays: int, run_folder, tmp_path: Path
) -> None:
    patches, out = run_folder.add_slide("a", n=2), tmp_path / "a.zarr"
    config = ExplainConfig(method=method, target="normal,tumour", square_px=16)
    explain_slide(patches, run_folder.model, out, config, device="cpu")
    assert len(set(SaliencyStore(out).meta.arrays.values())) == arrays
    model = load_bundle(run_folder.model).model
    images = torch.from_numpy(PatchStore(patches).read(np.arange(2))).permute(0, 3, 1, 2) / 255
    both = [attribution(model, images, k, method, square_px=16) for k in (0, 1)]
    same = torch.allclose(both[0], both[1], rtol=1e-3, atol=1e-6)
    assert same == (arrays == 1)


def test_several_labels_are_explained_by_their_logit(run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("a", n=4)
    run_folder.save_model(run_folder.model, seed=0, multi_label=True)
    explain_slide(patches, run_folder.model, tmp_path / "a.zarr", device="cpu")
    store = SaliencyStore(tmp_path / "a.zarr")
    assert store.meta.parameters["output"] == "logit"
    images = torch.from_numpy(PatchStore(patches).read(np.arange(4))).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = load_bundle(run_folder.model).model(images).sigmoid().numpy()
    np.testing.assert_allclose(store.probability, expected, atol=1e-6)


def test_of_an_only_label_the_map_shows_what_speaks_for_it(run_folder, tmp_path: Path) -> None:
    """One logit is else read as that of class 1, and the only class is number 0."""
    patches = run_folder.add_slide("a", n=4)
    run_folder.save_model(run_folder.model, seed=0, multi_label=True, class_names=("tumour",))
    config = ExplainConfig(method="grad-cam", stride_px=1)
    explain_slide(patches, run_folder.model, tmp_path / "a.zarr", config, device="cpu")
    images = torch.from_numpy(PatchStore(patches).read(np.arange(4))).permute(0, 3, 1, 2) / 255
    model = load_bundle(run_folder.model).model
    wanted = attribution(model, images, 1, "grad-cam").numpy()
    against = attribution(model, images, 0, "grad-cam").numpy()
    assert not np.allclose(wanted, against, atol=1e-3 * wanted.max())
    found = SaliencyStore(tmp_path / "a.zarr").read_saliency(slice(None))
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3 * wanted.max())


@pytest.mark.parametrize(("method", "again"), [("grad-cam", True), ("gradient", False)])
def test_a_map_of_before_its_direction_was_mended_is_made_anew(
    method: str, again: bool, run_folder, tmp_path: Path
) -> None:
    """Of an only label; where the direction changes nothing, the map stays."""
    patches, out = run_folder.add_slide("a", n=2), tmp_path / "a.zarr"
    run_folder.save_model(run_folder.model, seed=0, multi_label=True, class_names=("tumour",))
    config = ExplainConfig(method=method)
    made = explain_slide(patches, run_folder.model, out, config, device="cpu")
    assert explain_slide(patches, run_folder.model, out, config, device="cpu").skipped
    store = SaliencyStore(out)
    before = {k: v for k, v in store.meta.parameters.items() if k != "explains"}
    old_print = fingerprint(
        {
            "schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION,
            "patches": store.meta.patch_fingerprint, "model": store.meta.model_fingerprint,
            "parameters": before,
        }
    )  # fmt: skip
    assert (old_print != made.fingerprint) == again


def test_a_model_that_does_not_fit_is_refused_with_the_remedy(run_folder, tmp_path: Path) -> None:
    patches = run_folder.add_slide("a", n=4)
    run_folder.save_model(run_folder.model, seed=0, patch_size_px=64)
    with pytest.raises(UsageError, match="--patch-size 64"):
        explain_slide(patches, run_folder.model, tmp_path / "a.zarr", device="cpu")
    run_folder.save_model(run_folder.model, seed=0, mpp=1.0)
    with pytest.raises(UsageError, match="--mpp 1"):
        explain_slide(patches, run_folder.model, tmp_path / "a.zarr", device="cpu")
    run_folder.save_model(run_folder.model, seed=0)
    with pytest.raises(UsageError, match="is no class of the model"):
        explain_slide(
            patches, run_folder.model, tmp_path / "a.zarr", ExplainConfig(target="stroma"),
            device="cpu",
        )  # fmt: skip
    assert not (tmp_path / "a.zarr").exists()


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="is not a device"):
        choose_device("quantum")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA"):
            choose_device("cuda")


def test_where_memory_is_short_patches_go_in_smaller_parts(
    run_folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patches = PatchStore(run_folder.add_slide("a", n=11)).read(np.arange(11))
    model = load_bundle(run_folder.model).model
    explain = BatchExplainer(model, 1, ExplainConfig(method="gradient"), torch.device("cpu"))
    expected = explain(patches)
    whole, sizes, room = explain._explain, [], 3

    def scarce(part, first: int):
        sizes.append(len(part))
        if len(part) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return whole(part, first)

    monkeypatch.setattr(explain, "_explain", scarce)
    for found, wanted in zip(explain(patches), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert "explaining 2 patches at a time" in caplog.text
    explain(patches[:4])
    assert sizes[8:] == [2, 2]  # it remembers
    room = 0
    with pytest.raises(UsageError, match="too little memory free for one patch of"):
        explain(patches)


def test_smoothgrad_maps_do_not_depend_on_the_batch_size(run_folder, tmp_path: Path) -> None:
    """Nor on how many patches a GPU's memory holds: the batch size is in no fingerprint."""
    patches = run_folder.add_slide("a", n=9)
    maps = []
    for batch in (9, 4, 1):
        config = ExplainConfig(method="smoothgrad", n_samples=2, batch_size=batch, stride_px=1)
        explain_slide(patches, run_folder.model, tmp_path / f"{batch}.zarr", config, device="cpu")
        maps.append(SaliencyStore(tmp_path / f"{batch}.zarr").read_saliency(slice(None)))
    np.testing.assert_allclose(maps[1], maps[0], rtol=0.01, atol=1e-6 * maps[0].max())
    np.testing.assert_allclose(maps[2], maps[0], rtol=0.01, atol=1e-6 * maps[0].max())


def test_a_store_that_does_not_say_several_labels_is_made_again(run_folder, tmp_path: Path) -> None:
    run_folder.save_model(run_folder.model, 0, multi_label=True)
    patches, out = run_folder.add_slide("a"), tmp_path / "a.zarr"
    explain_slide(patches, run_folder.model, out, device="cpu")
    assert SaliencyStore(out).meta.multi_label
    document = json.loads((out / "zarr.json").read_text())
    del document["attributes"]["pathology_scaat"]["multi_label"]
    (out / "zarr.json").write_text(json.dumps(document))
    assert not explain_slide(patches, run_folder.model, out, device="cpu").skipped
    assert SaliencyStore(out).meta.multi_label


def test_of_values_that_were_cut_the_scale_that_holds_them_is_said(
    run_folder, tmp_path: Path
) -> None:
    patches = run_folder.add_slide("a")
    config = ExplainConfig(saliency_scale=1e12)
    cut = explain_slide(patches, run_folder.model, tmp_path / "a.zarr", config, device="cpu")
    assert cut.n_clipped > 0
    (note,) = (note for note in cut.notes if "cut" in note)
    found = re.search(r"explain: saliency_scale in the pipeline file to (\S+) ", note)
    assert found is not None
    config = ExplainConfig(saliency_scale=float(found[1]))
    held = explain_slide(patches, run_folder.model, tmp_path / "b.zarr", config, device="cpu")
    assert held.n_clipped == 0
    assert not any("cut" in note for note in held.notes)
    twice = ExplainConfig(saliency_scale=4 * float(found[1]))
    assert explain_slide(
        patches, run_folder.model, tmp_path / "c.zarr", twice, device="cpu"
    ).n_clipped
