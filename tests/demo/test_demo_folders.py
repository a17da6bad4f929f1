"""Both demos keep out of folders that hold somebody else's files, and say that they are painted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import ScaatError
from pathology_scaat.evaluation.warnings import doubts_of_slides
from pathology_scaat.pipeline.demo import demo
from pathology_scaat.pipeline.demo_labels import labelled_demo
from pathology_scaat.slides.painted import PAINTED_NOTE


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


def test_figures_on_painted_slides_are_no_figures_of_tissue(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.update("real", "tile", "done", notes="tissue: ink")
    table.update("demo-05", "tile", "done", notes=f"tissue: ink; {PAINTED_NOTE}")
    said = f"Slide demo-05: {PAINTED_NOTE}"
    assert doubts_of_slides(tmp_path, ["real", "demo-05"]) == (said,)
