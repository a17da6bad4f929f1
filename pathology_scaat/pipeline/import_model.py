"""``scaat import-model``: a model that was trained elsewhere into a bundle of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.cohort.mistaken import not_weights
from pathology_scaat.errors import BundleError, TrainingError, UsageError
from pathology_scaat.geometry import is_plausible_mpp
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.class_names import near_notes
from pathology_scaat.saliency.explanation import check_match
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bundle import save_bundle
from pathology_scaat.training.bundle_config import (
    MAX_PATCH_PX,
    BundleConfig,
    ReferenceSettings,
    class_names_problem,
    model_fingerprint,
)
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.class_colours import class_colours
from pathology_scaat.training.data import PatchTable, whole_table
from pathology_scaat.training.encoders import encoder_of
from pathology_scaat.training.imported.check import N_RANDOM, Tried, random_patches, try_model
from pathology_scaat.training.imported.class_order import refuse_another_order, refuse_one_class
from pathology_scaat.training.imported.facts import Colour, ModelFile, read_weights
from pathology_scaat.training.imported.matching import match_weights
from pathology_scaat.training.imported.monai_bundle import read_monai_bundle
from pathology_scaat.training.imported.record import (
    SCRIPT_BACKBONE,
    UNKNOWN_METHOD,
    ImportRecord,
)
from pathology_scaat.training.imported.script import run_script, trust_script
from pathology_scaat.training.imported.unknowns import unknowns
from pathology_scaat.training.imported.wsinfer_folder import read_wsinfer_folder
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.references import (
    layers_of_maps,
    map_stride_px,
    measure_maps,
    method_by,
    spread,
)
from pathology_scaat.training.wsinfer import NOT_OF_LABELS


@dataclass(frozen=True)
class ModelSource:
    """What is imported: exactly one of the four.

    Attributes
    ----------
    weights : Path, optional
        Safetensors, a tensor-only ``.pt``, or a TorchScript whose tensors alone are read.
    torchscript : Path, optional
        A TorchScript file that **is run** as it is.
    wsinfer, monai : Path, optional
        A model's folder.
    """

    weights: Path | None = None
    torchscript: Path | None = None
    wsinfer: Path | None = None
    monai: Path | None = None


@dataclass(frozen=True)
class ModelMeaning:
    """What whoever imports a model says of it; what its folder says must not be contradicted.

    Attributes
    ----------
    backbone : str, optional
        Network by name.
    backbone_options : dict
    class_names : tuple of str, optional
        In the order of the outputs.
    mpp : float, optional
        µm per pixel of the patches it was trained on.
    patch_size_px : int, optional
    mean, std : 3 floats, optional
        Of each channel on [0, 1], as they were in its training.
    positive : str, optional
        Class that saliency speaks of.
    multi_label : bool
        Several classes may hold at once: sigmoids.
    licence : str
        Of the weights.
    """

    backbone: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    mpp: float | None = None
    patch_size_px: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    positive: str | None = None
    multi_label: bool = False
    licence: str = ""


@dataclass(frozen=True)
class ImportReport:
    """What was made, and what is to be said of it."""

    bundle: Path
    config: BundleConfig
    tried: Tried
    notes: tuple[str, ...]


def import_model(
    source: ModelSource,
    out: Path,
    meaning: ModelMeaning | None = None,
    *,
    reference: Sequence[Path] = (),
    overwrite: bool = False,
) -> ImportReport:
    """Make a bundle of a model that was trained elsewhere.

    The bundle says what it does not know: it is not calibrated, the slides it was trained on are
    not recorded (no slide counts as held out), and what its training patches look like is
    unknown. Its scale of colours is measured on the reference patches, if there are any.

    Parameters
    ----------
    source : ModelSource
    out : Path
        The bundle's folder.
    meaning : ModelMeaning, optional
    reference : sequence of Path
        Patch stores of typical slides, or a run's output folder, whose ``patches`` are taken.
    overwrite : bool
        Replace a bundle that stands there.

    Returns
    -------
    ImportReport

    Raises
    ------
    UsageError
        If something that must be known is not given, or contradicts the model's folder.
    TrainingError
        If the weights are not those of the network, or the model cannot be explained.
    BundleError
        If ``out`` is something else than a bundle, or one and ``overwrite`` is not given.
    """
    said = meaning or ModelMeaning()
    _check_output(out, overwrite)
    found = _read(source)
    said = _merged(said, found, runs=source.torchscript is not None)
    assert said.class_names is not None  # noqa: S101  (for the type checker)
    assert said.mpp is not None  # noqa: S101
    assert said.patch_size_px is not None  # noqa: S101
    assert said.mean is not None  # noqa: S101
    assert said.std is not None  # noqa: S101
    positive = positive_class(said.positive, said.class_names, option="--positive")
    backbone = SCRIPT_BACKBONE if source.torchscript is not None else str(said.backbone)
    try:
        config = BundleConfig(
            class_names=said.class_names,
            class_colours=dict(zip(said.class_names, class_colours(said.class_names), strict=True)),
            positive_class=positive.name,
            multi_label=said.multi_label,
            patch_size_px=said.patch_size_px,
            mpp=said.mpp,
            backbone=backbone,
            backbone_options=said.backbone_options,
            mean=said.mean,
            std=said.std,
            method=UNKNOWN_METHOD,
            imported=ImportRecord(
                kind=found.kind, source_sha256=file_sha256(found.weights), licence=said.licence
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"patch_size_px": "patch-size", "class_names": "classes"}.get(
            str(first["loc"][0]), str(first["loc"][0])
        )
        raise UsageError(f"--{option}", str(first["msg"])[:120], "correct it") from None
    subject = found.weights.name
    model, notes = _network(config, found, source, subject)
    stores = _stores(reference)
    table = _table(stores, config)
    images = _images(table, config.patch_size_px)
    target = config.class_names.index(config.positive_class)
    output = "logit" if config.multi_label else "margin"
    tried = try_model(model, images, target, config.class_names, subject, output)  # type: ignore[arg-type]
    references = None
    if table is not None:
        references = measure_maps(
            model, table, config.class_names, 1.0, torch.device("cpu"), "reference patches",
            multi_label=config.multi_label,
        )  # fmt: skip
        assert config.imported is not None  # noqa: S101  (for the type checker)
        config = config.model_copy(
            update={
                "saliency_reference": references.saliency,
                "evidence_reference": references.evidence,
                "reference_settings": references.settings,
                "imported": config.imported.model_copy(
                    update={"n_reference_patches": references.settings.n_patches}
                ),
            }
        )
    else:
        side = config.patch_size_px
        layers = layers_of_maps(model, side, torch.device("cpu"))
        config = config.model_copy(update={"reference_settings": ReferenceSettings(
            method=method_by(layers), output=output, stride_px=map_stride_px(side), n_patches=0,
            source="reference patches",
        )})  # fmt: skip
    notes = (*found.notes, *notes, *tried.notes, *near_notes(said.class_names))
    notes = (*notes, f"{positive.note[:1].upper()}{positive.note[1:]}.")
    all_notes = (*notes, *((NOT_OF_LABELS,) if config.multi_label else ()), *unknowns(config))
    config = config.model_copy(update={"notes": all_notes})
    config = save_bundle(out, model, config, script=source.torchscript)
    if source.torchscript is not None:
        trust_file = trust_script(config.weights_sha256)
        all_notes = (
            *all_notes,
            f"TorchScript is a program: this one was run, and the bundle runs it again for you "
            f"alone ({trust_file.name} in your settings folder). Others must import it themselves.",
        )
    return ImportReport(out, config, tried, all_notes)


def _check_output(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    try:
        read_bundle_config(out)
    except BundleError:
        raise BundleError(
            out.name, "is there already and is no model bundle", "give another --out"
        ) from None
    if not overwrite:
        raise BundleError(
            out.name,
            "is a model bundle already",
            "give another --out, or --overwrite to replace it",
        )


def _read(source: ModelSource) -> ModelFile:
    names = ("weights", "torchscript", "wsinfer", "monai")
    given = [name for name in names if getattr(source, name) is not None]
    if len(given) != 1:
        raise UsageError(
            "import-model",
            "takes one model" if given else "needs a model",
            "give WEIGHTS, --torchscript FILE, --wsinfer DIR or --monai DIR",
        )
    path: Path = getattr(source, given[0])
    of_file = given[0] in ("weights", "torchscript")
    if not (path.is_file() if of_file else path.is_dir()):
        wanted = "a file of weights" if of_file else "a model's folder"
        raise UsageError(path.name, *not_weights(path, wanted))
    if source.wsinfer is not None:
        return read_wsinfer_folder(path)
    if source.monai is not None:
        return read_monai_bundle(path)
    if source.torchscript is not None:
        return ModelFile("torchscript", path, {})
    return read_weights(path)


def _merged(said: ModelMeaning, found: ModelFile, *, runs: bool) -> ModelMeaning:
    """What was said and what the folder says, as one; refused where they differ or both lack."""
    values: dict[str, Any] = {}
    where = "the model's own folder"
    for name, option in (
        ("mpp", "--mpp"), ("patch_size_px", "--patch-size"), ("mean", "--mean"), ("std", "--std"),
    ):  # fmt: skip
        own, other = getattr(said, name), getattr(found, name)
        if own is not None and other is not None and not np.allclose(own, other, rtol=1e-3):
            shown = ",".join(f"{v:g}" for v in np.atleast_1d(other))
            raise UsageError(option, f"contradicts {where} ({shown})", "leave it out")
        values[name] = own if own is not None else other
    names = said.class_names
    if found.class_names is not None:
        if names is not None and len(names) != len(found.class_names):
            raise UsageError(
                "--classes",
                f"names {len(names)}, and the model has {len(found.class_names)} "
                f"({', '.join(found.class_names)})",
                "name all of them, in that order",
            )
        refuse_another_order(names, found.class_names)
        names = names or found.class_names  # other names for the same outputs are allowed
    values["class_names"] = names
    values["backbone"] = said.backbone or found.backbone
    encoder = encoder_of(values["backbone"] or "")
    if encoder is not None:
        values["mean"] = values["mean"] or encoder.normalisation[0]
        values["std"] = values["std"] or encoder.normalisation[1]
    needed = {
        "--classes": (names, "its classes in the order of its outputs, e.g. Normal,Tumor"),
        "--mpp": (values["mpp"], "the µm per pixel it was trained at, e.g. 0.5"),
        "--patch-size": (values["patch_size_px"], "the side of its patches in pixels, e.g. 224"),
        "--mean": (values["mean"], "what its training subtracted, on 0 to 1: 0.485,0.456,0.406 for "
                   "ImageNet's, 0,0,0 for nothing"),
        "--std": (values["std"], "what its training divided by: 0.229,0.224,0.225 for ImageNet's, "
                  "1,1,1 for nothing"),
    }  # fmt: skip
    if not runs:
        needed["--backbone"] = (values["backbone"], "its network by timm's name, e.g. resnet18")
    for option, (value, remedy) in needed.items():
        if value is None:
            raise UsageError(option, "is missing and stands in no file", f"give {remedy}")
    if runs and said.backbone is not None:
        raise UsageError(
            "--backbone",
            "says nothing of a script that is run as it is",
            "leave it out, or give the file as WEIGHTS: then its tensors alone are read",
        )
    if problem := class_names_problem(names or ()):
        raise UsageError("--classes", problem, "choose other names")
    refuse_one_class(names or (), multi_label=said.multi_label)
    if not is_plausible_mpp(values["mpp"]):
        raise UsageError(
            "--mpp", f"{values['mpp']:g} is not a plausible µm/px", "give µm per pixel, e.g. 0.5"
        )
    if not 8 <= values["patch_size_px"] <= MAX_PATCH_PX:
        raise UsageError("--patch-size", f"{values['patch_size_px']} px is no patch", "correct it")
    return ModelMeaning(
        **values, backbone_options=said.backbone_options, positive=said.positive,
        multi_label=said.multi_label, licence=said.licence,
    )  # fmt: skip


def _network(
    config: BundleConfig, found: ModelFile, source: ModelSource, subject: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network in evaluation mode with its weights, and what was done to fit them."""
    if source.torchscript is not None:
        return Classifier(run_script(source.torchscript), config.mean, config.std).eval(), ()
    backbone = create_backbone(
        config.backbone, len(config.class_names), config.patch_size_px, config.backbone_options
    )
    matched = match_weights(backbone, found.tensors, subject, len(config.class_names))
    if not all(bool(torch.isfinite(v).all()) for v in matched.state.values()):
        raise TrainingError(subject, "has weights that are NaN or infinite", "get the file anew")
    backbone.load_state_dict(matched.state)
    return Classifier(backbone, config.mean, config.std).eval(), matched.notes


def _stores(reference: Sequence[Path]) -> list[Path]:
    """Patch stores, also all of a run's output folder."""
    found: list[Path] = []
    for path in reference:
        inner = sorted((path / "patches").glob("*.zarr"))
        found.extend(inner or [path])
    return found


def _table(stores: Sequence[Path], config: BundleConfig) -> PatchTable | None:
    """All patches of the stores; labels of other classes than the model's are not known."""
    if not stores:
        return None
    for path in stores:
        check_match(PatchStore(path).meta, config, path.name)
    table = whole_table(stores)
    if len(table) < 2:
        raise UsageError("--reference", "holds no patches", "give stores with tissue")
    labels = table.labels.copy()
    for number, store in enumerate(table.stores):
        if store.meta.class_names != config.class_names:
            labels[table.store_index == number] = -1
    return PatchTable(table.stores, table.store_index, table.row, labels)


def _images(table: PatchTable | None, side_px: int) -> Tensor:
    if table is None:
        return random_patches(side_px)
    few = spread(table, N_RANDOM)
    pixels = few.read(np.arange(len(few)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def fingerprint_of(report: ImportReport) -> str:
    """Fingerprint of the bundle that was made."""
    return model_fingerprint(report.config)
