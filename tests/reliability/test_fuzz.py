"""Whatever bytes stand in a file, reading it gives a value or one of our errors.

``SCAAT_FUZZ=20000`` tries more cases of each.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.annotations import read_annotations
from pathology_scaat.artifacts.atomic import read_json
from pathology_scaat.artifacts.leases import is_leased
from pathology_scaat.artifacts.run_record import read_run_record
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import ScaatError
from pathology_scaat.export.qupath.validator import geojson_problems
from pathology_scaat.export.sidecar import read_sidecar
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.pipeline.config import load_run_config, read_yaml
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.training.bundle import read_bundle_config

CASES = int(os.environ.get("SCAAT_FUZZ", "25"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def _own(keys: list[str]) -> st.SearchStrategy[Any]:
    """Objects that have the right keys and the wrong values."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, json_values))


FEATURE = _own(["type", "geometry", "properties", "id", "features", "coordinates"])
GEOJSON = st.fixed_dictionaries(
    {"type": st.sampled_from(["FeatureCollection", "Feature", "Polygon", "x"])},
    optional={
        "features": st.lists(FEATURE, max_size=3) | json_values,
        "geometry": st.fixed_dictionaries(
            {"type": st.sampled_from(["Polygon", "MultiPolygon", "GeometryCollection", "Point"])},
            optional={"coordinates": json_values, "geometries": json_values},
        ),
        "properties": json_values,
        "coordinates": json_values,
    },
)
texts = st.binary(max_size=300) | st.text(max_size=300).map(
    lambda t: t.encode(errors="surrogatepass")
)
as_json = (json_values | GEOJSON).map(lambda v: json.dumps(v).encode())
WORDS = [
    "slide_path",
    "slide_id",
    "mpp",
    "split",
    "a.svs",
    "../x",
    "0,5",
    "nan",
    "=1",
    "CON",
    "train",
    "é",
    "\ufeff",
]
cells = st.sampled_from([*WORDS, "", "\r", '"'])
tables = st.tuples(
    st.sampled_from([",", ";", "\t", "|"]), st.lists(st.lists(cells, max_size=5), max_size=6)
).map(lambda given: "\n".join(given[0].join(row) for row in given[1]).encode())

tiff_heads = st.tuples(
    st.sampled_from([b"II*\x00", b"MM\x00*", b"II+\x00\x08\x00\x00\x00", b"\xff\xd8\xff", b"PK"]),
    st.binary(max_size=400),
).map(b"".join)


def _open(path: Path) -> None:
    with open_slide(path) as slide:
        assert slide.info.levels


READERS: dict[str, tuple[str, st.SearchStrategy[bytes], Callable[[Path], object]]] = {
    "manifest": ("m.csv", tables | texts, read_manifest),
    "GeoJSON annotations": ("a.geojson", as_json | texts, read_annotations),
    "XML annotations": (
        "a.xml",
        texts | st.text(alphabet="<>/=\"' ASPCoordinateX0.9", max_size=200).map(str.encode),
        read_annotations,
    ),
    "settings": ("p.yaml", texts | as_json, read_yaml),
    "pipeline": ("p.yaml", as_json | texts, lambda p: load_run_config(p, {})),
    "run.json": ("run.json", as_json | texts, lambda p: read_run_record(p.parent)),
    "JSON": ("x.json", as_json | texts, read_json),
    "slides.csv": ("slides.csv", tables | texts, lambda p: StatusTable(p.parent).rows()),
    "bundle": ("config.json", as_json | texts, lambda p: read_bundle_config(p.parent)),
    "sidecar": ("x.json", as_json | texts, read_sidecar),
    "GeoJSON validator": ("x.geojson", as_json | texts, geojson_problems),
    "lease": (".x.lease", as_json | texts, lambda p: is_leased(p.parent / "x")),
    "patch store": ("zarr.json", as_json | texts, lambda p: PatchStore(p.parent)),
    "saliency store": ("zarr.json", as_json | texts, lambda p: SaliencyStore(p.parent)),
    "slide map": ("zarr.json", as_json | texts, lambda p: SlideMap(p.parent)),
    "slide": ("s.svs", tiff_heads | texts, _open),
}


@pytest.mark.parametrize(("name", "content", "read"), READERS.values(), ids=READERS.keys())
def test_any_bytes_give_a_value_or_one_of_our_errors(
    name: str, content: st.SearchStrategy[bytes], read: Callable[[Path], object]
) -> None:
    @settings(max_examples=CASES)
    @given(content)
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(data)
            said = ""
            try:
                read(path)
            except ScaatError as error:
                said = str(error)
            assert "\n" not in said
            assert scratch not in said

    check()


META = {
    "patches": (PatchStoreMeta, "pathology_scaat.patches"),
    "saliency": (SaliencyStoreMeta, "pathology_scaat.saliency"),
    "map": (SlideMapMeta, "pathology_scaat.map"),
}
FIELDS = sorted({field for kind, _ in META.values() for field in kind.__dataclass_fields__})


@pytest.mark.parametrize(("kind", "schema"), META.values(), ids=META.keys())
def test_attributes_of_the_right_schema_and_any_values(kind: Any, schema: str) -> None:
    @settings(max_examples=CASES)
    @given(_own(FIELDS))
    def check(value: dict[str, Any]) -> None:
        said = "x.zarr"
        try:
            kind.from_attributes(value | {"schema": schema, "schema_version": 1}, "x.zarr")
        except ScaatError as error:
            said = str(error)
        assert said.startswith("x.zarr")

    check()
