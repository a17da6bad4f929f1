"""Patches equal those read one by one, whatever the extractor holds; tiles are decoded once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx, plan_grid, plan_read
from pathology_scaat.patches.extractor import ExtractorLimits, PatchExtractor
from pathology_scaat.patches.resample import average, axis_weights, source_box
from pathology_scaat.slides.tiles import TileLattice, assemble


class ArraySlide:
    """A slide of one level in memory, with some tiles blank and some undecodable."""

    def __init__(
        self,
        size: tuple[int, int],
        tile: int,
        bad: frozenset[tuple[int, int]] = frozenset(),
        blank: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self._lattice = TileLattice(SizePx(*size), SizePx(tile, tile))
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        self.bad, self.blank = bad, blank
        self.reads: list[tuple[int, int]] = []
        for col, row in blank | bad:
            box = self._lattice.box(col, row)
            self.pixels[box.y : box.bottom, box.x : box.right] = 255

    def lattice(self, level: int) -> TileLattice:
        return self._lattice

    def read_tile(
        self, level: int, col: int, row: int, scratch: np.ndarray | None = None
    ) -> np.ndarray | None:
        self.reads.append((col, row))
        if (col, row) in self.bad:
            raise SlideReadError("a slide", "is broken there")
        if (col, row) in self.blank:
            return None
        box = self._lattice.box(col, row)
        pixels = self.pixels[box.y : box.bottom, box.x : box.right]
        if scratch is None or (col + row) % 3 == 0:  # it may be used, and need not be
            return pixels
        scratch[...] = 7
        view = scratch[: box.height, : box.width]
        view[...] = pixels
        return view

    def patch(self, grid: PatchGrid, col: int, row: int) -> tuple[np.ndarray, bool]:
        """A patch on its own, and whether it touches a tile that cannot be decoded."""
        side, step = grid.patch_size_px, grid.step_px
        columns = axis_weights(grid.anchor_x_px, grid.scale, col * step, side)
        rows = axis_weights(grid.anchor_y_px, grid.scale, row * step, side)
        box = source_box(columns, rows)
        whole = BoxPx(0, 0, *self.pixels.shape[1::-1])
        one = TileLattice(SizePx(whole.width, whole.height), SizePx(whole.width, whole.height))
        source = assemble(box, one, lambda c, r: self.pixels)
        touches = any(key in self.bad for key in self._lattice.tiles_of(box))
        return average(source, columns, rows), touches


def extract(
    slide: ArraySlide, mpp: float, side: int, step: int, frame: BoxPx, **options: object
) -> tuple[list[np.ndarray], np.ndarray, PatchGrid, np.ndarray]:
    plan = plan_read(0.5, (1.0,), mpp)
    grid = plan_grid(frame, plan, side, step)
    index = grid.all_indices()
    index = index[np.random.default_rng(1).random(len(index)) < 0.7]
    done: list[np.ndarray] = []

    def encode(patch: np.ndarray) -> np.ndarray:
        copy = patch.copy()
        patch[...] = 9  # it is used again
        return copy

    with PatchExtractor(slide, plan, grid, **options) as extractor:  # type: ignore[arg-type]
        readable = extractor.extract(index, encode, done.append)
    return done, readable, grid, index


@settings(max_examples=40)
@given(
    mpp=st.sampled_from([0.5, 0.7, 1.0, 1.55, 2.6, 0.3]),
    side=st.integers(12, 40),
    share=st.floats(0.3, 1.0),
    tile=st.sampled_from([16, 33, 64]),
    x=st.integers(0, 70),
    keep=st.sampled_from([0, 5_000, 1 << 30]),
    segment=st.sampled_from([1, 20_000, 1 << 30]),
    source=st.sampled_from([24, 4000]),
    threads=st.sampled_from([1, 3]),
)
def test_patches_do_not_depend_on_how_they_are_cut(
    mpp: float, side: int, share: float, tile: int, x: int, keep: int, segment: int,
    source: int, threads: int,
) -> None:  # fmt: skip
    bad = frozenset({(1, 1)})
    slide = ArraySlide((151, 117), tile, bad, frozenset({(0, 1), (2, 0)}))
    frame = BoxPx(x, x // 2, 151 - x, 117 - x // 2)
    step = max(1, round(side * share))
    done, readable, grid, index = extract(
        slide, mpp, side, step, frame,
        threads=threads, limits=ExtractorLimits(keep, segment, source),
    )  # fmt: skip
    expected = [slide.patch(grid, col, row) for col, row in index.tolist()]
    assert readable.tolist() == [not touches for _, touches in expected]
    kept = [pixels for pixels, touches in expected if not touches]
    assert len(done) == len(kept)
    for got, wanted in zip(done, kept, strict=True):
        assert np.array_equal(got, wanted)


@settings(max_examples=20)
@given(
    tile=st.sampled_from([16, 32]),
    size=st.tuples(st.integers(20, 150), st.integers(20, 150)),
    threads=st.sampled_from([1, 3]),
)
def test_patches_that_are_tiles(tile: int, size: tuple[int, int], threads: int) -> None:
    slide = ArraySlide(size, tile, frozenset({(1, 1)}), frozenset({(0, 1), (2, 0)}))
    done, readable, grid, index = extract(
        slide, 0.5, tile, tile, BoxPx(0, 0, *size), threads=threads
    )
    expected = [slide.patch(grid, col, row) for col, row in index.tolist()]
    assert readable.tolist() == [not touches for _, touches in expected]
    kept = [pixels for pixels, touches in expected if not touches]
    assert all(np.array_equal(a, b) for a, b in zip(done, kept, strict=True))


@settings(max_examples=20)
@given(mpp=st.sampled_from([0.5, 1.0, 1.55]), overlap=st.sampled_from([0, 16, 24]))
def test_each_tile_is_decoded_once(mpp: float, overlap: int) -> None:
    slide = ArraySlide((400, 300), 32)
    extract(slide, mpp, 32, 32 - overlap, BoxPx(5, 9, 380, 280))
    assert len(slide.reads) == len(set(slide.reads))


def test_cost_follows_the_wanted_patches() -> None:
    slide = ArraySlide((3200, 3200), 32)
    plan = plan_read(0.5, (1.0,), 0.5)
    grid = plan_grid(BoxPx(0, 0, 3200, 3200), plan, 32, 32)
    with PatchExtractor(slide, plan, grid) as extractor:
        extractor.extract(np.array([[3, 4], [70, 80]]), np.copy, lambda patch: None)
    assert slide.reads == [(3, 4), (70, 80)]
