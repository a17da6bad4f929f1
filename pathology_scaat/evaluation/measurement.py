"""What measuring a model leaves: one number per image and measure, kept in one file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import StoreError

Values = NDArray[np.float64]

_DIRECTION = {
    "srg": 1, "deletion": 1, "insertion": 1, "referee_srg": 1, "pixel_ap": 1, "pixel_auroc": 1,
    "rank_accuracy": 1, "pointing": 1, "mosaic_ap": 1, "mosaic_auroc": 1, "stability_ssim": 1,
    "stability_spearman": 1, "sensitivity": -1, "infidelity": -1, "weight_randomisation": -1,
}  # fmt: skip


def direction(measure: str) -> int:
    """1: higher is better; -1: lower is better; 0: a description, neither good nor bad.

    Examples
    --------
    >>> direction("srg/blur/margin"), direction("sensitivity"), direction("gini")
    (1, -1, 0)
    """
    return _DIRECTION.get(measure.split("/")[0], 0)


@dataclass
class Measurement:
    """What one model did on one evaluation set.

    Attributes
    ----------
    logits : ndarray, (N, K)
        On all images.
    values : dict of str to ndarray
        Measure to one value an image; NaN where it is not defined or the image was not among
        those measured. Mosaic measures have one value per mosaic.
    facts : dict
        Numbers and words about the model and its training, for reports.
    """

    logits: NDArray[np.float32]
    values: dict[str, Values] = field(default_factory=dict)
    facts: dict[str, float | int | str] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        """Mean over the images that have a value; NaN where none has or it was not measured."""
        found = self.values.get(name)
        if found is None or np.isnan(found).all():
            return float("nan")
        return float(np.nanmean(found))

    def save(self, path: Path) -> None:
        """Write to one ``.npz`` file, atomically."""
        arrays: dict[str, Any] = {f"v:{k}": v.astype(np.float32) for k, v in self.values.items()}
        arrays["logits"] = self.logits
        arrays["facts"] = np.array(json.dumps(self.facts, sort_keys=True))
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Measurement:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Raises
        ------
        StoreError
            If the file is not such a measurement.
        """
        try:
            # Opened here, because numpy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                values = {
                    name[2:]: stored[name].astype(np.float64)
                    for name in stored.files
                    if name.startswith("v:")
                }
                return cls(stored["logits"], values, json.loads(str(stored["facts"])))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            raise StoreError(
                path.name, "is not a measurement", "delete it and evaluate again"
            ) from None
