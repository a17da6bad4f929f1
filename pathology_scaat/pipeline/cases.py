"""Cases: all slides of a patient, where a model's bags are of patients."""

from __future__ import annotations

from collections.abc import Iterable

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import UsageError
from pathology_scaat.patches import PatchStore


def cases_of(space: Workspace, status: StatusTable) -> dict[str, tuple[str, ...]]:
    """The other tiled slides of the same patient, by slide id; also those without a label."""
    tiled = set(status.without_failed("tile", space.slide_ids_with("tile")))
    members: dict[str, list[str]] = {}
    key_of = {}
    for row in status.rows():
        if row["slide_id"] in tiled:
            # a patient is named by its first slide; one that the table does not name by its own
            key_of[row["slide_id"]] = key = row.get("patient") or row["slide_id"]
            members.setdefault(key, []).append(row["slide_id"])
    return {s: tuple(o for o in sorted(members[key]) if o != s) for s, key in key_of.items()}


def refuse_without_pixels(space: Workspace, slide_ids: Iterable[str]) -> None:
    """Refuse patches without pixels: a case is read more than once.

    Raises
    ------
    UsageError
    """
    for slide_id in sorted(slide_ids):
        if not PatchStore(space.patches(slide_id)).meta.has_pixels:
            raise UsageError(
                "--model",
                f"tells of cases, whose slides are read together, and '{slide_id}' is kept "
                "without pixels",
                "run with --keep-patches",
            )
