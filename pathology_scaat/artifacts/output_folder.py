"""The output folder: where each artifact of a run has its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Paths inside one output folder; knows names, touches nothing."""

    out: Path

    @property
    def model(self) -> Path:
        return self.out / "model"

    def fold_model(self, fold: int) -> Path:
        """Model of one fold of cross-validation."""
        return self.out / "folds" / str(fold) / "model"

    @property
    def overlays(self) -> Path:
        return self.out / "overlays"

    def tissue(self, slide_id: str) -> Path:
        return self.out / "tissue" / f"{slide_id}.png"

    def patches(self, slide_id: str) -> Path:
        return self.out / "patches" / f"{slide_id}.zarr"

    def saliency(self, slide_id: str) -> Path:
        return self.out / "saliency" / f"{slide_id}.zarr"

    def map(self, slide_id: str) -> Path:
        return self.out / "maps" / f"{slide_id}.ome.zarr"

    def slide_ids_with(self, stage: str) -> tuple[str, ...]:
        """Ids of the slides that have a whole artifact of a stage, sorted."""
        folder, suffix = {
            "tile": ("patches", ".zarr"),
            "explain": ("saliency", ".zarr"),
            "stitch": ("maps", ".ome.zarr"),
        }[stage]
        names = (path.name for path in (self.out / folder).glob(f"*{suffix}"))
        return tuple(sorted(name.removesuffix(suffix) for name in names))
