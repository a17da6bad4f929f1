"""Nobody but the browser that opened the link gets an answer, and nothing leaves the page."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from drawn_slides import draw_slide
from map_stores import run_with_maps

from pathology_scaat.export.report.page import CONTENT_POLICY, write_page
from pathology_scaat.export.report.records import read_cohort
from pathology_scaat.pipeline.review import import_review
from pathology_scaat.review.access import COOKIE, HEADERS, Access
from pathology_scaat.review.regions import overlay_path, read_regions
from pathology_scaat.review.reviewed_run import Review
from pathology_scaat.review.server import STATIC, application, bind, serve

ROUTES = [
    "/", "/slide/s1", "/static/slide.js", "/api/cohort", "/api/slide/s1",
    "/tiles/s1/0/0_0.jpg", "/thumbnail/s1.jpg", "/map/s1/0.png", "/nowhere",
    "/api/why/s1?region=none", "/neighbour/s1/0.jpg", "/exported/overlays/index.html",
]  # fmt: skip
NOT_THERE = {"/nowhere", "/api/why/s1?region=none", "/neighbour/s1/0.jpg"}
"""Routes of which this run has nothing to show."""


@dataclass
class Served:
    """A running server and the smallest possible client."""

    out: Path
    access: Access

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.access.port, timeout=30)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        data = (body or "").encode()
        if method == "POST":
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data or None)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def cookie(self) -> str:
        status, headers, _ = self.ask(self.access.link.partition(str(self.access.port))[2])
        assert status == 302
        return headers["Set-Cookie"].partition(";")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its slide, made once; each test has a copy of its own to write into."""
    folder = tmp_path_factory.mktemp("finished")
    run_with_maps(folder / "out", ("s1", "s2"))
    draw_slide(folder / "s1.tiff", 1)
    write_page(read_cohort(folder / "out" / "overlays"))
    return folder


@pytest.fixture
def served(tmp_path: Path, finished: Path) -> Iterator[Served]:
    out = shutil.copytree(finished / "out", tmp_path / "out")
    shutil.copy(finished / "s1.tiff", tmp_path / "s1.tiff")
    socket, port = bind()
    access = Access(port)
    review = Review(out, {"s1": (tmp_path / "s1.tiff", None)}, access)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(review, socket, ready.set))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    yield Served(out, access)
    loop.call_soon_threadsafe(task.cancel)
    thread.join(30)


def test_every_route_is_closed_without_the_cookie(served: Served) -> None:
    for route in ROUTES:
        assert served.ask(route)[0] == 403, route
        assert served.ask(route, Cookie=f"{COOKIE}=guess")[0] == 403, route
    origin = f"http://127.0.0.1:{served.access.port}"
    for route in ("/api/verdict", "/api/drawing"):
        assert served.ask(route, "POST", "{}", Origin=origin)[0] == 403


def test_every_route_of_the_application_was_tried() -> None:
    review = Review(Path("nowhere"), {}, Access(1))
    rules = application(review).wildcard_router.rules
    patterns = [rule.matcher.regex for rule in rules]
    tried = [*ROUTES, "/api/verdict", "/api/drawing"]
    assert [
        p.pattern for p in patterns if not any(p.match(r.partition("?")[0]) for r in tried)
    ] == []
    review.close()


def test_the_link_works_once(served: Served) -> None:
    cookie = served.cookie()
    again = served.ask(served.access.link.partition(str(served.access.port))[2])
    assert again[0] == 403
    assert served.ask("/?token=wrong")[0] == 403
    assert served.ask("/", Cookie=cookie)[0] == 200


def test_the_cookie_is_for_this_server_only(served: Served) -> None:
    path = served.access.link.partition(str(served.access.port))[2]
    given = served.ask(path)[1]["Set-Cookie"]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "localhost.evil.example", ""])
def test_a_foreign_host_is_refused(served: Served, host: str) -> None:
    """A page of another name that was made to point here (DNS rebinding)."""
    cookie = served.cookie()
    assert served.ask("/api/cohort", Host=host, Cookie=cookie)[0] in (400, 403)
    assert (
        served.ask("/api/cohort", Host=f"localhost:{served.access.port}", Cookie=cookie)[0] == 200
    )


def test_a_foreign_origin_is_refused(served: Served) -> None:
    cookie = served.cookie()
    verdict = json.dumps({
        "reviewer": "a", "slide_id": "s1", "region_id": "slide", "target_class": "t",
        "answer": "yes",
    })  # fmt: skip
    good = f"http://127.0.0.1:{served.access.port}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert served.ask("/api/verdict", "POST", verdict, Origin=origin, Cookie=cookie)[0] == 403
    assert served.ask("/api/verdict", "POST", verdict, Cookie=cookie)[0] == 403
    assert served.ask("/api/verdict", "POST", verdict, Origin=good, Cookie=cookie)[0] == 200
    assert (served.out / "review" / "verdicts.csv").is_file()


def test_an_ssh_tunnels_port_is_known_when_it_is_given() -> None:
    access = Access(4000, (8080,))
    assert access.refusal("GET", "localhost:8080", None) is None
    assert Access(4000).refusal("GET", "localhost:8080", None) is not None


@pytest.mark.parametrize("path", [
    "/slide/..%2f..%2fetc%2fpasswd", "/static/..%2fserver.py", "/static/server.py",
    "/tiles/..%2fs1/0/0_0.jpg", "/map/%2e%2e/0.png", "/slide/s9", "/map/s1/99.png",
    "/tiles/s1/99/0_0.jpg", "/tiles/s1/0/5_0.jpg", "/tiles/s2/0/0_0.jpg",
])  # fmt: skip
def test_only_names_of_the_table_are_served(served: Served, path: str) -> None:
    status, _, content = served.ask(path, Cookie=served.cookie())
    assert status == 404
    assert str(served.out).encode() not in content


def test_every_answer_carries_the_policy_and_no_outside_address(served: Served) -> None:
    cookie = served.cookie()
    for route in [*ROUTES, *(f"/static/{name}" for name in STATIC)]:
        status, headers, content = served.ask(route, Cookie=cookie)
        assert status == (404 if route in NOT_THERE else 200), route
        if route.startswith("/exported/"):
            assert headers["Content-Security-Policy"].startswith(CONTENT_POLICY)
        else:
            assert headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        if (route.endswith((".js", "html")) and "openseadragon" not in route) or route == "/":
            found = re.findall(rb"https?://[^\s\"'`)]+", content)
            assert set(found) <= {b"http://www.w3.org/2000/svg"}, route


def test_no_answer_holds_a_path_or_the_files_name(served: Served, tmp_path: Path) -> None:
    cookie = served.cookie()
    for route in ROUTES:
        _, headers, content = served.ask(route, Cookie=cookie)
        everything = content + repr(headers).encode()
        for canary in (str(tmp_path), "s1.tiff"):
            assert canary.encode() not in everything, route


def test_a_request_that_is_no_verdict_writes_nothing(served: Served) -> None:
    cookie, origin = served.cookie(), f"http://127.0.0.1:{served.access.port}"
    bad = [
        "", "[]", "{}", '{"reviewer": "a"}',
        json.dumps({"reviewer": "a", "slide_id": "s1", "region_id": "r", "target_class": "t",
                    "answer": "maybe"}),
        json.dumps({"reviewer": " ", "slide_id": "s1", "region_id": "r", "target_class": "t",
                    "answer": "yes"}),
    ]  # fmt: skip
    for body in bad:
        assert served.ask("/api/verdict", "POST", body, Origin=origin, Cookie=cookie)[0] == 400
    unknown = json.dumps({
        "reviewer": "a", "slide_id": "../x", "region_id": "r", "target_class": "t", "answer": "yes"
    })  # fmt: skip
    assert served.ask("/api/verdict", "POST", unknown, Origin=origin, Cookie=cookie)[0] == 404
    gone = {**json.loads(unknown), "slide_id": "s1", "region_id": "of-another-model"}
    answer = served.ask("/api/verdict", "POST", json.dumps(gone), Origin=origin, Cookie=cookie)
    assert answer[0] == 404
    assert b"reload the page" in answer[2]
    assert not (served.out / "review").exists()


def test_a_verdict_keeps_the_outline_that_it_is_about(served: Served) -> None:
    """Another model's overlay takes the place of the one that was judged."""
    cookie, origin = served.cookie(), f"http://127.0.0.1:{served.access.port}"
    path = overlay_path(served.out / "overlays", "s1")
    assert path is not None
    first, second = read_regions(path)[:2]
    for region, answer in ((first, "yes"), (second, "no"), (first, "yes")):
        verdict = {"reviewer": "ann", "slide_id": "s1", "region_id": region.region_id,
                   "target_class": "tumour", "answer": answer}  # fmt: skip
        assert served.ask("/api/verdict", "POST", json.dumps(verdict),
                          Origin=origin, Cookie=cookie)[0] == 200  # fmt: skip
    lines = (served.out / "review" / "regions.jsonl").read_text().splitlines()
    assert len(lines) == 2
    before = import_review(served.out, negative_class="normal").labels
    before_text = before.files["s1"].read_text()
    path.unlink()
    after = import_review(served.out, negative_class="normal").labels
    assert (after.counts, after.gone) == ({"tumour": 1, "normal": 1}, 0)
    assert after.files["s1"].read_text() == before_text


def test_a_drawing_is_kept_and_one_that_is_none_is_refused_in_words(served: Served) -> None:
    cookie, origin = served.cookie(), f"http://127.0.0.1:{served.access.port}"
    good = {"reviewer": "ann", "slide_id": "s1", "drawing_id": "d1", "class_name": "normal",
            "ring": [[10, 10], [60, 10], [60, 50]]}  # fmt: skip

    def send(**changed: object) -> tuple[int, bytes]:
        answer = served.ask("/api/drawing", "POST", json.dumps({**good, **changed}),
                            Origin=origin, Cookie=cookie)  # fmt: skip
        return answer[0], answer[2]

    crossed = [[0, 0], [10, 10], [10, 0], [0, 10]]
    assert b"crosses itself" in send(ring=crossed)[1]
    bad = [{"ring": crossed}, {"ring": [[0, 0], [1, 1]]}, {"class_name": "none such"},
           {"reviewer": " "}, {"ring": "round"}, {"ring": [[0, 0], [1, None], [2, 2]]},
           {"ring": [[0, 0], [1e999, 1], [2, 2]]}]  # fmt: skip
    assert [send(**change)[0] for change in bad] == [400] * len(bad)
    assert send(slide_id="../x")[0] == 404
    assert not (served.out / "review").exists()
    assert send()[0] == 200
    held = json.loads(served.ask("/api/slide/s1", Cookie=cookie)[2])["drawings"]
    assert [d["ring"] for d in held] == [good["ring"]]
    assert send(removed=True, ring=[])[0] == 200
    assert json.loads(served.ask("/api/slide/s1", Cookie=cookie)[2])["drawings"] == []


def test_the_exported_page_and_its_files_are_served_and_nothing_else(served: Served) -> None:
    cookie = served.cookie()
    out = served.out
    answer = json.loads(served.ask("/api/cohort", Cookie=cookie)[2])
    assert answer["exported_page"] == "/exported/overlays/index.html"
    page = served.ask(answer["exported_page"], Cookie=cookie)[2]
    assert page == (out / "overlays" / "index.html").read_bytes()
    links = [
        link
        for link in re.findall(rb'href="([^"#]+)"', page)
        if not link.startswith((b"#", b"data:"))
    ]
    assert links
    for link in links:
        status, headers, content = served.ask(f"/exported/overlays/{link.decode()}", Cookie=cookie)
        assert status == 200
        assert content == (out / "overlays" / link.decode()).read_bytes()
        assert ("Content-Disposition" in headers) == link.endswith(b".gz")
    (out / "overlays" / "beside.png").write_bytes(b"not of the page")
    for path in ("slides.csv", "run.json", "overlays/beside.png", "overlays/../slides.csv",
                 "overlays/%2e%2e/slides.csv", "/etc/passwd", "%2fetc%2fpasswd"):  # fmt: skip
        assert served.ask(f"/exported/{path}", Cookie=cookie)[0] == 404, path
    linked = out / "overlays" / links[0].decode()
    linked.unlink()
    linked.symlink_to(out.parent / "s1.tiff")
    assert served.ask(f"/exported/overlays/{links[0].decode()}", Cookie=cookie)[0] == 404
    (out / "overlays" / "index.html").unlink()
    assert json.loads(served.ask("/api/cohort", Cookie=cookie)[2])["exported_page"] is None
    assert served.ask("/exported/overlays/index.html", Cookie=cookie)[0] == 404
