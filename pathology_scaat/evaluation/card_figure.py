"""The picture of a trust card."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.metrics.functional.statistics import MIN_PATIENTS

if TYPE_CHECKING:
    from pathology_scaat.evaluation.trust_card import TrustCard

COLOURS = {"good": "#1b7837", "unclear": "#8c6d1f", "poor": "#b2182b"}
OTHER = "#444444"
TITLE_CHARACTERS = 110


def card_title(card: TrustCard) -> str:
    """What the picture is of, and what must be known before any figure, in lines."""
    seen = {True: "", False: " — images seen in training",
            None: " — images perhaps seen in training"}  # fmt: skip
    said = [
        f"Trust card: model {card.model_fingerprint[:12]}, class {card.target_class}"
        f"{seen[card.held_out]}",
        f"{card.measured_on} of {card.n_groups} {card.unit}",
        card.warning,
        *(note for note in card.slide_notes if not note.startswith("Slide ")),
    ]
    if card.n_groups < MIN_PATIENTS:
        said[1] += ": too few to say what follows for others"
    lines = (line for text in said if text for line in textwrap.wrap(text, TITLE_CHARACTERS))
    return "\n".join(lines)


def draw_card(card: TrustCard, path: Path) -> None:
    """The measured entries that have a chance level, as a picture with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = [e for e in card.entries if e.interval is not None and e.chance is not None][::-1]
    title = card_title(card)
    height = 1.8 + 0.45 * max(len(shown), 1) + 0.18 * title.count("\n")
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for y, e in enumerate(shown):
        interval = e.interval
        assert interval is not None  # noqa: S101  (for the type checker)
        assert e.chance is not None  # noqa: S101  (for the type checker)
        colour = COLOURS.get(e.verdict, OTHER)
        if not math.isnan(interval.low):
            axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=3)
        axis.plot(interval.value, y, "o", color=colour, markersize=8)
        axis.plot([e.chance, e.chance], [y - 0.3, y + 0.3], color="black", linewidth=1.5)
    axis.set_yticks(range(len(shown)), [e.question for e in shown], fontsize=8)
    axis.set_ylim(-0.7, max(len(shown), 1) - 0.3)
    axis.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
    axis.set_xlabel(f"value with 95 % interval over {card.unit}; black bar: chance")
    verdicts = dict.fromkeys(e.verdict for e in shown[::-1])
    if verdicts:
        marks = [
            Line2D([], [], color=COLOURS.get(v, OTHER), marker="o", linewidth=3, label=v)
            for v in verdicts
        ]
        figure.legend(handles=marks, title="verdict", loc="outside lower left", fontsize=8,
                      ncols=len(marks), title_fontsize=8, frameon=False)  # fmt: skip
    figure.suptitle(title, fontsize=10, color="#b00000" if card.warning else "black")
    if not shown:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
    with atomic_path(path) as partial:
        # No software name or time in the file: the same card gives the same bytes.
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
