"""The Groovy scripts, compiled and run with what QuPath ships: three modules of Groovy, and Gson.

QuPath's classes are stood in for by ``qupath_stubs``. Jars are looked for where Debian's packages
``groovy`` and ``libgoogle-gson-java`` put them, or in SCAAT_GROOVY_JARS (a folder); without
them, or without ``java``, these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from map_stores import make_saliency_store

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.stitching import stitch_slide

STUBS = Path(__file__).parent / "qupath_stubs"
SCRIPTS = Path(str(resources.files("pathology_scaat.export") / "scripts"))
JAR_FOLDERS = (Path("/usr/share/groovy/lib"), Path("/usr/share/java"))
MODULES = ("groovy", "groovy-xml", "groovy-jsr223")
"""What QuPath ships of Groovy (its build files name these three)."""
BESIDE = ("antlr", "asm", "asm-tree", "asm-util", "asm-analysis", "asm-commons", "gson")
"""What Debian keeps beside Groovy, and Gson, which QuPath has."""
SIDE = 128


def jar(name: str) -> Path:
    folders = [Path(p) for p in (os.environ.get("SCAAT_GROOVY_JARS"),) if p] or list(JAR_FOLDERS)
    found = [
        p
        for folder in folders
        for p in sorted(folder.glob(f"{name}*.jar"))
        if p.stem == name or p.stem.removeprefix(f"{name}-")[:1].isdigit()
    ]
    if not found:
        pytest.skip(f"{name}.jar is not installed")
    return found[0]


def java(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("java")
    if program is None:
        pytest.skip("java is not installed")
    command = [program, "-Xmx512m", "-XX:TieredStopAtLevel=1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def qupath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Classpath of a QuPath in miniature."""
    classes = tmp_path_factory.mktemp("classes")
    jars = ":".join(str(jar(name)) for name in (*MODULES, *BESIDE))
    stubs = sorted((STUBS / "qupath").rglob("*.groovy"))
    compiler = ("-cp", jars, "org.codehaus.groovy.tools.FileSystemCompiler")
    done = java(*compiler, "--classpath", f"{jars}:{classes}", "-d", classes, *stubs)
    assert done.returncode == 0, done.stderr
    return f"{jars}:{classes}"


class Player:
    """Runs scripts on images, many in one Java machine."""

    def __init__(self, classpath: str, folder: Path) -> None:
        self.classpath, self.folder = classpath, folder
        self.runs: list[dict[str, Any]] = []

    def add(self, script: str, argument: Path, *images: dict[str, Any]) -> None:
        described = [{"id": str(n), "name": "x", **image} for n, image in enumerate(images)]
        self.runs.append(
            {"script": str(SCRIPTS / script), "args": [str(argument)], "images": described}
        )

    def play(self) -> list[list[dict[str, Any]]]:
        given, said = self.folder / "job.in", self.folder / "job.out"
        given.write_text(json.dumps({"runs": self.runs}))
        done = java("-cp", self.classpath, "groovy.ui.GroovyMain", STUBS / "qupath_run.groovy",
                    given, said)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        self.runs = []
        result: list[list[dict[str, Any]]] = json.loads(said.read_text())
        return result


@pytest.fixture
def player(qupath: str, tmp_path: Path) -> Player:
    return Player(qupath, tmp_path)


def exported(
    folder: Path, slide_id: str = "S1", model: str = "d", seed: int = 0, **stores: Any
) -> Path:
    """Overlays of a slide of 645 x 515 px; another seed is what another model sees in it."""
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 10, 8)
    work = folder / f"work-{slide_id}-{model}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    store = make_saliency_store(
        work / "s.zarr", grid, stride_px=8, slide_id=slide_id, seed=seed, **stores
    )
    attributes = store / "zarr.json"
    attributes.write_text(attributes.read_text().replace("d" * 64, model * 64))
    stitch_slide(store, work / "m.ome.zarr")
    config = ExportConfig(
        formats=("geojson",), region_quantile=0.7, min_region_um2=0, region_min_probability=0
    )
    export_slide(work / "m.ome.zarr", store, folder, config)
    return folder


def image(name: str = "/slides/S1.svs", **more: Any) -> dict[str, Any]:
    return {"uri": f"file:{name}", "width": 645, "height": 515, **more}


def features(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["features"]
    return found


def test_scripts_need_nothing_that_qupath_does_not_ship(qupath: str, tmp_path: Path) -> None:
    scripts = sorted(SCRIPTS.glob("*.groovy"))
    assert len(scripts) == 3
    stubs = []
    for name in (
        "javafx.application.Platform", "qupath.lib.color.ColorMaps",
        "qupath.lib.gui.viewer.overlays.BufferedImageOverlay",
        "qupath.lib.images.servers.ImageServers", "qupath.lib.regions.ImageRegion",
        "qupath.lib.regions.RegionRequest",
    ):  # fmt: skip
        package, _, short = name.rpartition(".")
        stub = tmp_path / "stubs" / Path(*package.split(".")) / f"{short}.groovy"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(f"package {package}\nclass {short} {{ }}\n")
        stubs.append(stub)
    compiler = ("-cp", qupath, "org.codehaus.groovy.tools.FileSystemCompiler")
    done = java(*compiler, "--classpath", qupath, "-d", tmp_path / "out", *stubs, *scripts)
    assert done.returncode == 0, done.stderr
    foreign = tmp_path / "foreign.groovy"
    foreign.write_text("import groovy.json.JsonSlurper\n" + scripts[0].read_text())
    done = java(*compiler, "--classpath", qupath, "-d", tmp_path / "out", *stubs, foreign)
    assert done.returncode != 0  # else the judge judges nothing
    assert "groovy.json.JsonSlurper" in done.stderr + done.stdout


def test_an_overlay_is_imported_once_however_often(player: Player, tmp_path: Path) -> None:
    overlays = exported(tmp_path / "o")
    player.add("scaat_import.groovy", overlays, image(), image("/other/T.svs"))
    ((first, other),) = player.play()
    count = len(features(overlays / "S1.geojson.gz"))
    assert first["lines"][0] == f"SCAAT S1: imported {count} objects (0 replaced)"
    assert "WARNING, NOT KNOWN HOW GOOD THIS MODEL IS" in first["lines"][1]
    assert set(first["classes"]) == {"Tumor", "normal", "Evidence: High"}
    assert other["lines"] == ["SCAAT T.svs: no file"]
    player.add("scaat_import.groovy", overlays, image(objects=first["objects"]))
    ((again,),) = player.play()
    assert again["lines"][0] == f"SCAAT S1: imported {count} objects ({count} replaced)"
    assert sorted(o["id"] for o in again["objects"]) == sorted(o["id"] for o in first["objects"])


def moved_class(feature: dict[str, Any], name: str) -> dict[str, Any]:
    properties = {**feature["properties"], "classification": {"name": name, "color": [1, 2, 3]}}
    return {**feature, "properties": properties}


def test_what_was_changed_in_qupath_is_kept(player: Player, tmp_path: Path) -> None:
    overlays = exported(tmp_path / "o")
    objects = features(overlays / "S1.geojson.gz")
    regions = [o for o in objects if o["properties"]["objectType"] == "annotation"]
    tiles = [o for o in objects if o["properties"]["objectType"] == "tile"]
    assert len(regions) > 2
    accepted = moved_class(regions[0], "Tumor")
    edited = json.loads(json.dumps(regions[1]))
    ring = edited["geometry"]["coordinates"][0]
    ring[0][0] = ring[-1][0] = ring[0][0] - 9
    changed_tile = moved_class(tiles[0], "Stroma")
    drawn = {"type": "Feature", "id": "6ba7b810-9dad-51d1-80b4-00000000000a",
             "geometry": regions[0]["geometry"],
             "properties": {"objectType": "annotation",
                            "classification": {"name": "Tumor", "color": [200, 0, 0]}}}  # fmt: skip
    held = [accepted, edited, changed_tile, drawn, *regions[2:], *tiles[1:]]
    player.add("scaat_import.groovy", overlays, image(objects=held))
    ((done,),) = player.play()
    assert "3 changed in QuPath kept" in done["lines"][0]
    after = {o["id"]: o for o in done["objects"]}
    assert len(after) == len(held)
    assert after[accepted["id"]]["properties"]["classification"]["name"] == "Tumor"
    assert after[edited["id"]]["geometry"] == edited["geometry"]
    assert after[changed_tile["id"]]["properties"]["classification"]["name"] == "Stroma"
    assert drawn["id"] in after


def test_tiles_that_were_not_judged(player: Player, tmp_path: Path) -> None:
    """Their class is of no probability, and no correction; a class given to one is."""
    overlays = exported(tmp_path / "o", unlike=100.0)
    objects = features(overlays / "S1.geojson.gz")
    names = {o["properties"]["classification"]["name"] for o in objects}
    assert names == {"Unlike training"}
    given = moved_class(objects[0], "Tumor")
    player.add("scaat_import.groovy", overlays, image(objects=[given, *objects[1:]]))
    ((done,),) = player.play()
    assert "1 changed in QuPath kept" in done["lines"][0]
    after = {o["id"]: o["properties"]["classification"]["name"] for o in done["objects"]}
    assert len(after) == len(objects)
    assert after.pop(given["id"]) == "Tumor"
    assert set(after.values()) == {"Unlike training"}


def test_tiles_that_contribute_little(player: Player, tmp_path: Path) -> None:
    """Their class is above no other either; one that is given to a tile is kept, of the same name
    as the class that the tile is a little above even of too."""
    overlays = exported(tmp_path / "o", probability=[0.49, 0.51], of_slides=True)
    objects = features(overlays / "S1.geojson.gz")
    tiles = [o for o in objects if o["properties"]["objectType"] == "tile"]
    assert {o["properties"]["classification"]["name"] for o in tiles} == {"Contributes little"}
    given = moved_class(tiles[0], "Tumor")
    player.add("scaat_import.groovy", overlays, image(objects=[given, *tiles[1:]]))
    ((done,),) = player.play()
    assert "1 changed in QuPath kept" in done["lines"][0]
    after = {o["id"]: o["properties"]["classification"]["name"] for o in done["objects"]}
    assert after.pop(given["id"]) == "Tumor"
    assert set(after.values()) == {"Contributes little"}


def test_another_models_overlay_replaces_the_last(player: Player, tmp_path: Path) -> None:
    old = exported(tmp_path / "old")
    new = exported(tmp_path / "new", model="e", seed=7)
    before, after = features(old / "S1.geojson.gz"), features(new / "S1.geojson.gz")
    tiles = [{o["id"] for o in part if o["properties"]["objectType"] == "tile"}
             for part in (before, after)]  # fmt: skip
    assert tiles[0] == tiles[1]  # of slide and place
    player.add("scaat_import.groovy", new, image(objects=before))
    ((done,),) = player.play()
    assert {o["id"] for o in done["objects"]} == {o["id"] for o in after}
    regions = [o for o in done["objects"] if o["properties"]["objectType"] == "annotation"]
    assert {o["properties"]["metadata"]["model"] for o in regions} == {"e" * 16}


@pytest.mark.parametrize("script", ["scaat_import.groovy", "scaat_export_annotations.groovy"])
def test_moved_images_are_refused(player: Player, tmp_path: Path, script: str) -> None:
    overlays = exported(tmp_path / "o") if "import" in script else tmp_path / "back"
    kinds = ["OpenSlide (Rotate 180)", "Bio-Formats (Flip horizontal)", "Affine transform server",
             "Generated pyramid (OpenSlide (Rotate 90))"]  # fmt: skip
    for kind in kinds:
        player.add(script, overlays, image(type=kind))
    player.add(script, overlays, image(type="Normalizing server", wrapped="X (Rotate 180)"))
    player.add(script, overlays, image(type="OpenSlide (No rotation)"))
    *refused, (fine,) = player.play()
    for (one,) in refused:
        assert len(one["lines"]) == 1
        assert "REFUSED, the image is opened as" in one["lines"][0]
        assert not one["objects"]
    assert "REFUSED" not in fine["lines"][0]


def test_bad_records_and_files_give_one_refusal(player: Player, tmp_path: Path) -> None:
    def spoilt(name: str, **contents: bytes) -> None:
        folder = exported(tmp_path / "bad" / name)
        for suffix, data in contents.items():
            file = folder / f"S1.{suffix.replace('_', '.')}"
            file.write_bytes(data)
        player.add("scaat_import.groovy", folder, image())

    text = b"notes of Tuesday: look again at slide 3"
    spoilt("1", json=b"{}")
    spoilt("2", json=b"x{")
    spoilt("3", json=b"")
    spoilt("4", json=b"[1]")
    spoilt("5", json=b'{"files": {"S1.geojson.gz": {"frame": 3}}}')
    spoilt("6", geojson_gz=gzip.compress(text))
    spoilt("7", geojson_gz=b"\x1f\x8bcut")
    for n, data in enumerate((text, b'{"type": "Topology"}', b"", b"{")):
        folder = tmp_path / "bad" / f"plain{n}"
        folder.mkdir()
        (folder / "S1.geojson").write_bytes(data)  # nobody's record is beside it
        player.add("scaat_import.groovy", folder, image())
    for (one,) in player.play():
        assert len(one["lines"]) == 1, one["lines"]
        assert one["lines"][0].startswith("SCAAT S1: REFUSED, "), one["lines"]
        assert one["objects"] == []


def test_another_slides_frame_or_bytes_are_refused(player: Player, tmp_path: Path) -> None:
    overlays = exported(tmp_path / "o")
    player.add("scaat_import.groovy", overlays, image(width=900))
    mixed = exported(tmp_path / "mixed")
    exported(tmp_path / "mixed", "S2", seed=3)
    shutil.copy(mixed / "S2.geojson.gz", mixed / "S1.geojson.gz")
    player.add("scaat_import.groovy", mixed, image())
    (frame,), (bytes_,) = player.play()
    assert (
        "REFUSED, made for an image of 645 x 515 px, the open one has 900 x 515"
        in frame["lines"][0]
    )
    assert "is not the file that its record names" in bytes_["lines"][0]


def test_a_name_with_dots_takes_only_its_own(player: Player, tmp_path: Path) -> None:
    overlays = exported(tmp_path / "o", "a")
    exported(overlays, "b.c", seed=1)
    player.add("scaat_import.groovy", overlays, image("/s/a.b.c.tiff"), image("/s/a.ome.tiff"),
               image("/s/b.c.svs"), image("/s/b.c"))  # fmt: skip
    ((foreign, ome, own, bare),) = player.play()
    assert foreign["lines"] == ["SCAAT a.b.c.tiff: no file"]
    assert ome["lines"][0].startswith("SCAAT a: imported")
    assert own["lines"][0].startswith("SCAAT b.c: imported")
    assert bare["lines"][0].startswith("SCAAT b.c: imported")


def test_two_slides_of_one_name_are_distinguished(player: Player, tmp_path: Path) -> None:
    overlays = exported(tmp_path / "o", "siteA_S1")
    exported(overlays, "siteB_S1", seed=1)
    pair = (image("/c/siteA/S1.svs"), image("/c/siteB/S1.svs"))
    player.add("scaat_import.groovy", overlays, *pair)
    both = exported(tmp_path / "both", "S1")
    exported(both, "siteB_S1", seed=1)
    player.add("scaat_import.groovy", both, image("/c/siteB/S1.svs"))
    back = tmp_path / "back"
    player.add("scaat_export_annotations.groovy", back, *pair)
    player.add("scaat_export_annotations.groovy", back, image("/c/T.svs"), image("/c/T.svs"))
    player.add("scaat_export_annotations.groovy", back, image("/c/U.svs"), image("/c/U.ndpi"))
    player.add("scaat_export_annotations.groovy", overlays, image("/c/T.svs"))
    imported, (unclear,), written, twice, kinds, (among,) = player.play()
    assert [one["lines"][0].split(":")[0] for one in imported] == [
        "SCAAT siteA_S1", "SCAAT siteB_S1",
    ]  # fmt: skip
    assert "REFUSED, S1 and siteB_S1 may both be this slide" in unclear["lines"][0]
    assert [one["lines"] for one in written] == [
        ["SCAAT siteA_S1: 0 annotations written"], ["SCAAT siteB_S1: 0 annotations written"],
    ]  # fmt: skip
    assert all("more than once" in one["lines"][0] for one in twice)
    assert [one["lines"][0] for one in kinds] == [
        "SCAAT U.svs: 0 annotations written", "SCAAT U.ndpi: 0 annotations written",
    ]  # fmt: skip
    assert "holds overlays; give another folder" in among["lines"][0]
    assert sorted(p.name for p in back.iterdir()) == [
        "U.ndpi.geojson", "U.svs.geojson", "siteA_S1.geojson", "siteB_S1.geojson",
    ]  # fmt: skip


def test_records_hash_what_they_name(tmp_path: Path) -> None:
    """The import script relies on it."""
    overlays = exported(tmp_path / "o")
    record = json.loads((overlays / "S1.json").read_text())
    for name, entry in record["files"].items():
        assert file_sha256(overlays / name) == entry["sha256"]
