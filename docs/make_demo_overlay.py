"""Make ``demo_overlay.png``, the picture in the README, from the demo itself.

Run ``python docs/make_demo_overlay.py`` (it runs the whole demo), or name the folder of a demo
that was run already: ``python docs/make_demo_overlay.py scaat-demo``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SLIDE = "demo-05"
"""A slide of an unseen patient."""
WIDTH_PX = 900
TARGET = Path(__file__).with_name("demo_overlay.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        demo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "demo"
        if not (demo / "results").is_dir():
            command = [sys.executable, "-m", "pathology_scaat", "demo", str(demo), "--quiet"]
            subprocess.run(command, check=True)  # noqa: S603  (its own command)
        with Image.open(demo / "results" / "overlays" / f"{SLIDE}.png") as picture:
            small = picture.convert("RGB")
    small.thumbnail((WIDTH_PX, WIDTH_PX), Image.Resampling.LANCZOS)
    small.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
