"""What the bookkeeping of a large cohort costs: changes of a status table of 10,000 slides.

python benchmarks/status_table.py --json benchmarks/results/status-table.json

CPU seconds of one rewriting, of one appended change, and of what keeps the table while slides
end for ``--seconds`` at ``--rate`` a second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_writer import StatusWriter

FACTS = {"n_patches": 15000, "mpp": 0.5, "reader": "tiff", "mpp_source": "slide"}


def seconds_of(times: int, call: object) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    for i in range(times):
        call(i)  # type: ignore[operator]
    return (time.process_time() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        table = StatusTable(Path(made))
        names = [f"slide-{i:05}" for i in range(given.rows)]
        table.plan(names)
        table.update_many((name, "tile", "done", "", FACTS) for name in names)
        rewrite = seconds_of(5, lambda i: table.update(names[i], "explain", "done"))
        append = seconds_of(
            200, lambda i: table.append_many([(names[i], "stitch", "done", "", FACTS)])
        )
        writer = StatusWriter(table)
        began, cpu, n = time.monotonic(), time.process_time(), 0
        while time.monotonic() - began < given.seconds:
            writer.add([(names[n % given.rows], "export", "done", "", FACTS)])
            n += 1
            time.sleep(1 / given.rate)
        batch = time.process_time() - cpu
        closing = time.process_time()
        writer.close()
        result = {
            "rows": given.rows,
            "table_bytes": table.path.stat().st_size,
            "rewriting_cpu_s": round(rewrite, 4),
            "appending_cpu_s": round(append, 6),
            "batch": {
                "seconds": given.seconds,
                "slides": n,
                "cpu_share": round(batch / given.seconds, 4),
                "closing_cpu_s": round(time.process_time() - closing, 3),
            },
            "load_average": round(os.getloadavg()[0], 1),
        }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
