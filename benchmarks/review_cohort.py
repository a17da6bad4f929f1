"""The review's first page with a thousand slides, in a headless Chromium.

::

    python benchmarks/review_cohort.py --scratch D --out benchmarks/results/review-cohort.json

Makes one slide with its map and 999 rows like it (every fiftieth failed), starts ``scaat review``
and opens the page. ``table_ms``: from asking for the page to the table being there and drawn.
``sort_ms``, ``filter_ms``, ``turn_ms``: from the click or key to the next drawn frame, the median
and worst of ten; ``scroll_ms``: the longest frame while the table is scrolled through.
``load`` is the load average: above the number of cores others were at work; ``chrt -r 1`` keeps
them off the cores meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "review"), str(ROOT / "benchmarks")]

from browser import Browser  # noqa: E402
from review import MPP, cpu_s, make_run, memory_mb, write_big_slide  # noqa: E402

from pathology_scaat.artifacts.status import StatusTable  # noqa: E402
from pathology_scaat.artifacts.status_columns import STAGES  # noqa: E402
from pathology_scaat.export.sidecar import sidecar_path  # noqa: E402

SIDE = 4096
DRAWN = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"


def make_cohort(scratch: Path, count: int) -> tuple[Path, Path]:
    """Output folder and manifest of ``count`` slides that share their pixels."""
    out, slide, manifest = scratch / "out", scratch / "big.tiff", scratch / "cohort.csv"
    if manifest.exists():
        return out, manifest
    write_big_slide(slide, SIDE)
    make_run(out, SIDE)
    record = json.loads(sidecar_path(out / "overlays", "big").read_text())
    names = [f"S-{number:04d}" for number in range(count - 1)]
    rng = np.random.default_rng(0)
    lines, rows, changes = ["slide_path,slide_id,mpp", f"{slide},big,{MPP}"], [], []
    rows.append("patient_id,slide_id,fold,split,label,p_normal,p_tumour")
    for number, name in enumerate(names):
        os.link(slide, scratch / f"{name}.tiff")
        lines.append(f"{scratch / name}.tiff,{name},{MPP}")
        failed = number % 50 == 49
        reason = "the slide is damaged; scan it again" if failed else ""
        changes.append((name, "tile", "failed" if failed else "done", reason, {}))
        if failed:
            continue
        (out / "maps" / f"{name}.ome.zarr").mkdir()
        changes += [(name, stage, "done", "", {}) for stage in STAGES[1:]]
        sidecar_path(out / "overlays", name).write_text(
            json.dumps({**record, "slide_id": name, "n_regions": int(rng.integers(0, 40))})
        )
        p = float(rng.random())
        rows.append(f"p{number},{name},,test,,{1 - p:.4f},{p:.4f}")
    StatusTable(out).plan(("big", *names))
    StatusTable(out).update_many(changes)
    (out / "predictions.csv").write_text("\n".join(rows) + "\n")
    manifest.write_text("\n".join(lines) + "\n")
    return out, manifest


def times(browser: Browser, actions: list[str]) -> tuple[float, float]:
    """Median and longest time from an action to the next drawn frame, ms."""
    taken = [
        browser.js(f"(async () => {{ const t = performance.now(); {a}; await {DRAWN};"
                   " return performance.now() - t; })()")
        for a in actions
    ]  # fmt: skip
    return round(median(taken), 1), round(max(taken), 1)


def measure(link: str, pid: int, count: int) -> dict[str, float]:
    browser = Browser()
    try:
        browser.open("about:blank")
        cpu, began = cpu_s(pid), time.perf_counter()
        browser.call("Page.navigate", url=link)
        browser.wait(f"document.getElementById('count')?.textContent.startsWith('{count} of')")
        browser.js(DRAWN)
        table_s = time.perf_counter() - began
        server_s = cpu_s(pid) - cpu
        keys = ["p", "uncertainty", "slide_id", "n_regions", "status"] * 2
        sort = times(browser, [f"document.querySelector('[data-key={k}]').click()" for k in keys])
        words = ["s", "s-", "s-0", "s-00", "s-0", "s-", "s", "done", "failed", ""]
        filtered = times(
            browser,
            [f"f = document.getElementById('filter'); f.value = '{w}';"
             "f.dispatchEvent(new Event('input'))" for w in words],
        )  # fmt: skip
        turned = times(browser, ["document.getElementById('after').click()"] * 9)
        frames = browser.js(
            """(async () => { let worst = 0, at = performance.now(), y = 0;
            const end = () => document.documentElement.scrollHeight - innerHeight;
            while (y < end()) { y += 1500; scrollTo(0, y);
              await new Promise(requestAnimationFrame);
              const now = performance.now(); worst = Math.max(worst, now - at); at = now; }
            return worst; })()"""
        )
        assert browser.failures == [], browser.failures
        return {
            "table_ms": round(1000 * table_s), "server_cpu_ms": round(1000 * server_s),
            "first_paint_ms": round(browser.js(
                "performance.getEntriesByName('first-contentful-paint')[0].startTime")),
            "sort_ms": sort[0], "sort_worst_ms": sort[1],
            "filter_ms": filtered[0], "filter_worst_ms": filtered[1],
            "turn_ms": turned[0], "turn_worst_ms": turned[1],
            "scroll_ms": round(frames, 1), "server_peak_mb": round(memory_mb(pid)),
        }  # fmt: skip
    finally:
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    out, manifest = make_cohort(given.scratch.absolute(), given.slides)
    process = subprocess.Popen(
        [sys.executable, "-m", "pathology_scaat", "review", str(out), "--no-browser",
         "--manifest", str(manifest)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = measure(line[line.index("http") :].strip(), process.pid, given.slides)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    row = {"slides": given.slides, **found, "load": round(os.getloadavg()[0], 1),
           "cores": os.cpu_count()}  # fmt: skip
    print(json.dumps(row, indent=1))
    if given.out:
        given.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
