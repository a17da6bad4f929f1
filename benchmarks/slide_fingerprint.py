"""What the fingerprint of a large slide costs, the first time and when it is remembered.

python benchmarks/slide_fingerprint.py [--gib 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from pathology_scaat.slides.fingerprint import CACHE_VARIABLE, RACY_S, slide_fingerprint


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=words.folder) as name:
        os.environ[CACHE_VARIABLE] = str(Path(name) / "cache")
        path = Path(name) / "slide.svs"
        block = os.urandom(16 << 20)
        with path.open("wb") as stream:
            for _ in range(round(words.gib * 64)):
                stream.write(block)
        time.sleep(RACY_S + 0.5)
        for what in ("first", "again"):
            began = time.perf_counter()
            slide_fingerprint(path)
            seconds = time.perf_counter() - began
            print(f"{what}: {seconds:.4f} s for {words.gib:g} GiB")


if __name__ == "__main__":
    main()
