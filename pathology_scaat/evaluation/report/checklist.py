"""Checklists of reporting guidelines, filled where a run knows and open where a person must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pathology_scaat.evaluation.report.checklist_items import CLAIM, TRIPOD_AI, Item
from pathology_scaat.evaluation.report.run_files import Fact, RunFiles
from pathology_scaat.system.markdown import without_tags

SCHEMA_NAME: Final = "pathology_scaat.checklist"
State = Literal["filled", "in part", "open"]
LISTS: Final = {
    "TRIPOD+AI": (TRIPOD_AI, "https://doi.org/10.1136/bmj-2023-078378"),
    "CLAIM 2024": (CLAIM, "https://doi.org/10.1148/ryai.240300"),
}
"""Name, items, and where the guideline is published."""
_MARK: Final[dict[str, str]] = {"filled": "[x]", "in part": "[~]", "open": "[ ]"}


@dataclass(frozen=True)
class Answer:
    """What a run knows of one item."""

    item: Item
    facts: tuple[Fact, ...]
    n_silent: int = 0
    """Of the topics that would speak to the item, those of which the run knows nothing."""

    @property
    def state(self) -> State:
        if not self.facts:
            return "open"
        return "in part" if self.left else "filled"

    @property
    def left(self) -> str:
        """What a person has to write; empty where nothing."""
        if not self.facts:
            return self.item.left or f"all of it; the run does not know: {self.item.topic}"
        if self.n_silent and not self.item.left:
            return "the rest: the files that would say it are not in the output folder"
        return self.item.left

    def as_dict(self) -> dict[str, Any]:
        return {
            "item": self.item.number,
            "topic": self.item.topic,
            "state": self.state,
            "facts": [{"text": fact.text, "source": fact.source} for fact in self.facts],
            "left_to_a_person": self.left,
        }


def answers(items: Sequence[Item], files: RunFiles) -> tuple[Answer, ...]:
    """Each item with what the run knows of it."""
    found = []
    for item in items:
        parts = [source(files) for source in item.fact_sources]
        facts = dict.fromkeys(fact for part in parts for fact in part)
        found.append(Answer(item, tuple(facts), sum(not part for part in parts)))
    return tuple(found)


def all_answers(files: RunFiles) -> dict[str, tuple[Answer, ...]]:
    """Both checklists."""
    return {name: answers(items, files) for name, (items, _) in LISTS.items()}


def checklist_json(found: dict[str, tuple[Answer, ...]], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA_NAME,
        "schema_version": 1,
        "checklists": {
            name: {"guideline": LISTS[name][1], "items": [a.as_dict() for a in rows]}
            for name, rows in found.items()
        },
        "notes": list(notes),
    }


def count(rows: Sequence[Answer]) -> dict[str, int]:
    """Items by state."""
    return {state: sum(row.state == state for row in rows) for state in _MARK}


def checklist_markdown(found: dict[str, tuple[Answer, ...]], notes: Sequence[str]) -> str:
    """Both checklists as Markdown: each fact with the file and key it is from."""
    lines = [
        "# Reporting checklists",
        "",
        "What this run knows of itself, item by item. `[x]`: answered from the files of the run. "
        "`[~]`: in part, the rest is for a person. `[ ]`: open, a person must write it. Topics are "
        "in our own words, and their numbers were written down without the publications at hand: "
        "compare both with the guideline before you hand this in. A filled item is no judgement "
        "that the study is sound.",
        "",
        *(f"> {note}" for note in notes),
    ]
    for name, rows in found.items():
        n = count(rows)
        lines += [
            "",
            f"## {name}",
            "",
            f"[The guideline]({LISTS[name][1]}). {n['filled']} of {len(rows)} items answered, "
            f"{n['in part']} in part, {n['open']} open.",
        ]
        for row in rows:
            lines += ["", f"### {_MARK[row.state]} {row.item.number}. {row.item.topic}", ""]
            lines += [f"- {fact.text} (`{fact.source}`)" for fact in row.facts]
            if row.left:
                lines.append(f"- **TO WRITE:** {row.left}")
    return without_tags("\n".join([*lines, ""]))
