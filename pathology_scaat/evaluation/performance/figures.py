"""Figures of performance as SVG: ROC, precision and recall, calibration, decision, confusion."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.evaluation.performance.levels import Level
from pathology_scaat.evaluation.performance.predictions import Prediction

LONGEST_NAME = 16
ROOM_OF_NAME = 6
"""Characters of a class's name that fit before an estimate with its interval."""
_AREA = "(area under the curve)"
_STYLE = {"svg.hashsalt": "pathology_scaat", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}


def write_figure(
    path: Path,
    rows: Sequence[Prediction],
    level: Level,
    class_names: Sequence[str],
    positive: str,
    title: str,
) -> None:
    """Five panels of some predictions; the same input gives the same bytes."""
    names = list(class_names)
    at = names.index(positive)
    kept = [row for row in rows if row.label in names]
    score = np.array([row.probability[at] for row in kept])
    truth = np.array([row.label == positive for row in kept])
    with mpl.rc_context(_STYLE), atomic_path(path) as partial:
        above = "\n".join([title, *_in_full(names)])
        height = 3.2 + 0.2 * above.count("\n") + 0.8 * bool(_in_full(names))
        figure = Figure(figsize=(13, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.subplots(1, 5)
        figure.suptitle(above)
        # Of more than two classes the plain measure is a mean over them, and no curve's.
        of = "" if len(names) == 2 else f": {positive}"
        name = _short(positive)
        said = "" if len(names) == 2 else f": {name}"
        said += "\n" if len(said) > ROOM_OF_NAME else " "
        axes[0].plot([0, 1], [0, 1], "k:", linewidth=1)
        axes[0].set(xlabel="1 - specificity (dotted: chance)", ylabel="sensitivity")
        axes[1].axhline(truth.mean(), color="k", linestyle=":", linewidth=1)
        axes[1].set(xlabel="recall (dotted: chance)", ylabel="precision")
        if truth.any() and not truth.all():
            fpr, tpr, _ = roc_curve(truth, score)
            axes[0].plot(fpr, tpr, drawstyle="default")
            axes[0].set(title=f"ROC{said}{level.estimates[f'auroc{of}'].text()}\n{_AREA}")
            precision, recall, _ = precision_recall_curve(truth, score)
            axes[1].plot(recall, precision, drawstyle="steps-post")
            axes[1].set(title=f"PR{said}{level.estimates[f'auprc{of}'].text()}\n{_AREA}")
        else:
            which = "all cases are" if truth.all() else "no case is"
            axes[0].set(title=f"ROC: not measurable,\n{which} of {name}")
            axes[1].set(title=f"PR: not measurable,\n{which} of {name}")
        groups = level.calibration
        axes[2].plot([0, 1], [0, 1], "k:", linewidth=1)
        axes[2].plot(
            [g["mean_probability"] for g in groups], [g["frequency"] for g in groups], "o-"
        )
        axes[2].set(
            xlabel=f"probability of {name}", ylabel=f"share that is {name}",
            title="Calibration\n(dotted: as it should be)",
        )  # fmt: skip
        curve = level.decision_curve
        cuts = [c["threshold"] for c in curve]
        axes[3].plot(cuts, [c["net_benefit"] for c in curve], label="model")
        axes[3].plot(cuts, [c["treat_all"] for c in curve], "--", label=f"call all {name}")
        axes[3].axhline(0, color="k", linestyle=":", linewidth=1, label="call none")
        axes[3].set(
            xlabel="threshold probability", ylabel="net benefit", title="Decision curve",
            ylim=(-0.1, max(0.1, 1.1 * float(truth.mean()))),
        )  # fmt: skip
        axes[3].legend(fontsize=7)
        counts = np.array([[level.confusion[t][g] for g in names] for t in names])
        axes[4].imshow(counts, cmap="Blues")
        axes[4].grid(visible=False)
        for (i, j), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes[4].text(j, i, str(count), ha="center", va="center", color="w" if dark else "k")
        shown = [_short(one) for one in names]
        axes[4].set_xticks(
            range(len(names)), shown, rotation=30, ha="right", rotation_mode="anchor"
        )  # fmt: skip
        axes[4].set_yticks(range(len(names)), shown)
        axes[4].set(xlabel="predicted", ylabel="truth", title=f"Confusion ({len(kept)} cases)")
        _lay_out(figure)
        figure.savefig(
            partial, format="svg", metadata={"Date": None, "Title": title.replace("\n", "; ")}
        )


def _short(name: str) -> str:
    """A class's name where there is little room: it must not run into the numbers beside it."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _in_full(names: Sequence[str]) -> list[str]:
    """The names that panels show shortened."""
    cut = [name for name in names if _short(name) != name]
    return textwrap.wrap(f"Names in full: {', '.join(cut)}", 160) if cut else []


def _lay_out(figure: Figure) -> None:
    """Place the panels now: while an engine for it is set, saving draws all of it twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
