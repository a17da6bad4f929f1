"""Put the measurements of a configuration together: JSON, tables and pictures.

    python benchmarks/evidence/report.py benchmarks/evidence/cpu.yaml --work /tmp/evidence

writes ``results/<name>/<network>-<data>.{json,md,png}`` and ``results/<name>/summary.json``.
Arms with fewer seeds than the baseline are compared over the seeds that both have. With
``--stored`` the tables and pictures are made anew from the JSON that is there, under the
statistics that the package has now; nothing is measured and the data are not needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from calibration_table import calibration_markdown
from data import Benchmark, load_once
from numpy.typing import NDArray
from run import A_CORE, CALLED, cell_path, cells, machine, protocol_of
from stored import comparison_from

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.evaluation.comparison import Comparison, compare_measurements, without_nan
from pathology_scaat.evaluation.comparison_report import comparison_markdown, draw_comparison
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.metrics.functional.statistics import clustered_mean, holm

Found = dict[str, dict[int, Measurement]]
Facts = dict[str, list[dict[str, Any]]]

UNITS = {"colon": "source tiles", "granular": "blocks of tissue"}
"""What images are grouped by, where it is not the patient."""

DEFAULT_ARM = "scaat-soft-16"
"""SCAAT from the start, the default of ``scaat train`` when most of the results were made."""

PEERS = {
    "sgt": "Saliency Guided Training",
    "random-mask-soft-16": "the same attack at random places",
}
"""Arms that the default is compared with by itself, beside plain training."""


PAIR = "comparison_of "
"""How the keys of comparisons of two arms begin that a configuration names in ``pairs``."""
VERSUS = "versus "
"""How the key of a comparison of all arms with the one begins that ``versus`` names."""


def primary_for(bench: Benchmark, config: dict[str, Any]) -> str:
    named = str(config["protocol"].get("primary", "pixel_ap"))
    has_masks = bench.test.masks is not None
    return named if has_masks or not named.startswith("pixel") else "srg/blur/probability"


def shortcut_table(found: Found, groups: NDArray[np.str_]) -> list[dict[str, Any]]:
    """Reliance on a shortcut, an arm a row (means and ranges over seeds).

    Where images were kept one by one: the share called tumour against plain training's, over the
    seeds that both have, with an interval over seeds and patients, corrected for the arms.
    """
    rows: list[dict[str, Any]] = []
    for arm, by_seed in found.items():
        facts = [m.facts for m in by_seed.values()]
        mass = [float(f["shortcut_mass"]) / float(f["shortcut_area"]) for f in facts]
        called = [float(f["called_positive_with_shortcut"]) for f in facts]
        rows.append(
            {"arm": arm, "seeds": len(facts), "saliency_on_shortcut_per_area": float(np.mean(mass)),
             "by_seed": mass, "called_positive_with_shortcut": float(np.mean(called)),
             "called_by_seed": called}
        )  # fmt: skip
        shared = sorted(set(by_seed) & set(found["plain"]))
        pairs = [(by_seed[s].values.get(CALLED), found["plain"][s].values.get(CALLED))
                 for s in shared]  # fmt: skip
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if arm != "plain" and differences:
            rows[-1]["called_against_plain"] = clustered_mean(differences, groups).as_dict()
    judged = [r["called_against_plain"] for r in rows if "called_against_plain" in r]
    for one, corrected in zip(judged, holm([r["p_value"] for r in judged]), strict=True):
        one["p_holm"] = corrected
    return rows


def shortcut_markdown(rows: list[dict[str, Any]]) -> str:
    judged = any("called_against_plain" in r for r in rows)
    lines = [
        "",
        "Shortcut put on every test image (in training it agreed with the class in 90 %). "
        "Saliency per area: 1 = no more than elsewhere. Called tumour: 0.5 is right."
        + (" p: corrected for the arms." if judged else ""),
        "",
        "| arm | saliency on the shortcut per area (by seed) | called tumour (by seed) |"
        + (" called tumour − plain | p |" if judged else ""),
        "|---|---|---|" + ("---|---|" if judged else ""),
    ]
    for r in rows:
        by = " ".join(f"{v:.1f}" for v in r["by_seed"])
        called = " ".join(f"{v:.2f}" for v in r["called_by_seed"])
        line = (
            f"| {r['arm']} | {r['saliency_on_shortcut_per_area']:.1f} ({by}) | "
            f"{r['called_positive_with_shortcut']:.2f} ({called}) |"
        )
        if judged:
            d = r.get("called_against_plain")
            line += (
                f" {d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) | {d['p_holm']:.2g} |"
                if d
                else " | |"
            )
        lines.append(line)
    return "\n".join([*lines, ""])


def cost_table(facts: Facts, comparison: Comparison) -> dict[str, float]:
    """Processor time of training over that of plain, by arm: mean over the seeds compared.

    Empty where a GPU trained: several processes shared it, and its time is not the processor's.
    """
    if not all(
        str(one.get("machine", A_CORE)).startswith(A_CORE) for arm in facts.values() for one in arm
    ):
        return {}
    plain = {int(one["seed"]): one for one in facts.get("plain", [])}
    costs = {}
    if "plain" not in [arm.arm for arm in comparison.arms]:
        return {}
    for arm in comparison.arms:
        shared = sorted(
            ((int(one["seed"]), one) for one in facts[arm.arm] if int(one["seed"]) in plain),
            key=lambda pair: pair[0],
        )
        ratios = [
            float(one["train_cpu_s"]) / float(plain[seed]["train_cpu_s"])
            for seed, one in shared[: arm.n_seeds]
        ]
        if ratios:
            costs[arm.arm] = float(np.mean(ratios))
    return costs


def compared(
    bench: Benchmark,
    found: Found,
    seeds: list[int],
    config: dict[str, Any],
    data: str,
    baseline: str = "plain",
    only: tuple[str, ...] = (),
) -> Comparison:
    """Comparison of the arms that have all of some seeds."""
    arms = {
        a: [v[s] for s in seeds]
        for a, v in found.items()
        if set(seeds) <= set(v) and (not only or a in only)
    }
    return compare_measurements(
        arms,
        replace(bench.test, unit=UNITS.get(data, "patients")),
        baseline=baseline,
        config=protocol_of(config),
        primary=primary_for(bench, config),
    )


def write_report(folder: Path, stem: str, content: dict[str, Any], unit: str) -> None:
    """JSON, tables and picture of what was found; comparisons are in their stored form."""

    def table(key: str) -> tuple[Comparison, str]:
        comparison = comparison_from(content[key], unit)
        content[key] = comparison.as_dict()
        text = comparison_markdown(comparison)
        if costs := cost_table(content["facts"], comparison):
            costs_text = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in costs.items())
            text += f"\nProcessor time of training, plain = 1: {costs_text}.\n"
        return comparison, text

    comparison, text = table("comparison")
    text += calibration_markdown(content["facts"])
    for peer, words in PEERS.items():
        if f"comparison_with_{peer}" in content:
            text += f"\n### Against {words}\n\n{table(f'comparison_with_{peer}')[1]}"
    for key in [k for k in content if k.startswith(PAIR)]:
        arm, baseline = key.removeprefix(PAIR).split(" / ")
        text += f"\n### {arm} against {baseline}\n\n{table(key)[1]}"
    for key in [k for k in content if k.startswith(VERSUS)]:
        text += f"\n### All arms against {key.removeprefix(VERSUS)}\n\n{table(key)[1]}"
    if "comparison_one_seed" in content:
        seed = int(content["facts"]["plain"][0]["seed"])
        text += f"\n### All arms, seed {seed} alone\n\n{table('comparison_one_seed')[1]}"
    if "shortcut" in content:
        text += shortcut_markdown(content["shortcut"])
    if content["baselines"]:
        baselines_text = ", ".join(
            f"{k.replace('_', ' ')} {v:.3f}" for k, v in content["baselines"].items()
        )
        text += f"\nPixel AP without a trained model: {baselines_text}.\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    draw_comparison(comparison, folder / f"{stem}.png")
    # thousands of numbers by image: an indentation of 2 would be a third of the file
    write_json(folder / f"{stem}.json", _short(without_nan(content)), indent=1)


def _short(value: Any) -> Any:
    """Numbers with seven digits: more are noise, and these files are kept."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return value


def report(
    name: tuple[str, str], found: Found, config: dict[str, Any], folder: Path, work: Path
) -> None:
    network, data = name
    bench = load_once(data, tuple(config["limits"]), work)
    # Seeds that the two arms in question both have: a run may have been stopped anywhere.
    seeds = sorted(set(found["plain"]) & set(found.get(DEFAULT_ARM, found["plain"])))
    if not seeds:
        return
    content: dict[str, Any] = {
        "comparison": compared(bench, found, seeds, config, data).as_dict(),
        "facts": {a: [v[s].facts for s in sorted(v)] for a, v in found.items()},
    }
    for peer in PEERS:
        shared = sorted(set(found.get(peer, {})) & set(found.get(DEFAULT_ARM, {})))
        if shared:
            pair = compared(bench, found, shared, config, data, peer, (peer, DEFAULT_ARM))
            content[f"comparison_with_{peer}"] = pair.as_dict()
    for arm, baseline in config.get("pairs", []):
        shared = sorted(set(found.get(arm, {})) & set(found.get(baseline, {})))
        if shared:
            pair = compared(bench, found, shared, config, data, baseline, (baseline, arm))
            content[f"{PAIR}{arm} / {baseline}"] = pair.as_dict()
    if (versus := config.get("versus")) in found:
        theirs = {arm: by_seed for arm, by_seed in found.items() if arm != "plain"}
        shared = sorted(set(found["plain"]) & set(found[versus]))
        content[f"{VERSUS}{versus}"] = compared(
            bench, theirs, shared, config, data, versus
        ).as_dict()  # fmt: skip
    if len(seeds) > 1 and any(not set(seeds) <= set(v) for v in found.values()):
        # Arms that were not run with every seed: beside the others, on the first seed alone.
        single = compared(bench, found, seeds[:1], config, data)
        content["comparison_one_seed"] = single.as_dict()
    if bench.marked_test is not None:
        content["shortcut"] = shortcut_table(found, bench.marked_test.groups)
    plain = list(found["plain"].values())
    known = ("chance", "centre", "haematoxylin", "random_weights")
    content["baselines"] = {
        k: float(np.mean([m.mean(f"pixel_ap_{k}") for m in plain]))
        for k in known
        if f"pixel_ap_{k}" in plain[0].values
    }
    write_report(folder, f"{network}-{data}", content, UNITS.get(data, "patients"))


def reissue(folder: Path, only: list[str] | None) -> None:
    """Tables and pictures anew from the JSON of a folder of results."""
    for path in sorted(folder.glob("*-*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        data = path.stem.partition("-")[2]
        if "comparison" in content and (not only or data in only):
            write_report(folder, path.stem, content, UNITS.get(data, "patients"))
            print(path.stem)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--data", nargs="+", help="put together only these; the rest stays")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--stored", action="store_true", help="from the JSON that is there")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    if arguments.stored:
        reissue(arguments.results / config["name"], arguments.data)
        return 0
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
