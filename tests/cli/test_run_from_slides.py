"""``scaat run --model`` keeps no pixels by default: the same results, and every command goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from drawn_slides import make_cohort
from reliability_tools import FINISHED, digest, read_status, run_scaat

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.patches import PatchStore

QUIET = ("--workers", 0, "-q")
FORMATS = ("--formats", "geojson,csv,ome-tiff")


def scaat(*words: object, ok: tuple[int, ...] = FINISHED) -> str:
    done = run_scaat(*words, in_process=True)
    assert done.returncode in ok, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, and the model applied with and without keeping patches."""
    folder = tmp_path_factory.mktemp("applied")
    manifest = make_cohort(folder)
    small = ("--mpp", 1, "--patch-size", 32, "--epochs", 1, "--device", "cpu")
    scaat("run", "--manifest", manifest, "--out", folder / "trained", *small, *FORMATS, *QUIET)
    words = ("run", "--manifest", manifest, "--model", folder / "trained/model", *FORMATS)
    words = (*words, "--device", "cpu", *QUIET)
    scaat(*words, "--out", folder / "stored", "--keep-patches")
    with pytest.MonkeyPatch.context() as patch:  # as where a GPU explains: stitched beside that
        patch.setattr("pathology_scaat.pipeline.run.helpers_for", lambda engine, device: 1)
        scaat(*words, "--out", folder / "direct")
    return folder


def without_pixels(out: Path) -> dict[str, str]:
    names = ("saliency/", "maps/", "overlays/", "predictions", "patients", "performance")
    return {k: v for k, v in digest(out).items() if k.startswith(names)}


@pytest.mark.slow
def test_the_results_are_the_same_bytes(applied: Path) -> None:
    direct, stored = without_pixels(applied / "direct"), without_pixels(applied / "stored")
    assert any(name.startswith("predictions") for name in direct)
    assert direct == stored
    for slide_id in Workspace(applied / "direct").slide_ids_with("tile"):
        assert not PatchStore(Workspace(applied / "direct").patches(slide_id)).meta.has_pixels
        assert PatchStore(Workspace(applied / "stored").patches(slide_id)).meta.has_pixels
    rows = [read_status(applied / name) for name in ("direct", "stored")]
    for one, other in zip(*rows, strict=True):
        for column in ("n_patches", "n_unreadable", "tile", "explain", "stitch", "export"):
            assert one[column] == other[column]


@pytest.mark.slow
def test_other_commands_go_on(applied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(applied / "direct", out)
    manifest = applied / "cohort.csv"
    assert "FAULT" not in scaat("verify", "--out", out, "--manifest", manifest, "--deep")
    model = applied / "trained/model"
    scaat("stitch", "--out", out, *QUIET)
    scaat("predict", "--manifest", manifest, "--out", out, "--model", model, "-q")
    # Nothing is to be done, so nothing is missed.
    scaat("explain", "--out", out, "--model", model, "--device", "cpu", *QUIET)
    shutil.rmtree(out / "saliency/slide-1.zarr")
    done = scaat("explain", "--out", out, "--model", model, "--device", "cpu", *QUIET, ok=(3,))
    assert "holds no pixels" in done
    assert "Traceback" not in done
    # The run goes on where it stopped, from the slide.
    before = (out / "saliency/slide-0.zarr/zarr.json").stat().st_mtime_ns
    words = ("run", "--manifest", manifest, "--model", model, *FORMATS, "--device", "cpu", *QUIET)
    scaat(*words, "--out", out)
    assert (out / "saliency/slide-0.zarr/zarr.json").stat().st_mtime_ns == before
    assert without_pixels(out) == without_pixels(applied / "direct")
    # Keeping them afterwards cuts the patches and explains nothing anew.
    scaat(*words, "--out", out, "--keep-patches")
    assert (out / "saliency/slide-0.zarr/zarr.json").stat().st_mtime_ns == before
    assert PatchStore(out / "patches/slide-1.zarr").meta.has_pixels


@pytest.mark.slow
def test_no_name_of_a_slide_is_kept(applied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scaat(
        "run", "--manifest", applied / "cohort.csv", "--model", applied / "trained/model",
        "--out", out, "--pseudonymize", tmp_path / "salt", *FORMATS, "--device", "cpu", *QUIET,
    )  # fmt: skip
    for path in out.rglob("*"):
        assert "slide-0" not in path.name
        if path.is_file():
            data = path.read_bytes()
            for secret in (b"slide-0", b"patient-0", b"s0.tiff", str(applied).encode()):
                assert secret not in data, (path, secret)


@pytest.mark.slow
def test_maps_that_cannot_be_made_are_refused_before_the_first_slide(
    applied: Path, tmp_path: Path
) -> None:
    """Each slide was told alone, and marked as failed where good maps lay."""
    model = applied / "trained/model"
    refused = (
        ("direct", ("--method", "gradient"), "kept without pixels"),
        ("direct", ("--overwrite",), "kept without pixels"),
        ("direct", ("--method", "token-cam"), "finds no blocks of attention"),
        ("stored", ("--method", "token-cam"), "finds no blocks of attention"),
        ("stored", ("--method", "attn-lrp"), "meets no attention"),
    )
    for folder, options, said in refused:
        out = applied / folder
        before, rows = digest(out), read_status(out)
        done = scaat("explain", "--out", out, "--model", model, *options, *QUIET, ok=(2,))
        assert said in done
        assert done.count("\n") == 1
        assert (digest(out), read_status(out)) == (before, rows)
    cohort = ("run", "--manifest", applied / "cohort.csv", "--out", tmp_path / "out", *QUIET)
    for options in (("--model", model), ("--patch-size", 32, "--epochs", 1)):
        done = scaat(*cohort, *options, "--set", "explain.method=token-cam", ok=(2,))
        assert "finds no blocks of attention" in done
        assert not (tmp_path / "out").exists()


def test_who_trains_is_told_what_is_known_of_the_method(applied: Path) -> None:
    """SCAAT is the default; that it was found to help with this network would be untrue."""
    notes = json.loads((applied / "trained/notes.json").read_text())["train"]
    (said,) = (note for note in notes if "SCAAT is known to do" in note)
    assert "real slide were surely worse" in said
    assert "--method plain" in said
