"""Method by method: validation AUC beside sparsity and faithfulness of the plain gradient.

A quick check on labelled patches in one ``.npz`` (images (N, P, P, 3) uint8, labels, split
``train``/``val``, patient-disjoint); the full metric set lives in ``benchmarks/evidence``.

    python benchmarks/method_quality.py idc_50px.npz --arms plain scaat:eps=0.125 --seeds 0 1 2

An arm is ``method[:option=value[,option=value...]]``. Results are appended to the JSON file after
each run, and runs that are in it already are left out, so a long table can be made in pieces.

Gini: of the per-pixel saliency |gradient of the logit margin|, summed over channels. SRG: mean
p(true class) while the least salient pixels are replaced by the mean colour first, minus the same
for the most salient first; 0 for a random map.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.writer import write_patch_store
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle, train_model

STEPS = 10
N_IMAGES = 512


def make_stores(npz: Path, folder: Path) -> list[TrainingSlide]:
    """One patch store a split."""
    data = np.load(npz, allow_pickle=False)
    images, labels, split = data["images"], data["labels"], data["split"]
    side = images.shape[1]
    slides = []
    for name in ("train", "val"):
        chosen = np.flatnonzero(split == name)
        columns = int(np.ceil(np.sqrt(len(chosen))))
        index = np.stack([np.arange(len(chosen)) % columns, np.arange(len(chosen)) // columns], 1)
        meta = PatchStoreMeta(
            slide_id=name,
            slide_fingerprint="0" * 64,
            fingerprint=name,
            slide=SlideGeometry(SizePx(columns * side, columns * side), 4.0, "manifest"),
            grid=PatchGrid(0.0, 0.0, 1.0, side, side, columns, columns),
            requested_mpp=4.0,
            effective_mpp=4.0,
            level_read=0,
            class_names=("negative", "positive"),
        )
        write_patch_store(
            folder / f"{name}.zarr",
            meta,
            images[chosen],
            grid_index=index,
            label=labels[chosen].astype(np.int16),
        )
        slides.append(TrainingSlide(folder / f"{name}.zarr", name, name, name))
    return slides


def gini(maps: torch.Tensor) -> torch.Tensor:
    """Gini index of each map, (B,), of (B, n) values not below 0."""
    ordered = maps.sort(dim=1).values
    n = ordered.shape[1]
    rank = torch.arange(1, n + 1, dtype=ordered.dtype)
    total = ordered.sum(dim=1).clamp_min(1e-20)
    return (2 * (rank * ordered).sum(dim=1) / (n * total)) - (n + 1) / n


def occlusion_area(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Mean p(true class) while pixels are replaced in the given order, (B,)."""
    fill = x.mean(dim=(0, 2, 3), keepdim=True).expand_as(x)
    rank = order.argsort(dim=1).view(len(x), 1, *x.shape[2:])
    n = order.shape[1]
    kept = []
    for step in range(STEPS + 1):
        occluded = torch.where(rank < n * step // STEPS, fill, x)
        kept.append(torch.softmax(model(occluded), 1).gather(1, y[:, None])[:, 0])
    return torch.stack(kept).mean(dim=0)


def explanation_quality(bundle_path: Path, npz: Path) -> dict[str, float]:
    """Gini and SRG of the plain input gradient on validation patches."""
    data = np.load(npz, allow_pickle=False)
    chosen = np.flatnonzero(data["split"] == "val")
    chosen = chosen[np.linspace(0, len(chosen) - 1, N_IMAGES).astype(int)]
    images, labels = data["images"][chosen], data["labels"][chosen].astype(np.int64)
    model = load_bundle(bundle_path).model
    ginis, gaps = [], []
    for start in range(0, len(images), 64):
        x = torch.from_numpy(images[start : start + 64]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(labels[start : start + 64])
        x.requires_grad_()
        logits = model(x)
        margin = logits[:, 1] - logits[:, 0]
        (gradient,) = torch.autograd.grad(margin.sum(), x)
        x = x.detach()
        maps = gradient.abs().sum(dim=1).flatten(1)
        ginis.append(gini(maps))
        with torch.no_grad():
            order = maps.argsort(dim=1)
            gaps.append(
                occlusion_area(model, x, y, order) - occlusion_area(model, x, y, order.flip(1))
            )
    return {"gini": float(torch.cat(ginis).mean()), "srg": float(torch.cat(gaps).mean())}


def parse_arm(text: str) -> tuple[str, dict[str, object], dict[str, object]]:
    """``method:option=value,...`` as method, its options, and settings of the training (@)."""
    name, _, rest = text.partition(":")
    options: dict[str, object] = {}
    settings: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        if key.startswith("@"):
            settings[key[1:]] = parsed
        else:
            options[key] = parsed
    return name, options, settings


def run_arm(
    arm: str, seed: int, epochs: int, slides: list[TrainingSlide], npz: Path, folder: Path
) -> dict[str, object]:
    """Train one arm with one seed and measure it."""
    name, options, settings = parse_arm(arm)
    norm = settings.pop("norm", None)
    config = TrainConfig(
        method=name,
        method_options=options,
        epochs=epochs,
        patience=epochs,
        monitor_images=0,
        backbone_options={"norm": norm} if norm else {},
        **settings,
    )
    begin = perf_counter()
    result = train_model(slides, folder / "model", config, device="cpu", seed=seed, overwrite=True)
    return {
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "val_auc": result.metrics["val_auc"],
        "best_epoch": result.best_epoch,
        **explanation_quality(result.bundle_path, npz),
        "seconds": round(perf_counter() - begin, 1),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Mean and spread over seeds of each arm and number of epochs, as Markdown."""
    lines = ["| arm | epochs | seeds | val AUC | Gini | SRG |", "|---|---|---|---|---|---|"]
    for arm, epochs in dict.fromkeys((str(row["arm"]), row["epochs"]) for row in rows):
        mine = [row for row in rows if (row["arm"], row["epochs"]) == (arm, epochs)]

        def shown(key: str, mine: list[dict[str, object]] = mine) -> str:
            values = np.array([row[key] for row in mine], float)
            return f"{values.mean():.4f} ± {values.std():.4f}"

        measured = " | ".join(shown(key) for key in ("val_auc", "gini", "srg"))
        lines.append(f"| {arm} | {epochs} | {len(mine)} | {measured} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("npz", type=Path)
    parser.add_argument("--arms", nargs="+", default=["plain", "scaat"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/method-quality.json"))
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    if args.out.is_file():
        rows = json.loads(args.out.read_text())["runs"]
    done = {(row["arm"], row["seed"], row["epochs"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = make_stores(args.npz, folder)
        for seed in args.seeds:
            for arm in args.arms:
                if (arm, seed, args.epochs) in done:
                    continue
                row = run_arm(arm, seed, args.epochs, slides, args.npz, folder)
                if args.out.is_file():  # somebody else may have added to it in the meantime
                    rows = json.loads(args.out.read_text())["runs"]
                rows.append(row)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                report = {
                    "data": args.npz.name,
                    "processor": platform.processor() or platform.machine(),
                    "torch": torch.__version__,
                    "runs": rows,
                }
                args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
