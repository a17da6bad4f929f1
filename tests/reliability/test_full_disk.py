"""A disk that fills while each kind of file is written: told as what it is, nothing torn left."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from map_stores import make_saliency_store
from test_disk_and_peers import small_disk

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import ScaatError, StoreError
from pathology_scaat.execution.jobs import guarded
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.stitching import stitch_slide
from pathology_scaat.system.disk_errors import PatientWriter, disk_error
from pathology_scaat.system.memory import is_out_of_memory
from pathology_scaat.training.bundle import build_model, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.checkpoint import load_checkpoint, save_checkpoint


def a_checkpoint(folder: Path) -> None:
    save_checkpoint(folder, "f", {"model": {"w": torch.ones(200, 1000)}})


def a_bundle(folder: Path) -> None:
    config = BundleConfig(
        class_names=("Normal", "Tumor"), positive_class="Tumor", patch_size_px=32, mpp=1.0,
        backbone="scaat-small", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    save_bundle(folder / "model", build_model(config), config)


def a_status_table(folder: Path) -> None:
    StatusTable(folder).plan(f"slide {n} {'x' * 80}" for n in range(20_000))


@pytest.fixture(scope="module")
def map_and_saliency(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("map")
    store = make_saliency_store(
        folder / "s.zarr", PatchGrid(0.0, 0.0, 1.0, 64, 32, 24, 24), stride_px=1
    )
    stitch_slide(store, folder / "S1.ome.zarr")
    return folder / "S1.ome.zarr", store


def test_an_export_that_finds_no_room_leaves_no_half_file(
    map_and_saliency: tuple[Path, Path], tmp_path: Path
) -> None:
    slide_map, store = map_and_saliency
    config = ExportConfig(formats=("ome-tiff", "annotation-store", "csv"))
    with small_disk(tmp_path / "disk", "300k") as disk:
        result, error = guarded(lambda _: export_slide(slide_map, store, disk, config), None)
        assert result is None
        assert "No space left on device, ENOSPC" in str(error)
        for path in disk.iterdir():  # what is there is whole
            assert ".partial-" not in path.name
            assert path.suffix != ".json"


def a_tensorstore_array(folder: Path) -> None:
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "z")}}
    array = ts.open(spec, create=True, dtype=ts.float32, shape=[1000, 1000]).result()
    array[...] = np.random.default_rng(0).random((1000, 1000), np.float32)


@pytest.mark.parametrize("size", ["64k", "300k", "700k"])
@pytest.mark.parametrize("make", [a_checkpoint, a_bundle, a_status_table, a_tensorstore_array])
def test_a_full_disk_is_reported_as_a_full_disk(
    make: Callable[[Path], None], size: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        before: list[str] = []
        result, error = guarded(lambda folder: make(folder), disk)
        assert result is None
        assert isinstance(error, ScaatError)
        assert "No space left on device, ENOSPC" in str(error), str(error)
        assert "memory" not in str(error)
        if make is not a_tensorstore_array:
            left = [p.name for p in disk.rglob("*") if not p.name.startswith(".")]
            assert left == before


def test_a_disk_that_fills_under_the_torchscript_does_not_end_the_process(tmp_path: Path) -> None:
    """Between the weights, which fit, and the second copy of them, which does not."""
    with small_disk(tmp_path / "disk", "1800k") as disk:
        _, error = guarded(lambda folder: a_bundle(folder), disk)
        assert "No space left on device, ENOSPC" in str(error)
        assert list(disk.iterdir()) == []


def test_the_checkpoint_before_stays_when_the_next_finds_no_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1200k") as disk:
        a_checkpoint(disk)
        with pytest.raises(OSError) as caught:  # noqa: PT011  (its number is looked at)
            a_checkpoint(disk)
        assert caught.value.errno == errno.ENOSPC
        found = load_checkpoint(disk, "f")
        assert found is not None
        assert found["model"]["w"].sum() == 200_000


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a pickle", "a text"])
def test_a_damaged_checkpoint_starts_training_anew(tmp_path: Path, damage: str) -> None:
    import pickle

    a_checkpoint(tmp_path)
    path = tmp_path / "checkpoint.pt"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[200] ^= 0xFF
    path.write_bytes(
        {
            "cut": data[: len(data) // 2], "flipped": bytes(flipped), "empty": b"",
            "a pickle": pickle.dumps(print), "a text": b"hello",
        }[damage]
    )  # fmt: skip
    found = load_checkpoint(tmp_path, "f")
    assert found is None or found["model"]["w"].shape == (200, 1000)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (ValueError("RESOURCE_EXHAUSTED: x No space left on device [os_error_code='28'"), 28),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 28),
        (RuntimeError("database or disk is full"), 28),
        (OSError(errno.EMFILE, "Too many open files"), errno.EMFILE),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), None),
        (ValueError("28 patches"), None),
    ],
)
def test_what_libraries_say_of_files(error: Exception, number: int | None) -> None:
    found = disk_error(error)
    assert (found.errno if found else None) == number
    assert is_out_of_memory(error) == ("memory" in str(error))


def test_a_patient_writer_raises_at_the_end(tmp_path: Path) -> None:
    class Full:
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None: ...

    writer = PatientWriter(Full())  # type: ignore[arg-type]
    assert writer.write(b"abc") == 3
    with pytest.raises(OSError, match="No space"):
        writer.check()


def test_file_descriptors_that_are_used_up_are_reported(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with suppress(OSError):
            for _ in range(100):
                kept.append((tmp_path / "x").open("wb"))
        assert len(kept) < 64
        with pytest.raises(StoreError, match="Too many open files, EMFILE"):
            StatusTable(tmp_path).update("a", "tile", "done")
    finally:
        for stream in kept:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    StatusTable(tmp_path).update("a", "tile", "done")
    assert [row["tile"] for row in StatusTable(tmp_path).rows()] == ["done"]
