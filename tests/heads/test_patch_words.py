"""A head knows of which patches its features were, and tells where others are given to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from forked_command import run_forked
from made_features import document, patch_features, write_clam, write_trident

from pathology_scaat.training.heads.bundle import head_fingerprint, read_head_config
from pathology_scaat.training.heads.feature_files import read_feature_file
from pathology_scaat.training.heads.patch_words import (
    PATCHES_NOT_KNOWN,
    not_compared,
    other_patches,
)

TRIDENT = "256 px at 20x"
NOT_KNOWN = "Whether the patches have the size and magnification that the head was trained on is"


def changed(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    shutil.copytree(source, target)
    for path in target.iterdir():
        with h5py.File(path, "a") as file:
            change(file)
    return target


def half(file: Any) -> None:
    file["coords"].attrs.update({"target_magnification": 10, "patch_size_level0": 1024})


def silent(file: Any) -> None:
    for name in ("target_magnification", "patch_size"):
        del file["coords"].attrs[name]


def of_stamp(file: Any) -> None:
    silent(file)
    file.attrs.update({"tile_size_px": 224, "tile_size_um": 256.0})


@pytest.fixture(scope="module")
def learnt(feature_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "out"
    printed = document("train", *_words(feature_cohort, feature_cohort / "h5", out), "--epochs", 2)
    assert not any("do not state how large" in note for note in printed["notes"])
    return out


def _words(cohort: Path, features: Path, out: Path) -> tuple[object, ...]:
    return ("--features", features, "--manifest", cohort / "cohort.csv", "--out", out)


def test_a_head_records_the_patches_of_its_features(learnt: Path, feature_cohort: Path) -> None:
    config = read_head_config(learnt / "head")
    assert config.patches == (TRIDENT,)
    printed = document("predict", *_words(feature_cohort, feature_cohort / "h5", learnt))
    assert not any(NOT_KNOWN in note for note in printed["notes"])
    # a head of before this was recorded is the same head
    older = config.model_copy(update={"patches": ()})
    assert "patches" not in older.model_dump(exclude_defaults=True)
    assert head_fingerprint(older) != head_fingerprint(config)


def test_features_of_another_magnification_are_refused(
    learnt: Path, feature_cohort: Path, tmp_path: Path
) -> None:
    features = changed(feature_cohort / "h5", tmp_path / "h5", half)
    shutil.copytree(learnt, tmp_path / "out")
    words = _words(feature_cohort, features, tmp_path / "out")
    done = run_forked(["predict", *words, "-q"])
    assert done.returncode == 2, done.stderr
    assert (
        "is of patches of 256 px at 10x, and the head learnt from those of 256 px at 20x; give "
        "features of patches of the same size and magnification."
    ) in done.stderr


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (silent, "48 of 48 files do not state it"),
        (of_stamp, f"48 of 48 files state it so that it cannot be compared with {TRIDENT}"),
    ],
)
def test_patches_that_cannot_be_compared_are_told(
    learnt: Path, feature_cohort: Path, tmp_path: Path, change: Callable[[Any], None], why: str
) -> None:
    features = changed(feature_cohort / "h5", tmp_path / "h5", change)
    shutil.copytree(learnt, tmp_path / "out")
    printed = document("predict", *_words(feature_cohort, features, tmp_path / "out"))
    assert [why in note for note in printed["notes"] if NOT_KNOWN in note] == [True]


def test_a_head_on_features_that_state_nothing_says_so(
    feature_cohort: Path, tmp_path: Path
) -> None:
    features = changed(feature_cohort / "h5", tmp_path / "h5", silent)
    words = _words(feature_cohort, features, tmp_path / "out")
    assert PATCHES_NOT_KNOWN in document("train", *words, "--epochs", 2)["notes"]
    assert read_head_config(tmp_path / "out" / "head").patches == ()
    printed = document("predict", *words)
    why = "the head does not record that of its training patches"
    assert [why in note for note in printed["notes"] if NOT_KNOWN in note] == [True]


def test_what_each_program_writes_is_read(tmp_path: Path) -> None:
    features = patch_features(9, 3, 0)
    write_trident(tmp_path / "a.h5", features)
    assert read_feature_file(tmp_path / "a.h5", "a").patch_words == TRIDENT
    write_clam(tmp_path, "b", features)
    path = tmp_path / "features" / "h5_files" / "b.h5"
    assert read_feature_file(path, "b").patch_words == "256 px at 1/2 of the slide's own resolution"
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["feats"] = features
        file.attrs.update({"unit": "um", "tile_size_px": 224, "tile_size_um": 256.0})
    assert read_feature_file(tmp_path / "c.h5", "c").patch_words == "224 px of 256 µm"


def test_a_magnification_and_um_per_px_are_not_compared() -> None:
    """Which is which hangs on the slide."""
    known = [TRIDENT]
    assert not other_patches("256 px at 0.5 µm/px", known)
    assert "cannot be compared with 256 px at 20x" in not_compared(["256 px at 0.5 µm/px"], known)
    assert other_patches("256 px at 1 µm/px", ["256 px at 0.5 µm/px"])
    assert not_compared([TRIDENT], known) == ""


def test_shares_of_the_slides_own_resolution_are_told_and_not_refused() -> None:
    """Half of a slide at 40x is as all of one at 20x."""
    whole, half_of_it = (f"256 px at 1/{n} of the slide's own resolution" for n in (1, 2))
    assert not other_patches(half_of_it, [whole])
    assert "1 of 2 files state it so that it cannot be compared with" in not_compared(
        [whole, half_of_it], [whole]
    )
    assert not_compared([whole, half_of_it], [whole, half_of_it]) == ""
