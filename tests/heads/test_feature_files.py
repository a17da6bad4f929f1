"""Files of features in the shapes that other programs write, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from made_features import WIDTH, grid_coords, patch_features, write_clam, write_trident

from pathology_scaat.errors import StoreError
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader
from pathology_scaat.training.heads.feature_files import (
    feature_ids,
    find_feature_file,
    read_feature_file,
    write_feature_file,
)


@pytest.mark.parametrize("batched", [False, True])
def test_tridents_files_are_read(tmp_path: Path, batched: bool) -> None:
    features = patch_features(30, 4, 1)
    write_trident(tmp_path / "a.h5", features, batched)
    found = read_feature_file(tmp_path / "a.h5", "a")
    assert (found.n_patches, found.n_features) == (30, WIDTH)
    assert (found.patch_size_level0_px, found.encoder) == (512, "uni_v1")
    assert found.coords_px is not None
    assert np.array_equal(found.coords_px, grid_coords(30))
    assert np.array_equal(found.read(), features)
    rows = np.array([7, 2, 2, 29])
    assert np.array_equal(found.read(rows), features[rows])
    assert found.read(np.zeros(0, np.int64)).shape == (0, WIDTH)


def test_clams_patch_size_comes_from_the_file_of_the_same_coordinates(tmp_path: Path) -> None:
    write_clam(tmp_path, "b.1", patch_features(20, 4, 2))
    folder = tmp_path / "features"
    assert feature_ids(folder) == ("b.1",)
    path = find_feature_file(folder, "b.1")
    assert path is not None
    # the folder of features is the parent of h5_files, that of coordinates lies beside it
    assert read_feature_file(path, "b.1").patch_size_level0_px == 512
    with h5py.File(tmp_path / "patches" / "b.1.h5", "r+") as file:
        file["coords"][0] = (9, 9)
    assert read_feature_file(path, "b.1").patch_size_level0_px is None


def test_stamps_features_have_no_pixels_to_lie_on(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["feats"] = patch_features(10, 0, 3).astype(np.float16)
        file["coords"] = grid_coords(10, 256).astype(np.float32)
        file.attrs.update({"extractor": "ctranspath", "unit": "um"})
    found = read_feature_file(tmp_path / "c.h5", "c")
    assert (found.n_patches, found.encoder, found.coords_px) == (10, "ctranspath", None)
    assert found.read().dtype == np.float32


def test_a_file_written_here_is_one_of_tridents(tmp_path: Path) -> None:
    features = patch_features(5, 1, 4)
    write_feature_file(
        tmp_path / "d.h5", features, grid_coords(5), {"patch_size_level0": 512}, "scaat-small"
    )
    write_trident(tmp_path / "e.h5", features)
    ours, theirs = (read_feature_file(tmp_path / f"{k}.h5", k) for k in "de")
    assert ours.fingerprint == theirs.fingerprint  # content decides, not the file
    assert ours.encoder == "scaat-small"


def test_a_bag_of_two_slides_is_read_alike_with_and_without_room(tmp_path: Path) -> None:
    parts = [patch_features(9, 0, 6), patch_features(5, 0, 7)]
    for name, features in zip("fg", parts, strict=True):
        write_trident(tmp_path / f"{name}.h5", features)
    files = tuple(read_feature_file(tmp_path / f"{name}.h5", name) for name in "fg")
    bag = FeatureBag("p", "p", "train", files)
    whole = np.concatenate(parts)
    rows = np.array([0, 3, 8, 9, 13])
    for room in (0, 9 * WIDTH * 4, 1 << 20):  # none, the first slide's, both
        reader = FeatureReader(room)
        assert np.array_equal(reader.read(bag).numpy(), whole)
        assert np.array_equal(reader.read(bag, rows).numpy(), whole[rows])
        assert len(reader.kept) == {0: 0, 1 << 20: 2}.get(room, 1)


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    def made(name: str, **sets: object) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in sets.items():
                file[key] = value
        return tmp_path / name

    good = patch_features(6, 0, 5)
    for path, words in (
        (made("coords.h5", coords=grid_coords(6)), "no data set 'features'"),
        (made("one.h5", features=good[0]), "one vector for the slide"),
        (made("many.h5", features=np.stack([good, good])), r"shape \(2, 6, 12\)"),
        (made("short.h5", features=good, coords=grid_coords(5)), "6 patches with features"),
        (made("text.h5", features=np.array([[b"a"]])), "type"),
    ):
        with pytest.raises(StoreError, match=words):
            read_feature_file(path, "x")
    (tmp_path / "no.h5").write_bytes(b"not an HDF5 file")
    with pytest.raises(StoreError, match="no HDF5 file"):
        read_feature_file(tmp_path / "no.h5", "no")
    bad = good.copy()
    bad[3, 3] = np.nan
    with pytest.raises(StoreError, match="finite"):
        read_feature_file(made("nan.h5", features=bad), "nan").read()
