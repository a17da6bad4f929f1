"""Reading what a model bundle says of itself: no weights are read, and torch is not loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pathology_scaat.artifacts.checksums import without_checksum
from pathology_scaat.cohort.mistaken import not_a_bundle
from pathology_scaat.errors import BundleError
from pathology_scaat.training.bundle_config import (
    SCHEMA_NAME,
    SCHEMA_VERSION,
    BundleConfig,
    class_names_problem,
    model_fingerprint,
)

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FEATURES_NAME = "features.safetensors"
NEIGHBOURS_NAME = "neighbours.safetensors"
SCRIPT_FILE = "script.pt"
MAX_CONFIG_BYTES = 4 << 20
ANEW = "train it again, or copy the whole folder anew"
OTHER_NAMES = "train it again with other class names"

Config = TypeVar("Config", bound=BaseModel)


def read_config_json(
    path: Path, max_bytes: int, schema: tuple[str, int], foreign: str, remedy: str
) -> dict[str, Any]:
    """The ``config.json`` of a folder as ``scaat train`` makes it, of the schema that is read here.

    Parameters
    ----------
    path : Path
        The folder.
    max_bytes : int
        A larger file is refused unread.
    schema : (str, int)
        Name and version.
    foreign, remedy : str
        What is said of a folder that is none, and what to do.

    Raises
    ------
    BundleError
        If it is missing, no JSON object, or of another schema.
    """
    name, version = schema
    file = path / CONFIG_NAME
    if not file.is_file() and (other := not_a_bundle(path)):
        raise BundleError(path.name, *other)
    try:
        if file.stat().st_size > max_bytes:
            raise BundleError(path.name, "has a config.json of absurd size", ANEW)
        value = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise BundleError(path.name, f"{foreign} (no config.json)", remedy) from None
    except (OSError, ValueError, RecursionError):
        raise BundleError(path.name, "has a config.json that cannot be read", ANEW) from None
    if not isinstance(value, dict) or value.get("schema_name") != name:
        raise BundleError(path.name, foreign, remedy)
    if value.get("schema_version") != version:
        raise BundleError(
            path.name,
            f"is of schema version {value.get('schema_version')}, not {version}",
            "train it again with this version",
        )
    return value


def read_bundle_config(path: Path) -> BundleConfig:
    """The configuration of a bundle, checked; no weights are read.

    Raises
    ------
    BundleError
        If it is missing, altered, or of another schema.
    """
    value = read_config_json(
        path,
        MAX_CONFIG_BYTES,
        (SCHEMA_NAME, SCHEMA_VERSION),
        "is not a model bundle",
        "give the folder 'scaat train' made",
    )
    config = checked_config(path, value, BundleConfig, model_fingerprint)
    if problem := class_names_problem(config.class_names):
        raise BundleError(path.name, problem, OTHER_NAMES)
    if config.positive_class not in config.class_names:
        raise BundleError(path.name, "names a positive class it does not have", ANEW)
    return config


def checked_config(
    path: Path,
    value: dict[str, Any],
    kind: type[Config],
    fingerprint_of: Callable[[Config], str],
) -> Config:
    """What ``config.json`` holds as a configuration that has the fingerprint it states.

    Raises
    ------
    BundleError
        If a value is damaged, or one was altered.
    """
    stated = value.pop("fingerprint", None)
    value = without_checksum(value)  # of all files, for 'scaat verify'
    try:
        config = kind.model_validate(value)
        computed = fingerprint_of(config)
    except ValidationError as error:
        at = ".".join(str(part) for part in error.errors()[0]["loc"])[:60]
        raise BundleError(path.name, f"has a damaged config.json ('{at}')", ANEW) from None
    except (ValueError, RecursionError):  # numbers that are none, in free settings
        raise BundleError(path.name, "has a damaged config.json", ANEW) from None
    if stated != computed:
        raise BundleError(path.name, "has a config.json that was altered", ANEW)
    return config


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
