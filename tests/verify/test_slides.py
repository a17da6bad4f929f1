"""``scaat verify --manifest``: the slides are still those that the patches were cut from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from reliability_tools import draw_slide, run_scaat

from pathology_scaat.slides import fingerprint


@pytest.mark.parametrize("salted", [False, True])
def test_a_slide_that_changed_is_named(
    tmp_path: Path, salted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for name in ("a", "b"):
        draw_slide(slides / f"{name}.svs", ord(name))
    words = ["--manifest", slides, "--out", out]
    words += ["--pseudonymize", tmp_path / "salt"] if salted else []
    small = ("--mpp", 2, "--patch-size", 32, "--workers", 0, "-q")
    assert run_scaat("tile", *words, *small, in_process=True).returncode == 0
    done = run_scaat("verify", *words, "--deep", in_process=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the bytes that were tiled") == 2
    path = slides / "b.svs"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    # Also where the file pretends to be as it was: a cache that knows it is not believed.
    path.write_bytes(data)
    done = run_scaat("verify", *words, "--deep", in_process=True)
    assert done.returncode == 3
    assert done.stderr.count("has other bytes than when it was tiled") == 1
    monkeypatch.setattr(fingerprint, "_recall", lambda entry: "0" * 64)
    assert run_scaat("verify", *words, "--deep", in_process=True).stderr.count("FAULT") == 1
    os.remove(path)
    assert "is in no row of the manifest" in run_scaat("verify", *words, in_process=True).stderr


def test_deep_needs_the_slides(tmp_path: Path) -> None:
    done = run_scaat("verify", "--out", tmp_path, "--deep", in_process=True)
    assert done.returncode == 2
    assert "--manifest" in done.stderr
