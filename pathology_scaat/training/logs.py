"""The record of a training: a CSV always, TensorBoard events where asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import atomic_path

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
    """Write epochs as TensorBoard scalars, one event file per epoch.

    TensorBoard's own writer puts the host's name into the file's name and the date into the file.
    Here the epoch stands in both fields: its axis of time counts epochs.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    for row in rows:
        epoch = int(row["epoch"])
        scalars = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in row.items()
            if key != "epoch" and isinstance(value, int | float)
        ]
        events = [
            Event(wall_time=epoch, file_version="brain.Event:2"),
            Event(wall_time=epoch, step=epoch, summary=Summary(value=scalars)),
        ]
        with atomic_path(folder / f"events.out.tfevents.{epoch:06d}") as partial:
            stream = io.BytesIO()
            writer = RecordWriter(stream)
            for event in events:
                writer.write(event.SerializeToString())
            partial.write_bytes(stream.getvalue())
