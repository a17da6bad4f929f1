"""Predicting takes what explaining left, and loads a network only for a slide without that."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import BundleError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.members import FoldModel, predict_with
from pathology_scaat.pipeline.reporting import Silent


def test_a_network_is_loaded_only_where_it_must_compute(run_folder: RunFolder) -> None:
    for seed, name in enumerate(("a", "b")):
        run_folder.add_slide(name, n=8, seed=seed)
    rows = tuple(
        ManifestRow(slide_path=Path(f"{name}.svs"), slide_id=name, patient_id=name)
        for name in ("a", "b")
    )
    space = Workspace(run_folder.out)

    def said() -> dict[str, np.ndarray]:
        one = FoldModel(None, run_folder.model, None)
        found = predict_with(one, Manifest(rows=rows), space, "cpu", Silent())
        return {row.slide_id: row.probability for row in found.rows}

    computed = said()
    explain(run_folder.out, device="cpu", engine=EngineConfig(workers=0))
    explained = said()
    assert list(computed) == list(explained) == ["a", "b"]
    for name, probability in computed.items():
        np.testing.assert_allclose(explained[name], probability, atol=1e-5)
    (run_folder.model / "model.safetensors").unlink()
    assert said().keys() == {"a", "b"}  # nothing is left to compute
    shutil.rmtree(space.saliency("b"))
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        said()
