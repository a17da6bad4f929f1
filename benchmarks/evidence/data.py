"""The data sets of the comparison: each split by patient into train, val and test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from granular import composites, read_tissue
from joined import joined
from numpy.typing import NDArray
from planted import add_shortcut, make_patches
from planted_hard import make_hard_patches

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.demo import make_demo_cohort
from pathology_scaat.evaluation.evaluation_set import EvaluationSet, evaluation_set_from_stores
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.training.bundle import read_bundle_config


@dataclass(frozen=True)
class Benchmark:
    """Three disjoint sets, and the test set with a shortcut on every image where there is one."""

    name: str
    train: EvaluationSet
    val: EvaluationSet
    test: EvaluationSet
    marked_test: EvaluationSet | None = None
    """Test images, each with the shortcut; its masks are the shortcut's place."""


def data_root() -> Path:
    """Folder of the patch sets: SCAAT_DATA, else shared/data beside or inside the checkout."""
    named = os.environ.get("SCAAT_DATA")
    here = Path(__file__).resolve().parents[2]
    for path in ([Path(named)] if named else []) + [
        here.parent / "shared/data",
        here / "shared/data",
    ]:
        if (path / "patches").is_dir():
            return path
    raise SystemExit("The patch sets are not here: set SCAAT_DATA to their folder.")


def _hold_out(groups: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """True for the images of a random share of the groups."""
    names = np.unique(groups)
    rng = np.random.default_rng(seed)
    held = rng.permutation(names)[: max(1, round(share * len(names)))]
    return np.isin(groups, held)


def _three(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], groups: NDArray[np.str_],
    is_test: NDArray[np.bool_], limits: tuple[int, int, int],
) -> Benchmark:  # fmt: skip
    """The given test split; a fifth of the other groups for validation; thinned evenly."""
    held = ~is_test & _hold_out(groups, 0.2, 0)
    parts = []
    for flags, limit in zip((~is_test & ~held, held, is_test), limits, strict=True):
        where = np.flatnonzero(flags)
        part = EvaluationSet(images[where], labels[where], groups[where], name=name)
        parts.append(part.take(part.spread(limit, 0)))
    return Benchmark(name, *parts)


def load_idc(limits: tuple[int, int, int]) -> Benchmark:
    """IDC breast, 48 px at about 4 µm/px; test: the patient-disjoint split as given."""
    with np.load(data_root() / "patches/idc_breast_50px/idc_50px.npz") as stored:
        images = stored["images"][:, 1:49, 1:49]
        return _three(
            "idc", images, stored["labels"].astype(np.int64), stored["patient"].astype(str),
            stored["split"].astype(str) == "val", limits,
        )  # fmt: skip


def load_colon(limits: tuple[int, int, int], side_px: int = 56) -> Benchmark:
    """LC25000 colon, area-averaged to 56 px or what is asked for; split by source tile as given."""
    import pandas as pd
    from PIL import Image

    folder = data_root() / "patches/lc25000_colon_224"
    table = pd.read_csv(folder / "index.csv")
    size = (side_px, side_px)
    images = np.stack([
        np.asarray(Image.open(folder / f).convert("RGB").resize(size, Image.Resampling.BOX))
        for f in table["file"]
    ])  # fmt: skip
    return _three(
        "colon" if side_px == 56 else f"colon-{side_px}", images, table["label"].to_numpy(np.int64),
        table["source_tile_group"].astype(str).to_numpy(),
        (table["split"] == "val").to_numpy(), limits,
    )  # fmt: skip


def load_planted(limits: tuple[int, int, int], shortcut: str | None = None) -> Benchmark:
    """Synthetic tumour with masks; with a shortcut, it agrees with the class in 90 % of the
    training and validation patches and is absent from the test set."""
    per_patient = 30
    parts = []
    for seed, limit, planted in zip((11, 12, 13), limits, (True, True, False), strict=True):
        made = make_patches(
            max(limit // per_patient, 2), per_patient, seed,
            shortcut=shortcut, agreement=0.9 if planted else None,
        )  # fmt: skip
        parts.append(
            EvaluationSet(made.images, made.labels, made.patients, masks=made.masks, name="planted")
        )
    name = f"planted-{shortcut}" if shortcut else "planted"
    if shortcut is None:
        return Benchmark(name, *parts)
    rng = np.random.default_rng(14)
    images, marks = zip(*(add_shortcut(i, shortcut, rng) for i in parts[2].images), strict=True)
    test = parts[2]
    marked = EvaluationSet(
        np.stack(images), test.labels, test.groups, masks=np.stack(marks), name=f"{name}-marked"
    )
    return Benchmark(name, *parts, marked_test=marked)


def load_hard(limits: tuple[int, int, int]) -> Benchmark:
    """Synthetic tumour that is harder to find, 40 px, with masks (:mod:`planted_hard`)."""
    parts = []
    for seed, limit in zip((21, 22, 23), limits, strict=True):
        made = make_hard_patches(max(limit // 30, 2), 30, seed)
        parts.append(EvaluationSet(made.images, made.labels, made.patients, masks=made.masks,
                                   name="hard"))  # fmt: skip
    return Benchmark("hard", *parts)


def with_joined_test(bench: Benchmark, n: int, *, within_groups: bool) -> Benchmark:
    """The same training data, and ``n`` images joined of two test patches as the test."""
    test, name = bench.test, f"{bench.name}-joined"
    images, labels, groups, masks = joined(
        test.images, test.labels, np.asarray(test.groups, str), n, 15, within_groups=within_groups
    )
    made = EvaluationSet(images, labels, groups, masks=masks, name=name)
    return Benchmark(name, bench.train, bench.val, made)


def load_granular(limits: tuple[int, int, int]) -> Benchmark:
    """One annotated slide at 1 µm/px: regions for training, composites with masks as the test."""
    tissue = read_tissue(data_root() / "slides")
    parts = []
    for role, limit in enumerate(limits[:2]):
        where = np.flatnonzero(tissue.part == role)
        part = EvaluationSet(
            tissue.images[where], tissue.labels[where], tissue.blocks[where], name="granular"
        )
        parts.append(part.take(part.spread(limit, 0)))
    images, labels, blocks, masks = composites(tissue, limits[2], 15)
    test = EvaluationSet(images, labels, blocks, masks=masks, name="granular")
    return Benchmark("granular", *parts, test)


def load_demo(limits: tuple[int, int, int], n_slides: int = 36) -> Benchmark:
    """The demo's synthetic slides through the package's own tiling: 64 px at 1 µm/px.

    Train, validation and test are different patients, each with a laboratory's stain and a
    scanner of its own. Labels are the drawn regions, masks the planted nests themselves.
    """
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = make_demo_cohort(folder, seed=7, n_slides=n_slides, size_px=3072)
        config = TileConfig(
            mpp=1.0, patch_size_px=64, class_names=cohort.class_names, only_labelled=True
        )
        for slide in cohort.slides:
            tile_slide(
                TileJob(
                    slide_path=slide.slide_path,
                    slide_id=slide.slide_id,
                    store_path=folder / f"{slide.slide_id}.zarr",
                    annotation_path=slide.annotation_path,
                    config=config,
                )
            )
        for split, limit in zip(("train", "val", "test"), limits, strict=True):
            slides = [s for s in cohort.slides if s.split == split]
            found = evaluation_set_from_stores(
                {s.slide_id: folder / f"{s.slide_id}.zarr" for s in slides},
                cohort.class_names, cohort.positive_class,
                patients={s.slide_id: s.patient_id for s in slides},
                annotations={s.slide_id: s.truth_path for s in slides},
                max_patches=limit, name="demo",
            )  # fmt: skip
            assert found is not None
            parts.append(found)
    return Benchmark("demo", *parts)


def load_run(limits: tuple[int, int, int]) -> Benchmark:
    """The labelled patches of a finished run, the folder that SCAAT_RUN names, by its splits.

    Masks come from ``<slide id>.geojson`` files in the folder SCAAT_RUN_ANNOTATIONS.
    """
    out = Path(os.environ["SCAAT_RUN"])
    drawn = Path(os.environ.get("SCAAT_RUN_ANNOTATIONS", out / "annotations"))
    config = read_bundle_config(out / "model")
    splits = StatusTable(out).column("split")
    parts = []
    for split, limit in zip(("train", "val", "test"), limits, strict=True):
        stores = {i: out / f"patches/{i}.zarr" for i, s in splits.items() if s == split}
        found = evaluation_set_from_stores(
            stores, config.class_names, config.positive_class,
            annotations={i: drawn / f"{i}.geojson" for i in stores
                         if (drawn / f"{i}.geojson").is_file()} or None,
            max_patches=limit, name="run",
        )  # fmt: skip
        if found is None:
            raise SystemExit(f"The run has no labelled patches for {split}.")
        parts.append(found)
    return Benchmark("run", *parts)


def _parts(bench: Benchmark) -> Iterator[tuple[str, EvaluationSet]]:
    yield from (("train", bench.train), ("val", bench.val), ("test", bench.test))
    if bench.marked_test is not None:
        yield "marked_test", bench.marked_test


def load_once(name: str, limits: tuple[int, int, int], work: Path) -> Benchmark:
    """:func:`load`, kept in a folder for processes side by side."""
    path = work / f"data__{name}__{'-'.join(map(str, limits))}.npz"
    if not path.exists():
        bench = load(name, limits)
        arrays: dict[str, Any] = {}
        for part, found in _parts(bench):
            arrays |= {f"{part}/images": found.images, f"{part}/labels": found.labels,
                       f"{part}/groups": np.asarray(found.groups, str),
                       f"{part}/name": np.array(found.name)}  # fmt: skip
            if found.masks is not None:
                arrays[f"{part}/masks"] = found.masks
        with atomic_path(path) as partial, open(partial, "wb") as out:
            np.savez(out, **arrays)
    with np.load(path) as kept:
        parts = {
            part: EvaluationSet(
                kept[f"{part}/images"], kept[f"{part}/labels"], kept[f"{part}/groups"],
                masks=kept.get(f"{part}/masks"),
                name=str(kept[f"{part}/name"]),
            )
            for part in ("train", "val", "test", "marked_test") if f"{part}/images" in kept
        }  # fmt: skip
    return Benchmark(name, **parts)


def load(name: str, limits: tuple[int, int, int]) -> Benchmark:
    """idc, colon, colon-SIDE, granular, demo, run, hard, planted, planted-ink, -tag, -tint;
    idc-joined, colon-joined."""
    if name == "idc-joined":  # both sides of one patient
        return with_joined_test(load_idc(limits), limits[2], within_groups=True)
    if name == "colon-joined":  # a source tile is of one class: the sides are of two
        return with_joined_test(load_colon(limits), limits[2], within_groups=False)
    if name == "hard":
        return load_hard(limits)
    if name == "idc":
        return load_idc(limits)
    if name.startswith("colon"):
        return load_colon(limits, int(name.partition("-")[2] or 56))
    if name == "granular":
        return load_granular(limits)
    if name.startswith("planted"):
        return load_planted(limits, name.partition("-")[2] or None)
    if name == "demo":
        return load_demo(limits)
    if name == "run":
        return load_run(limits)
    raise SystemExit(f"Unknown data set: {name}")
