"""``scaat import-model``: bring your own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import needed
from pathology_scaat.cli.output import Json, put_values, stderr, stdout
from pathology_scaat.cli.output import note as add_note
from pathology_scaat.errors import UsageError


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Three numbers of a comma-separated option."""
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            option, f"'{text}' is not three numbers", "write one per channel: 0.485,0.456,0.406"
        ) from None
    return first, second, third


def _options(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise UsageError("--backbone-options", "is no JSON object", 'write {"init_values": 1e-5}')
    return {str(name): inner for name, inner in value.items()}


@app.command("import-model", short_help="A bundle of a model that was trained elsewhere.")
def import_model(
    weights: Annotated[
        Path | None,
        typer.Argument(
            help="Weights: safetensors, .pt of tensors, or a TorchScript (tensors alone are read)."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Network of the weights: a timm name or an encoder."),
    ] = None,
    backbone_options: Annotated[
        str | None,
        typer.Option("--backbone-options", help="Options of timm.create_model, as JSON."),
    ] = None,
    torchscript: Annotated[
        Path | None,
        typer.Option("--torchscript", help="TorchScript that is RUN as it is; only if trusted."),
    ] = None,
    wsinfer: Annotated[
        Path | None, typer.Option("--wsinfer", help="Folder of a WSInfer model.")
    ] = None,
    monai: Annotated[Path | None, typer.Option("--monai", help="Folder of a MONAI bundle.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes, in the order of the outputs.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel that it was trained at.")
    ] = None,
    patch_size: Annotated[
        int | None, typer.Option("--patch-size", help="Side of its patches in pixels.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Subtracted in its training, on 0 to 1: R,G,B.")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Divided by in its training: R,G,B.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option("--positive", help="Class that saliency speaks of.")
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Several classes may hold at once (sigmoids).")
    ] = False,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights; kept in the bundle.")
    ] = "",
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            help="Patch store, or output folder of 'scaat tile': measures the scale of colours. "
            "May be given several times.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the bundle.")] = None,
    overwrite: opt.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of a model that was trained elsewhere, to explain its decisions."""
    from pathology_scaat.pipeline.import_model import ModelMeaning, ModelSource
    from pathology_scaat.pipeline.import_model import import_model as step
    from pathology_scaat.training.imported.record import SCRIPT_BACKBONE

    names = opt.listed(classes)
    report = step(
        ModelSource(weights, torchscript, wsinfer, monai),
        needed(out, "--out"),
        ModelMeaning(
            backbone=backbone,
            backbone_options=_options(backbone_options),
            class_names=None if names is None else tuple(names),
            mpp=mpp,
            patch_size_px=patch_size,
            mean=_three(mean, "--mean"),
            std=_three(std, "--std"),
            positive=positive,
            multi_label=multi_label,
            licence=licence,
        ),
        reference=reference or (),
        overwrite=overwrite,
    )
    put_values(
        bundle=report.bundle,
        backbone=report.config.backbone,
        class_names=report.config.class_names,
        mpp=report.config.mpp,
        patch_size_px=report.config.patch_size_px,
        tried=report.tried,
    )
    for note in report.notes:
        add_note(note)
        stderr.print(note, markup=False, highlight=False, soft_wrap=True)
    config, tried = report.config, report.tried
    counts = ", ".join(
        f"{name}: {count}" for name, count in zip(config.class_names, tried.predicted, strict=True)
    )
    kind = "reference" if reference else "random"
    for line in (
        f"tried on {tried.n_patches} {kind} patches ({counts}); its saliency is there and finite",
        f"bundle: {report.bundle} ({config.backbone}, {config.patch_size_px} px at "
        f"{config.mpp:g} µm/px)",
        f"explain slides: scaat run --manifest SLIDES.csv --out OUT --model {report.bundle}",
        *(
            [f"go on training it with SCAAT: scaat finetune --model {report.bundle} --help"]
            if report.config.backbone != SCRIPT_BACKBONE
            else []
        ),
    ):
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
