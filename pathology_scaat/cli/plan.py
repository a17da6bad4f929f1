"""How the plan of ``scaat run --dry-run`` is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology_scaat.cli.common import folded
from pathology_scaat.cli.output import put_values, stdout
from pathology_scaat.errors import BatchError
from pathology_scaat.system.amounts import in_bytes, in_time

if TYPE_CHECKING:
    from pathology_scaat.pipeline.plan_run import RunPlan

UNKNOWN = "not known"


def print_plan(plan: RunPlan) -> None:
    """Print slides, stages and what they need.

    Raises
    ------
    BatchError
        If a slide would fail.
    """
    put_values(plan=plan)
    table = folded("slide", "patches", "disk", "")
    for slide in plan.slides:
        said = slide.problem or ("already there" if slide.already_there else "")
        table.add_row(
            slide.slide_id,
            UNKNOWN if slide.n_patches is None else f"{slide.n_patches:,}",
            UNKNOWN if slide.n_bytes is None else in_bytes(slide.n_bytes),
            said,
        )
    stdout.print(table)
    stages = folded("stage", "time", "how that is known")
    for stage in plan.stages:
        took = UNKNOWN if stage.seconds is None else f"about {in_time(stage.seconds)}"
        stages.add_row(stage.stage, "none" if stage.seconds == 0 else took, stage.source)
    stdout.print(stages)
    patches = UNKNOWN if plan.n_patches is None else f"{plan.n_patches:,} to cut"
    disk = "disk not known" if plan.n_bytes is None else in_bytes(plan.n_bytes)
    saliency = UNKNOWN if plan.saliency_bytes is None else in_bytes(plan.saliency_bytes)
    lines = [
        f"{plan.n_slides} slides; patches: {patches}, {disk}; saliency: {saliency}; "
        f"{in_bytes(plan.free_bytes)} free",
        "nothing was written: this was --dry-run",
    ]
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    failing = [slide for slide in plan.slides if slide.problem]
    if failing:
        raise BatchError(f"{len(failing)} slide(s)", "would fail", "the reasons are above")
