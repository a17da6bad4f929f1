"""What an interrupted process leaves is removed, also where a thread writes on."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

from pathology_scaat.artifacts.atomic import atomic_path, remove_unfinished


def test_a_thread_that_writes_on_leaves_nothing(tmp_path: Path) -> None:
    ended = threading.Event()

    def write_on(folder: Path) -> None:
        for number in range(10):
            time.sleep(0.02)
            with contextlib.suppress(OSError):  # removed in between, the folder itself too
                folder.mkdir(exist_ok=True)
                (folder / str(number)).write_text("late", encoding="ascii")
        ended.set()

    def be_interrupted() -> None:
        with atomic_path(tmp_path / "store") as partial:
            threading.Thread(target=write_on, args=(partial,), daemon=True).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    remove_unfinished()
    assert ended.wait(5)
    assert list(tmp_path.iterdir()) == []


def test_what_ended_well_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as partial:
        partial.write_text("whole", encoding="ascii")
    remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_unfinished_costs_nothing() -> None:
    begin = time.monotonic()
    remove_unfinished()
    assert time.monotonic() - begin < 0.1
