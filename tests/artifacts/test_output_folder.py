"""Whose folder it is: what this program did not make is never removed, replaced or written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from reliability_tools import draw_slide, run_scaat

from pathology_scaat.artifacts.atomic import atomic_path, partial_path
from pathology_scaat.artifacts.failure_log import log_failure
from pathology_scaat.artifacts.leases import lease
from pathology_scaat.artifacts.leftovers import find_partials, sweep_partials
from pathology_scaat.artifacts.output_folder import MARKER_NAME, claim_output
from pathology_scaat.errors import SlideError, StoreError, UsageError
from pathology_scaat.system.locks import file_lock

PRECIOUS = "precious"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PRECIOUS, encoding="utf-8")
    return path


def test_a_new_and_an_empty_folder_are_taken_and_marked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "empty" / ".DS_Store")
    for name in ("new", "empty"):
        claim_output(tmp_path / name)
        marker = json.loads((tmp_path / name / MARKER_NAME).read_text(encoding="utf-8"))
        assert marker["schema"] == "pathology_scaat.output_folder"
        put(tmp_path / name / "later.txt")
        claim_output(tmp_path / name)


def test_a_folder_in_use_needs_the_option_and_room(tmp_path: Path) -> None:
    put(tmp_path / "thesis.docx")
    with pytest.raises(UsageError, match=r"did not make \(thesis\.docx\)"):
        claim_output(tmp_path)
    assert not (tmp_path / MARKER_NAME).exists()
    claim_output(tmp_path, exists_ok=True)
    claim_output(tmp_path)  # it is ours now, too


@pytest.mark.parametrize(
    "name", ["model/weights.bin", "patches/x.zarr/0", "slides.csv", "run.json"]
)
def test_a_name_that_is_taken_is_refused_also_with_the_option(tmp_path: Path, name: str) -> None:
    file = put(tmp_path / name)
    with pytest.raises(UsageError, match="already holds"):
        claim_output(tmp_path, exists_ok=True)
    assert file.read_text(encoding="utf-8") == PRECIOUS


def test_a_run_of_a_version_without_marker_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id,tile,explain,stitch,export,reason\n")
    put(tmp_path / "tissue" / "a.png")
    claim_output(tmp_path)
    assert (tmp_path / MARKER_NAME).exists()


def test_a_folder_of_a_stage_that_is_a_link_is_refused(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    claim_output(out)
    file = put(elsewhere / "x.zarr" / "file")
    (out / "patches").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(UsageError, match="'patches' in it is a link"):
        claim_output(out)
    assert file.read_text(encoding="utf-8") == PRECIOUS


def test_a_link_in_the_place_of_the_marker_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    target = put(tmp_path / "target")
    (out / MARKER_NAME).symlink_to(target)
    claim_output(out)
    assert target.read_text(encoding="utf-8") == PRECIOUS
    assert not (out / MARKER_NAME).is_symlink()


def test_a_foreign_folder_is_not_replaced_by_an_artifact(tmp_path: Path) -> None:
    file = put(tmp_path / "model" / "weights.bin")
    with (
        pytest.raises(StoreError, match="did not make, and is not replaced"),
        atomic_path(tmp_path / "model") as partial,
    ):
        partial.mkdir()
    assert file.read_text(encoding="utf-8") == PRECIOUS
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_unfinished_files_of_this_program_are_swept(tmp_path: Path) -> None:
    old = (1.0, 1.0)
    foreign = [
        put(tmp_path / "film.mp4.partial-1"),
        put(tmp_path / "patches" / "x.zarr.partial-abcdef-1-00112233"),
        put(tmp_path / "patches" / "x.zarr.partial-old-abcdef-1-0011223344556677-00000000"),
    ]
    ours = put(partial_path(tmp_path / "patches" / "x.zarr", "old-", tag="abcdef-1"))
    renamed = put(ours.with_name(ours.name.replace("x.zarr", "y.zarr")))
    for path in (*foreign, ours, renamed):
        os.utime(path, old)
    elsewhere = tmp_path / "elsewhere"
    beyond = put(partial_path(elsewhere / "x.zarr", tag="abcdef-1"))
    os.utime(beyond, old)
    out = tmp_path / "out"
    out.mkdir()
    (out / "patches").symlink_to(elsewhere, target_is_directory=True)
    assert find_partials(out) == []
    assert sweep_partials(out) == []
    assert beyond.exists()
    assert [partial.path for partial in find_partials(tmp_path) if partial.path != beyond] == [ours]
    assert "x.zarr" in sweep_partials(tmp_path)
    assert not ours.exists()
    assert all(path.exists() for path in (*foreign, renamed))


def test_links_under_the_names_of_locks_leases_and_logs_do_no_harm(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    targets = [put(tmp_path / f"target-{n}") for n in range(4)]
    (out / ".s.zarr.lease").symlink_to(targets[0])
    (out / ".slides.csv.lock").symlink_to(targets[1])
    (out / "logs" / "tile.log").symlink_to(targets[2])
    os.link(targets[3], out / "logs" / "stitch.log")
    with lease(out / "s.zarr"):
        assert not (out / ".s.zarr.lease").is_symlink()
    with (
        pytest.raises(StoreError, match="a link or special file stands there"),
        file_lock(out / ".slides.csv.lock"),
    ):
        pass
    for stage in ("tile", "stitch"):
        log_failure(out, stage, "s", SlideError("s.svs", "is empty"))
    assert [path.read_text(encoding="utf-8") for path in targets] == [PRECIOUS] * 4


def test_a_pipe_under_the_name_of_a_lock_does_not_stop_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(StoreError, match="special file"), file_lock(tmp_path / ".lock"):
        pass


def test_the_command_line_refuses_a_folder_in_use_and_takes_the_option(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    draw_slide(slides / "a.svs", 1)
    foreign = [put(out / "notes.txt"), put(out / "film.partial-1")]
    words = ("tile", "--manifest", slides, "--out", out, "--mpp", 2, "--patch-size", 32)
    words = (*words, "--workers", 0, "-q")
    done = run_scaat(*words, in_process=True)
    assert done.returncode == 2
    assert "--out-exists-ok" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["film.partial-1", "notes.txt"]
    done = run_scaat(*words, "--out-exists-ok", in_process=True)
    assert done.returncode == 0, done.stderr
    assert all(path.read_text(encoding="utf-8") == PRECIOUS for path in foreign)
    put(out / "model" / "mine.bin")
    assert run_scaat(*words, in_process=True).returncode == 0
