"""``scaat verify`` finds every fault that is planted, and none in a sound run."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reliability_tools import FINISHED, make_cohort, run_scaat

from pathology_scaat.artifacts.atomic import partial_path
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import StoreError
from pathology_scaat.saliency import write_saliency_store
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.verify import verify_run

FLIPS = 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    out = folder / "out"
    done = run_scaat(
        "run", "--manifest", make_cohort(folder), "--out", out, "--mpp", "1.0", "--patch-size",
        "32", "--epochs", 1, "--workers", 0, "--quiet", in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    return out


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "out"))


def test_a_sound_run_is_sound(sound: Path) -> None:
    findings = verify_run(sound)
    assert [f for f in findings if not f.ok] == []
    assert len({f.artifact for f in findings}) == len(findings) >= 3 * 7 + 3
    quick = verify_run(sound, deep=False)
    assert all(f.ok for f in quick)
    assert [f.artifact for f in quick] == [f.artifact for f in findings]


def data_files(out: Path) -> list[Path]:
    """Every artifact's files: all but locks, logs, the explanation of the folder, and the table
    that every stage rewrites."""
    found = [p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")]
    free = ("logs/", "model.training/", "slides.csv", "run.log", "README.txt")
    return sorted(p for p in found if not p.relative_to(out).as_posix().startswith(free))


def test_a_flipped_bit_in_any_data_file_is_found(copied: Path) -> None:
    rng = random.Random(0)
    files = data_files(copied)
    assert len(files) > 60
    kinds = {re.sub(r"slide-\d|\d+", "#", p.relative_to(copied).as_posix()): p for p in files}
    assert set(kinds) >= {
        "overlays/index.html", "tissue/#.png", "run.json",
        "overlays/contact_sheet.png", "overlays/#.figure.png", "overlays/#.json",
    }  # fmt: skip
    assert {"README.md", "torchscript_model.pt"} <= {p.name for p in files if "wsinfer" in p.parts}
    others = [p for p in files if p not in kinds.values()]
    for path in [*kinds.values(), *rng.sample(others, min(FLIPS, len(others)))]:
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        path.write_bytes(
            whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        )
        faults = [f for f in verify_run(copied) if not f.ok]
        assert faults, path.relative_to(copied)
        path.write_bytes(whole)
    assert all(f.ok for f in verify_run(copied))


def edit_attributes(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value["attributes"]["pathology_scaat"])
    path.write_text(json.dumps(value), encoding="utf-8")


def _set(name: str, value: object) -> Callable[[dict[str, object]], None]:
    def change(attributes: dict[str, object]) -> None:
        attributes[name] = value

    return change


PLANTED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another slide fingerprint": (
        "patches/slide-0.zarr",
        lambda out: edit_attributes(
            out / "patches/slide-0.zarr/zarr.json", _set("slide_fingerprint", "0" * 64)
        ),
        "does not follow",
    ),
    "another version of the schema": (
        "saliency/slide-1.zarr",
        lambda out: edit_attributes(
            out / "saliency/slide-1.zarr/zarr.json", _set("schema_version", 2)
        ),
        "schema version",
    ),
    "another method": (
        "saliency/slide-1.zarr",
        lambda out: edit_attributes(
            out / "saliency/slide-1.zarr/zarr.json", _set("parameters", {"method": "other"})
        ),
        "does not follow",
    ),
    "a moved map": (
        "maps/slide-2.ome.zarr",
        lambda out: edit_attributes(out / "maps/slide-2.ome.zarr/zarr.json", _set("scale_px", 5.0)),
        "",
    ),
    "artifacts exchanged between slides": (
        "patches/slide-0.zarr",
        lambda out: (
            (out / "patches/slide-0.zarr").rename(out / "x"),
            (out / "patches/slide-1.zarr").rename(out / "patches/slide-0.zarr"),
            (out / "x").rename(out / "patches/slide-1.zarr"),
        ),
        "another slide",
    ),
    "a missing export": (
        "overlays/slide-0.geojson.gz",
        lambda out: (out / "overlays/slide-0.geojson.gz").unlink(),
        "missing",
    ),
    "a changed export": (
        "overlays/slide-0.png",
        lambda out: (out / "overlays/slide-0.png").write_bytes(b"x"),
        "size",
    ),
    "a missing chunk": (
        "patches/slide-1.zarr",
        lambda out: shutil.rmtree(out / "patches/slide-1.zarr/blocks/c"),
        "",
    ),
    "a missing store": (
        "slides.csv",
        lambda out: shutil.rmtree(out / "saliency/slide-0.zarr"),
        "no artifact",
    ),
    "a row that lies": (
        "slides.csv",
        lambda out: StatusTable(out).update("slide-9", "tile", "done"),
        "no artifact",
    ),
    "a failure without a reason": (
        "slides.csv",
        lambda out: StatusTable(out).update("slide-1", "export", "failed"),
        "without a reason",
    ),
    "what a killed run left": (
        "patches/slide-7.zarr",
        lambda out: partial_path(out / "patches/slide-7.zarr", tag="abcdef-1").mkdir(),
        "unfinished",
    ),
    "an altered run record": (
        "run.json",
        lambda out: (out / "run.json").write_text(
            (out / "run.json").read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'),
            encoding="utf-8",
        ),
        "altered",
    ),
    "an altered model": (
        "model",
        lambda out: (out / "model/config.json").write_text(
            (out / "model/config.json").read_text(encoding="utf-8").replace("Tumor", "Tumour"),
            encoding="utf-8",
        ),
        "altered",
    ),
    "another TorchScript": (
        "model",
        lambda out: next(out.glob("model/wsinfer/*/torchscript_model.pt")).write_bytes(b"x"),
        "other bytes",
    ),
    "a missing contact sheet": (
        "overlays/contact_sheet.png",
        lambda out: (out / "overlays/contact_sheet.png").unlink(),
        "missing",
    ),
    "an edited page": (
        "overlays/index.html",
        lambda out: (out / "overlays/index.html").write_text(
            (out / "overlays/index.html").read_text(encoding="utf-8").replace("For research. ", ""),
            encoding="utf-8",
        ),
        "other bytes",
    ),
    "a record without its checksum": (
        "overlays/slide-0.json",
        lambda out: (out / "overlays/slide-0.json").write_text(
            (out / "overlays/slide-0.json")
            .read_text(encoding="utf-8")
            .replace("_checksum", "_checksu"),
            encoding="utf-8",
        ),
        "no checksum",
    ),
    "a cut-off picture": (
        "tissue/slide-0.png",
        lambda out: (out / "tissue/slide-0.png").write_bytes(
            (out / "tissue/slide-0.png").read_bytes()[:100]
        ),
        "picture",
    ),
}


@pytest.mark.parametrize(("artifact", "plant", "word"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_faults_are_named(
    artifact: str, plant: Callable[[Path], object], word: str, copied: Path
) -> None:
    plant(copied)
    faults = [f for f in verify_run(copied) if not f.ok]
    assert any(f.artifact == artifact and word in f.message for f in faults), faults
    assert all("\n" not in f.message and str(copied) not in f.message for f in faults)


def test_the_command_lists_faults_and_fails(copied: Path) -> None:
    assert run_scaat("verify", "--out", copied, in_process=True).returncode == 0
    (copied / "overlays/slide-0.png").unlink()
    done = run_scaat("verify", "--out", copied, in_process=True)
    assert done.returncode == 3
    assert "FAULT overlays/slide-0.png: is missing" in done.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        verify_run(tmp_path)
    with pytest.raises(StoreError):
        verify_run(tmp_path / "none")


def test_probabilities_of_several_labels_need_not_add_up(
    tmp_path: Path, saliency_meta: SaliencyStoreMeta
) -> None:
    """The reviewed fault: every run with several labels a patch was called broken."""
    from dataclasses import replace

    from pathology_scaat.verify.stores import check_saliency

    rng = np.random.default_rng(0)
    grid = saliency_meta.grid
    index = grid.all_indices()
    maps = rng.random((len(index), 8, 8)).astype(np.float32)

    def problems(multi_label: bool, probability: NDArray[np.float32]) -> str:
        meta = replace(saliency_meta, multi_label=multi_label)
        path = tmp_path / f"{multi_label}{float(probability.sum())}" / "s1.zarr"
        path.parent.mkdir()
        write_saliency_store(path, meta, maps, probability, grid.origins_px(index), index)
        return "; ".join(check_saliency(path, "s1", None, False)[1])

    sigmoids = rng.random((len(index), 2)).astype(np.float32)
    assert "probabilities" not in problems(True, sigmoids)
    assert "do not add up to 1" in problems(False, sigmoids)
    assert "not from 0 to 1" in problems(True, sigmoids + 1)
    assert "not from 0 to 1" in problems(True, sigmoids * np.float32("nan"))
