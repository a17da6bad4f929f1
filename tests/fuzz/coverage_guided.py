"""Coverage-guided fuzzing of everything that reads foreign bytes, and of the GeoJSON writer.

``python tests/fuzz/coverage_guided.py [--seconds 120] [--only geojson,xml] [--crashes FOLDER]``
runs each target in a process of its own and prints how many cases it ran. It needs atheris
(``pip install atheris``: Linux and macOS). A crash is whatever is not one of our errors, a
case of more than ten seconds, or more than 2 GiB; its input is kept in the folder of crashes,
and ends as a test in test_found.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CASE_SECONDS = 10
CASE_MEBIBYTES = 2048

SQUARE = b"[[[0,0],[9,0],[9,9],[0,9],[0,0]]]"
SEEDS: dict[str, list[bytes]] = {
    "geojson": [
        b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Polygon",'
        b'"coordinates":' + SQUARE + b'},"properties":{"objectType":"annotation","name":"x",'
        b'"classification":{"names":["Tumor","Positive"]}}}]}',
        b'[{"type":"Feature","geometry":{"type":"MultiPolygon","coordinates":[' + SQUARE + b"]},"
        b'"properties":{"classification":{"name":"T"},"childObjects":[]}}]',
        b'{"type":"GeometryCollection","geometries":[{"type":"Point","coordinates":[1,2]}]}',
    ],
    "xml": [
        b'<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor">'
        b'<Coordinates><Coordinate Order="0" X="1" Y="1"/><Coordinate Order="1" X="9,5" Y="1"/>'
        b'<Coordinate Order="2" X="5" Y="9"/></Coordinates></Annotation></Annotations>'
        b"</ASAP_Annotations>",
        b'<Annotations><Annotation Id="1"><Attributes><Attribute Name="Description" Value="T"/>'
        b'</Attributes><Regions><Region Type="2" NegativeROA="1" Text="t"><Vertices>'
        b'<Vertex X="1" Y="2"/><Vertex X="3" Y="4"/></Vertices></Region></Regions></Annotation>'
        b"</Annotations>",
    ],
    "manifest": [
        b"slide_path,slide_id,patient_id,label,split,mpp,annotation_path\na.svs,a,p,T,train,0.5,\n",
        b'\xef\xbb\xbfsep=;\r\nslide_path;mpp\r\n"b;c.svs";0,25\r\n',
    ],
    "config": [
        b"manifest: m\nout: o\nseed: 1\ntile: {mpp: 0.5, overlap: '0.5'}\ntrain:\n  epochs: 2\n",
        b"a: &x [1]\nb: *x\n",
    ],
    "record": [b'{"schema":"pathology_scaat.run","schema_version":1,"config":{}}'],
    "store": [
        b'{"schema":"pathology_scaat.patches","schema_version":1,"slide_id":"s","slide":{},'
        b'"grid":{},"class_names":[],"n_unreadable":0}',
        b'{"schema":"pathology_scaat.saliency","schema_version":1}',
    ],
    "zarr": [b'{"zarr_format":3,"node_type":"group","attributes":{"pathology_scaat":{}}}'],
    "slide": [b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08", b"II+\x00\x08\x00\x00\x00"],
    "writer": [b"\x03Tumor\x00\xff\xfe"],
}


def _reader(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A target that has a file of these bytes read: a value or one of our errors."""
    from pathology_scaat.errors import ScaatError

    scratch = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    path = Path(scratch) / name

    def target(data: bytes) -> None:
        path.write_bytes(data)
        said = ""
        try:
            read(path)
        except ScaatError as error:
            said = str(error)
        if "\n" in said or scratch in said:
            raise AssertionError(f"a message that says too much: {said!r}")

    return target


def _store_target() -> Callable[[bytes], None]:
    from pathology_scaat.errors import ScaatError
    from pathology_scaat.patches.schema import PatchStoreMeta
    from pathology_scaat.saliency.schema import SaliencyStoreMeta
    from pathology_scaat.stitching.schema import SlideMapMeta

    kinds = {
        "pathology_scaat.patches": PatchStoreMeta,
        "pathology_scaat.saliency": SaliencyStoreMeta,
        "pathology_scaat.map": SlideMapMeta,
    }

    def target(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        for schema, kind in kinds.items():
            with contextlib.suppress(ScaatError):
                kind.from_attributes(value | {"schema": schema, "schema_version": 1}, "x.zarr")

    return target


def _writer_target() -> Callable[[bytes], None]:
    """Any class names and values: what is written is what QuPath reads."""
    import atheris
    import numpy as np
    from shapely import Polygon

    from pathology_scaat.export.frame import ExportFrame
    from pathology_scaat.export.qupath.geojson import region_features, tile_features, write_geojson
    from pathology_scaat.export.qupath.palette import QuPathClass, qupath_name
    from pathology_scaat.export.qupath.regions import Region, RegionSet
    from pathology_scaat.export.qupath.validator import geojson_problems
    from pathology_scaat.export.tiles import TileTable

    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)) / "x.json"
    frame = ExportFrame("full", 0, 0, 1000, 1000)

    def target(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        classes = tuple(
            QuPathClass(qupath_name(given.ConsumeUnicode(12)), (1, 2, 3))
            for _ in range(given.ConsumeIntInRange(1, 3))
        )
        count = given.ConsumeIntInRange(0, 3)
        # A grid has one tile at a place.
        corners = sorted(
            {tuple(given.ConsumeIntInRange(-9, 1009) for _ in range(2)) for _ in range(count)}
        )
        count = len(corners)
        edges = np.array([(x, y, x + 9, y + 9) for x, y in corners], np.int32).reshape(-1, 4)
        values = [given.ConsumeFloat() for _ in range(count * (len(classes) + 2))]
        table = TileTable(
            edges,
            edges,
            np.array(values[: count * len(classes)], float).reshape(count, len(classes)),
            np.array(values[count * len(classes) : count * (len(classes) + 1)], float),
            np.array(values[count * (len(classes) + 1) :], float),
            0,
        )
        region = Region(
            Polygon([(0, 0), (9, 0), (9, 9)]),
            given.ConsumeFloat(), given.ConsumeFloat(), given.ConsumeFloat(),
        )  # fmt: skip
        found = RegionSet((region,), 0.5, 1.0, 1)
        words = {"made by": given.ConsumeUnicode(9)}
        key, name = given.ConsumeUnicodeNoSurrogates(9), given.ConsumeUnicode(9)
        write_geojson(
            path,
            iter(
                [
                    *tile_features(table, np.arange(count), classes, frame, key),
                    *region_features(found, key, name, words),
                ]
            ),
        )
        problems = geojson_problems(path, (1000, 1000))
        if problems:
            raise AssertionError(problems[0])

    return target


def _target(name: str) -> Callable[[bytes], None]:
    """The function that a target's process runs; its imports are instrumented."""
    if name == "store":
        return _store_target()
    if name == "writer":
        return _writer_target()
    from pathology_scaat.annotations import read_annotations
    from pathology_scaat.artifacts.run_record import read_run_record
    from pathology_scaat.cohort.manifest import read_manifest
    from pathology_scaat.patches import PatchStore
    from pathology_scaat.pipeline.config import load_run_config
    from pathology_scaat.slides import open_slide

    def opened(path: Path) -> None:
        with open_slide(path) as slide:
            slide.info  # noqa: B018

    files: dict[str, tuple[str, Callable[[Path], object]]] = {
        "geojson": ("a.geojson", read_annotations),
        "xml": ("a.xml", read_annotations),
        "manifest": ("m.csv", read_manifest),
        "config": ("p.yaml", lambda path: load_run_config(path, {})),
        "record": ("run.json", lambda path: read_run_record(path.parent)),
        "zarr": ("zarr.json", lambda path: PatchStore(path.parent)),
        "slide": ("s.svs", opened),
    }
    return _reader(*files[name])


def run_target(name: str, words: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["pathology_scaat", "json", "csv", "yaml"]):
        target = _target(name)
    atheris.Setup([sys.argv[0], *words], target)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, crashes: Path) -> tuple[int, bool]:
    """Fuzz one target; (cases run, whether one crashed)."""
    with tempfile.TemporaryDirectory() as scratch:
        for number, seed in enumerate(SEEDS[name]):
            (Path(scratch) / f"seed{number}").write_bytes(seed)
        done = subprocess.run(
            [
                sys.executable, __file__, "--target", name, scratch, f"-max_total_time={seconds}",
                f"-timeout={CASE_SECONDS}", f"-rss_limit_mb={CASE_MEBIBYTES}", "-max_len=4096",
                "-print_final_stats=1", f"-artifact_prefix={crashes}/{name}-",
            ],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    cases = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    if done.returncode:
        sys.stderr.write(done.stdout[-3000:] + done.stderr[-1000:])
    return int(cases[1]) if cases else 0, bool(done.returncode)


def main() -> None:
    if sys.argv[1:2] == ["--target"]:
        run_target(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--only", default=",".join(SEEDS))
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    given = parser.parse_args()
    given.crashes.mkdir(parents=True, exist_ok=True)
    total = crashed = 0
    for name in given.only.split(","):
        cases, failed = fuzz(name, given.seconds, given.crashes)
        sys.stdout.write(f"{name}: {cases} cases{', CRASHED' if failed else ''}\n")
        sys.stdout.flush()
        total, crashed = total + cases, crashed + failed
    sys.stdout.write(f"{total} cases, {crashed} targets crashed\n")
    sys.exit(bool(crashed))


if __name__ == "__main__":
    main()
