"""A path given for something else is called what it is, with what to give instead."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from forked_command import run_forked

from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.artifacts.status_columns import COLUMNS
from pathology_scaat.cohort.folder import slides_of_folder
from pathology_scaat.cohort.mistaken import Kind, kind_of
from pathology_scaat.errors import ManifestError, SlideOpenError
from pathology_scaat.slides import open_slide

MIB = 1 << 20


def scaat(folder: Path, *words: object) -> str:
    """The one sentence that a command ends with."""
    done = run_forked(words, folder=folder)
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """A slide, a table, an archive, and the output folder of a run with a model and an overlay."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"\0" * (MIB + 1))
    (tmp_path / "cohort.csv").write_text("slide_path\na.svs\n")
    (tmp_path / "x.zip").write_bytes(b"PK\3\4" + b"\0" * 100)
    (tmp_path / "demo").mkdir()
    out = tmp_path / "demo" / "results"
    claim_output(out)
    (out / "model").mkdir()
    config = {"schema_name": "pathology_scaat.model", "schema_version": 1}
    (out / "model" / "config.json").write_text(json.dumps(config))
    (out / "model" / "model.safetensors").write_bytes(b"\0" * 10)
    (out / "overlays").mkdir()
    (out / "overlays" / "a.rgb.tiff").write_bytes(b"II*\0")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("run", "slides/a.svs", "--out", "o"),
            "a.svs: is a slide, not a pipeline file; give slides by --manifest: the folder that "
            "they lie in, or a table of them.",
        ),
        (
            ("run", "slides", "--out", "o"),
            "slides: is a folder of slides, not a pipeline file; give it by --manifest slides.",
        ),
        (
            ("run", "cohort.csv", "--out", "o"),
            "cohort.csv: is a table, not a pipeline file; give the table of the slides by "
            "--manifest cohort.csv.",
        ),
        (
            ("config", "demo/results"),
            "results: is the output folder of a run, not a pipeline file; to run it again give "
            "results/run.json; to write into it, --out results.",
        ),
        (
            ("config", "demo/results/model"),
            "model: is a model bundle, not a pipeline file; give it by --model model.",
        ),
        (
            ("config", "x.zip"),
            "x.zip: is an archive, not a pipeline file; unpack it, and give what is in it.",
        ),
        (
            ("compare", "cohort.csv", "--manifest", "slides", "--out", "o"),
            "cohort.csv: is a table, not a file of a comparison; 'scaat config --compare' prints "
            "one; slides go by --manifest, results by --out.",
        ),
        (
            ("evaluate", "--model", "slides/a.svs", "--out", "o"),
            "a.svs: is a slide, not a model bundle; give the folder 'scaat train' made.",
        ),
        (
            ("evaluate", "--model", "demo/results", "--out", "o"),
            "results: is the output folder of a run, not a model bundle; give the model in it: "
            "results/model.",
        ),
        (
            ("evaluate", "--model", "demo/results/model/config.json", "--out", "o"),
            "config.json: is a file of a model bundle, not a model bundle; give the folder that it "
            "lies in.",
        ),
        (
            ("review", "slides/a.svs"),
            "OUT: holds no run: it is a slide; give the output folder of 'scaat run'.",
        ),
        (
            ("import-review", "slides/a.svs"),
            "a.svs: holds no run: it is a slide; give the output folder of 'scaat run'.",
        ),
        (
            ("report", "demo/results/overlays"),
            "OUT: holds no run: it is a part of an output folder; give the folder that it lies in.",
        ),
        (
            ("report", "demo"),
            "OUT: holds no run; give the output folder in it: demo/results.",
        ),
        (
            ("verify", "--out", "demo/results/model"),
            "model: holds no results: it is a model bundle; give the folder that it lies in.",
        ),
        (
            ("stitch", "--out", "slides/a.svs"),
            "a.svs: holds no run: it is a slide; give the output folder of 'scaat run'.",
        ),
        (
            ("tile", "--manifest", "slides/a.svs", "--mpp", "1", "--out", "o"),
            "a.svs: is a slide, not a table of slides; give the folder that it lies in, or a table "
            "with a row for it.",
        ),
        (
            ("tile", "--manifest", "demo/results", "--mpp", "1", "--out", "o"),
            "results: is the output folder of a run, and holds no slide; give a folder with "
            "slides in it, or a table.",
        ),
        (
            ("evaluate", "--model", "demo/results/model", "--out", "cohort.csv"),
            "--out: 'cohort.csv' is a file, not a folder; give another name.",
        ),
        (
            ("import-model", "slides/a.svs", "--out", "o", "--classes", "a,b", "--mpp", "1",
             "--backbone", "resnet18"),
            "a.svs: is a slide, not a file of weights; correct the path.",
        ),
        (
            ("import-model", "demo/results/model", "--out", "o", "--classes", "a,b"),
            "model: is a model bundle already, not a file of weights; give it by --model as it is.",
        ),
        (
            ("info", "slides"),
            "slides: is a folder that is no slide itself (it holds no DICOM and is no Zarr); give "
            "the slide's file.",
        ),
    ],
)  # fmt: skip
def test_what_was_given_is_named_with_what_to_give(
    things: Path, words: Sequence[str], sentence: str
) -> None:
    assert scaat(things, *words) == f"scaat: {sentence}"


def test_kinds_that_are_told_at_a_glance(things: Path) -> None:
    results = things / "demo" / "results"
    assert kind_of(things / "nothing") is None
    assert kind_of(things) is Kind.FOLDER
    assert kind_of(things / "demo") is Kind.OUTPUT_ABOVE
    assert kind_of(results) is Kind.OUTPUT
    assert kind_of(results / "overlays") is Kind.OUTPUT_PART
    assert kind_of(results / "model" / "model.safetensors") is Kind.BUNDLE_FILE


def _map(path: Path) -> None:
    tifffile.imwrite(
        path, np.full((512, 512, 3), 200, np.uint8), tile=(256, 256), photometric="rgb",
        software="pathology_scaat", resolution=(2500, 2500), resolutionunit="CENTIMETER",
    )  # fmt: skip


def test_maps_of_a_run_are_no_slides_of_the_next(tmp_path: Path) -> None:
    """Exported pictures were tiled as tissue where the output lay among the slides."""
    slides = tmp_path / "slides"
    (slides / "out" / "overlays").mkdir(parents=True)
    (slides / "a.svs").write_bytes(b"II*\0")
    head = ",".join(COLUMNS)
    (slides / "out" / "slides.csv").write_text(head + "\n")
    _map(slides / "out" / "overlays" / "a.rgb.tiff")
    assert [path.name for path, _ in slides_of_folder(slides).rows] == ["a.svs"]
    assert next(csv.reader([head])) == list(COLUMNS)
    with pytest.raises(ManifestError, match="part of an output folder"):
        slides_of_folder(slides / "out" / "overlays")


@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_an_exported_map_is_refused_as_a_slide(tmp_path: Path, reader: str) -> None:
    _map(tmp_path / "a.rgb.tiff")
    with pytest.raises(SlideOpenError, match="is a map that scaat exported, not a slide"):
        open_slide(tmp_path / "a.rgb.tiff", reader=reader)
