"""A cohort of which features are there and no slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_features import patch_features, write_trident


@pytest.fixture(scope="session")
def feature_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 slides of 40 patients (eight have two), with several columns to learn.

    The share of patches that show the class decides grade, hazard and label.
    """
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(7)
    lines = ["slide_id,case_id,label,site,grade,months,dead,split"]
    for patient in range(40):
        share = (patient % 4) / 4  # 0, .25, .5, .75
        split = "train" if patient < 20 else "val" if patient < 28 else "test"
        months = rng.exponential(60 * np.exp(-7 * share)) + 0.1
        seen = int(rng.random() < 0.9)
        for copy in range(2 if patient % 5 == 0 else 1):
            slide = f"s{patient:02d}-{copy}"
            n = int(rng.integers(20, 40))
            write_trident(
                folder / "h5" / f"{slide}.h5",
                patch_features(n, round(share * n), 100 * patient + copy),
                batched=patient % 2 == 1,
            )
            lines.append(
                f"{slide},p{patient:02d},{'Tumor' if share else 'Normal'},"
                f"{'north' if share else 'south'},G{patient % 4},{months:.2f},{seen},{split}"
            )
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
