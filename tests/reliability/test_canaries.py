"""Nothing that identifies a slide is in any output: names, texts, label images, people, places."""

from __future__ import annotations

import csv
import getpass
import importlib.util
import json
import os
import platform
import re
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from canaries import CANARY, aperio_slide, canary, find_words, format_slides, has_label_colour
from loopback_cluster import LOG_NAME, loopback_cluster
from PIL import Image
from reliability_tools import FINISHED, run_scaat
from safetensors.torch import save_file

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.export.exporters import EXPORTERS
from pathology_scaat.slides.fingerprint import slide_fingerprint
from pathology_scaat.training.small_cnn import SmallNet

pytestmark = pytest.mark.slow

SMALL = ("--mpp", "2.0", "--patch-size", "32", "--workers", "0", "--quiet")


def people_and_paths(tmp_path: Path) -> list[str]:
    """Words of this machine that must not be told, where they are long enough to be told apart."""
    mac = f"{uuid.getnode():012x}"
    words = [str(tmp_path), str(Path.cwd()), platform.node(), getpass.getuser(), mac]
    words += [":".join(mac[i : i + 2] for i in range(0, 12, 2)), "1999:12:31", "1999-12-31"]
    common = {"root", "user", "runner", "localhost", "/", "/root"}
    return [word for word in words if len(word) > 4 and word not in common]


def canary_cohort(folder: Path, *, named: bool) -> Path:
    """Three loud slides with annotations that hold canaries too; the manifest."""
    lines = ["slide_path,patient_id,split,annotation_path,remark" + (",slide_id" if named else "")]
    for number, split in enumerate(("train", "val", "test")):
        path = folder / f"{canary('name')} {number}.svs"
        aperio_slide(path, number)
        features = ",".join(
            '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
            f"[[[{a},0],[{b},0],[{b},768],[{a},768],[{a},0]]]}},"
            f'"properties":{{"name":"{canary("annotation")}","classification":{{"name":"{name}"}},'
            f'"metadata":{{"author":"{canary("author")}"}}}}}}'
            for name, a, b in (("Normal", 0, 384), ("Tumor", 384, 768))
        )
        path.with_suffix(".geojson").write_text(
            f'{{"type":"FeatureCollection","features":[{features}]}}', encoding="utf-8"
        )
        patient = f"patient-{number}" if named else canary(f"patient{number}")
        row = f"{path.name},{patient},{split},{path.stem}.geojson,{canary('remark')}"
        lines.append(row + (f",case-{number}" if named else ""))
    broken = folder / f"{canary('broken')}.svs"
    broken.write_bytes(b"II*\x00 " + canary("content").encode())
    row = f"{broken.name},{'patient-9' if named else canary('patient9')},,,{canary('remark')}"
    lines.append(row + (",case-9" if named else ""))
    manifest = folder / f"{canary('manifest')}.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def all_pixels(out: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Every picture and every patch of an output folder."""
    from pathology_scaat.patches import PatchStore

    pictures = []
    for path in out.rglob("*.png"):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    stores = [PatchStore(path) for path in sorted((out / "patches").glob("*.zarr"))]
    return pictures + [store.read(slice(0, len(store))) for store in stores]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole run on loud slides that the manifest gives ids."""
    folder = tmp_path_factory.mktemp("named")
    folder_in = folder / canary("folder")
    folder_in.mkdir()
    out = folder / "out"
    weights = folder / f"{canary('weights')}.safetensors"
    save_file(SmallNet(2).state_dict(), weights)
    pipeline = folder / f"{canary('pipeline')}.yaml"
    pipeline.write_text(
        f"# {canary('comment')}\n"
        f"train: {{epochs: 1, tensorboard: true, backbone_weights: {weights.name}}}\n",
        encoding="utf-8",
    )
    manifest = canary_cohort(folder_in, named=True)
    with pytest.MonkeyPatch.context() as patch:
        # Relative paths are no less telling than absolute ones.
        patch.chdir(folder)
        patch.setenv("SCAAT_REMARK", canary("environment"))
        done = run_scaat(
            "run", pipeline.name, "--manifest", manifest.relative_to(folder), "--out", "out",
            *SMALL, in_process=True,
        )  # fmt: skip
    assert done.returncode == 4, done.stderr  # a slide failed, and one epoch teaches nothing
    assert "1 failed" in done.stderr
    # What a run does not make by itself: every other format, the trust card, labels come back.
    manifest = next(folder_in.glob("*.csv"))
    more = ("--out", out, "--quiet")
    formats = ",".join(name for name in EXPORTERS.names if "dicom" not in name)
    done = run_scaat(
        "export", *more, "--manifest", manifest, "--formats", formats, "--workers", "0",
        in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    done = run_scaat("evaluate", *more, "--manifest", manifest, in_process=True)
    assert done.returncode in FINISHED, done.stderr
    overlay = next((out / "overlays").glob("case-0*.geojson.gz"))
    done = run_scaat("import-annotations", overlay, "--out", out, in_process=True)
    assert done.returncode in {0, 2}, done.stderr
    return out


def test_every_kind_of_output_was_searched(named: Path) -> None:
    """A format that is added later must come into the search too."""
    made = {"".join(path.suffixes) for path in (named / "overlays").iterdir()}
    wanted = (".geojson.gz", ".ome.tiff", ".png", ".html", ".csv", ".db")
    assert [end for end in wanted if not any(name.endswith(end) for name in made)] == []
    assert list(named.rglob("*tfevents*"))
    assert list((named / "evaluation").glob("trust_card.*"))


def test_no_canary_is_in_any_output(named: Path) -> None:
    for part in ("patches", "model", "saliency", "maps", "overlays", "tissue", "logs"):
        assert any((named / part).iterdir()), part
    assert find_words(named, [CANARY]) == []


def test_the_run_log_shows_times_and_neither_names_nor_dates(named: Path) -> None:
    text = (named / "run.log").read_text(encoding="utf-8")
    for words in ("scaat run ", "scaat export ", "scaat evaluate ", "tile: 4 to do", "case-9"):
        assert words in text, text
    assert "export: done in" in text
    assert re.search(r"[12][0-9]{3}-[0-9]{2}|[0-9]{2}[.:/][0-9]{2}[.:/][12][0-9]{3}", text) is None
    assert find_words(named, [CANARY, *people_and_paths(named.parent)]) == []


def test_no_date_is_in_any_event_or_checkpoint(named: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = list(named.rglob("*tfevents*"))
    assert files
    times = [event.wall_time for file in files for event in EventFileLoader(str(file)).Load()]
    assert times
    assert max(times) < 1000, "seconds since 1970"
    # Nor as a text: today in the usual spellings.
    today = datetime.now(UTC)
    spelled = [today.strftime(form) for form in ("%Y-%m-%d", "%Y:%m:%d", "%d.%m.%Y", "%Y%m%d")]
    assert find_words(named, spelled) == []


def test_the_run_record_holds_no_path(named: Path) -> None:
    config = json.loads((named / "run.json").read_text(encoding="utf-8"))["config"]
    assert config["manifest"] == config["out"] == "<path>"
    assert config["train"]["backbone_weights"] == "<path>"


def test_the_logs_of_dask_workers_name_no_slide(named: Path, tmp_path: Path) -> None:
    inputs = tmp_path / canary("folder")
    inputs.mkdir()
    manifest = canary_cohort(inputs, named=True)
    scratch = tmp_path / "cluster"
    with loopback_cluster(scratch, 1) as cluster:
        done = run_scaat(
            "tile", "--manifest", manifest, "--out", tmp_path / "out", "--scheduler",
            cluster.address, "--mpp", "2", "--patch-size", "32", "--quiet",
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert (scratch / LOG_NAME).stat().st_size > 0
    assert find_words(scratch, [CANARY]) == []
    assert find_words(tmp_path / "out", [CANARY]) == []


def test_nobody_and_no_path_is_named(named: Path) -> None:
    assert find_words(named, people_and_paths(named.parent)) == []


def test_no_label_or_macro_image_is_read(named: Path) -> None:
    pictures = all_pixels(named)
    assert len(pictures) >= 9
    assert not any(has_label_colour(pixels) for pixels in pictures)


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(canary("x").encode()))
    (tmp_path / "b.bin").write_bytes(canary("x").encode("utf-16-le"))
    aperio_slide(tmp_path / "c.tiff", 0)
    with Image.new("RGB", (300, 300), (3, 251, 7)) as image:
        image.save(tmp_path / "d.png")
    found = find_words(tmp_path, [CANARY])
    assert {line.split()[0] for line in found} == {"a.gz", "b.bin", "c.tiff"}
    assert find_words(tmp_path, ["1999:12:31"])
    with Image.open(tmp_path / "d.png") as image:
        assert has_label_colour(np.asarray(image))


def export_dicom(out: Path, manifest: Path) -> subprocess.CompletedProcess[str]:
    words = ("--out", out, "--manifest", manifest, "--formats", "dicom", "--workers", 0, "-q")
    return run_scaat("export", *words, in_process=True)


def test_every_format_under_the_model_keeps_silent(named: Path, tmp_path: Path) -> None:
    inputs = tmp_path / canary("formats")
    inputs.mkdir()
    slides = format_slides(inputs)
    if not slides:
        pytest.skip("the real slides are not here: set SCAAT_DATA to their folder")
    manifest = tmp_path / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_path", "slide_id", "mpp"])
        for number, path in enumerate(slides.values()):
            writer.writerow([str(path), f"case-{number}", "0.5"])
    out = tmp_path / "out"
    done = run_scaat(
        "run", "--manifest", manifest, "--out", out, "--model", named / "model", *SMALL,
        in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    assert len(list((out / "overlays").glob("*.geojson.gz"))) == len(slides)
    # DICOM objects copy the patient: refused for a slide that names one, and told without names.
    done = export_dicom(out, manifest)
    assert done.returncode == 3
    assert not list(out.rglob("*.dcm"))
    # Without the extra there is nothing to write DICOM with, and the row says so.
    why = "names a patient" if importlib.util.find_spec("highdicom") else "needs highdicom"
    assert why in (out / "slides.csv").read_text(encoding="utf-8")
    assert find_words(out, [CANARY, *people_and_paths(tmp_path)]) == []


# The patient, study and specimen that a DICOM object shares with its slide, or no viewer would
# put it there; in a slide that says its identity was removed these are no names any more.
SHARED_WITH_THE_SLIDE = {
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "StudyDate", "StudyTime", "StudyDescription",
    "ContainerIdentifier", "SpecimenIdentifier", "DeidentificationMethod",
}  # fmt: skip


def test_dicom_objects_hold_what_the_slide_shares_and_nothing_else(
    named: Path, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    inputs = tmp_path / canary("formats")
    inputs.mkdir()
    slides = format_slides(inputs)
    if not slides:
        pytest.skip("the real slides are not here: set SCAAT_DATA to their folder")
    for path in slides["dicom"].glob("*.dcm"):
        source = pydicom.dcmread(path)
        source.PatientIdentityRemoved = "YES"
        source.DeidentificationMethod = canary("Method")
        source.StationName = CANARY  # sixteen letters at most
        source.ImageComments = canary("Comments")
        source.PatientAddress = canary("Address")
        source.PatientComments = canary("Comments")
        source.private_block(0x0099, canary("private"), create=True).add_new(1, "LO", CANARY)
        source.save_as(path)
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f"slide_path,slide_id,mpp\n{slides['dicom']},case-0,0.5\n")
    out = tmp_path / "out"
    done = run_scaat(
        "run", "--manifest", manifest, "--out", out, "--model", named / "model", *SMALL,
        in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    done = export_dicom(out, manifest)
    assert done.returncode in FINISHED, done.stderr
    written = sorted(out.rglob("*.dcm"))
    assert len(written) == 2
    copied = set()
    for path in written:
        made = pydicom.dcmread(path)
        for element in [*made.file_meta, *made.iterall()]:
            if CANARY in str(element.value) and element.VR != "SQ":
                copied.add(element.keyword or str(element.tag))
        assert not any(element.tag.is_private for element in made.iterall())
    assert "PatientID" in copied
    assert copied <= SHARED_WITH_THE_SLIDE
    elsewhere = [line for line in find_words(out, [CANARY]) if ".dcm" not in line]
    assert elsewhere == []
    assert find_words(out, people_and_paths(tmp_path)) == []


def test_pseudonyms_hide_names_that_would_be_ids(named: Path, tmp_path: Path) -> None:
    inputs = tmp_path / canary("folder")
    inputs.mkdir()
    out, salt = tmp_path / "out", tmp_path / "salt"
    done = run_scaat(
        "run", "--manifest", canary_cohort(inputs, named=False), "--out", out,
        "--model", named / "model", "--pseudonymize", salt, *SMALL, in_process=True,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert find_words(out, [CANARY]) == []
    # Whoever has a slide cannot find out by its hash that it is in the cohort.
    for slide in inputs.glob("*.svs"):
        known = [slide_fingerprint(slide), file_sha256(slide)]
        annotations = slide.with_suffix(".geojson")
        known += [file_sha256(annotations)] if annotations.exists() else []
        assert find_words(out, known) == []
    assert find_words(out, [file_sha256(next(inputs.glob("*.csv")))]) == []
    with (out / "slides.csv").open(encoding="utf-8", newline="") as stream:
        ids = [row["slide_id"] for row in csv.DictReader(stream)]
    assert ids == sorted(ids)
    # The model recorded its slides under their names: it does not know these, nor that it does not.
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["split"] for row in csv.DictReader(stream)} == {""}
    key = salt.with_name("salt.key.csv")
    assert key.read_text(encoding="utf-8").count(CANARY) >= 4
    if os.name == "posix":
        assert key.stat().st_mode & 0o077 == 0
        assert salt.stat().st_mode & 0o077 == 0


def test_full_audit_says_what_it_was_asked_to_say(named: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    out = tmp_path / "out"
    run_scaat(
        "run", "--manifest", canary_cohort(inputs, named=True), "--out", out,
        "--model", named / "model", "--audit", "full", *SMALL, in_process=True,
    )  # fmt: skip
    assert {line.split(" ")[0] for line in find_words(out, [CANARY])} == {"run.json"}
