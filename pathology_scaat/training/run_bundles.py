"""Which of the bundles in an output folder the results there are of.

A folder is often used again: a model of all slides may lie beside the models of folds, and folds
of a run with more of them beside those of the last one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.run_record import read_run_record
from pathology_scaat.errors import BundleError, StoreError
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import CONFIG_NAME, read_bundle_config

PREDICTED_BY = "predictions.json"
"""Names the models that predicted."""


def fold_bundles(out: Path) -> tuple[Path, ...]:
    """Models of the folds of the last cross-validation in a folder, in their order.

    Those that an earlier run with more folds has left are none of them.
    """
    found = {
        int(path.parent.name): path
        for path in (Path(out) / "folds").glob("*/model")
        if path.parent.name.isdecimal() and path.is_dir()
    }
    n_folds = _recorded(out).get("config", {}).get("folds")
    most = n_folds if isinstance(n_folds, int) else max(found, default=0) + 1
    return tuple(found[number] for number in sorted(found) if number < most)


def bundle_of_results(out: Path) -> Path | None:
    """The model that predictions and maps of a folder are of; of folds the first one's.

    That of the folder, ``model``, unless the models of folds have predicted and it has not: then
    it is of another run. None where there is no bundle.
    """
    own = Workspace(Path(out)).model
    folds = [path for path in fold_bundles(out) if (path / CONFIG_NAME).is_file()]
    if not (own / CONFIG_NAME).is_file():
        return folds[0] if folds else None
    named = predicting_fingerprints(out)
    of_folds = any(bundle_fingerprint(path) in named for path in folds)
    return folds[0] if of_folds and bundle_fingerprint(own) not in named else own


def known_fingerprints(out: Path) -> frozenset[str]:
    """Of the models that maps in a folder may be of: those in it, and that the run was given."""
    space = Workspace(Path(out))
    prints = [bundle_fingerprint(p) for p in (space.model, space.finetuned, *fold_bundles(out))]
    given = _recorded(out).get("inputs", {}).get("model")
    return frozenset(name for name in (*prints, given) if isinstance(name, str) and name)


def predicting_fingerprints(out: Path) -> frozenset[str]:
    """Of the models that predicted; empty where that is not recorded."""
    try:
        found = json.loads((Path(out) / PREDICTED_BY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return frozenset()
    models = found.get("models") if isinstance(found, dict) else None
    return frozenset(
        str(one["fingerprint"])
        for one in (models if isinstance(models, list) else ())
        if isinstance(one, dict) and one.get("fingerprint")
    )


def bundle_fingerprint(bundle: Path) -> str:
    """Of a bundle's configuration; empty where there is none that can be read."""
    try:
        return model_fingerprint(read_bundle_config(bundle))
    except BundleError:
        return ""


def _recorded(out: Path) -> dict[str, Any]:
    try:
        return read_run_record(Path(out))
    except (StoreError, OSError):
        return {}
