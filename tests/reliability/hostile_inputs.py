"""Inputs that a hospital's disk really holds, and some that only an attacker would make.

Each entry of `SLIDES` puts one slide-like thing into a folder; each entry of `COMMANDS` sets
up a command whose manifest, settings or annotations are hostile. The tests run them, and
``python tests/reliability/hostile_inputs.py`` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script
from hostile_sizes import CASES as SIZES
from hostile_timing import DURING, during_message
from reliability_tools import DATA, draw_slide, run_scaat

Maker = Callable[[Path], Path]

LONG_NAME = "n" * 196 + ".svs"
SLIDE_SOURCE = "comma_mpp.svs"

BROKEN = (
    "blank_black.tiff", "blank_white.tiff", "broken_missing_chunks.ome.zarr",
    "broken_zattrs.ome.zarr", "comma_mpp.svs", "corrupt_tiles.svs", "directory.svs", "empty.svs",
    "giant_sparse.tif", "gray8.tiff", "html_login_page.ndpi", "jpeg_renamed.svs",
    "lfs_pointer.svs", "nan_mpp.svs", "no_mpp.svs", "orphan.mrxs", "rgb16.tiff", "truncated.png",
    "truncated_half.svs", "truncated_header_only.svs", "zero_mpp.svs",
    "bad_self_intersecting.geojson", "bad_truncated.geojson", "corrupt_tiles.json", "README.txt",
)  # fmt: skip
"""Everything in the folder of broken data."""


def _symlink_loop(folder: Path) -> Path:
    one, two = folder / "loop_a.svs", folder / "loop_b.svs"
    one.symlink_to(two)
    two.symlink_to(one)
    return one


def _dangling(folder: Path) -> Path:
    path = folder / "dangling.svs"
    path.symlink_to(folder / "gone.svs")
    return path


def _pipe(folder: Path) -> Path:
    path = folder / "pipe.svs"
    os.mkfifo(path)
    return path


def _device(folder: Path) -> Path:
    path = folder / "endless.svs"
    path.symlink_to("/dev/zero")
    return path


def _deleted(folder: Path) -> Path:
    return folder / "deleted_after_planning.svs"


def _named(name: str) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        draw_slide(path, seed=1, side_px=320)
        return path

    return make


def _broken(name: str) -> Maker:
    def make(folder: Path) -> Path:
        assert DATA is not None
        source, path = DATA / "broken" / name, folder / name
        if source.is_dir():
            shutil.copytree(source, path)
        else:
            shutil.copy(source, path)
        return path

    return make


MADE: dict[str, Maker] = {
    "a loop of symbolic links": _symlink_loop,
    "a link to nothing": _dangling,
    "a named pipe": _pipe,
    "a link to /dev/zero": _device,
    "a file deleted between plan and read": _deleted,
    "a name with spaces": _named("two words .svs.tiff"),
    "a name with quotes": _named('it\'s "quoted".tiff'),
    "a name with shell characters": _named("$(touch x);`id`&|>*?.tiff"),
    "a name in another script": _named("пат-切片-ü.tiff"),
    "a name of 200 characters": _named("n" * 195 + ".tiff"),
    "a name that is a formula": _named("=cmd|x.tiff"),
}


def slides() -> dict[str, Maker]:
    """All slide-like inputs; those of the data folder only where it is present."""
    broken = {f"`{name}`": _broken(name) for name in BROKEN} if DATA else {}
    return broken | MADE


def tile_all(folder: Path) -> tuple[dict[str, dict[str, str]], subprocess.CompletedProcess[str]]:
    """Tile all of them in one batch by the real command; rows of slides.csv by input."""
    source = folder / "in"
    source.mkdir()
    names = {}
    manifest = folder / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_path", "slide_id"])
        for number, (title, make) in enumerate(slides().items()):
            own = source / f"{number:02d}"
            own.mkdir()
            names[f"input-{number:02d}"] = title
            writer.writerow([str(make(own)), f"input-{number:02d}"])
    out = folder / "out"
    done = run_scaat(
        "tile", "--manifest", manifest, "--out", out, "--mpp", "0.5", "--patch-size", "128",
        "--workers", "1", "--quiet", "--allow-upsampling", memory_bytes=6 << 30,
    )  # fmt: skip
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        rows = {names[row["slide_id"]]: row for row in csv.DictReader(stream)}
    return rows, done


# --- manifests, settings and annotations -------------------------------------------------


def _text(name: str, content: str | bytes) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def _sized(case: str) -> Maker:
    name, write = SIZES[case]

    def make(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return make


MANIFESTS: dict[str, Maker] = {
    "a manifest that is empty": _text("m.csv", ""),
    "a manifest without slide_path": _text("m.csv", "name,age\nx,3\n"),
    "a manifest with an id twice": _text("m.csv", "slide_path,slide_id\na.tiff,x\nb.tiff,x\n"),
    "ids that differ in case only": _text("m.csv", "slide_path,slide_id\na.tiff,x\nb.tiff,X\n"),
    "an id `../../x`": _text("m.csv", "slide_path,slide_id\ns.tiff,../../x\n"),
    "an id `CON`": _text("m.csv", "slide_path,slide_id\ns.tiff,CON\n"),
    "an id with a line break": _text("m.csv", 'slide_path,slide_id\ns.tiff,"a\nb"\n'),
    "an id that is a formula": _text("m.csv", "slide_path,slide_id\ns.tiff,=1+1\n"),
    "a patient in two splits": _text(
        "m.csv",
        "slide_path,slide_id,patient_id,split\na.tiff,1,p,train\nb.tiff,2,p,test\n",
    ),
    "a manifest that is binary": _text("m.csv", bytes(range(256)) * 40),
    "a manifest with NUL bytes": _text("m.csv", b"slide_path\ns\x00.tiff\n"),
    "a manifest with a line of 5 MB": _text("m.csv", "slide_path\n" + "x" * 5_000_000 + "\n"),
    "a path with a line break": _text("m.csv", 'slide_path\n"a\nb.tiff"\n'),
    "a µm/px that is a word": _text("m.csv", "slide_path,mpp\ns.tiff,often\n"),
    "a Parquet file that is none": _text("m.parquet", b"PAR1 no PAR1"),
}

SETTINGS: dict[str, Maker] = {
    "YAML with nested aliases (a bomb)": _text(
        "p.yaml",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nmanifest: *c\n",
    ),
    "YAML nested 100,000 deep": _text("p.yaml", "a: " + "[" * 100_000),
    "YAML with a Python object": _text("p.yaml", "!!python/object/apply:os.system ['touch x']\n"),
    "YAML of 2 MB": _text("p.yaml", "a: " + "x" * 2_000_000),
    "YAML that is binary": _text("p.yaml", bytes(range(256))),
    "YAML with an unknown setting": _text("p.yaml", "manifest: m\nout: o\nfoo: 1\n"),
    "YAML with an infinite number": _text("p.yaml", "manifest: m\nout: o\ntile: {mpp: .inf}\n"),
}

_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]><ASAP_Annotations>&j;</ASAP_Annotations>"
)

ANNOTATIONS: dict[str, Maker] = {
    "GeoJSON cut off": _text("a.geojson", '{"type":"FeatureCollection","features":[{"typ'),
    "GeoJSON nested 2,000,000 deep": _text("a.geojson", "[" * 2_000_000),
    "GeoJSON with a nested geometry, 100,000 deep": _text(
        "a.geojson",
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
        + "[" * 100_000
        + "]" * 100_000
        + "}}",
    ),
    "GeoJSON with a number of 10,000 digits": _text(
        "a.geojson", '{"type":"Feature","geometry":' + "9" * 10_000 + "}"
    ),
    "GeoJSON with NaN positions": _text(
        "a.geojson",
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
        "[[[NaN,0],[1,0],[1,1],[NaN,0]]]},"
        '"properties":{"classification":{"name":"T"}}}',
    ),
    "XML with nested entities (a bomb)": _text("a.xml", _LAUGHS),
    "XML that reads another file": _text(
        "a.xml",
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
        "<ASAP_Annotations>&f;</ASAP_Annotations>",
    ),
    "GeoJSON of 1 GB of brackets, gzipped": _sized("1 GB of brackets in gzip"),
    "GeoJSON of 1 GB without nesting, gzipped": _sized("1 GB of flat numbers in gzip"),
    "XML of 1 GB, gzipped": _sized("1 GB of XML in gzip"),
    "GeoJSON with 112 MB of brackets, gzipped": _sized("112 MB of brackets"),
    "an outline that is a scribble of 400 points": _sized("a scribble of 400 points"),
    "a saw of 200,000 long teeth": _sized("a saw of 200,000 teeth"),
    "20,000 areas on top of each other": _sized("20,000 areas on top of each other"),
    "an annotation file that is a picture": _text("a.geojson", b"\x89PNG\r\n\x1a\n" * 50),
}


def _table(name: str, lines: list[str], encoding: str = "utf-8", end: str = "\n") -> Maker:
    def make(folder: Path) -> Path:
        draw_slide(folder / "s.tiff", seed=1, side_px=320)
        path = folder / name
        path.write_bytes("".join(line + end for line in lines).encode(encoding))
        return path

    return make


def _same_name_in_two_folders(folder: Path) -> Path:
    for number, site in enumerate(("north", "south")):
        (folder / "in" / site).mkdir(parents=True)
        draw_slide(folder / "in" / site / "case.tiff", seed=number, side_px=320)
    return folder / "in"


def _name_with_line_breaks(folder: Path) -> Path:
    (folder / "in").mkdir()
    draw_slide(folder / "in" / "one\ntwo\r\x1b[31m.tiff", seed=1, side_px=320)
    return folder / "in"


ACCEPTED: dict[str, Maker] = {
    "a manifest with a byte order mark": _table("m.csv", ["slide_path", "s.tiff"], "utf-8-sig"),
    "a manifest with semicolons and a decimal comma": _table(
        "m.csv", ["slide_path;mpp", "s.tiff;0,5"]
    ),
    "a manifest with Windows line ends": _table("m.csv", ["slide_path", "s.tiff"], end="\r\n"),
    "a manifest in UTF-16 with tabs, as a spreadsheet saves it": _table(
        "m.txt", ["slide_path\tlabel", "s.tiff\tT"], "utf-16", "\r\n"
    ),
    "slides of one name in two folders": _same_name_in_two_folders,
    "a slide whose name holds line breaks and terminal commands": _name_with_line_breaks,
}


def accepted_message(make: Maker, folder: Path) -> tuple[str, int]:
    """The ids that odd but good input is tiled under, and the exit code."""
    out = folder / "out"
    done = run_scaat(
        "tile", "--manifest", make(folder), "--out", out, "--patch-size", "64", "--mpp", "0.5",
        "--workers", "0", "--quiet", in_process=True,
    )  # fmt: skip
    if not (out / "slides.csv").exists():
        return _first_line(done), done.returncode
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    bad = [row["reason"] for row in rows if row["tile"] != "done"]
    ids = " and ".join(f"`{row['slide_id']}`" for row in rows)
    return bad[0] if bad else f"done: {ids}", done.returncode


def _first_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("scaat:")]
    return lines[-1].removeprefix("scaat: ") if lines else f"(exit code {done.returncode})"


def manifest_message(make: Maker, folder: Path) -> tuple[str, int]:
    """The sentence and exit code of ``scaat tile`` on a hostile manifest."""
    done = run_scaat(
        "tile", "--manifest", make(folder), "--out", folder / "out", "--quiet", in_process=True
    )
    return _first_line(done), done.returncode


def settings_message(make: Maker, folder: Path) -> tuple[str, int]:
    """The sentence and exit code of ``scaat run`` on hostile settings."""
    done = run_scaat("run", make(folder), "--quiet", in_process=True)
    return _first_line(done), done.returncode


def annotation_message(make: Maker, folder: Path) -> tuple[str, int]:
    """The reason in slides.csv and the exit code of tiling with hostile annotations."""
    draw_slide(folder / "s.tiff", seed=1, side_px=320)
    annotations = make(folder)
    manifest = folder / "m.csv"
    manifest.write_text(
        f"slide_path,slide_id,annotation_path\ns.tiff,s,{annotations.name}\n", encoding="utf-8"
    )
    out = folder / "out"
    done = run_scaat(
        "tile", "--manifest", manifest, "--out", out, "--patch-size", "64", "--mpp", "0.5",
        "--classes", "T", "--workers", "1", "--quiet", in_process=True,
    )  # fmt: skip
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    return row["reason"] or row["notes"] or f"({row['tile']})", done.returncode


GROUPS: tuple[tuple[dict[str, Maker], Callable[[Maker, Path], tuple[str, int]]], ...] = (
    (MANIFESTS, manifest_message),
    (SETTINGS, settings_message),
    (ANNOTATIONS, annotation_message),
    (ACCEPTED, accepted_message),
)


def table() -> list[tuple[str, str]]:
    """(input, what the program says) for every hostile input."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        rows, _ = tile_all(Path(scratch))
        for title, row in rows.items():
            facts = f"{row['n_patches']} patches"
            if row["n_unreadable"] not in {"", "0"}:
                facts += f", {row['n_unreadable']} unreadable left out"
            good = "; ".join(filter(None, (facts, row["notes"])))
            lines.append((title, row["reason"] if row["tile"] == "failed" else f"done: {good}"))
    for title, case in DURING.items():
        with tempfile.TemporaryDirectory() as scratch:
            lines.append((title, during_message(case, Path(scratch))[0]))
    for cases, message in GROUPS:
        for title, make in cases.items():
            with tempfile.TemporaryDirectory() as scratch:
                lines.append((title, message(make, Path(scratch))[0]))
    return lines


HEADING = "| input | what the program says |\n|---|---|\n"
BEGIN, END = "<!-- table of hostile inputs: begin -->\n", "<!-- table of hostile inputs: end -->\n"


def main() -> None:
    """Print the table, or put it into the file that is named."""
    text = HEADING + "".join(
        f"| {title} | {said.replace('|', chr(92) + '|')} |\n" for title, said in table()
    )
    if len(sys.argv) < 2:
        sys.stdout.write(text)
        return
    file = Path(sys.argv[1])
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(before + BEGIN + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
