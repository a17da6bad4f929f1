"""Verdicts as labels for the next training: GeoJSON in the slide's own coordinates."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import shapely
import shapely.geometry
from shapely.geometry.base import BaseGeometry

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import StoreError
from pathology_scaat.review.cohort import frame_shift
from pathology_scaat.review.drawings import Drawing
from pathology_scaat.review.judged_regions import JudgedRegion, JudgedRegions
from pathology_scaat.review.regions import Rings, overlay_path, read_regions
from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict
from pathology_scaat.saliency.store import SaliencyStore


@dataclass(frozen=True)
class ReviewLabels:
    """What was written.

    Attributes
    ----------
    files : mapping
        Label file by slide id.
    counts : mapping
        Regions, whole slides and drawings by class over all slides.
    contradicted : int
        Regions (or slides) about which readers disagree: they label nothing. So does the part
        that two drawings of different classes share, or two regions (of two models); each such
        pair counts once.
    gone : int
        Verdicts about regions whose outline is nowhere: neither kept nor in the overlay.
    drawn : int
        Drawings among the labels.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    contradicted: int
    gone: int
    drawn: int = 0


@dataclass(frozen=True)
class _Label:
    class_name: str
    name: str
    shape: BaseGeometry
    drawn: bool


def write_labels(
    out: Path,
    verdicts: Iterable[Verdict],
    folder: Path,
    negative_class: str,
    drawings: Iterable[Drawing] = (),
) -> ReviewLabels:
    """Write one GeoJSON per slide with labels from readers' verdicts and drawings.

    A region labels its class where all readers who decided said yes, the negative class where
    all said no, and nothing where they contradict each other or nobody was sure. A slide of which
    all said no is of the negative class all over where the model knows two classes, unless
    somebody said yes to a region or drew another class. A drawing
    labels its own class, and is cut out of regions: it is the finer word. Where two drawings say
    different things of one area, that area is not labelled. Coordinates are those of the
    overlay, as QuPath shows the slide. Regions of an earlier model count by the outline that was
    kept with the verdict.

    Parameters
    ----------
    out : Path
        Output folder of the run that was reviewed.
    verdicts : iterable of Verdict
        The answers that hold, one per reader and region.
    folder : Path
        Where the GeoJSON files go; made where absent.
    negative_class : str
        Class of rejected regions.
    drawings : iterable of Drawing
        Outlines that readers drew.

    Returns
    -------
    ReviewLabels
        The files, and counts by class.

    Raises
    ------
    StoreError
        If an overlay or a list is damaged or a file cannot be written.
    """
    answers: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in verdicts:
        if verdict.answer in ("yes", "no"):
            answers.setdefault(verdict.slide_id, {}).setdefault(verdict.region_id, []).append(
                verdict
            )
    drawn: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        drawn.setdefault(drawing.slide_id, []).append(drawing)
    kept = JudgedRegions(out).current()
    files: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    contradicted = gone = n_drawn = 0
    for slide_id in sorted({*answers, *drawn}):
        known = _outlines(out, slide_id, kept) if slide_id in answers else {}
        regions: list[_Label] = []
        judged = answers.get(slide_id, {})
        of_slide = {v.answer for v in judged.pop(WHOLE_SLIDE, [])}
        for region_id, said in sorted(judged.items()):
            if region_id not in known:
                gone += len(said)
                continue
            if len({v.answer for v in said}) > 1:
                contradicted += 1
                continue
            name = said[0].target_class if said[0].answer == "yes" else negative_class
            regions.append(_region_label(*known[region_id], name))
        regions, pairs = _undisputed(regions)
        contradicted += pairs
        outlines, pairs = _drawn_labels(out, slide_id, drawn.get(slide_id, []))
        contradicted += pairs
        n_drawn += len(outlines)
        if "no" in of_slide:
            seen = any(v.answer == "yes" for said in judged.values() for v in said)
            if len(of_slide) > 1 or seen or any(o.class_name != negative_class for o in outlines):
                contradicted += 1
            else:
                regions = _slide_label(out, slide_id, negative_class) or regions
        taken = shapely.union_all([d.polygon for d in _in_overlay_frame(out, slide_id, drawn)])
        labels = [_without(label, taken) for label in regions] + outlines
        features = [f for label in labels for f in _features(label)]
        counts.update(label.class_name for label in labels if not label.shape.is_empty)
        if features:
            files[slide_id] = folder / f"{slide_id}.geojson"
            _write(files[slide_id], features)
    return ReviewLabels(files, dict(counts), contradicted, gone, n_drawn)


def _outlines(
    out: Path, slide_id: str, kept: dict[tuple[str, str], JudgedRegion]
) -> dict[str, tuple[str, Rings]]:
    """Name and outline of each region of a slide, in the overlay's coordinates."""
    found: dict[str, tuple[str, Rings]] = {}
    mine = [region for (slide, _), region in kept.items() if slide == slide_id]
    if mine:
        dx, dy = frame_shift(out, slide_id)
        for region in mine:
            rings = tuple(tuple((x - dx, y - dy) for x, y in ring) for ring in region.rings)
            found[region.region_id] = (region.name, rings)
    path = overlay_path(Workspace(out).overlays, slide_id)
    if path is not None:
        found |= {r.region_id: (r.name, r.rings) for r in read_regions(path)}
    return found


def _undisputed(labels: list[_Label]) -> tuple[list[_Label], int]:
    """Regions without what one of another class claims, and how many pairs do.

    Those of one overlay lie apart; a later model's may lie across them, and neither verdict is
    about the part that they share.
    """
    disputed: list[list[BaseGeometry]] = [[] for _ in labels]
    pairs = 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        one, other = labels[i], labels[j]
        if one.class_name == other.class_name:
            continue
        if one.shape.intersection(other.shape).area > 0:
            disputed[i].append(other.shape)
            disputed[j].append(one.shape)
            pairs += 1
    cut = [
        _without(label, shapely.union_all(claims)) if claims else label
        for label, claims in zip(labels, disputed, strict=True)
    ]
    return cut, pairs


def _without(label: _Label, taken: BaseGeometry) -> _Label:
    """What is left of a region; one that nobody drew on stays as it is, corner by corner."""
    if not label.shape.intersects(taken):
        return label
    return replace(label, shape=label.shape.difference(taken))


def _in_overlay_frame(out: Path, slide_id: str, drawn: dict[str, list[Drawing]]) -> list[Drawing]:
    """A slide's drawings in the overlay's coordinates."""
    mine = drawn.get(slide_id, [])
    if not mine:
        return []
    dx, dy = frame_shift(out, slide_id)
    return [replace(d, ring=tuple((x - dx, y - dy) for x, y in d.ring)) for d in mine]


def _drawn_labels(out: Path, slide_id: str, mine: list[Drawing]) -> tuple[list[_Label], int]:
    """Drawings without what another of a different class claims, and how many pairs do."""
    drawings = _in_overlay_frame(out, slide_id, {slide_id: mine})
    found, pairs = [], 0
    for number, drawing in enumerate(drawings):
        others = [o for o in drawings if o.class_name != drawing.class_name]
        claims = [o.polygon for o in others if o.polygon.intersection(drawing.polygon).area > 0]
        pairs += sum(
            o.class_name != drawing.class_name and o.polygon.intersection(drawing.polygon).area > 0
            for o in drawings[:number]
        )
        shape = drawing.polygon.difference(shapely.union_all(claims))
        if not shape.is_empty:
            found.append(_Label(drawing.class_name, f"Drawn {number + 1}", shape, True))
    return found, pairs


def _slide_label(out: Path, slide_id: str, class_name: str) -> list[_Label]:
    """All of the slide, in the overlay's coordinates (patches are of tissue alone).

    Nothing where classes are not two that exclude each other: without one of them it may be of
    any other, or of none.
    """
    meta = SaliencyStore(Workspace(out).saliency(slide_id)).meta
    if len(meta.class_names) != 2 or meta.multi_label:
        return []
    box = meta.slide.frame_px
    dx, dy = frame_shift(out, slide_id)
    shape = shapely.box(-dx, -dy, box.width - dx, box.height - dy)
    return [_Label(class_name, "Whole slide", shape, False)]


def _region_label(name: str, rings: Rings, class_name: str) -> _Label:
    shape = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))
    return _Label(class_name, name, shape, False)


def _features(label: _Label) -> list[dict[str, object]]:
    """One object a polygon: what was cut may be several."""
    parts = getattr(label.shape, "geoms", [label.shape])
    return [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(part),
            "properties": {
                "objectType": "annotation",
                "name": label.name,
                "classification": {"name": label.class_name},
            },
        }
        for part in parts
        if part.geom_type == "Polygon" and part.area > 0
    ]


def _write(path: Path, features: list[dict[str, object]]) -> None:
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    try:
        with atomic_path(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            path.name, f"cannot be written ({error.strerror})", "check free disk space"
        ) from None
