"""DICOM objects: in place, refused where they would spread an identity, the same every time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr
from map_stores import darkness_store

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import ExportError
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.context import Context
from pathology_scaat.export.raster.examined import resampled
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.stitching import SlideMap, stitch_slide
from pathology_scaat.stitching.schema import UNLIKE_CHANNEL
from pathology_scaat.stitching.source import SaliencySource

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def stitched(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dicom")
    slide = data_dir / "formats" / "dicom_wsi"
    config = TileConfig(mpp=2.0, patch_size_px=64)
    tile_slide(TileJob(slide, "D", folder / "p.zarr", config))
    store = zarr.open_group(darkness_store(folder / "p.zarr", folder / "s.zarr", 4))
    column = np.asarray(store["grid_index"])[:, 0]
    far = np.where(column < np.median(column), 100.0, 10.0).astype(np.float32)
    store.create_array("unlike", shape=far.shape, dtype=far.dtype, chunks=far.shape)[:] = far
    stitch_slide(folder / "s.zarr", folder / "m.ome.zarr")
    return folder, slide


def test_tiles_and_map_read_back(stitched: tuple[Path, Path], tmp_path: Path) -> None:
    folder, slide = stitched
    config = ExportConfig(formats=("dicom", "csv"), identified=True, vmax=0.5)
    digests = []
    for name in ("a", "b"):
        result = export_slide(
            folder / "m.ome.zarr", folder / "s.zarr", tmp_path / name, config, slide_path=slide
        )
        assert {"D.ann.dcm", "D.seg.dcm"} <= set(result.files)
        digests.append({f.name: file_sha256(f) for f in sorted((tmp_path / name).iterdir())})
    assert digests[0] == digests[1]
    rows = np.loadtxt(tmp_path / "a" / "D.csv", delimiter=",", skiprows=1)
    group = hd.ann.annread(tmp_path / "a" / "D.ann.dcm").get_annotation_groups()[0]
    corners = np.stack(group.get_graphic_data("2D"))
    assert np.array_equal(corners[:, 0], rows[:, :2])
    assert np.array_equal(corners[:, 2], rows[:, :2] + rows[:, 2:4])
    measured = group.get_measurements()[1]
    assert np.allclose(measured[:, 0], rows[:, 5], rtol=1e-4)
    assert np.allclose(measured[:, 1], rows[:, 6], rtol=1e-4)
    segmentation = hd.seg.segread(tmp_path / "a" / "D.seg.dcm")
    matrix = segmentation.get_total_pixel_matrix(rescale_fractional=True)[..., 0]
    slide_map = SlideMap(folder / "m.ome.zarr")
    context = Context(slide_map, SaliencySource(folder / "s.zarr"), config, slide, None, None)
    with closing(context):
        seen = resampled(context.pictures.examined.shown(False), matrix.shape)
    values = np.where(seen, np.nan_to_num(slide_map.read("saliency")), 0)
    unlike = slide_map.read(UNLIKE_CHANNEL) >= UNLIKE_PERCENTILE
    assert unlike.any()
    assert not matrix[unlike].any()  # as the pictures: not judged is no finding
    assert (matrix > 0).any()
    assert "not judged" in segmentation.ImageComments
    assert np.abs(matrix - np.clip(values / 0.5, 0, 1)).max() <= 0.5 / 255 + 1e-6
    spacing = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert float(spacing[0]) * 1000 == pytest.approx(SlideMap(folder / "m.ome.zarr").mpp)


def test_an_identity_is_not_copied_unasked(stitched: tuple[Path, Path], tmp_path: Path) -> None:
    folder, slide = stitched
    config = ExportConfig(formats=("dicom",))
    arguments = (folder / "m.ome.zarr", folder / "s.zarr", tmp_path / "o", config)
    # this slide names nobody; whether that was done on purpose it does not say
    with pytest.raises(ExportError, match="does not say that its patient's identity was removed"):
        export_slide(*arguments, slide_path=slide)
    named = tmp_path / "named"
    named.mkdir()
    for file in slide.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientID = "4711"
        dataset.save_as(named / file.name)
    with pytest.raises(ExportError, match="names a patient"):
        export_slide(*arguments, slide_path=named)
    assert not list((tmp_path / "o").glob("*.dcm"))
    marked = tmp_path / "marked"
    marked.mkdir()
    for file in slide.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientIdentityRemoved = "YES"
        dataset.save_as(marked / file.name)
    assert "D.seg.dcm" in export_slide(*arguments, slide_path=marked).files


def test_other_slides_are_refused(
    stitched: tuple[Path, Path], tmp_path: Path, data_dir: Path
) -> None:
    folder, _ = stitched
    config = ExportConfig(formats=("dicom",), identified=True)
    arguments = (folder / "m.ome.zarr", folder / "s.zarr", tmp_path / "o", config)
    with pytest.raises(ExportError, match="not a DICOM slide"):
        export_slide(*arguments, slide_path=data_dir / "formats" / "aperio_like.svs")
    with pytest.raises(ExportError, match="needs the DICOM slide"):
        export_slide(*arguments)
