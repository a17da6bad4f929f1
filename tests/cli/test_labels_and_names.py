"""Labels, names and options that do nothing, as a user of the command meets them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from drawn_slides import draw_slide, halves, write_annotations

SIDE = 384
TILE = ("--mpp", "0.5", "--patch-size", "64", "--workers", "0")


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        return {row["slide_id"]: row for row in csv.DictReader(stream)}


def table(folder: Path, heading: str, *lines: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    return path


def counts(cell: str) -> dict[str, int]:
    return {n: int(c) for n, c in (part.rsplit(":", 1) for part in cell.split(";") if part)}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six different slides, and one of them twice."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        draw_slide(folder / f"s{number}.tiff", seed=number, side_px=SIDE)
    shutil.copy(folder / "s0.tiff", folder / "copy.tiff")
    return folder


def test_labels_are_counted_and_losses_reported(scaat: Any, slides: Path, tmp_path: Path) -> None:
    rings = halves(SIDE)
    far = [[x + 90_000, y] for x, y in rings["Tumor"]]
    write_annotations(slides / "good.geojson", rings)
    write_annotations(slides / "far.geojson", {"Tumor": far})
    write_annotations(slides / "tumor.geojson", {"tumor ": rings["Tumor"], "": rings["Normal"]})
    manifest = table(
        slides,
        "slide,id,patient_id,annotation",
        *(f"s{n}.tiff,s{n},P{n},{name}.geojson" for n, name in enumerate(["good", "far", "tumor"])),
    ).rename(slides / "annotated.csv")
    text = manifest.read_text().replace("slide,id,", "slide,slide_id,")
    manifest.write_text(text)
    arguments = ("tile", "--manifest", manifest, "--out", tmp_path / "o", *TILE)
    done = scaat(*arguments)
    assert done.returncode == 0, done.stderr
    assert "warning: s1: its annotations label nothing" in done.stderr
    assert "outside the slide (are these another slide's annotations?)" in done.stderr
    assert "class 'tumor' is 'Tumor' in another spelling" in done.stderr
    rows = rows_of(tmp_path / "o")
    assert list(counts(rows["s0"]["n_labelled"])) == ["Normal", "Tumor"]
    assert min(counts(rows["s0"]["n_labelled"]).values()) > 0
    assert set(counts(rows["s1"]["n_labelled"]).values()) == {0}
    assert "label nothing" in rows["s1"]["notes"]
    assert (
        counts(rows["s2"]["n_labelled"])["Normal"] == 0 < counts(rows["s2"]["n_labelled"])["Tumor"]
    )
    assert "without a class left out" in rows["s2"]["notes"]
    # Again, and -q: the table is the same to the byte, and the warning is still there.
    before = (tmp_path / "o" / "slides.csv").read_bytes()
    again = scaat(*arguments, "-q")
    assert "3 already there" in again.stdout
    assert "warning: s1: its annotations label nothing" in again.stderr
    assert (tmp_path / "o" / "slides.csv").read_bytes() == before


def test_only_the_tumour_is_drawn(scaat: Any, slides: Path, tmp_path: Path) -> None:
    write_annotations(slides / "only.geojson", {"Tumor": halves(SIDE)["Tumor"]})
    manifest = table(slides, "slide,annotation,label", "s0.tiff,only.geojson,", "s1.tiff,,normal")
    base = ("tile", "--manifest", manifest, *TILE)
    done = scaat(*base, "--out", tmp_path / "o", "--background-class", "Normal")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "o")
    found = counts(rows["s0"]["n_labelled"])
    assert set(found) == {"Normal", "Tumor"} or set(found) == {"normal", "Tumor"}
    assert min(found.values()) > 0
    assert sum(found.values()) == int(rows["s0"]["n_patches"])
    assert "tissue outside the annotations counts as" in rows["s0"]["notes"]
    refused = scaat(*base, "--out", tmp_path / "p", "--classes", "Tumor,Fat", "--background-class",
                    "Normal")  # fmt: skip
    assert refused.returncode == 2
    assert "none of the class_names" in refused.stderr
    assert not (tmp_path / "p").exists()


def test_names_as_classes_are_taken_where_they_are_asked_for(
    scaat: Any, slides: Path, tmp_path: Path
) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "name": name},
        }
        for name, ring in halves(SIDE).items()
    ]
    (slides / "names.geojson").write_text(json.dumps(features))
    manifest = table(slides, "slide,annotation", "s0.tiff,names.geojson")
    base = ("tile", "--manifest", manifest, *TILE, "--out", tmp_path / "o")
    done = scaat(*base)
    assert "warning: s0: its annotations label nothing" in done.stderr
    assert "--classes 'Normal,Tumor'" in done.stderr
    done = scaat(*base, "--classes", "Tumor,Normal")
    assert min(counts(rows_of(tmp_path / "o")["s0"]["n_labelled"]).values()) > 0
    assert "counted as 'Tumor', which is written in the annotation's name" in done.stderr


@pytest.mark.slow
def test_splits_and_classes_are_reported_before_training_and_again(
    scaat: Any, slides: Path, tmp_path: Path
) -> None:
    manifest = table(
        slides,
        "slide,patient_id,label,weather",
        "s0.tiff,P0,Tumor,",
        *(f"s{n}.tiff,P{n},{name}," for n, name in enumerate(["Normal", "normal", "NORMAL"], 1)),
        "s4.tiff,p3,Normal,",
    )
    base = ("run", "--manifest", manifest, "--out", tmp_path / "o", *TILE, "--overlap", "0",
            "--epochs", 1, "--formats", "csv")  # fmt: skip
    done = scaat(*base)
    assert done.returncode == 4, done.stderr  # one validation slide: nothing shows that it learnt
    for words in (
        "columns not used unless an option names them: weather",
        "label 'NORMAL' (1 row) is 'Normal' in another spelling",
        "the patient_id of line 6 is that of an earlier line",
        "class 'Normal': training",
        "class 'Tumor': training 1 slide (1 patient); validation none; test none",
        "one patient alone has class 'Tumor'",
        "validation split holds one class only (Normal): its AUROC cannot be given",
        "test split holds one class only (Normal)",
        "saliency speaks of class 'Tumor', by its name",
    ):
        assert done.stderr.count(words) == 1, words
    splits = {name: row["split"] for name, row in rows_of(tmp_path / "o").items()}
    assert splits["s0"] == "train"
    assert splits["s3"] == splits["s4"]
    kept = (tmp_path / "o" / "notes.json").read_bytes()
    assert "columns not used unless an option names them: weather" in json.loads(kept)["cohort"]
    assert any("holds one class only" in note for note in json.loads(kept)["train"])
    again = scaat(*base)
    assert again.stderr.count("validation split holds one class only") == 1
    assert (tmp_path / "o" / "notes.json").read_bytes() == kept
    # What does not fit a model is one sentence with exit code 2, and touches nothing.
    before = (tmp_path / "o" / "slides.csv").read_bytes()
    typo = scaat("explain", "--out", tmp_path / "o", "--target", "Tumour", "--workers", 0)
    assert typo.returncode == 2
    assert typo.stderr.count("Tumour") == 1
    assert "did you mean 'Tumor'?" in typo.stderr
    assert (tmp_path / "o" / "slides.csv").read_bytes() == before
    # Options that a model makes idle are refused together, before anything is made.
    idle = scaat("run", "--manifest", manifest, "--out", tmp_path / "m", "--model",
                 tmp_path / "o" / "model", "--mpp", "4", "--patch-size", "64", "--classes",
                 "Foo,Bar", "--epochs", "3")  # fmt: skip
    assert idle.returncode == 2
    assert "--mpp (the model's: 0.5 µm/px), --classes (the model's: Normal,Tumor), --epochs" in (
        idle.stderr
    )
    assert not (tmp_path / "m").exists()
    other = scaat("tile", "--manifest", manifest, "--out", tmp_path / "q", "--mpp", "1",
                  "--patch-size", "64")  # fmt: skip
    assert other.returncode == 0, other.stderr
    misfit = scaat("explain", "--out", tmp_path / "q", "--model", tmp_path / "o" / "model")
    assert misfit.returncode == 2
    assert misfit.stderr.count("µm/px") == 1
    assert rows_of(tmp_path / "q")["s0"]["explain"] == "pending"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:9"], "--device"),
        (["--device", "gpu"], "'gpu' is not a device"),
        (["--backbone", "resnet5000"], "'resnet5000' is unknown"),
        (["--backbone", "resnet5O"], "did you mean 'resnet50'?"),
        (["--method", "scat"], "did you mean 'scaat'?"),
        (["--method", "plain", "--eps", "0.1"], "eps"),
        (["--target", "Tumour"], "did you mean 'Tumor'?"),
        (["--positive-class", "Tumr"], "did you mean 'Tumor'?"),
        (["--pseudonymize", "SALT", "--target", "x"], "'x' is no class"),
    ],
)
def test_mistakes_are_found_before_the_first_slide(
    scaat: Any, slides: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    manifest = table(slides, "slide,label", "s0.tiff,Tumor", "s1.tiff,Normal")
    given = [str(tmp_path / "salt") if o == "SALT" else o for o in options]
    done = scaat("run", "--manifest", manifest, "--out", tmp_path / "o", *TILE, *given)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "o").exists()


def test_one_slide_under_two_patients(scaat: Any, slides: Path, tmp_path: Path) -> None:
    manifest = table(
        slides,
        "slide,patient,label",
        "s0.tiff,P0,Tumor",
        "copy.tiff,P1,Normal",
        "s2.tiff,P2,Normal",
    )
    done = scaat("run", "--manifest", manifest, "--out", tmp_path / "o", *TILE)
    assert done.returncode == 2
    assert (
        "slides 's0', 'copy': hold the same bytes but belong to different patients" in done.stderr
    )
    assert not (tmp_path / "o").exists()
    done = scaat("tile", "--manifest", manifest, "--out", tmp_path / "o", *TILE)
    assert done.returncode == 0
    assert "under 2 patients; no model can be trained" in done.stderr
    done = scaat("train", "--manifest", manifest, "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "hold the same bytes" in done.stderr


def test_all_problems_of_a_file_are_reported_at_once(scaat: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "out: o\nseeed: 1\ntile: {mppp: 0.5, patch_size_px: 1, reader: openslid}\n"
        "train: {method: scat, epochs: 0}\n"
    )
    done = scaat("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 2
    for words in (
        "'manifest' is missing, give --manifest",
        "'seeed': is not a setting (did you mean 'seed'?)",
        "'tile.mppp': is not a setting (did you mean 'mpp'?)",
        "'tile.patch_size_px'",
        "did you mean 'openslide'?",
        "did you mean 'scaat'?",
        "'train.epochs'",
    ):
        assert words in done.stderr, (words, done.stderr)


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_a_salt_without_a_manifest_is_refused(scaat: Any, tmp_path: Path, verb: str) -> None:
    done = scaat(verb, "--out", tmp_path / "o", "--pseudonymize", tmp_path / "salt")
    assert done.returncode == 2
    assert "does nothing without --manifest" in done.stderr
