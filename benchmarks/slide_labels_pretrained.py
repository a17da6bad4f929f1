"""Bags with a pretrained encoder: its weights, and what its runs say beside the small network's.

The comparisons were named before the first run. Of each the mean difference is taken of two
measures, the AUROC of the test patients and the pixel AP of the evidence map. Patients are the
same in all runs and are paired. Seeds are paired only where they decide the same things: plain
and SCAAT training of one encoder begin with the same head and see the same patches. The seed of a
frozen encoder draws a head alone, that of a random one its weights too, that of the small network
all of it: those seeds are of different kinds, and the variances of both sides are added. P-values
are corrected after Holm for all comparisons of a cohort, both measures together, those that are
not there yet among them; those of Grad-CAM, a question of its own, among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from slide_labels_summary import MAPS, as_json, runs_of

from pathology_scaat.metrics.functional.roc import placements
from pathology_scaat.metrics.functional.statistics import (
    Interval,
    clustered_mean,
    crossed_interval,
    holm,
)

LITE0 = "tf_efficientnet_lite0"
PRETRAINED = ("lite0-frozen", "lite0-frozen-random", "lite0-plain", "lite0-scaat")
COMPARISONS = (
    ("lite0-frozen", "lite0-frozen-random", False),
    ("lite0-plain", "lite0-frozen", False),
    ("lite0-scaat", "lite0-plain", True),
    ("lite0-frozen", "bag-plain", False),
    ("lite0-plain", "bag-plain", False),
    ("lite0-scaat", "bag-scaat", False),
)
"""An arm, another one, and whether their seeds are paired."""
PRIMARY = ("auroc", "evidence")
BY_GRAD_CAM = ("lite0-frozen", "lite0-plain", "lite0-scaat")


def renamed_weights(path: Path, scratch: Path) -> Path:
    """The package's weights under timm's names, in the scratch folder.

    They are the same tensors in the same order; the classifier of ImageNet is left out.
    """
    given = [v for k, v in torch.load(path, weights_only=True).items() if "num_batches" not in k]
    own = timm.create_model(LITE0, pretrained=False, num_classes=0).state_dict()
    names = [k for k in own if "num_batches" not in k]
    assert len(given) == len(names) + 2, "the classifier alone is over"
    pairs = list(zip(names, given, strict=False))
    assert all(own[name].shape == value.shape for name, value in pairs)
    renamed = scratch / "tf_efficientnet_lite0.pt"
    torch.save(dict(pairs), renamed)
    return renamed


def unpaired(first: np.ndarray, other: np.ndarray) -> Interval:
    """Mean difference of two tables, (seeds, patients) each: patients paired, seeds not."""
    variance = noise = 0.0
    for parts in (first, other):
        by_seed, n = parts.mean(1), len(parts)
        left = parts - by_seed[:, None] - parts.mean(0) + parts.mean()
        variance += float(by_seed.var(ddof=1)) / n
        noise += float((left**2).sum()) / ((n - 1) * (parts.shape[1] - 1)) / parts.size
    difference = first.mean(0) - other.mean(0)
    return crossed_interval(
        float(difference.mean()),
        seed_variance=variance,
        n_seeds=min(len(first), len(other)),
        patient_variance=float(difference.var(ddof=1)) / len(difference),
        n_patients=len(difference),
        n=len(difference),
        noise_variance=noise,
    )


def _parts(
    runs: dict[int, dict[str, Any]], measure: str, truth: dict[str, bool], maps: str = "maps"
) -> np.ndarray:
    """(seeds, patients): each patient's part in a seed's mean, or in its AUROC."""
    ordered = [runs[seed] for seed in sorted(runs)]
    if measure != "auroc":
        return np.array([[m[measure] for m in run[maps].values()] for run in ordered])
    positive = np.array(list(truth.values()))
    weight = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
    table = []
    for run in ordered:
        found = placements(np.array([run["probability"][s] for s in truth]), positive)
        auc = found[positive].mean()
        table.append(auc + len(found) * (found - auc) * weight)
    return np.array(table)


def pretrained_summary(
    runs: Sequence[dict[str, Any]], small: Sequence[dict[str, Any]], truth: dict[str, bool]
) -> dict[str, Any]:
    """The comparisons that there are runs of, how many patients are called wrongly, Grad-CAM."""
    of = {arm: runs_of([*runs, *small], arm) for arm in
          {name for one, other, _ in COMPARISONS for name in (one, other)}}  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for one, other, paired in COMPARISONS:
        seeds = sorted(set(of[one]) & set(of[other]))
        if min(len(of[one]), len(of[other]), len(seeds)) < 2:
            continue
        for measure in (*PRIMARY, *MAPS[1:]):
            a, b = ({s: of[arm][s] for s in seeds} if paired else of[arm] for arm in (one, other))
            mine, others = _parts(a, measure, truth), _parts(b, measure, truth)
            interval = (
                clustered_mean(mine - others, np.arange(mine.shape[1]))
                if paired
                else unpaired(mine, others)
            )
            found[f"{measure}: {one} - {other}"] = _compared(interval, paired)
    primary = [k for k in found if k.partition(":")[0] in PRIMARY]
    _correct(found, primary, len(PRIMARY) * len(COMPARISONS))
    cam: dict[str, dict[str, Any]] = {}
    rows: dict[str, Any] = {}
    for arm in (a for a in PRETRAINED if of[a]):
        mine_runs = of[arm]
        wrong = [
            sum((run["probability"][s] >= run["threshold"]) != truth[s] for s in truth)
            for _, run in sorted(mine_runs.items())
        ]
        rows[arm] = {"wrong_of_test_patients": wrong, "n_test_patients": len(truth)}
        if arm not in BY_GRAD_CAM:
            continue
        rows[arm]["grad_cam_ms_a_patch"] = round(
            float(np.mean([r["grad_cam_ms_a_patch"] for r in mine_runs.values()])), 2
        )
        for measure in MAPS[:2]:
            by_cam = _parts(mine_runs, measure, truth, "maps_grad_cam")
            patients = np.arange(by_cam.shape[1])
            rows[arm][f"grad_cam_{measure}"] = as_json(
                clustered_mean(by_cam, patients),
                by_seed=[round(float(v), 4) for v in by_cam.mean(1)],
            )
            cam[f"{measure}: {arm}, grad-cam - gradient"] = _compared(
                clustered_mean(by_cam - _parts(mine_runs, measure, truth), patients), True
            )
    _correct(cam, list(cam), 2 * len(BY_GRAD_CAM))
    fused = by_fused_cam(of, truth, BY_GRAD_CAM, {"gradient": "maps", "grad-cam": "maps_grad_cam"})
    return {"pretrained": {"arms": rows, "comparisons": found, "grad_cam": cam} | fused}


def by_fused_cam(
    of: dict[str, dict[int, dict[str, Any]]],
    truth: dict[str, bool],
    arms: Sequence[str],
    others: dict[str, str],
) -> dict[str, Any]:
    """Maps by fused-cam against those by other methods; asked later, of the same models.

    Corrected for both measures, all arms and all of the others; nothing where a run was not asked.
    ``others`` names the key of a run that holds a method's maps.
    """
    found: dict[str, dict[str, Any]] = {}
    means: dict[str, Any] = {}
    for arm in arms:
        runs = of.get(arm, {})
        if len(runs) < 2 or not all("maps_fused_cam" in run for run in runs.values()):
            continue
        for measure in MAPS[:2]:
            mine = _parts(runs, measure, truth, "maps_fused_cam")
            patients = np.arange(mine.shape[1])
            means[f"{measure}: {arm}"] = as_json(clustered_mean(mine, patients))
            for other, maps in others.items():
                difference = mine - _parts(runs, measure, truth, maps)
                found[f"{measure}: {arm}, fused-cam - {other}"] = _compared(
                    clustered_mean(difference, patients), True
                )
    _correct(found, list(found), 2 * len(others) * len(arms))
    return {"fused_cam": {"means": means, "comparisons": found}} if found else {}


def _compared(interval: Interval, paired: bool) -> dict[str, Any]:
    return as_json(interval, seeds_paired=paired) | {"p_value": _short(interval.p_value)}


def _short(p_value: float) -> float:
    """Three digits, however small it is."""
    return float(f"{p_value:.3g}")


def _correct(found: dict[str, dict[str, Any]], names: Sequence[str], n_planned: int) -> None:
    """Give the named comparisons p-values corrected after Holm, in place.

    Those that were planned and are not there yet count as if nothing had been found in them.
    """
    p_values = [found[n]["p_value"] for n in names]
    corrected = holm([*p_values, *[1.0] * (n_planned - len(names))])
    for name, value in zip(names, corrected, strict=False):
        found[name]["p_value_holm"] = _short(value)
        found[name]["n_compared"] = n_planned
