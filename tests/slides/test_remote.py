"""Slides and stores by URL: on a local S3 server the same as on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pathology_scaat.artifacts.urls import SlideUrl, slide_location
from pathology_scaat.cohort.manifest import read_manifest, write_manifest
from pathology_scaat.errors import ManifestError, SlideOpenError, StoreError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.fingerprint import slide_fingerprint
from pathology_scaat.slides.remote import remote_fingerprint
from pathology_scaat.training.data import PatchDataset

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]  # of the server's libraries

NAME = "aperio_like.svs"
BOX = BoxPx(300, 500, 700, 600)


@pytest.fixture
def s3(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs")
    import boto3

    s3fs.S3FileSystem.clear_instance_cache()  # it would talk to the server of the test before

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="slides")
        client.upload_file(str(data_dir / "formats" / NAME), "slides", NAME)
        yield f"s3://slides/{NAME}"
    finally:
        server.stop()


def test_s3(s3: str, data_dir: Path, tmp_path: Path) -> None:
    local = data_dir / "formats" / NAME
    with open_slide(s3) as slide, open_slide(local) as expected:
        assert slide.info.reader == "tiff"
        assert slide.info.mpp == expected.info.mpp
        assert slide.info.levels == expected.info.levels
        assert np.array_equal(slide.read_level(0, BOX), expected.read_level(0, BOX))
    assert remote_fingerprint(SlideUrl(s3)) == slide_fingerprint(local)
    config = TileConfig(mpp=0.499, patch_size_px=128)
    tile_slide(TileJob(s3, "s1", tmp_path / "a.zarr", config))
    tile_slide(TileJob(local, "s1", tmp_path / "b.zarr", config))
    one, other = PatchStore(tmp_path / "a.zarr"), PatchStore(tmp_path / "b.zarr")
    assert one.meta.fingerprint == other.meta.fingerprint
    assert np.array_equal(one.read(slice(None)), other.read(slice(None)))
    with pytest.raises(SlideOpenError, match=r"none\.svs"):
        open_slide("s3://slides/none.svs")


def test_file_url(data_dir: Path) -> None:
    local = data_dir / "formats" / NAME
    with open_slide(f"file://{local}") as slide, open_slide(local) as expected:
        assert np.array_equal(slide.read_level(1, BOX), expected.read_level(1, BOX))
    with pytest.raises(SlideOpenError) as caught:
        open_slide(f"file://{data_dir}/broken/rgb16.tiff")
    assert str(data_dir) not in str(caught.value)


CONFIG = TileConfig(mpp=0.499, patch_size_px=128, shard_bytes=1 << 19)
STORE = "s3://slides/stores/s1.zarr"


def objects() -> dict[str, bytes]:
    """Everything under the store's prefix, by name."""
    import fsspec

    system, root = fsspec.core.url_to_fs(STORE)
    system.invalidate_cache()
    return {name.removeprefix(root + "/"): system.cat_file(name) for name in system.find(root)}


def files(store: Path) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file()}


def test_a_store_in_object_storage_is_the_local_one(s3: str, tmp_path: Path) -> None:
    local = tmp_path / "s1.zarr"
    tile_slide(TileJob(s3, "s1", local, CONFIG))
    assert not tile_slide(TileJob(s3, "s1", STORE, CONFIG)).skipped
    assert objects() == files(local)
    assert tile_slide(TileJob(s3, "s1", STORE, CONFIG)).skipped
    store, expected = PatchStore(STORE), PatchStore(local)
    assert store.name == "s1.zarr"
    assert np.array_equal(store.labels, expected.labels)
    assert np.array_equal(store.grid_index, expected.grid_index)
    assert np.array_equal(store.read([5, 0, -1]), expected.read([5, 0, -1]))
    dataset = PatchDataset([STORE, local])
    image, label = dataset[len(store) + 3]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), store.read([3])[0])
    assert label == -1
    # Another, smaller store takes the place of this one, and leaves nothing of it.
    before = set(objects())
    fewer = CONFIG.model_copy(update={"min_tissue": 0.99})
    tile_slide(TileJob(s3, "s1", STORE, fewer))
    tile_slide(TileJob(s3, "s1", local, fewer))
    assert objects() == files(local)
    assert set(objects()) < before


def test_a_store_whose_upload_was_cut_off_is_none(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    tile_slide(TileJob(s3, "s1", STORE, CONFIG))
    system = fsspec.core.url_to_fs(STORE)[0]  # the one instance for all
    whole, put = objects(), system.put_file
    left = 4

    def put_some(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise ConnectionError("s3://user:secret@host went away")
        put(*arguments)

    monkeypatch.setattr(system, "put_file", put_some)
    with pytest.raises(StoreError, match="URL") as caught:
        tile_slide(TileJob(s3, "s1", STORE, CONFIG, overwrite=True))
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="not whole"):
        PatchStore(STORE)
    monkeypatch.setattr(system, "put_file", put)
    tile_slide(TileJob(s3, "s1", STORE, CONFIG))
    assert objects() == whole


def test_slides_by_url_in_a_manifest(s3: str, data_dir: Path, tmp_path: Path) -> None:
    local = data_dir / "formats" / NAME
    table = tmp_path / "cohort.csv"
    table.write_text(
        f"slide_path,slide_id,label\n{s3},,a\nfile://{local},here,b\ns3://slides/none.svs,,a\n"
    )
    cohort = read_manifest(table)
    assert [row.slide_id for row in cohort.rows] == ["aperio_like", "here", "none"]
    assert cohort.rows[0].slide_path == SlideUrl(s3)
    assert cohort.rows[1].slide_path == local
    write_manifest(cohort, tmp_path / "copy.csv")
    assert read_manifest(tmp_path / "copy.csv").rows == cohort.rows
    report = tile(table, tmp_path / "out", config=CONFIG, engine=EngineConfig(workers=0))
    assert sorted(report.done) == ["aperio_like", "here"]
    assert list(report.failed) == ["none"]
    stores = [PatchStore(tmp_path / "out/patches" / f"{n}.zarr") for n in report.done]
    assert np.array_equal(stores[0].read(slice(None)), stores[1].read(slice(None)))
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or b"s3://" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("s3://key:secret@bucket/a.svs,", "password"),
        ("a.svs,s3://bucket/a.geojson", "not a slide's"),
    ],
)
def test_addresses_that_a_manifest_refuses(tmp_path: Path, row: str, words: str) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_path,annotation_path\n{row}\n")
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(table)
    assert "secret" not in str(caught.value)


def test_names_of_addresses() -> None:
    signed = SlideUrl("https://host/a%20b/slide%201.svs?signature=abc#x")
    assert (signed.name, signed.stem) == ("slide 1.svs", "slide 1")
    assert slide_location("file:///data/a%20b.svs") == Path("/data/a b.svs")
    assert slide_location("C:\\slides\\a.svs") == Path("C:\\slides\\a.svs")
