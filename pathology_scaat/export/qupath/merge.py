"""What becomes of a slide's former annotations when corrections of it come back.

The rule. A former area is *replaced* by the returned object of its id; where ids say nothing
(QuPath gives new ones to what is dragged in), by a returned area of its class that overlaps it
by at least half (intersection over union), or of another class that has its outline (0.9). It
is dropped where its own object came back without a class. All other former areas are *kept*;
where a returned area of another class lies on one, that part is cut out of it, so that what is
newer counts. Returned areas that replace nothing are *added*. Nothing else disappears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import shapely

from pathology_scaat.annotations import LabelledPolygon, is_ignored_class
from pathology_scaat.annotations.labels import class_areas
from pathology_scaat.annotations.model import Area

SAME_CLASS_IOU = 0.5
SAME_OUTLINE_IOU = 0.9
UNCHANGED_IOU = 0.999
"""Outlines that differ by less are one: QuPath keeps two decimals."""
MIN_AREA_PX = 1.0


@dataclass(frozen=True)
class Merged:
    """A slide's annotations after an import, and how they came to be.

    Attributes
    ----------
    areas : tuple of LabelledPolygon
        Returned areas first, then former ones that are kept.
    n_added, n_replaced, n_unchanged : int
        Returned areas that are new; former areas that a returned one replaces; former areas
        that came back as they were.
    n_kept, n_cut, n_dropped : int
        Former areas that did not come back and stay, those of them that lost a part to a
        returned area, and those whose class was taken away.
    """

    areas: tuple[LabelledPolygon, ...]
    n_added: int = 0
    n_replaced: int = 0
    n_unchanged: int = 0
    n_kept: int = 0
    n_cut: int = 0
    n_dropped: int = 0


def _iou(one: Area, other: Area) -> float:
    common = float(one.intersection(other).area)
    whole = float(one.area + other.area) - common
    return common / whole if whole > 0 else 0.0


def _same_class(one: LabelledPolygon, other: LabelledPolygon) -> bool:
    return one.class_name.casefold() == other.class_name.casefold()


def _without(area: Area, others: Sequence[Area]) -> Area | None:
    """What is left of an area, as polygons; None where that is nothing to speak of."""
    rest = shapely.difference(area, shapely.union_all(list(others)))
    parts = [p for p in shapely.get_parts(rest) if p.geom_type == "Polygon"]
    parts = [p for p in parts if p.area >= MIN_AREA_PX]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def merge_annotations(
    former: Sequence[LabelledPolygon],
    returned: Sequence[LabelledPolygon],
    unclassed_ids: frozenset[str] = frozenset(),
) -> Merged:
    """Former and returned annotations of one slide as one set; the rule is in the module's head.

    Parameters
    ----------
    former, returned : sequence of LabelledPolygon
        In the same pixels.
    unclassed_ids : frozenset of str
        Objects that came back without a class.
    """
    by_id = {one.object_id: index for index, one in enumerate(returned) if one.object_id}
    tree = shapely.STRtree([one.geometry for one in returned])
    matched: set[int] = set()
    kept: list[LabelledPolygon] = []
    replaced = unchanged = cut = dropped = 0
    for old in former:
        if old.object_id and old.object_id in unclassed_ids:
            dropped += 1
            continue
        near = [int(i) for i in tree.query(old.geometry, predicate="intersects")]
        own = by_id.get(old.object_id) if old.object_id else None
        successors = {} if own is None else {own: _iou(old.geometry, returned[own].geometry)}
        if own is None:
            for index in near:
                overlap = _iou(old.geometry, returned[index].geometry)
                same = _same_class(old, returned[index])
                if overlap >= (SAME_CLASS_IOU if same else SAME_OUTLINE_IOU):
                    successors[index] = overlap
        if successors:
            index = max(successors, key=lambda i: successors[i])
            matched.add(index)
            as_it_was = successors[index] >= UNCHANGED_IOU and _same_class(old, returned[index])
            unchanged += as_it_was
            replaced += not as_it_was
            continue
        above = [
            returned[i].geometry
            for i in near
            if not _same_class(old, returned[i])
            and old.geometry.intersection(returned[i].geometry).area > 0
        ]
        rest = _without(old.geometry, above) if above else old.geometry
        if rest is None:
            matched.update(i for i in near if not _same_class(old, returned[i]))
            replaced += 1
            continue
        cut += bool(above)
        kept.append(replace(old, geometry=rest))
    return Merged(
        areas=(*returned, *kept),
        n_added=len(returned) - len(matched),
        n_replaced=replaced,
        n_unchanged=unchanged,
        n_kept=len(kept),
        n_cut=cut,
        n_dropped=dropped,
    )


def labelled_area(areas: Sequence[LabelledPolygon]) -> float:
    """Square pixels that count for some class, after overlaps are settled."""
    names = {a.class_name.casefold(): a.class_name for a in areas
             if a.class_name and not is_ignored_class(a.class_name)}  # fmt: skip
    classes = class_areas(areas, tuple(names.values()))
    return float(sum(part.area for parts in classes for part in parts))
