"""A corrected annotation, or a new class name, gives new labels and cuts no patch again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_slides import draw_slide, halves, make_cohort, write_annotations
from reliability_tools import FINISHED, run_scaat

from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, relabel, tile_slide
from pathology_scaat.patches.zarr_layout import GROUP_FILE, LARGE_SHARDS
from pathology_scaat.verify.stores import check_patches

SIDE = 768
CLASSES = ("Normal", "Tumor")


def job(folder: Path, name: str = "a.zarr", **settings: object) -> TileJob:
    config = TileConfig.model_validate(
        {"mpp": 1.0, "patch_size_px": 64, "overlap": "0.5", "class_names": CLASSES, **settings}
    )
    return TileJob(
        folder / "a.tiff", "a", folder / name, config, annotation_path=folder / "a.geojson"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_slide(tmp_path / "a.tiff", 1, SIDE)
    write_annotations(tmp_path / "a.geojson", halves(SIDE))
    return tmp_path


def pixels(store: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file but labels and metadata."""
    return {
        file.relative_to(store).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in store.rglob("*")
        if file.is_file() and not file.relative_to(store).as_posix().startswith(("label", "zarr"))
    }


def content(store: Path) -> dict[str, bytes]:
    return {
        f.relative_to(store).as_posix(): f.read_bytes() for f in store.rglob("*") if f.is_file()
    }


def swapped() -> dict[str, list[list[float]]]:
    rings = halves(SIDE)
    return {"Normal": rings["Tumor"], "Tumor": rings["Normal"]}


@pytest.mark.parametrize("overlap", ["0", "0.5"])
def test_new_annotations_change_labels_alone(folder: Path, overlap: str) -> None:
    first = tile_slide(job(folder, overlap=overlap))
    before, old = pixels(folder / "a.zarr"), PatchStore(folder / "a.zarr")
    labels, decided = old.labels, old.label_coverage.max(axis=1) == 1
    write_annotations(folder / "a.geojson", swapped())
    again = tile_slide(job(folder, overlap=overlap))
    assert again.relabelled
    assert not again.skipped
    assert pixels(folder / "a.zarr") == before
    store = PatchStore(folder / "a.zarr")
    assert decided.sum() > 20
    assert np.array_equal(store.labels[decided], 1 - labels[decided])
    assert again.fingerprint == first.fingerprint
    assert tile_slide(job(folder, overlap=overlap)).skipped
    # The same bytes as a store that never had other labels.
    tile_slide(job(folder, "fresh.zarr", overlap=overlap))
    assert content(folder / "a.zarr") == content(folder / "fresh.zarr")
    assert check_patches(folder / "a.zarr", "a", deep=True)[1] == []


def test_a_new_class_name_relabels(folder: Path) -> None:
    tile_slide(job(folder))
    before = pixels(folder / "a.zarr")
    result = tile_slide(job(folder, class_names=("Stroma", *CLASSES)))
    assert result.relabelled
    assert pixels(folder / "a.zarr") == before
    store = PatchStore(folder / "a.zarr")
    assert store.meta.class_names == ("Stroma", *CLASSES)
    assert store.label_coverage.shape == (len(store), 3)
    assert set(store.labels.tolist()) <= {-1, 1, 2}


def test_labels_that_choose_the_patches_cut_anew(folder: Path) -> None:
    first = tile_slide(job(folder, only_labelled=True))
    write_annotations(folder / "a.geojson", {"Tumor": halves(SIDE)["Tumor"]})
    again = tile_slide(job(folder, only_labelled=True))
    assert not again.relabelled
    assert again.fingerprint != first.fingerprint
    assert again.n_patches < first.n_patches


def test_without_links_the_files_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tile_slide(job(folder))
    before = pixels(folder / "a.zarr")

    def refused(*_: object, **__: object) -> None:
        raise OSError("no links on this file system")

    monkeypatch.setattr(os, "link", refused)
    write_annotations(folder / "a.geojson", swapped())
    assert tile_slide(job(folder)).relabelled
    assert pixels(folder / "a.zarr") == before


@pytest.mark.parametrize("moment", ["write_label_columns", "write_group", "checksum_folder"])
def test_an_end_in_between_leaves_the_store_as_it_was(
    folder: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile_slide(job(folder))
    before = content(folder / "a.zarr")
    write_annotations(folder / "a.geojson", swapped())

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(relabel, moment, stopped)
        with pytest.raises(KeyboardInterrupt):
            tile_slide(job(folder))
    assert content(folder / "a.zarr") == before
    assert not list(folder.glob("*.partial-*"))
    assert tile_slide(job(folder)).relabelled


def test_verify_shows_labels_of_other_patches(folder: Path) -> None:
    tile_slide(job(folder))
    tile_slide(job(folder, "b.zarr", min_tissue=0.6))
    path = folder / "a.zarr"
    # Labels and their fingerprint from another store of the slide, checksum and all.
    shutil.rmtree(path / "label")
    shutil.copytree(folder / "b.zarr/label", path / "label")
    value = json.loads((path / GROUP_FILE).read_text())
    other = json.loads((folder / "b.zarr" / GROUP_FILE).read_text())
    own, theirs = (v["attributes"]["pathology_scaat"] for v in (value, other))
    assert own["label_fingerprint"] != theirs["label_fingerprint"]
    own["label_fingerprint"] = theirs["label_fingerprint"]
    (path / GROUP_FILE).write_text(json.dumps(value))
    checksum_folder(path, GROUP_FILE, LARGE_SHARDS)
    problems = check_patches(path, "a", deep=True)[1]
    assert any("not for these patches" in problem for problem in problems)


@pytest.mark.slow
def test_a_run_again_trains_again_on_the_same_patches(tmp_path: Path) -> None:
    manifest = make_cohort(tmp_path)
    (tmp_path / "p.yaml").write_text(
        "device: cpu\ntile: {mpp: 1.0, patch_size_px: 32}\n"
        "train: {epochs: 1, batch_size: 16, method: plain}\nexport: {formats: [csv]}\n"
    )
    words = ["run", tmp_path / "p.yaml", "--manifest", manifest, "--out", tmp_path / "out"]
    words += ["--workers", 0, "-q"]
    assert run_scaat(*words, in_process=True).returncode in FINISHED
    out = tmp_path / "out"
    before = pixels(out / "patches/slide-0.zarr")
    model = json.loads((out / "model/config.json").read_text())
    rings = halves(352)
    write_annotations(tmp_path / "s0.geojson", {"Normal": rings["Tumor"], "Tumor": rings["Normal"]})
    done = run_scaat(*words[:-1], in_process=True)
    assert done.returncode in FINISHED, done.stderr
    assert "the labels of 1 slide were read anew" in done.stderr
    assert pixels(out / "patches/slide-0.zarr") == before
    trained = json.loads((out / "model/config.json").read_text())
    assert trained["training_fingerprint"] != model["training_fingerprint"]
    assert trained["dataset_fingerprint"] != model["dataset_fingerprint"]
    assert run_scaat("verify", "--out", out, in_process=True).returncode == 0
