"""Put the measurements of a configuration together: JSON, tables and pictures.

    python benchmarks/evidence/report.py benchmarks/evidence/cpu.yaml --work /tmp/evidence

writes ``results/<name>/<network>-<data>.{json,md,png}`` and ``results/<name>/summary.json``.
Arms with fewer seeds than the baseline are compared over the seeds that both have.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from data import Benchmark, load_once
from run import A_CORE, cell_path, cells, machine

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.evaluation.comparison import Comparison, compare_measurements, without_nan
from pathology_scaat.evaluation.comparison_report import comparison_markdown, draw_comparison
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig

RESAMPLES = 10_000
"""Bootstrap samples: with fewer, no p-value could survive the correction for their number."""

Found = dict[str, dict[int, Measurement]]

DEFAULT_ARM = "scaat-soft-16"
"""What ``scaat train`` does if nothing else is asked for."""

PEERS = {
    "sgt": "Saliency Guided Training",
    "random-mask-soft-16": "the same attack at random places",
}
"""Arms that the default is compared with by itself, beside plain training."""


def primary_for(bench: Benchmark, config: dict[str, Any]) -> str:
    named = str(config["protocol"].get("primary", "pixel_ap"))
    has_masks = bench.test.masks is not None
    return named if has_masks or not named.startswith("pixel") else "srg/blur/probability"


def shortcut_table(found: Found) -> list[dict[str, Any]]:
    """Reliance on a shortcut, an arm a row (means and ranges over seeds)."""
    rows = []
    for arm, by_seed in found.items():
        facts = [m.facts for m in by_seed.values()]
        mass = [float(f["shortcut_mass"]) / float(f["shortcut_area"]) for f in facts]
        called = [float(f["called_positive_with_shortcut"]) for f in facts]
        rows.append(
            {"arm": arm, "seeds": len(facts), "saliency_on_shortcut_per_area": float(np.mean(mass)),
             "by_seed": mass, "called_positive_with_shortcut": float(np.mean(called)),
             "called_by_seed": called}
        )  # fmt: skip
    return rows


def shortcut_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "",
        "Shortcut put on every test image (in training it agreed with the class in 90 %). "
        "Saliency per area: 1 = no more than elsewhere. Called tumour: 0.5 is right.",
        "",
        "| arm | saliency on the shortcut per area (by seed) | called tumour (by seed) |",
        "|---|---|---|",
    ]
    for r in rows:
        by = " ".join(f"{v:.1f}" for v in r["by_seed"])
        called = " ".join(f"{v:.2f}" for v in r["called_by_seed"])
        lines.append(
            f"| {r['arm']} | {r['saliency_on_shortcut_per_area']:.1f} ({by}) | "
            f"{r['called_positive_with_shortcut']:.2f} ({called}) |"
        )
    return "\n".join([*lines, ""])


def cost_table(found: Found) -> dict[str, float]:
    """Processor time of training over that of plain, by arm: mean over seeds both have.

    Empty where a GPU trained: several processes shared it, and its time is not the processor's.
    """
    plain = found.get("plain", {})
    if not all(str(m.facts.get("machine", A_CORE)).startswith(A_CORE)
               for by_seed in found.values() for m in by_seed.values()):  # fmt: skip
        return {}
    costs = {}
    for arm, by_seed in found.items():
        ratios = [
            float(m.facts["train_cpu_s"]) / float(plain[s].facts["train_cpu_s"])
            for s, m in by_seed.items()
            if s in plain
        ]
        if ratios:
            costs[arm] = float(np.mean(ratios))
    return costs


def one_table(
    bench: Benchmark,
    found: Found,
    seeds: list[int],
    config: dict[str, Any],
    baseline: str = "plain",
    only: tuple[str, ...] = (),
) -> tuple[Comparison, str]:
    """Comparison of the arms that have all of some seeds, and its Markdown."""
    arms = {
        a: [v[s] for s in seeds]
        for a, v in found.items()
        if set(seeds) <= set(v) and (not only or a in only)
    }
    comparison = compare_measurements(
        arms,
        bench.test,
        baseline=baseline,
        config=ProtocolConfig(**config["protocol"], n_resamples=RESAMPLES),
        primary=primary_for(bench, config),
    )
    text = comparison_markdown(comparison)
    costs = cost_table({a: {s: found[a][s] for s in seeds} for a in arms})
    if costs:
        told = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in costs.items())
        text += f"\nProcessor time of training, plain = 1: {told}.\n"
    return comparison, text


def report(
    name: tuple[str, str], found: Found, config: dict[str, Any], folder: Path, work: Path
) -> None:
    network, data = name
    bench = load_once(data, tuple(config["limits"]), work)
    # Seeds that the two arms in question both have: a run may have been stopped anywhere.
    seeds = sorted(set(found["plain"]) & set(found.get(DEFAULT_ARM, found["plain"])))
    stem = f"{network}-{data}"
    if not seeds:
        return
    comparison, text = one_table(bench, found, seeds, config)
    content: dict[str, Any] = {"comparison": comparison.as_dict()}
    for peer, words in PEERS.items():
        shared = sorted(set(found.get(peer, {})) & set(found.get(DEFAULT_ARM, {})))
        if shared:
            pair, table = one_table(bench, found, shared, config, peer, (peer, DEFAULT_ARM))
            text += f"\n### Against {words}\n\n{table}"
            content[f"comparison_with_{peer}"] = pair.as_dict()
    left_out = [a for a, v in found.items() if not set(seeds) <= set(v)]
    if left_out and len(seeds) > 1:
        # Arms that were not run with every seed: beside the others, on the first seed alone.
        single, words = one_table(bench, found, seeds[:1], config)
        text += f"\n### All arms, seed {seeds[0]} alone\n\n{words}"
        content["comparison_one_seed"] = single.as_dict()
    if bench.marked_test is not None:
        content["shortcut"] = shortcut_table(found)
        text += shortcut_markdown(content["shortcut"])
    plain = list(found["plain"].values())
    known = ("chance", "centre", "haematoxylin", "random_weights")
    baselines = {
        k: float(np.mean([m.mean(f"pixel_ap_{k}") for m in plain]))
        for k in known
        if f"pixel_ap_{k}" in plain[0].values
    }
    if baselines:
        told = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in baselines.items())
        text += f"\nPixel AP without a trained model: {told}.\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    draw_comparison(comparison, folder / f"{stem}.png")
    facts = {a: [m.facts for m in v.values()] for a, v in found.items()}
    write_json(
        folder / f"{stem}.json", without_nan({**content, "baselines": baselines, "facts": facts})
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--data", nargs="+", help="put together only these; the rest stays")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    found: dict[tuple[str, str], Found] = defaultdict(lambda: defaultdict(dict))
    for cell in cells(config):
        path = cell_path(arguments.work, config, cell)
        if path.exists():
            network, data, seed, arm = cell
            found[network, data][arm][seed] = Measurement.load(path)
    folder = arguments.results / config["name"]
    summary = []
    here = machine(torch.device("cpu"))
    machines = {
        str(m.facts.get("machine", here))
        for arms in found.values() for by_seed in arms.values() for m in by_seed.values()
    }  # fmt: skip
    for (network, data), arms in found.items():
        if "plain" not in arms or len(arms) == 1:
            continue
        if not arguments.data or data in arguments.data:
            report((network, data), arms, config, folder, arguments.work)
        seeds = {arm: sorted(by_seed) for arm, by_seed in arms.items()}
        summary.append({"network": network, "data": data, "seeds": seeds})
    write_json(
        folder / "summary.json",
        {"machine": "; ".join(sorted(machines)), "config": config, "done": summary},
    )
    for entry in summary:
        print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
