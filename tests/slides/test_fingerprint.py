"""The fingerprint of a slide is of all of its bytes, and costs nothing the second time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reliability_tools import draw_slide

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.slides import fingerprint as module
from pathology_scaat.slides.fingerprint import (
    FingerprintTask,
    StoppedError,
    keyed,
    slide_fingerprint,
)

OLD = time.time() - 100


def age(path: Path) -> None:
    os.utime(path, (OLD, OLD))


def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often a file is really read."""
    reads: list[int] = []
    real = module._hash_stream

    def counting(*words: object) -> None:
        reads.append(1)
        real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_hash_stream", counting)
    return reads


@given(st.integers(0, (9 << 20) - 1))
def test_one_changed_byte_anywhere_is_another_slide(
    tmp_path_factory: pytest.TempPathFactory, position: int
) -> None:
    path = tmp_path_factory.mktemp("f") / "x.svs"
    with path.open("wb") as stream:
        stream.truncate(9 << 20)  # a hole throughout
    before = slide_fingerprint(path)
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(b"\1")
    assert slide_fingerprint(path) != before


def test_names_do_not_enter_and_size_does(tmp_path: Path) -> None:
    for name, content in (("a.svs", b"\0" * 9), ("b.svs", b"\0" * 9), ("c.svs", b"\0" * 10)):
        (tmp_path / name).write_bytes(content)
    a, b, c = (slide_fingerprint(tmp_path / f"{n}.svs") for n in "abc")
    assert a == b != c


def test_every_file_of_a_slide_enters(tmp_path: Path) -> None:
    for name in ("x.mrxs", "x/Slidedat.ini", "x/Data0001.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    first = slide_fingerprint(tmp_path / "x.mrxs")
    (tmp_path / "x/Data0001.dat").write_bytes(b"2")
    assert slide_fingerprint(tmp_path / "x.mrxs") != first
    (tmp_path / "y.vms").write_text("[Virtual]\nImageFile=part.jpg\nMapFile=map.jpg\n")
    (tmp_path / "part.jpg").write_bytes(b"1")
    first = slide_fingerprint(tmp_path / "y.vms")
    (tmp_path / "part.jpg").write_bytes(b"2")
    assert slide_fingerprint(tmp_path / "y.vms") != first


def test_it_is_remembered_by_what_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.CACHE_VARIABLE, str(tmp_path / "cache"))
    # Times of change cannot be set back: as if all this were a while ago.
    monkeypatch.setattr(module, "RACY_S", -10.0)
    reads = read_whole(monkeypatch)
    path = tmp_path / "secret name.svs"
    path.write_bytes(b"1" * 100)
    first = slide_fingerprint(path)
    assert slide_fingerprint(path) == first
    assert len(reads) == 1
    assert slide_fingerprint(path, remembered=False) == first
    assert len(reads) == 2
    # In place, in the same length, with the old time put back.
    found = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"2")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert slide_fingerprint(path) != first
    entries = list((tmp_path / "cache" / "fingerprints").iterdir())
    assert entries
    for entry in entries:
        assert entry.stat().st_mode & 0o077 == 0
        assert b"secret" not in entry.read_bytes() + os.fsencode(entry.name)
        entry.write_bytes(b"damaged")
    assert slide_fingerprint(path) != first


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = read_whole(monkeypatch)
    path = tmp_path / "x.svs"
    path.write_bytes(b"1")
    slide_fingerprint(path)
    slide_fingerprint(path)
    assert len(reads) == 2


def test_a_cache_that_others_can_write_to_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert module._cache_folder() is not None
    (tmp_path / "cache" / "fingerprints").chmod(0o777)
    assert module._cache_folder() is None
    monkeypatch.setenv(module.CACHE_VARIABLE, "/proc/nothing")
    path = tmp_path / "x.svs"
    path.write_bytes(b"1")
    assert len(slide_fingerprint(path)) == 64


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.svs"
    path.write_bytes(b"1" * 100)
    real = module._hash_stream

    def growing(*words: object) -> None:
        real(*words)  # type: ignore[arg-type]
        path.write_bytes(b"1" * 101)

    monkeypatch.setattr(module, "_hash_stream", growing)
    with pytest.raises(SlideReadError, match="changed while it was read"):
        slide_fingerprint(path)
    with pytest.raises(SlideOpenError, match="cannot be read"):
        slide_fingerprint(tmp_path / "gone.svs")


def test_a_task_ends_with_its_block(tmp_path: Path) -> None:
    path = tmp_path / "x.svs"
    path.write_bytes(b"1" * 100)
    with FingerprintTask(path, b"key") as task:
        assert task.result() == keyed(slide_fingerprint(path), b"key") != slide_fingerprint(path)
    with FingerprintTask(tmp_path / "gone.svs") as task, pytest.raises(SlideOpenError):
        task.result()
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(StoppedError):
        slide_fingerprint(path, remembered=False, stopped=stopped)


def test_a_hole_that_was_repaired_in_place_is_tiled_again(tmp_path: Path) -> None:
    """Between 64 samples of a file a repaired block was not seen: "already there"."""
    path = tmp_path / "x.svs"
    draw_slide(path, 1)
    whole = path.read_bytes()
    size = len(whole)
    last = size - 65536
    sampled = {last * i // 63 for i in range(64)} if last > 0 else {0}
    # A hole in what the samples did not cover, or anywhere in a small file.
    begin = next((s + 65536 for s in sorted(sampled) if s + 65536 + 512 < size), size // 2)
    path.write_bytes(whole[:begin] + b"\0" * 400 + whole[begin + 400 :])
    job = TileJob(
        path, "s", tmp_path / "s.zarr",
        TileConfig(mpp=0.5, patch_size_px=64, max_unreadable_share=1.0, min_tissue=0.0),
    )  # fmt: skip
    first = tile_slide(job)
    assert tile_slide(job).skipped
    with path.open("r+b") as stream:
        stream.seek(begin)
        stream.write(whole[begin : begin + 400])
    second = tile_slide(job)
    assert not second.skipped
    assert second.n_unreadable == 0
    meta = PatchStore(tmp_path / "s.zarr").meta
    assert meta.slide_fingerprint == slide_fingerprint(path)
    assert first.fingerprint != second.fingerprint
