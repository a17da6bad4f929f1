"""Stores of a slide's own JPEG tiles: the same patches as decoded ones, to the last bit."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reliability_tools import run_scaat
from zarr.registry import get_codec_class, register_codec

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.patches.identity import identity, settings_of
from pathology_scaat.patches.jpeg_chunk import decode_chunk, encode_chunk, is_jpeg
from pathology_scaat.patches.plan import plan_tiling
from pathology_scaat.patches.schema import JPEG_VERSION
from pathology_scaat.patches.zarr_layout import SLIDE_JPEG_CODEC
from pathology_scaat.slides.jpeg_streams import JpegStreamError, check_stored, read_head
from pathology_scaat.verify.stores import check_patches

T = 32
"""Side of a tile of the slides that are made here."""
EDGE = "reach beyond the slide's edge"


def picture(seed: int, side: int = T) -> np.ndarray:
    """Smooth colours with noise, far from grey."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 90, side)[:, None, None] + np.array([90.0, 20.0, 130.0])
    return np.clip(ramp + rng.normal(0, 14, (side, side, 3)), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, *, rgb: bool = False, **options: Any) -> bytes:
    space = {"colorspace": "rgb", "outcolorspace": "rgb" if rgb else "ycbcr"}
    options = {"level": 85, "subsampling": "444" if rgb else "420", **space, **options}
    return bytes(imagecodecs.jpeg8_encode(pixels, **options))


def without(stream: bytes, *markers: int) -> tuple[bytes, bytes]:
    """A stream without some of its segments, and those."""
    head = read_head(stream)
    kept = b"".join(s for m, s in head.segments if m not in markers)
    taken = b"".join(s for m, s in head.segments if m in markers)
    return b"\xff\xd8" + kept + stream[head.length :], taken


def abbreviated(stream: bytes) -> tuple[bytes, bytes]:
    """A stream without its tables, and these as TIFF keeps them."""
    tile, tables = without(stream, 0xDB, 0xC4)
    return tile, b"\xff\xd8" + tables + b"\xff\xd9"


def write_tiff(
    path: Path, tiles: list[bytes], height: int, width: int, *, rgb: bool = False,
    tables: bytes | None = None, side: int = T,
) -> None:  # fmt: skip
    """A tiled TIFF of tiles that are JPEG already, at 0.5 µm/px."""
    tifffile.imwrite(
        path, iter(tiles), shape=(height, width, 3), dtype="uint8", tile=(side, side),
        photometric="rgb" if rgb else "ycbcr", subsampling=None if rgb else (2, 2),
        compression="jpeg", jpegtables=tables, resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip


def mask_of_all(folder: Path, slide: Path) -> Path:
    """A mask that says that all of a slide is tissue."""
    path = folder / "mask.png"
    if not path.exists():
        with tifffile.TiffFile(slide) as tiff:
            page = tiff.pages.first
            shape = (-(-page.imagelength // 8), -(-page.imagewidth // 8))
            if max(page.shape) < 1000:
                shape = (page.imagelength, page.imagewidth)
        Image.fromarray(np.full(shape, 255, np.uint8)).save(path)
    return path


def tiled(
    folder: Path, slide: Path, pixels: str = "slide-jpeg", name: str | None = None, **options: Any
) -> PatchStore:
    values = {
        "mpp": 0.5, "patch_size_px": T, "min_tissue": 0.01, "max_unreadable_share": 1, **options
    }  # fmt: skip
    path = folder / (name or f"{pixels}.zarr")
    config = TileConfig.model_validate({**values, "pixels": pixels})
    tile_slide(TileJob(slide, "s", path, config, mask_path=mask_of_all(folder, slide)))
    return PatchStore(path)


def same_patches(folder: Path, slide: Path, **options: Any) -> PatchStore:
    """The store of the slide's own tiles, which is checked against the lossless one."""
    plain = tiled(folder, slide, "lossless", **options)
    kept = tiled(folder, slide, **options)
    assert np.array_equal(kept.grid_index, plain.grid_index)
    assert np.array_equal(kept.read(slice(None)), plain.read(slice(None)))
    assert kept.meta.n_unreadable == plain.meta.n_unreadable
    assert kept.meta.fingerprint != plain.meta.fingerprint
    assert not check_patches(Path(kept.path), "s", deep=True)[1]
    return kept


# What a tile may be, besides plain. Each takes the plain stream, pixels and a number.
def _flipped(stream: bytes, pixels: np.ndarray, seed: int) -> bytes:
    place = 2 + seed % (len(stream) - 2)
    return stream[:place] + bytes([stream[place] ^ (1 << seed % 8)]) + stream[place + 1 :]


KINDS = {
    "plain": lambda s, p, n: s,
    "optimised": lambda s, p, n: encoded(p, optimize=True),
    "another quality": lambda s, p, n: encoded(p, level=40 + n % 50),
    "no chroma subsampling": lambda s, p, n: encoded(p, subsampling="444"),
    "progressive": lambda s, p, n: _progressive(p),
    "grey": lambda s, p, n: bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(p[..., 0]))),
    "another size": lambda s, p, n: encoded(p[:16]),
    "cut off": lambda s, p, n: s[: len(s) - 1 - n % (len(s) - 2)],
    "damaged": _flipped,
    "blank": lambda s, p, n: b"",
    "commented": lambda s, p, n: s[:2] + b"\xff\xfe\x00\x0cSmith, Ann" + s[2:],
    "more behind": lambda s, p, n: s + b"\0\0",
}


def _progressive(pixels: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", progressive=True, quality=80)
    return out.getvalue()


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    height=st.integers(33, 3 * T),
    width=st.integers(33, 3 * T),
    per_patch=st.sampled_from([1, 2]),
    overlap=st.booleans(),
    rgb=st.booleans(),
    apart=st.booleans(),
)
def test_whatever_the_tiles_are_the_patches_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, height: int, width: int,
    per_patch: int, overlap: bool, rgb: bool, apart: bool,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("kinds")
    tables, tiles, kinds = None, [], []
    for number in range(-(-height // T) * -(-width // T)):
        pixels = picture(number)
        stream = encoded(pixels, rgb=rgb)
        kind = data.draw(st.sampled_from(list(KINDS)))
        made = KINDS[kind](stream, pixels, data.draw(st.integers(0, 1 << 20)))
        if apart and kind in ("plain", "commented"):
            made, tables = abbreviated(made)
        tiles.append(made)
        kinds.append(kind)
    write_tiff(folder / "s.tiff", tiles, height, width, rgb=rgb, tables=tables)
    side = per_patch * T
    step = T if overlap else side
    kept = same_patches(folder, folder / "s.tiff", patch_size_px=side, overlap=f"{side - step}px")
    counts = kept.meta.slide_jpeg
    if kept.meta.schema_version == JPEG_VERSION:
        assert counts is not None
        whole = {(c, r) for c in range(width // T) for r in range(height // T)}
        good = ("plain", "optimised", "commented", "another quality")
        n_cols = -(-width // T)
        sure = sum(kinds[r * n_cols + c] in good for c, r in whole)
        assert rgb or counts.n_kept >= sure  # an RGB slide may hold YCbCr tiles with a JFIF mark
        stored = kept._pixels.length if per_patch == 1 else kept._pixels._blocks.length
        assert counts.n_kept + sum(counts.n_decoded.values()) == stored
        assert counts.n_decoded.get(EDGE, 0) > 0 or len(whole) == len(tiles)
    for shard in Path(kept.path).rglob("c/*/0/0/0"):
        assert b"Smith" not in shard.read_bytes()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 4 x 3 whole tiles, one of them progressive and one blank."""
    tiles = [encoded(picture(number)) for number in range(12)]
    tiles[5], tiles[6] = _progressive(picture(5)), b""
    path = tmp_path_factory.mktemp("slide") / "s.tiff"
    write_tiff(path, tiles, 3 * T, 4 * T)
    return path


def test_what_is_kept_and_what_is_not_is_counted_and_told(slide: Path, tmp_path: Path) -> None:
    store = same_patches(tmp_path, slide)
    counts = store.meta.slide_jpeg
    assert counts is not None
    assert counts.n_kept == 10
    assert counts.n_decoded == {
        "are blank: the file has nothing there": 1,
        "are progressive, lossless or arithmetic-coded JPEG": 1,
    }
    assert store.meta.notes[-1] == (
        "10 of 12 patches are the slide's own JPEG tiles, the others are stored losslessly, since "
        "their tiles cannot be kept: 1 are blank: the file has nothing there; 1 are progressive, "
        "lossless or arithmetic-coded JPEG"
    )
    attributes = json.loads((Path(store.path) / "zarr.json").read_text())["attributes"]
    assert attributes["pathology_scaat"]["schema_version"] == 3
    assert attributes["pathology_scaat"]["slide_jpeg"]["n_kept"] == 10


def tile_sizes(path: Path) -> int:
    with tifffile.TiffFile(path) as tiff:
        return sum(tiff.pages.first.databytecounts)


@pytest.mark.parametrize(("options", "why"), [
    ({"mpp": 1.0}, r"its tiles would be resampled to 1 µm/px \(its levels have 0.5 µm/px\)"),
    ({"patch_size_px": 48}, r"its tiles are of 32 px, while patches are of 48 px, one every 48 px "
     r"\(a patch size of 32, 64, 96 or 128 px, with no overlap or one of whole tiles"),
    ({"overlap": "0.5"}, "one every 16 px"),
    ({"patch_size_px": 160}, "patches are of 160 px"),
    ({"reader": "openslide"}, r"not to be had undecoded from its reader \(openslide\)"),
])  # fmt: skip
def test_slides_that_do_not_qualify_say_why(
    slide: Path, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    if options.get("reader") == "openslide":
        tile = encoded(picture(1))  # OpenSlide knows no sparse tiles
        write_tiff(tmp_path / "s.tiff", [tile] * 12, 3 * T, 4 * T)
        slide = tmp_path / "s.tiff"
    store = same_patches(tmp_path, slide, **options)
    assert store.meta.slide_jpeg is None
    assert store.meta.schema_version < JPEG_VERSION
    (said,) = [note for note in store.meta.notes if "JPEG" in note]
    assert said.startswith("pixels are stored losslessly, not as the slide's own JPEG: ")
    import re

    assert re.search(why, said), said


def test_tiles_of_other_codecs_are_said_to_be(tmp_path: Path) -> None:
    options = {"tile": (T, T), "photometric": "rgb", "resolution": (20_000, 20_000),
               "resolutionunit": "CENTIMETER", "metadata": None}  # fmt: skip
    image = picture(0, 96)
    tifffile.imwrite(tmp_path / "s.tiff", image, compression="deflate", **options)
    store = same_patches(tmp_path, tmp_path / "s.tiff")
    assert "its tiles are compressed as DEFLATE, not as JPEG" in store.meta.notes[-1]


def test_threads_and_shards_leave_no_trace(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled(tmp_path, slide, name="a.zarr", shard_bytes=1 << 16)
    monkeypatch.setattr("pathology_scaat.patches.tiling.job_threads", lambda: 3)
    tiled(tmp_path, slide, name="b.zarr", shard_bytes=1 << 16)
    contents = [
        {str(f.relative_to(tmp_path / n)): f.read_bytes()
         for f in (tmp_path / n).rglob("*") if f.is_file()}
        for n in ("a.zarr", "b.zarr")
    ]  # fmt: skip
    assert contents[0] == contents[1]


def test_a_store_is_left_or_made_anew_as_any_other(slide: Path, tmp_path: Path) -> None:
    def run(pixels: str) -> Any:
        config = TileConfig.model_validate(
            {"mpp": 0.5, "patch_size_px": T, "min_tissue": 0.01, "pixels": pixels}
        )
        return tile_slide(
            TileJob(slide, "s", tmp_path / "s.zarr", config, mask_path=mask_of_all(tmp_path, slide))
        )

    first, again = run("slide-jpeg"), run("slide-jpeg")
    assert not first.skipped
    assert again.skipped
    assert again.notes == first.notes
    other = run("lossless")
    assert not other.skipped
    assert other.fingerprint != first.fingerprint
    assert PatchStore(tmp_path / "s.zarr").meta.slide_jpeg is None


def test_lossless_stores_have_the_fingerprint_they_had_before_there_was_a_choice() -> None:
    now = settings_of(TileConfig())
    before = {name: value for name, value in now.items() if name != "pixels"}
    assert identity("a", "s", 1, now, {}) == identity("a", "s", 1, before, {})
    asked = {**now, "pixels": "slide-jpeg"}
    assert identity("a", "s", 1, asked, {}) == identity("a", "s", 3, asked, {})
    assert identity("a", "s", 1, asked, {}) != identity("a", "s", 1, now, {})


@pytest.fixture
def registered() -> None:
    """The codec as the entry point announces it, where an older installation does not."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["entry-points"]["zarr.codecs"]
    point = importlib.metadata.EntryPoint(
        SLIDE_JPEG_CODEC, declared[SLIDE_JPEG_CODEC], "zarr.codecs"
    )
    register_codec(SLIDE_JPEG_CODEC, point.load())


@pytest.mark.usefixtures("registered")
def test_zarr_and_dask_open_it(slide: Path, tmp_path: Path) -> None:
    import dask.array as da

    store = tiled(tmp_path, slide)
    array = zarr.open_array(tmp_path / "slide-jpeg.zarr", path="patches", mode="r")
    assert np.array_equal(array[:], store.read(slice(None)))
    assert np.array_equal(array[3:5, 7], store.read([3, 4])[:, 7])
    lazy = da.from_zarr(str(tmp_path / "slide-jpeg.zarr"), component="patches")
    assert np.array_equal(lazy[2:4].compute(), store.read([2, 3]))
    assert np.array_equal(store.patches[2:4].compute(), store.read([2, 3]))
    codec = get_codec_class(SLIDE_JPEG_CODEC)
    assert codec.from_dict(codec().to_dict()) == codec()


@pytest.mark.usefixtures("registered")
def test_what_zarr_writes_is_kept_losslessly(slide: Path, tmp_path: Path) -> None:
    store = tiled(tmp_path, slide)
    new = picture(77)
    array = zarr.open_array(tmp_path / "slide-jpeg.zarr", path="patches", mode="r+")
    array[4] = new
    expected = store.read(slice(None))
    again = PatchStore(tmp_path / "slide-jpeg.zarr").read(slice(None))
    assert np.array_equal(again[4], new)
    assert np.array_equal(again[:4], expected[:4])
    with pytest.raises(ValueError, match="RGB pictures"):
        get_codec_class(SLIDE_JPEG_CODEC)().validate(
            shape=(3, 4), dtype=np.dtype("uint8"), chunk_grid=None
        )


def _with_size(stream: bytes, height: int, width: int) -> bytes:
    place = stream.index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return stream[:place] + size + stream[place + 4 :]


def forged() -> Iterator[tuple[str, bytes]]:
    whole = encoded(picture(1))
    frame = whole.index(b"\xff\xc0")
    scan = whole.index(b"\xff\xda")
    yield "nothing", b""
    yield "a marker", b"\xff\xd8"
    yield "noise", bytes(range(256))
    yield "noise after a marker", b"\xff\xd8" + bytes(range(255, -1, -1))
    yield "only a header", whole[:scan]
    yield "larger", _with_size(whole, 65_000, 65_000)
    yield "smaller", _with_size(whole, 16, 16)
    yield "no size", _with_size(whole, 0, 0)
    yield "12 bits", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :]
    yield "lossless", whole[:frame] + b"\xff\xc3" + whole[frame + 2 :]
    yield "progressive", _progressive(picture(1))
    yield "grey", bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(picture(1)[..., 0])))
    yield "many scans", whole[:-2] + whole[scan:-2] * 500 + whole[-2:]
    yield "no tables", abbreviated(whole)[0]
    yield "no code", whole.replace(read_head(whole).of(0xC4)[0], b"\xff\xc4\x00\x03\x00")
    short = bytes(imagecodecs.zstd_encode(bytes(100)))
    yield "few pixels", short
    yield "many pixels", bytes(imagecodecs.zstd_encode(bytes(1 << 26)))
    yield "half a frame", encode_chunk(picture(1))[:50]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("checksum", [True, False])
def test_forged_chunks_are_one_sentence(slide: Path, tmp_path: Path, checksum: bool) -> None:
    tiled(tmp_path, slide)
    shard = tmp_path / "slide-jpeg.zarr/patches/c/0/0/0/0"
    good = shard.read_bytes()
    n = PatchStore(tmp_path / "slide-jpeg.zarr")._pixels._per_shard
    index = np.frombuffer(good[-16 * n - 4 : -4], "<u8").reshape(-1, 2).copy()
    for what, chunk in forged():
        crc = google_crc32c.value(chunk) ^ (0 if checksum else 1)
        new = chunk + crc.to_bytes(4, "little")
        index[2] = len(good), len(new)
        table = index.tobytes()
        end = table + google_crc32c.value(table).to_bytes(4, "little")
        shard.write_bytes(good + new + end)
        store = PatchStore(tmp_path / "slide-jpeg.zarr")
        with pytest.raises(StoreError, match="its array 'patches' is damaged"):
            store.read([2])
        assert store.read([3]).shape == (1, T, T, 3), what
        array = zarr.open_array(tmp_path / "slide-jpeg.zarr", path="patches", mode="r")
        with pytest.raises((ValueError, RuntimeError)):
            array[2]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_flipped_bits_crash_the_decoder(data: st.DataObject) -> None:
    stream = bytearray(encoded(picture(2), optimize=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] ^= 1 << data.draw(st.integers(0, 7))
    out = np.empty((T, T, 3), np.uint8)
    try:
        decode_chunk(bytes(stream), out)
    except (ValueError, RuntimeError):
        return
    assert is_jpeg(bytes(stream))


def test_streams_of_another_kind_are_refused_by_name() -> None:
    for what, data in itertools.islice(forged(), 1, None):
        if what in ("no tables", "few pixels", "many pixels", "half a frame"):
            continue
        with pytest.raises(JpegStreamError):
            check_stored(data, T, T)


def test_the_slides_own_bytes_are_what_is_stored(slide: Path, tmp_path: Path) -> None:
    """No more bytes than the tiles have, but for the marker of colours, checksums and columns."""
    store = tiled(tmp_path, slide)
    shard = tmp_path / "slide-jpeg.zarr/patches/c/0/0/0/0"
    scans = [encoded(picture(0)), encoded(picture(1))]
    held = shard.read_bytes()
    for stream in scans:
        assert stream[read_head(stream).length :] in held
    assert len(held) < tile_sizes(slide) + len(store) * 40 + 8_000


@pytest.mark.real
@pytest.mark.parametrize(("name", "options"), [
    ("slides/CMU-1-Small-Region.svs", {"mpp": 0.499, "patch_size_px": 240}),
    ("formats/philips_like.tiff", {"patch_size_px": 256}),
    ("formats/pyramid.ome.tiff", {"patch_size_px": 512, "overlap": "0.5"}),
    ("broken/corrupt_tiles.svs", {"mpp": 0.499, "patch_size_px": 256}),
])  # fmt: skip
def test_real_slides(data_dir: Path, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    options = {"mpp": 0.5, "mpp_tolerance": 0.05, **options}
    counts = same_patches(tmp_path, data_dir / name, **options).meta.slide_jpeg
    assert counts is not None
    assert counts.n_kept > 50
    assert set(counts.n_decoded) <= {EDGE}


@pytest.mark.usefixtures("registered")
def test_many_chunks_are_decoded_at_once(slide: Path, tmp_path: Path) -> None:
    """zarr-python's own loop gives the chunks to several threads."""
    tiled(tmp_path, slide)

    async def read() -> Any:
        group = await zarr.api.asynchronous.open_group(tmp_path / "slide-jpeg.zarr", mode="r")
        return await (await group.getitem("patches")).getitem(slice(None))

    assert asyncio.run(read()).shape == (12, T, T, 3)


def test_tiles_as_they_are_for_other_decoders(slide: Path, tmp_path: Path) -> None:
    """All of the way to a GPU's decoder but the GPU: the same call with device="cpu"."""
    torch = pytest.importorskip("torch")
    decode_jpeg = pytest.importorskip("torchvision.io").decode_jpeg
    store = tiled(tmp_path, slide)
    streams = store.jpeg_streams([7, 5, 6, 0])
    assert streams[1] is None
    assert streams[2] is None
    whole = [torch.frombuffer(bytearray(s), dtype=torch.uint8) for s in streams if s]
    pixels = torch.stack(decode_jpeg(whole, device="cpu")).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, store.read([7, 0]))
    with pytest.raises(IndexError):
        store.jpeg_streams([12])
    for other in (tiled(tmp_path, slide, "lossless"), tiled(tmp_path, slide, patch_size_px=2 * T)):
        with pytest.raises(UsageError, match="one JPEG tile"):
            other.jpeg_streams([0])


def test_the_command(slide: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f"slide_path,slide_id\n{slide},s\n")
    words = ["tile", "--manifest", manifest, "--out", tmp_path / "out", "--mpp", 0.5]
    words += ["--patch-size", T, "--pixels"]
    done = run_scaat(*words, "slide-jpeg", in_process=True)
    assert done.returncode == 0, done.stderr
    assert "are the slide's own JPEG tiles" in " ".join(done.stderr.split())
    deep = ("--deep", "--manifest", manifest)
    checked = run_scaat("verify", "--out", tmp_path / "out", *deep, in_process=True)
    assert checked.returncode == 0, checked.stderr
    refused = run_scaat(*words, "jpeg", in_process=True)
    assert refused.returncode == 2
    assert "lossless" in refused.stderr


def test_new_classes_relabel_it(slide: Path, tmp_path: Path) -> None:
    store = tiled(tmp_path, slide)
    shard = tmp_path / "slide-jpeg.zarr/patches/c/0/0/0/0"
    before = shard.stat().st_ino
    again = tiled(tmp_path, slide, class_names=("A", "B"))
    assert again.meta.class_names == ("A", "B")
    assert again.meta.slide_jpeg == store.meta.slide_jpeg
    assert again.meta.fingerprint == store.meta.fingerprint
    assert shard.stat().st_ino == before
    assert not check_patches(tmp_path / "slide-jpeg.zarr", "s", deep=True)[1]


def test_the_plan_knows_that_tiles_are_small(slide: Path, tmp_path: Path) -> None:
    plans = []
    for pixels in ("lossless", "slide-jpeg"):
        config = TileConfig(mpp=0.5, patch_size_px=T, pixels=pixels)  # type: ignore[arg-type]
        plans.append(plan_tiling([TileJob(slide, "s", tmp_path / "s.zarr", config)], config))
    assert [plan.kept_share for plan in plans] == [0, 1]
    assert plans[1].expected_bytes < plans[0].expected_bytes / 5
    assert plans[1].least_bytes < plans[0].least_bytes / 5
