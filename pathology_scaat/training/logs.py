"""The record of a training: a CSV always, TensorBoard events where asked."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "epoch", "loss", "clean_loss", "robust_loss", "learning_rate", "eps", "val_auc",
    "val_accuracy", "val_balanced_accuracy", "val_loss", "val_ece", "masked_pgd_gap",
    "masked_step_gap",
)  # fmt: skip
TIME_COLUMNS = ("seconds", "images_per_s", "wait_share")


def log_text(rows: Sequence[dict[str, Any]], *, times: bool) -> str:
    """The rows as CSV; without times the text is the same for the same training."""
    columns = (*COLUMNS, *TIME_COLUMNS) if times else COLUMNS
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items() if k in columns}
        )
    return stream.getvalue()


def write_tensorboard(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write epochs as TensorBoard scalars, one event file an epoch.

    The writer puts the host's name into the file's name; the file is renamed.
    """
    from torch.utils.tensorboard import SummaryWriter

    for row in rows:
        with tempfile.TemporaryDirectory() as name:
            with SummaryWriter(name) as writer:
                for key, value in row.items():
                    if key != "epoch" and isinstance(value, int | float):
                        writer.add_scalar(key, value, row["epoch"])
            folder.mkdir(parents=True, exist_ok=True)
            for file in Path(name).glob("*tfevents*"):
                shutil.move(file, folder / f"events.out.tfevents.{row['epoch']:06d}")
