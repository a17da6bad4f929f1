"""Slides by URL: from a local S3 server, the same pixels and the same fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.provenance import slide_fingerprint
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.remote import remote_fingerprint

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]  # of the server's libraries

NAME = "aperio_like.svs"
BOX = BoxPx(300, 500, 700, 600)


@pytest.fixture
def s3(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs")
    import boto3

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
    assert remote_fingerprint(s3) == slide_fingerprint(local)
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
