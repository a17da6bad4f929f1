"""Annotation files that ask for a gigabyte, or for hours: made small on the disk.

``python tests/reliability/hostile_sizes.py FILE...`` reads each file and prints what was said, the
seconds of processor time and the peak memory; ``CASE:FOLDER`` makes the file of a case there
first, and removes it afterwards. Each is read by a fork of this process, which has imported
everything once.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

GIGABYTE = 1 << 30
BLOCK = 1 << 24
UNDER = 7 * BLOCK
"""Just below what is read at most."""


def _repeated(unit: bytes, n_bytes: int) -> Iterator[bytes]:
    block = unit * (BLOCK // len(unit))
    for _ in range(-(-n_bytes // len(block))):
        yield block


def _gz(path: Path, head: bytes, unit: bytes, n_bytes: int, tail: bytes = b"") -> None:
    """A gzip file of many members, each packed once: a gigabyte takes a moment."""
    packed = gzip.compress(next(_repeated(unit, 1)), 1)
    n_members = -(-n_bytes // BLOCK)
    path.write_bytes(gzip.compress(head) + packed * n_members + gzip.compress(tail))


def _zip(path: Path, unit: bytes, n_bytes: int) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.geojson", "w", force_zip64=True) as entry,
    ):
        for block in _repeated(unit, n_bytes):
            entry.write(block)


def _attributes(path: Path) -> None:
    """Ten million attributes, each of another name."""
    thousand = b"".join(b' aN_%d=""' % i for i in range(1000))
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"<a")
        for number in range(10_000):
            stream.write(thousand.replace(b"N", b"%d" % number))
        stream.write(b"/>")


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b"[" * 4096)
        stream.truncate(GIGABYTE)


def _polygons(path: Path, rings: list[list[list[float]]]) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "T"}},
        }
        for ring in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _noise(n: int, seed: int = 1) -> list[list[float]]:
    values = [zlib.crc32(f"{seed}/{i}".encode()) % 100_000 for i in range(2 * n)]
    return [[float(x), float(y)] for x, y in zip(values[::2], values[1::2], strict=True)]


def _saw(n: int) -> list[list[float]]:
    """A valid outline of long slanting teeth: every edge's box meets every other's."""
    return [[i * 1e-3 + (i % 2) * 9e4, (i % 2) * 9e4] for i in range(n)] + [[9e4, -9e4]]


def _square(shift: float) -> list[list[float]]:
    a, b = shift, 1000.0 + shift
    return [[a, a], [b, a], [b, b], [a, b], [a, a]]


CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "1 GB of brackets, sparse": ("a.geojson", _sparse),
    "1 GB of brackets in gzip": ("a.geojson.gz", lambda p: _gz(p, b"", b"[", GIGABYTE)),
    "1 GB of flat numbers in gzip": ("a.geojson.gz", lambda p: _gz(p, b"[", b"0,", GIGABYTE)),
    "1 GB of objects in gzip": ("a.geojson.gz", lambda p: _gz(p, b"[", b'{"a":[]},', GIGABYTE)),
    "1 GB of XML in gzip": ("a.xml", lambda p: _gz(p, b"<a>", b"<b/>", GIGABYTE)),
    "1 GB of brackets in a zip": ("a.zip", lambda p: _zip(p, b"[", GIGABYTE // 4)),
    "112 MB of brackets": ("a.geojson.gz", lambda p: _gz(p, b"", b"[", UNDER)),
    "112 MB of numbers": ("a.geojson.gz", lambda p: _gz(p, b"[", b"1.5,", UNDER, b"0]")),
    "112 MB of keys": ("a.geojson.gz", lambda p: _gz(p, b"{", b'"ab":0,', UNDER, b'"a":0}')),
    "112 MB of one string": ("a.geojson.gz", lambda p: _gz(p, b'["', b"x", UNDER, b'"]')),
    "112 MB of one string with an emoji": (
        "a.geojson.gz",
        lambda p: _gz(p, '["\U0001f52c'.encode(), b"x", UNDER, b'"]'),
    ),
    "112 MB of open XML tags": ("a.xml", lambda p: _gz(p, b"<b>", b"<a>", UNDER)),
    "112 MB of XML attributes": (
        "a.xml",
        _attributes,
    ),
    "XML nested 900,000 deep": (
        "a.xml",
        lambda p: p.write_bytes(
            b"<ASAP_Annotations>" + b"<a>" * 900_000 + b"</a>" * 900_000 + b"</ASAP_Annotations>"
        ),
    ),
    "a scribble of 400 points": ("a.geojson", lambda p: _polygons(p, [_noise(400)])),
    "a scribble of 200,000 points": ("a.geojson", lambda p: _polygons(p, [_noise(200_000)])),
    "5,000 small scribbles": (
        "a.geojson",
        lambda p: _polygons(p, [_noise(40, seed) for seed in range(5_000)]),
    ),
    "a saw of 200,000 teeth": ("a.geojson", lambda p: _polygons(p, [_saw(200_000)])),
    "20,000 areas on top of each other": (
        "a.geojson",
        lambda p: _polygons(p, [_square(i * 1e-3) for i in range(20_000)]),
    ),
}


MOST_WAIT_S = 280


def in_a_fork(work: Callable[[Path], None], path: Path) -> int:
    """Do some work in a process of its own; its exit code, negative if a signal ended it."""
    child = os.fork()
    if not child:
        code = 70
        try:
            signal.alarm(MOST_WAIT_S)
            work(path)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def read(path: Path) -> None:
    """Read one file and print what became of it."""
    from pathology_scaat.annotations import label_patches, read_annotations
    from pathology_scaat.errors import ScaatError

    began = time.process_time()  # what it costs, however busy the machine is
    try:
        polygons = read_annotations(path)
        label_patches(polygons, ["T"], [[0.0, 0.0]], 256.0)
        said = "read"
    except ScaatError as error:
        said = str(error)
    # Not ru_maxrss: it begins with the peak of the process that forked this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
    result = {"said": said, "seconds": round(time.process_time() - began, 1), "peak_mib": peak}
    sys.stdout.write(json.dumps(result) + "\n")


def main() -> None:
    from pathology_scaat.annotations import label_patches, read_annotations  # noqa: F401

    for word in sys.argv[1:]:
        case, _, folder = word.rpartition(":")
        name, make = CASES.get(case, ("", None))
        path = Path(folder) / name
        code = in_a_fork(make, path) if make else 0
        code = code or in_a_fork(read, path)
        if code:
            failed = {"said": f"ended with {code}", "seconds": 0.0, "peak_mib": 0}
            sys.stdout.write(json.dumps(failed) + "\n")
        sys.stdout.flush()
        if make:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
