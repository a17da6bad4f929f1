"""DICOM folders: each series with levels is one slide; everything else is passed over, told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pathology_scaat.artifacts.dicom_files import dicom_files, dicom_folder
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import ManifestError, SlideOpenError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide

pytestmark = pytest.mark.real

BOX = BoxPx(500, 400, 300, 200)


@pytest.fixture
def write(data_dir: Path, tmp_path: Path) -> object:
    """Writes the DICOM slide of the shared data as a series of its own."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import generate_uid

    source = sorted((data_dir / "formats/dicom_wsi").glob("*.dcm"))

    def make(folder: Path, patient: str, pattern: str = "{}.dcm") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        series = generate_uid(entropy_srcs=[patient, "series"])
        for number, file in enumerate(source):
            dataset = pydicom.dcmread(file)
            dataset.SeriesInstanceUID = series
            dataset.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[patient, str(number)])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.PatientID = patient
            dataset.save_as(folder / pattern.format(number))

    return make


def write_report(path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset, meta = Dataset(), FileMetaDataset()
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.Modality, dataset.SeriesInstanceUID = "SR", "1.2.3.9"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)


def names(folder: Path) -> list[str]:
    return [
        Path(str(row.slide_path)).relative_to(folder).as_posix()
        for row in Manifest.from_folder(folder).rows
    ]


def test_two_slides_in_one_folder(tmp_path: Path, write: object) -> None:
    folder = tmp_path / "flat"
    write(folder, "A", "a{}.dcm")  # type: ignore[operator]
    write(folder, "B", "b{}.dcm")  # type: ignore[operator]
    with pytest.raises(SlideOpenError, match="2 slides"):
        open_slide(folder)
    for base in (folder, tmp_path):
        found = Manifest.from_folder(base).rows
        assert len(found) == 2
        prints = set()
        for row in found:
            with open_slide(row.slide_path) as slide:
                prints.add(slide.read_level(0, BOX).tobytes())
                assert slide.info.size_px.width == 2560
        assert len(prints) == 1  # two copies of one slide, each whole
        assert {Path(str(row.slide_path)).name[0] for row in found} == {"a", "b"}


def test_a_report_or_a_directory_first(tmp_path: Path, write: object) -> None:
    folder = tmp_path / "cohort" / "x"
    write(folder, "A", "i{}.dcm")  # type: ignore[operator]
    write_report(folder / "000_report.dcm")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    with open_slide(folder) as slide:
        assert slide.info.mpp == pytest.approx(0.499)
        assert any("2 DICOM files" in note for note in slide.info.notes)
    manifest = Manifest.from_folder(tmp_path / "cohort")
    assert [row.slide_path for row in manifest.rows] == [folder]
    assert any("passed over 2 DICOM files" in note for note in manifest.notes)
    with pytest.raises(SlideOpenError, match="no whole-slide image"):
        open_slide(folder / "000_report.dcm")


def test_names_without_an_ending(tmp_path: Path, write: object) -> None:
    write(tmp_path / "a", "A", "1.2.840.{}")  # type: ignore[operator]
    write(tmp_path / "b", "B", "IMG{}")  # type: ignore[operator]
    assert names(tmp_path) == ["a", "b"]
    with open_slide(tmp_path / "a") as one, open_slide(tmp_path / "b") as other:
        assert np.array_equal(one.read_level(0, BOX), other.read_level(0, BOX))


def test_loose_files_beside_another_slide(tmp_path: Path, data_dir: Path, write: object) -> None:
    write(tmp_path, "A")  # type: ignore[operator]
    shutil.copy(data_dir / "formats/aperio_like.svs", tmp_path / "other.svs")
    found = names(tmp_path)
    assert "other.svs" in found
    assert len(found) == 2
    assert found[0].endswith(".dcm")


def test_a_folder_of_reports_is_no_slide(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    write_report(tmp_path / "r.dcm")
    with pytest.raises(SlideOpenError, match=r"DICOM files \(1\) without a whole-slide image"):
        open_slide(tmp_path)
    with pytest.raises(ManifestError, match="holds no slide"):
        Manifest.from_folder(tmp_path)


def test_damaged_dicom_is_no_slide(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0garbage" * 9)
    (tmp_path / "b.dcm").write_bytes(b"")
    found = dicom_folder(dicom_files(tmp_path.iterdir()))
    assert found.slides == ()
    assert (found.n_other, found.n_unreadable) == (0, 2)
    # It is not lost: it is listed, and fails with its reason.
    assert [row.slide_path for row in Manifest.from_folder(tmp_path).rows] == [tmp_path]
    with pytest.raises(SlideOpenError, match="cannot be read"):
        open_slide(tmp_path)
