"""Checkpoints for an exact resume: written whole every epoch, read without unpickling code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import IO, Any, cast

import torch

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.system.disk_errors import PatientWriter

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_VERSION = 1


def save_checkpoint(folder: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the state of training after an epoch, replacing the one before."""
    content = {"version": CHECKPOINT_VERSION, "fingerprint": fingerprint, **state}
    with atomic_path(folder / CHECKPOINT_NAME) as partial, partial.open("wb") as stream:
        # Given a path on a full disk, torch speaks of positions, or ends the process.
        writer = PatientWriter(stream)
        torch.save(content, cast(IO[bytes], writer))
        writer.check()


def load_checkpoint(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The last state of the same training, or None where there is none that fits.

    Only tensors and plain values are read (``weights_only``). A damaged file or one of another
    training is not an error: training starts anew and says so.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        fits = state["version"] == CHECKPOINT_VERSION and state["fingerprint"] == fingerprint
    except Exception as error:
        logger.warning("%s cannot be read (%s): training starts anew", path.name, error)
        return None
    if not fits:
        logger.info("%s is of another training: starting anew", path.name)
        return None
    return dict(state)
