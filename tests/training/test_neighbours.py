"""The nearest training patches: exact, of other patients, without pixels or names in the bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saliency_fixtures import RunFolder, copy_label

from pathology_scaat.errors import BundleError
from pathology_scaat.patches import PatchStore
from pathology_scaat.training.bundle import load_neighbours, read_bundle_config
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.neighbours import (
    ALL_PATIENTS,
    NeighbourIndex,
    build_index,
    short_key,
)
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.train import train_model


def small_index(features: np.ndarray, patients: list[int], labels: list[int]) -> NeighbourIndex:
    n, width = features.shape
    nothing = np.full(1, np.nan, np.float32)
    return NeighbourIndex(
        features.astype(np.float16), np.zeros(width, np.float32), np.ones(width, np.float32),
        np.array(labels), np.array(patients), np.array(patients), np.arange(n),
        np.array(sorted({*patients})) + 100, np.array(sorted({*patients})) + 200,
        np.full(201, np.nan, np.float32), nothing, nothing, np.zeros(n, np.int64),
    )  # fmt: skip


@given(st.integers(0, 1000), st.integers(0, 2))
def test_search_is_exact_and_leaves_the_own_patient_out(seed: int, patient: int) -> None:
    rng = np.random.default_rng(seed)
    patients = [*range(3), *rng.integers(0, 3, 27).tolist()]
    index = small_index(rng.normal(size=(30, 5)).round(1), patients, rng.integers(0, 2, 30))
    query = rng.normal(size=5)
    distances = index.distances(query)
    chosen = index.nearest(distances, 4, index.others(patient))
    assert all(index.patient[chosen] != patient)
    left = [i for i in range(30) if index.patient[i] != patient]
    by_hand = sorted(float(np.linalg.norm(index.features[i].astype(float) - query)) for i in left)
    assert distances[chosen] == pytest.approx(by_hand[:4], abs=1e-5)
    assert index.vote(distances, patient, 2).sum() == pytest.approx(1)


def test_a_slide_of_the_training_is_known_by_its_key_and_no_other() -> None:
    index = small_index(np.zeros((4, 2)), [0, 1, 1, 2], [0, 0, 1, 1])
    assert index.patient_of_slide(101) == 1
    assert index.patient_of_slide(5) == ALL_PATIENTS


def test_without_other_patients_nothing_is_called_usual() -> None:
    index = small_index(np.zeros((4, 2)), [0, 0, 0, 0], [0, 0, 1, 1])
    assert index.percentile(3.0) is None
    assert np.isnan(index.vote(np.zeros(4, np.float32), 0, 2)).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "out")
    slides = []
    for number, split in enumerate(("train", "train", "val")):
        store = folder.add_slide(f"secret-{number}", 60, seed=number)
        slides.append(TrainingSlide(store, f"secret-{number}", f"patient-{number}", split))
    config = TrainConfig(epochs=1, backbone="scaat-small", method="plain", batch_size=16)
    train_model(slides, folder.model, config, device="cpu", overwrite=True)
    return folder


def test_the_bundle_holds_features_and_keys_but_no_pixel_and_no_name(trained: RunFolder) -> None:
    index = load_neighbours(trained.model)
    assert index is not None
    assert len(index) == 120
    config = read_bundle_config(trained.model)
    stores = [PatchStore(trained.out / "patches" / f"secret-{n}.zarr").meta for n in range(2)]
    assert index.store_keys.tolist() == [
        short_key(m.fingerprint, config.training_fingerprint) for m in stores
    ]
    assert index.features.size < 120 * 32 * 32 * 3 / 4  # far below the pixels
    assert len(index.usual) == 201
    assert not np.isnan(index.usual).any()
    assert 0 <= index.voted_auc[0] <= 1
    assert 0 <= index.model_auc[0] <= 1
    held = {p: p.read_bytes() for p in trained.model.rglob("*") if p.is_file()}
    assert not [p.name for p, data in held.items() if b"secret-" in data or b"patient-" in data]


def test_a_damaged_file_of_neighbours_is_refused_in_words(trained: RunFolder) -> None:
    path = trained.model / "neighbours.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] + b"\0\1\2\3\4\5\6")
    with pytest.raises(BundleError, match="neighbours"):
        load_neighbours(trained.model)
    path.write_bytes(whole)
    parts = load_neighbours(trained.model).tensors()
    with pytest.raises(ValueError, match="fit"):
        NeighbourIndex.of_tensors({**parts, "row": parts["row"][:5]})


def test_an_index_tells_whose_class_was_copied_and_one_of_before_does_not(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "out")
    stores = [folder.add_slide(name, 30, seed=n) for n, name in enumerate("ab")]
    copy_label(stores[1], "tumour")
    tables = PatchTable(
        tuple(map(PatchStore, stores)), np.repeat([0, 1], 30), np.tile(np.arange(30), 2),
        np.tile([0, 1], 30),
    )  # fmt: skip
    features = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    index = build_index(
        (tables, features), (tables, features), ["p", "q"], ["p", "q"], None, "f", 2
    )
    assert index is not None
    assert index.copied.tolist() == [0] * 30 + [1] * 30
    parts = {name: tensor for name, tensor in index.tensors().items() if name != "copied"}
    assert set(NeighbourIndex.of_tensors(parts).copied.tolist()) == {-1}


def test_a_model_of_before_has_none_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    assert load_neighbours(folder.model) is None
    value = json.loads((folder.model / "config.json").read_text())
    assert value["neighbours_sha256"] is None
