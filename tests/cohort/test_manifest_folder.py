"""A folder of slides as a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathology_scaat.cohort.ids import id_problem
from pathology_scaat.cohort.manifest import Manifest, read_manifest
from pathology_scaat.errors import ManifestError


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_slides_of_all_kinds_are_found(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    touch(tmp_path / "a.geojson")
    touch(tmp_path / "b.NDPI")
    touch(tmp_path / "b.xml")
    touch(tmp_path / "m.mrxs")
    touch(tmp_path / "m" / "Data0000.dat")
    touch(tmp_path / "m" / "inside.tif")
    touch(tmp_path / "dicom" / "1.2.3.dcm")
    touch(tmp_path / "dicom" / "1.2.4.dcm")
    touch(tmp_path / "bare" / "IM0001", b"\0" * 128 + b"DICM")
    touch(tmp_path / "z.ome.zarr" / "0" / "chunk.tif")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / ".hidden.svs")
    found = Manifest.from_folder(tmp_path)
    assert found.slide_ids == ("a", "b", "bare", "dicom", "m", "z")
    by_id = {row.slide_id: row for row in found.rows}
    assert by_id["a"].annotation_path == tmp_path / "a.geojson"
    assert by_id["b"].annotation_path == tmp_path / "b.xml"
    assert by_id["dicom"].slide_path == tmp_path / "dicom"
    assert by_id["m"].slide_path.name == "m.mrxs"


def test_one_name_in_two_folders(tmp_path: Path) -> None:
    for name in ("x/1.svs", "y/1.svs", "y/deep/1.svs", "2.svs"):
        touch(tmp_path / name)
    assert read_manifest(tmp_path).slide_ids == ("2", "x_1", "y_1", "y_deep_1")


def test_hostile_names_get_safe_ids(tmp_path: Path) -> None:
    names = ["a b.svs", "it's $(rm).svs", "=1.svs", "Gew\xe4be.svs", "CON.svs", "n\new.svs"]
    names.append("x" * 200 + ".svs")
    for name in names:
        touch(tmp_path / name)
    made = {r.slide_path.name: r.slide_id for r in Manifest.from_folder(tmp_path).rows}
    assert set(made) == set(names)
    assert all(id_problem(slide_id) is None for slide_id in made.values())
    assert made["a b.svs"] == "a b"
    assert made["CON.svs"] != "CON"
    assert len(set(made.values())) == len(made)


def test_link_loops_are_not_walked(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dead.svs").symlink_to(tmp_path / "gone.svs")
    assert Manifest.from_folder(tmp_path).slide_ids == ("a",)


def test_folders_without_slides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no slide"):
        Manifest.from_folder(tmp_path)
    with pytest.raises(ManifestError, match="not a folder"):
        Manifest.from_folder(tmp_path / "no")


@pytest.mark.real
def test_real_folders(data_dir: Path) -> None:
    found = read_manifest(data_dir / "slides")
    assert len(found) == 5
    assert sum(row.annotation_path is not None for row in found.rows) == 3
    formats = read_manifest(data_dir / "formats")
    assert len(formats) == 8
