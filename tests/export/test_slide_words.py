"""What pages say of a whole slide says whether that is calibrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME
from pathology_scaat.evaluation.performance.predictions import (
    HOW_NAME,
    Prediction,
    write_how,
    write_predictions,
)
from pathology_scaat.pipeline.export import predictions_in_words


@pytest.mark.parametrize(
    ("calibration", "is_stated"),
    [
        ("not calibrated: no validation slide has a label", True),
        ("temperature 1.2, shift 0.1 on 8 validation slides", False),
    ],
)
def test_a_slides_probability_is_not_taken_for_calibrated(
    calibration: str, is_stated: bool, tmp_path: Path
) -> None:
    row = Prediction("p", "s", None, "test", "", np.array([0.1, 0.9]), model="a" * 16)
    write_predictions(tmp_path / PREDICTIONS_NAME, [row], ("Normal", "Tumor"), "Tumor")
    write_how(tmp_path / HOW_NAME, {"calibration": calibration})
    (words,) = predictions_in_words(tmp_path).values()
    assert "Tumor 0.900" in words.text
    assert ("not calibrated for whole slides" in words.text) == is_stated
