"""The door for URLs: what is opened, what is refused, and that nothing runs."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from forked_command import run_forked
from fsspec.registry import known_implementations
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.artifacts.urls import (
    ALLOW_VARIABLE,
    SCHEMES,
    SlideUrl,
    allow_urls,
    check_url,
    is_url,
    open_filesystem,
    slide_location,
)
from pathology_scaat.artifacts.web_client import is_public
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import AddressError, ManifestError, SlideOpenError, UsageError
from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.byte_store import byte_store_of
from pathology_scaat.patches.publish import new_store
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.remote import remote_fingerprint

PLACE = "host/folder/a.svs"
PATHS = {"file", "local"}


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "")


def spellings(protocol: str) -> list[str]:
    return [f"{protocol}://{PLACE}", f"{protocol.upper()}://{PLACE}", f" {protocol}://{PLACE}"]


def refused_everywhere(text: str, folder: Path) -> None:
    """No way into the package opens a URL, and each says so in one sentence."""
    table = folder / "cohort.csv"
    table.write_text(f'slide_path,slide_id\n"{text}",one\n', encoding="utf-8")
    with pytest.raises(ManifestError) as in_table:
        read_manifest(table)
    with pytest.raises(SlideOpenError) as in_slide:
        open_slide(text)
    location = slide_location(text)
    assert isinstance(location, SlideUrl)
    with pytest.raises(AddressError) as in_door:
        open_filesystem(location)
    with pytest.raises(AddressError):
        byte_store_of(text)
    with pytest.raises(AddressError):
        PatchStore(text)
    with pytest.raises(AddressError), new_store(text):
        pytest.fail("nothing is made for a place that is refused")
    with pytest.raises(SlideOpenError):
        remote_fingerprint(SlideUrl(text))
    for caught in (in_table, in_slide, in_door):
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.endswith(".")
        assert "host" not in sentence.replace(" host", "")  # neither the host nor what follows


@pytest.mark.parametrize("protocol", sorted({*known_implementations, "nonsense", "a b", "x_y"}))
def test_every_protocol_that_fsspec_knows(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: opened.append(url) or (None, ""))
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: opened.append(name))
    for text in spellings(protocol):
        assert is_url(text)
        if protocol in PATHS:
            continue
        if protocol in SCHEMES:
            check_url(slide_location(text))  # type: ignore[arg-type]
        else:
            refused_everywhere(text, tmp_path)
    for chain in (
        f"{protocol}://a.svs::file:///x/a.json",
        f"{protocol}::file:///x/a.json",
        f"s3://bucket/a.svs::{protocol}://x",
        f"https://example.org/a.svs::{protocol}",
        f"{protocol.upper()}::s3://bucket/a.svs",
    ):
        refused_everywhere(chain, tmp_path)
    assert opened == []


@given(st.from_regex(r"[^/\\:\s]{2,12}", fullmatch=True), st.text(max_size=20))
def test_no_other_scheme_passes(scheme: str, rest: str) -> None:
    text = f"{scheme}://{rest}"
    try:
        location = slide_location(text)
        if isinstance(location, Path):
            assert scheme.lower() in PATHS
            return
        check_url(location)
    except AddressError:
        return
    assert scheme.lower() in SCHEMES
    assert "::" not in text


def test_paths_stay_paths(tmp_path: Path) -> None:
    for text in ("a.svs", "C:\\slides\\a.svs", "a::b.svs", "dir/a:b.svs", "~/a.svs"):
        assert slide_location(text) == Path(text)
    assert slide_location(Path("s3://bucket/a.svs")) == Path("s3:/bucket/a.svs")
    assert slide_location("file:///data/a%20b.svs") == Path("/data/a b.svs")
    assert slide_location("FILE://localhost/data/a.svs") == Path("/data/a.svs")
    for text in ("file://server/share/a.svs", "local://server/a.svs"):
        with pytest.raises(AddressError, match="another host"):
            slide_location(text)
        with pytest.raises(SlideOpenError, match="another host"):
            open_slide(text)
        table = tmp_path / "cohort.csv"
        table.write_text(f"slide_path\n{text}\n")
        with pytest.raises(
            ManifestError, match=r"cohort\.csv, line 2: is a file:// URL of another"
        ):
            read_manifest(table)


# --- code in a table of references -----------------------------------------------------------


def evil_references(folder: Path, canary: Path) -> Path:
    """A table of references whose template, once rendered, makes a file."""
    command = f"touch {shlex.quote(str(canary))}"
    key = "{{ cycler.__init__.__globals__.os.system(" + json.dumps(command) + ") }}"
    table = {
        "version": 1, "templates": {}, "refs": {}, ".zattrs": {},
        "gen": [{"key": key, "url": "x", "dimensions": {"i": [0]}}],
    }  # fmt: skip
    file = folder / "x.json"
    file.write_text(json.dumps(table))
    return file


def test_the_attack_is_one(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    canary = tmp_path / "canary"
    file = evil_references(tmp_path, canary)
    fsspec.core.url_to_fs(f"reference://slide.svs::file://{file}", skip_instance_cache=True)
    assert canary.exists()


@pytest.mark.parametrize("verb", ["info", "tile"])
@pytest.mark.parametrize(
    "pattern",
    [
        "reference://slide.svs::file://{}",
        "REFERENCE://slide.svs::file://{}",
        "reference::file://{}",
        "simplecache::reference://slide.svs::file://{}",
        "s3://b/k::reference://slide.svs::file://{}",
        "reference://slide.svs?fo=file://{}",
    ],
)
def test_a_row_of_a_table_runs_nothing(verb: str, pattern: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    address = pattern.format(evil_references(tmp_path, canary))
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_path,slide_id\n{address},one\n")
    arguments = [address] if verb == "info" else ["--manifest", table, "--out", tmp_path / "out"]
    done = scaat(verb, *arguments)
    assert not canary.exists()
    assert done.returncode == 2
    assert re.fullmatch(r"(error: )?[^\n]*(s3, gs, az, abfs or https|a path)\.\n", done.stderr), (
        done.stderr
    )
    assert done.stdout == ""


@pytest.mark.parametrize("reader", ["auto", "tiatoolbox", "tiff", "openslide", "ngff"])
def test_a_local_table_of_references_runs_nothing(reader: str, tmp_path: Path) -> None:
    """tiatoolbox opens such files by fsspec, with their templates."""
    canary = tmp_path / "canary"
    file = evil_references(tmp_path, canary)
    with pytest.raises(SlideOpenError):
        open_slide(file, reader=reader)
    assert not canary.exists()


def scaat(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_forked(arguments, environment={"COLUMNS": "400", **environment})


# --- hosts -----------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "0x7f.1", "0", "0.0.0.0",
    "169.254.169.254", "0xa9fea9fe", "2852039166", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255",
    "[0:0:0:0:0:0:0:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[fd00:ec2:0:0:0:0:0:254]", "[fe80:0:0:0:0:0:0:1]", "[64:ff9b:0:0:0:0:7f00:1]",
    "[2002:7f00:1:0:0:0:0:1]", "localhost", "LOCALHOST.", "a.localhost", "１２７.０.０.１",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_hosts_that_are_not_public(host: str, tmp_path: Path) -> None:
    for url in (f"https://{host}/a.svs", f"https://{host}:8443/a.svs"):
        with pytest.raises(AddressError, match="private, link-local or loopback"):
            check_url(SlideUrl(url))
        with pytest.raises(SlideOpenError, match="private-hosts"):
            open_slide(url)
    check_url(SlideUrl(f"https://{host}/a.svs", frozenset({"private-hosts"})))


def test_public_hosts_pass() -> None:
    for host in ("example.org", "8.8.8.8", "[2606:4700:0:0:0:0:0:1111]", "xn--bcher-kva.example"):
        check_url(SlideUrl(f"https://{host}/a.svs"))
    assert is_public("::ffff:8.8.8.8")
    assert not is_public("::1")
    assert not is_public("fec0::1")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/a.svs", "allow it with --allow-urls http"),
        ("https://user:secret@example.org/a.svs", "password"),
        ("https://secret@example.org/a.svs", "password"),
        ("s3://key:secret@bucket/a.svs", "password"),
        ("https:///a.svs", "without a host"),
        ("https://exam ple.org/a.svs", "no file can have"),
        ("https://example.org\\@127.0.0.1/a.svs", "no file can have"),
        ("https://example.org:99999/a.svs", "no file can have"),
        ("https://[nonsense/a.svs", "no file can have"),
        ("https://example.org/a.svs\u2028b", "no file can have"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(AddressError, match=words) as caught:
        check_url(SlideUrl(url))
    assert "secret" not in str(caught.value)


class Handler(BaseHTTPRequestHandler):
    """Serves one file in ranges, and redirects to it."""

    content = b""
    seen: list[str]

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, code = self.content, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            total, data, code = len(data), data[first : last + 1], 206
        self.send_response(code)
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if send:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(data_dir: Path) -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    content = (data_dir / "formats/aperio_like.svs").read_bytes()
    handler = type("Own", (Handler,), {"content": content, "seen": seen})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield http.server_port, seen
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that look public and lead to this machine."""
    real = socket.getaddrinfo

    def look_up(host: object, *rest: object, **more: object) -> object:
        return real("127.0.0.1" if host == "slides.example.org" else host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


BOX = BoxPx(300, 500, 200, 100)


@pytest.mark.real
def test_a_name_that_leads_here_is_refused(server: tuple[int, list[str]], names: None) -> None:
    port, seen = server
    url = f"http://slides.example.org:{port}/a.svs"
    with pytest.raises(SlideOpenError, match="private, link-local or loopback"):
        open_slide(SlideUrl(url, frozenset({"http"})))
    with pytest.raises(SlideOpenError, match="private, link-local or loopback"):
        remote_fingerprint(SlideUrl(url, frozenset({"http"})))
    assert seen == []
    with open_slide(SlideUrl(url, frozenset({"http", "private-hosts"}))) as slide:
        assert slide.info.reader == "tiff"
    assert set(seen) == {"/a.svs"}


@pytest.mark.real
def test_redirects(server: tuple[int, list[str]], data_dir: Path) -> None:
    port, seen = server
    url = f"http://127.0.0.1:{port}/moved/a.svs"
    with pytest.raises(SlideOpenError, match="redirects to another address"):
        open_slide(SlideUrl(url, frozenset({"http", "private-hosts"})))
    assert set(seen) == {"/moved/a.svs"}
    allowed = SlideUrl(url, frozenset({"http", "private-hosts", "redirects"}))
    with (
        open_slide(allowed) as slide,
        open_slide(data_dir / "formats/aperio_like.svs") as expected,
    ):
        assert np.array_equal(slide.read_level(0, BOX), expected.read_level(0, BOX))


@pytest.mark.real
def test_a_redirect_leads_to_no_private_host(
    server: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged by its text is judged again where the connection is made."""
    port, seen = server
    monkeypatch.setattr("pathology_scaat.artifacts.web_client.check_host", lambda *_: None)
    with pytest.raises(SlideOpenError, match="private, link-local or loopback"):
        open_slide(SlideUrl(f"http://127.0.0.1:{port}/a.svs", frozenset({"http"})))
    assert seen == []


@pytest.mark.real
def test_what_is_asked_for_on_the_command_line(
    server: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, _ = server
    url = f"http://127.0.0.1:{port}/a.svs"
    done = scaat("info", url)
    assert done.returncode == 2
    assert "--allow-urls http" in done.stderr
    assert scaat("info", url, "--allow-urls", "http").stderr.count("private-hosts") == 1
    assert scaat("info", url, "--allow-urls", "http,private-hosts").returncode == 0
    assert scaat("info", url, **{ALLOW_VARIABLE: "http,private-hosts"}).returncode == 0
    done = scaat("info", url, "--allow-urls", "everything")
    assert done.returncode == 2
    assert "http, private-hosts, redirects" in done.stderr
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_path,slide_id\n{url},one\n{url}?again,two\n")
    tile = ["tile", "--manifest", table, "--workers", "2", "--mpp", "1", "--patch-size", "128"]
    done = scaat(*tile, "--out", tmp_path / "no")
    assert done.returncode == 2
    assert "cohort.csv, line 2" in done.stderr
    done = scaat(*tile, "--out", tmp_path / "yes", "--allow-urls", "http,private-hosts")
    assert done.returncode == 0, done.stderr
    assert len(PatchStore(tmp_path / "yes/patches/one.zarr")) > 0


def permissions_of(url: SlideUrl) -> list[str]:
    return sorted(url.permissions)


def test_permissions_travel_with_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_urls("http")
    allow_urls("Redirects")
    url = SlideUrl("http://example.org/a.svs")
    monkeypatch.setenv(ALLOW_VARIABLE, "")  # as on a worker of somebody else
    assert pickle.loads(pickle.dumps(url)).permissions == {"http", "redirects"}
    assert permissions_of(SlideUrl("http://example.org/a.svs")) == []
    (outcome,) = map_jobs(permissions_of, [url], EngineConfig(workers=0))
    assert outcome.result == ["http", "redirects"]
    with pytest.raises(UsageError, match="everything"):
        allow_urls("http,everything")
    monkeypatch.setenv(ALLOW_VARIABLE, "all")
    with pytest.raises(UsageError, match=ALLOW_VARIABLE):
        SlideUrl("https://example.org/a.svs")


def test_nothing_else_turns_a_text_into_a_file_system() -> None:
    """fsspec is imported by one module, which holds the list of protocols."""
    import pathology_scaat

    package = Path(pathology_scaat.__file__).parent
    users = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"^\s*(import|from) (fsspec|s3fs|upath)\b", file.read_text(), re.MULTILINE)
    }
    assert users == {"artifacts/urls.py"}
