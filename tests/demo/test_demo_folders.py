"""Both demos keep out of folders that hold somebody else's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.errors import ScaatError
from pathology_scaat.pipeline.demo import demo
from pathology_scaat.pipeline.demo_labels import labelled_demo


@pytest.mark.parametrize("make", [demo, labelled_demo])
def test_a_folder_in_use_is_refused_and_left_as_it_was(make: Any, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    theirs = tmp_path / "slides" / "cohort.csv"
    theirs.write_text("mine\n", encoding="utf-8")
    (tmp_path / "thesis.txt").write_text("mine\n", encoding="utf-8")
    with pytest.raises(ScaatError):
        make(tmp_path)
    assert theirs.read_text(encoding="utf-8") == "mine\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slides", "thesis.txt"]
