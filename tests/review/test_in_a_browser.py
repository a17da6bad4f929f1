"""A person at the keyboard: fifty regions judged, maps in place, nothing asked from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Browser
from map_stores import run_with_maps, write_marked_slide

from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.review.drawings import DrawingTable
from pathology_scaat.review.regions import overlay_path, read_regions
from pathology_scaat.review.verdicts import VerdictTable

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SIDE = 2048
MARKS = [
    BoxPx(128 + 256 * col, 96 + 256 * row, 24 + 8 * ((col + row) % 3), 24)
    for row in range(7)
    for col in range(7)
] + [BoxPx(1984, 1984, 32, 32)]
"""Fifty dark squares on white: each becomes a region of the map of darkness."""


@dataclass
class Session:
    """A running 'scaat review' and its link."""

    out: Path
    link: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("review")
    slide = write_marked_slide(folder / "a.tiff", MARKS, SizePx(SIDE, SIDE), 0.5)
    out = run_with_maps(folder / "out", ("a", "b"), {"a": slide})
    manifest = folder / "cohort.csv"
    manifest.write_text("slide_path,slide_id,mpp\na.tiff,a,0.5\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pathology_scaat", "review", str(out), "--no-browser",
         "--manifest", str(manifest)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # whoever runs the tests in the background may ignore Ctrl-C for all that is started
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://127.0.0.1:" in line, line
    yield Session(out, line[line.index("http") :].strip())
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    process.stdout.close()
    assert process.wait(30) in (0, 130)


@pytest.fixture(scope="module")
def browser(session: Session) -> Iterator[Browser]:
    page = Browser()
    page.open(session.link)
    page.wait("document.querySelectorAll('#cohort tbody tr').length === 2")
    yield page
    page.close()


def open_slide_page(browser: Browser, session: Session, slide_id: str = "a") -> None:
    root = session.link.partition("?")[0]
    browser.open(f"{root}slide/{slide_id}")
    browser.wait("document.body.dataset.ready === 'yes' && document.body.dataset.map")


def test_the_cohort_is_a_table_that_sorts_and_filters(browser: Browser, session: Session) -> None:
    browser.open(session.link.partition("?")[0])
    browser.wait("document.querySelectorAll('#cohort tbody tr').length === 2")
    assert "2 of 2 slides" in browser.js("document.getElementById('count').textContent")
    browser.js("document.querySelector('th button[data-key=slide_id]').click()")
    first = "document.querySelector('#cohort tbody tr td:nth-child(2)').textContent"
    assert browser.js(first) == "b"
    browser.js("f = document.getElementById('filter'); f.value = 'no such slide'")
    browser.js("f.dispatchEvent(new Event('input'))")
    assert browser.js("document.querySelectorAll('#cohort tbody tr').length") == 0
    browser.js("f.value = ''; f.dispatchEvent(new Event('input'))")
    assert browser.failures == []


def test_of_many_slides_a_hundred_rows_are_drawn_at_a_time(
    browser: Browser, session: Session
) -> None:
    browser.open(session.link.partition("?")[0])
    browser.wait("document.querySelectorAll('#cohort tbody tr').length === 2")
    browser.js(
        "const one = state.rows[0]; state.rows = Array.from({length: 230}, (_, i) => "
        "({...one, has_slide: false, slide_id: 's' + String(i).padStart(3, '0')})); drawFirst()"
    )
    rows = "[...document.querySelectorAll('#cohort tbody tr td:nth-child(2)')]"
    shown = f"{rows}.map(e => e.textContent)"
    assert browser.js(shown) == [f"s{i:03d}" for i in range(100)]
    assert browser.js("document.getElementById('before').disabled")
    for _ in range(2):
        browser.js("document.getElementById('after').click()")
    assert browser.js(shown) == [f"s{i:03d}" for i in range(200, 230)]
    assert browser.js("document.getElementById('after').disabled")
    assert browser.js("document.getElementById('page').textContent") == "rows 201 to 230 of 230"
    browser.js("document.querySelector('th button[data-key=slide_id]').click()")  # from the top
    assert browser.js(f"{shown}[0]") == "s229"
    order = browser.js("JSON.parse(sessionStorage.getItem('order'))")
    assert order == [f"s{i:03d}" for i in range(229, -1, -1)]  # n and p go through all of them
    assert browser.failures == []


def test_regions_are_not_ordered_by_models_that_are_not_there(
    browser: Browser, session: Session
) -> None:
    open_slide_page(browser, session)
    names = "[...document.querySelectorAll('#regions li')].map(e => e.textContent)"
    before = browser.js(names)
    browser.js("o = byId('order'); o.value = 'disagreement'; o.dispatchEvent(new Event('change'))")
    browser.wait("byId('problem').textContent.includes('one model')")
    assert browser.js("byId('order').value") == "uncertainty"
    assert browser.js(names) == before
    assert all("404" in text for text in browser.failures)  # the refusal itself
    browser.failures.clear()


def test_fifty_regions_are_judged_by_keyboard_alone(browser: Browser, session: Session) -> None:
    path = overlay_path(session.out / "overlays", "a")
    assert path is not None
    assert len(read_regions(path)) == len(MARKS) == 50
    open_slide_page(browser, session)
    browser.press("y")  # without a name nothing is saved, and the page says so
    browser.wait("document.getElementById('problem').textContent.includes('name')")
    browser.type("#reviewer", "ann")
    began = time.monotonic()
    for number in range(50):
        browser.press("ynu"[number % 3])
    browser.wait("document.getElementById('progress').textContent.startsWith('50 of 50')")
    seconds = time.monotonic() - began
    browser.press("z")
    browser.wait("document.getElementById('progress').textContent.startsWith('49 of 50')")
    browser.press("2")
    browser.wait("document.getElementById('slide-verdict').textContent === 'no'")
    held = VerdictTable(session.out).current()
    answers = [v.answer for v in held.values() if v.region_id != "slide"]
    assert len(answers) == 49
    assert [answers.count(a) for a in ("yes", "no", "unsure")] == [17, 16, 16]
    assert held[("ann", "a", "slide")].answer == "no"
    assert all(v.seconds is None for v in held.values())  # nobody asked for times
    assert seconds < 100
    open_slide_page(browser, session)  # and they are there again
    browser.wait("document.getElementById('progress').textContent.startsWith('49 of 50')")
    assert browser.failures == []


def test_slide_map_and_outline_lie_on_each_other(browser: Browser, session: Session) -> None:
    """At 40x (0.25 µm a screen pixel) within one screen pixel, on both views."""
    open_slide_page(browser, session)
    # Not the evidence, which is smoothed and so a little broader than the mark.
    browser.js("byId('channel').value = state.details.channels.indexOf('saliency')")
    browser.js("loadMap(state.details.channels.indexOf('saliency'))")
    browser.wait("document.body.dataset.map === 'saliency'")
    mark = MARKS[24]
    middle = f"{mark.x + mark.width / 2}, {mark.y + mark.height / 2}"
    browser.js(
        f"""(() => {{
        const view = state.viewers[0].viewport, item = state.viewers[0].world.getItemAt(0);
        view.zoomTo(view.imageToViewportZoom(2), null, true);
        view.panTo(item.imageToViewportCoordinates({middle}), true);
        document.getElementById('opacity').value = 1;
        showMap();
        }})()"""
    )
    browser.wait(
        "state.viewers.every(v => v.world.getItemAt(0).getFullyLoaded()) && "
        "state.layers.length === 1 && state.layers[0].getFullyLoaded()"
    )
    browser.js("new Promise(done => setTimeout(done, 700))")
    picture = browser.screenshot().astype(int)
    boxes = browser.js(
        f"""state.viewers.map((v) => {{
        const r = v.element.getBoundingClientRect(), item = v.world.getItemAt(0);
        const c = item.imageToViewerElementCoordinates(new OpenSeadragon.Point({middle}));
        return [r.left, r.top, r.width, r.height, r.left + c.x, r.top + c.y];
        }})"""
    )
    (left, top, _, _, x0, y0), (right_left, right_top, _, _, x1, y1) = boxes
    half = 70

    def centre(x: float, y: float, dark: bool) -> tuple[float, float]:
        x, y = round(x), round(y)
        part = picture[y - half : y + half, x - half : x + half]
        # The bare slide's mark is black; with the map it is the top colour: yellow, so little blue.
        weight = (255 - part.mean(axis=2)) if dark else (part[..., 0] - part[..., 2]).clip(0)
        weight = np.where(weight > 0.6 * weight.max(), 1.0, 0.0)
        rows, cols = np.nonzero(weight)
        return x - half + cols.mean() + 0.5, y - half + rows.mean() + 0.5

    assert left < right_left
    assert top == right_top
    for x, y, dark in ((x0, y0, True), (x1, y1, False)):
        found = centre(x, y, dark)
        assert abs(found[0] - x) <= 1, (found, x)
        assert abs(found[1] - y) <= 1, (found, y)


def test_blind_reading_hides_the_map_until_the_verdict(browser: Browser, session: Session) -> None:
    open_slide_page(browser, session, "b")
    browser.js("document.getElementById('blind').click()")
    browser.press("j")
    browser.press("k")
    browser.wait("state.current === 0 && mapOpacity() === 0")
    assert browser.js("getComputedStyle(document.getElementById('legend')).visibility") == "hidden"
    browser.press("n")
    browser.wait("mapOpacity() > 0")
    assert browser.js("getComputedStyle(document.getElementById('legend')).visibility") == "visible"
    blind = [v for v in VerdictTable(session.out).rows() if v.slide_id == "b"]
    assert [(v.answer, v.blind) for v in blind] == [("no", True)]
    browser.js("document.getElementById('blind').click()")


def test_values_under_the_cursor_and_times_are_true(browser: Browser, session: Session) -> None:
    open_slide_page(browser, session, "a")
    position = browser.js(
        """(async () => { await loadMap(state.details.channels.indexOf('saliency'));
        const v = state.viewers[1], item = v.world.getItemAt(0);
        const r = v.element.getBoundingClientRect();
        v.viewport.goHome(true);
        const c = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(1999.5, 1999.5));
        return [r.left + c.x, r.top + c.y]; })()"""
    )
    x, y = position
    for left in (x - 4, x):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=y)
    browser.wait("byId('cursor').textContent === 'saliency 1.00'")  # the last mark: black
    browser.js("byId('timed').click(); byId('reviewer').value = 'cy'")
    browser.js("byId('reviewer').dispatchEvent(new Event('change'))")
    browser.js("state.openedAt = performance.now() - 60000; state.shownAt = performance.now()")
    browser.press("3")
    browser.wait("byId('slide-verdict').textContent === 'unsure'")
    held = VerdictTable(session.out).current()[("cy", "a", "slide")]
    assert held.seconds is not None
    assert 60 <= held.seconds < 120  # since the slide was opened, not since the last region
    browser.press("z")
    browser.wait("byId('slide-verdict').textContent === ''")
    browser.js("byId('timed').click(); byId('reviewer').value = 'ann'")
    browser.js("byId('reviewer').dispatchEvent(new Event('change'))")
    assert browser.failures == []


def test_nothing_is_asked_from_outside(browser: Browser, session: Session) -> None:
    own = urlsplit(session.link).netloc
    asked = {urlsplit(url).netloc for url in browser.requests if url.startswith("http")}
    assert asked == {own}
    assert len(browser.requests) > 20


def test_pages_are_usable_without_a_mouse(browser: Browser, session: Session) -> None:
    """Every control has a name, and the keyboard reaches it."""
    open_slide_page(browser, session)
    nameless = browser.js(
        """[...document.querySelectorAll('button, input, select')].filter((e) =>
        !(e.textContent.trim() || e.closest('label')?.textContent.trim() || e.ariaLabel)).length"""
    )
    assert nameless == 0
    assert browser.js("document.documentElement.lang") == "en"
    assert browser.js("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex <= 0)")


def test_an_outline_is_drawn_taken_back_and_given_up_by_keyboard(
    browser: Browser, session: Session
) -> None:
    open_slide_page(browser, session)
    browser.js("byId('reviewer').value || (byId('reviewer').value = 'ann')")
    browser.press("d")
    for key in ("Enter", *["ArrowRight"] * 3, "Enter", *["ArrowDown"] * 3, "Enter", "Backspace"):
        browser.press(key)
    browser.press("Enter")
    browser.press("y")  # no verdict by mistake while an outline is open
    judged = browser.js("document.getElementById('progress').textContent")
    browser.press("c")
    browser.wait("document.querySelectorAll('#drawings li').length === 1")
    assert browser.js("document.getElementById('progress').textContent") == judged
    (kept,) = DrawingTable(session.out).current()
    assert (kept.reviewer, kept.slide_id, kept.class_name) == ("ann", "a", "normal")
    (x0, y0), (x1, y1), (x2, y2) = kept.ring
    assert y0 == pytest.approx(y1, abs=0.2)
    assert x1 == pytest.approx(x2, abs=0.2)
    assert x1 - x0 == pytest.approx(y2 - y1, abs=0.4)  # three steps each way
    assert 0 <= x0 < x1 <= SIDE
    browser.press("z")
    browser.wait("document.querySelectorAll('#drawings li').length === 0")
    assert DrawingTable(session.out).current() == ()
    browser.press("d")
    browser.press("Enter")
    browser.press("Escape")
    assert browser.js("drawing.active") is False
    assert browser.failures == []


def test_why_is_reported_and_what_is_not_known_is_said(browser: Browser, session: Session) -> None:
    open_slide_page(browser, session)
    browser.press("w")
    browser.wait("document.body.dataset.why === state.details.regions[state.current].region_id")
    words = browser.js("document.getElementById('why').textContent")
    assert "not at hand" in words  # no model made this map of darkness
    assert "tumour: " in words
    assert "without" in words
    browser.press("w")
    assert browser.js("document.getElementById('why').hidden") is True


def test_axe_finds_nothing_serious(browser: Browser, session: Session) -> None:
    """With axe-core, which is not shipped: 'npm install axe-core', SCAAT_AXE=its axe.min.js."""
    script = os.environ.get("SCAAT_AXE")
    if not script:
        pytest.skip("axe-core is not here: set SCAAT_AXE to its axe.min.js")
    source = Path(script).read_text(encoding="utf-8")
    root = session.link.partition("?")[0]
    for address in (root, f"{root}slide/a"):
        browser.open(address)
        browser.wait("document.querySelector('#count, #regions li')")
        browser.js(f"{source};0")
        found = browser.js(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => v.id + ': ' + v.nodes[0].html))"
        )
        assert found == [], address


def test_at_twice_the_size_nothing_is_cut_off_sideways(browser: Browser, session: Session) -> None:
    metrics = {"deviceScaleFactor": 2, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", width=700, height=450, **metrics)
    try:
        for address in ("", "slide/a"):
            browser.open(session.link.partition("?")[0] + address)
            browser.wait("document.querySelector('#cohort tbody tr, #regions li')")
            wide = browser.js("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, address
    finally:
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=1400, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
