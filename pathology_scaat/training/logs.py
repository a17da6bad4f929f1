"""The record of a training: a CSV always, TensorBoard events where asked."""

from __future__ import annotations

import csv
import io
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
    """Write all epochs as TensorBoard scalars."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for name, value in row.items():
                if name != "epoch" and isinstance(value, int | float):
                    writer.add_scalar(name, value, row["epoch"])
