"""The saliency store: round trip, scale, bytes, damage."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.saliency import SaliencyStore, write_saliency_store
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.saliency.store_writer import saliency_store_writer


def content(n: int = 6, side: int = 8):
    rng = np.random.default_rng(0)
    return (
        (rng.random((n, side, side)) * 1e-5).astype(np.float32),
        rng.dirichlet([1, 1], size=n).astype(np.float32),
        rng.integers(0, 10**6, (n, 2)),
        rng.integers(0, 3, (n, 2)).astype(np.int32),
    )


def tree_hash(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def test_round_trip_keeps_tiny_gradients(tmp_path: Path, saliency_meta: SaliencyStoreMeta) -> None:
    maps, probability, origins, index = content()
    write_saliency_store(tmp_path / "s.zarr", saliency_meta, maps, probability, origins, index)
    store = SaliencyStore(tmp_path / "s.zarr")
    assert len(store) == 6
    assert store.scale == 1024.0
    np.testing.assert_allclose(store.read_saliency(slice(None)), maps, rtol=2e-3, atol=1e-9)
    np.testing.assert_allclose(
        store.read_saliency(np.array([4, 1])), maps[[4, 1]], rtol=2e-3, atol=1e-9
    )
    assert store.saliency.dtype.name == "float16"
    np.testing.assert_array_equal(store.probability, probability)
    np.testing.assert_array_equal(store.target_probability, probability[:, 1])
    np.testing.assert_array_equal(store.origins_px, origins)
    np.testing.assert_array_equal(store.grid_index, index)


@pytest.mark.parametrize("step", [1, 4, 7, 50])
def test_bytes_do_not_depend_on_how_it_was_fed(
    tmp_path: Path, saliency_meta: SaliencyStoreMeta, step: int
) -> None:
    maps, probability, origins, index = content(50)
    write_saliency_store(tmp_path / "a.zarr", saliency_meta, maps, probability, origins, index)
    with saliency_store_writer(tmp_path / "b.zarr", saliency_meta, 50, origins, index) as writer:
        for start in range(0, 50, step):
            writer.append(maps[start : start + step], probability[start : start + step])
    assert tree_hash(tmp_path / "a.zarr") == tree_hash(tmp_path / "b.zarr")


def test_several_shards(tmp_path: Path, saliency_meta: SaliencyStoreMeta) -> None:
    maps, probability, origins, index = content(37)
    with saliency_store_writer(tmp_path / "s.zarr", saliency_meta, 37, origins, index, 8) as writer:
        writer.append(maps, probability)
    store = SaliencyStore(tmp_path / "s.zarr")
    assert len(list((tmp_path / "s.zarr/saliency/c").rglob("*"))) >= 5
    np.testing.assert_allclose(store.read_saliency(slice(0, 37)), maps, rtol=2e-3, atol=1e-9)


def test_large_values_are_cut_and_counted(tmp_path: Path, saliency_meta: SaliencyStoreMeta) -> None:
    maps, probability, origins, index = content()
    maps[0, 0, 0] = 1e6
    with saliency_store_writer(tmp_path / "s.zarr", saliency_meta, 6, origins, index) as writer:
        writer.append(maps, probability)
    assert writer.n_clipped == 1
    assert np.isfinite(SaliencyStore(tmp_path / "s.zarr").read_saliency(slice(None))).all()


def test_an_empty_slide_is_a_store_too(tmp_path: Path, saliency_meta: SaliencyStoreMeta) -> None:
    maps, probability, origins, index = content()
    write_saliency_store(
        tmp_path / "s.zarr", saliency_meta, maps[:0], probability[:0], origins[:0], index[:0]
    )
    store = SaliencyStore(tmp_path / "s.zarr")
    assert len(store) == 0
    assert store.read_saliency(slice(0, 0)).shape == (0, 8, 8)
    assert store.probability.shape == (0, 2)


def test_nothing_appears_when_patches_are_missing(
    tmp_path: Path, saliency_meta: SaliencyStoreMeta
) -> None:
    maps, probability, origins, index = content()
    with (
        pytest.raises(StoreError, match="got 3 of 6"),
        saliency_store_writer(tmp_path / "s.zarr", saliency_meta, 6, origins, index) as writer,
    ):
        writer.append(maps[:3], probability[:3])
    assert list(tmp_path.iterdir()) == []


def test_wrong_shapes_are_named(tmp_path: Path, saliency_meta: SaliencyStoreMeta) -> None:
    maps, probability, origins, index = content()
    with pytest.raises(UsageError, match="shape"):
        write_saliency_store(
            tmp_path / "s.zarr", saliency_meta, maps[:, 1:], probability, origins, index
        )
    with pytest.raises(UsageError, match="does not divide"):
        write_saliency_store(
            tmp_path / "s.zarr",
            replace(saliency_meta, stride_px=5),
            maps,
            probability,
            origins,
            index,
        )


def test_what_is_not_a_store_is_said_to_be_none(
    tmp_path: Path, saliency_meta: SaliencyStoreMeta
) -> None:
    with pytest.raises(StoreError, match="is not a saliency store"):
        SaliencyStore(tmp_path / "none.zarr")
    maps, probability, origins, index = content()
    write_saliency_store(tmp_path / "s.zarr", saliency_meta, maps, probability, origins, index)
    (tmp_path / "s.zarr/probability/zarr.json").write_text("{")
    with pytest.raises(StoreError, match="no readable 'probability'"):
        _ = SaliencyStore(tmp_path / "s.zarr").probability


def test_a_flipped_bit_is_an_error_not_a_value(
    tmp_path: Path, saliency_meta: SaliencyStoreMeta
) -> None:
    maps, probability, origins, index = content()
    write_saliency_store(tmp_path / "s.zarr", saliency_meta, maps, probability, origins, index)
    shard = next(p for p in (tmp_path / "s.zarr/saliency/c").rglob("*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="damaged values"):
        SaliencyStore(tmp_path / "s.zarr").read_saliency(slice(None))
