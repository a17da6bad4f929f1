"""What keeps a chosen map from being made is found before the first slide, not once per slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency import ExplainConfig, SaliencyStore
from pathology_scaat.saliency.attributions import AUTO
from pathology_scaat.saliency.explanation import plan_explanation
from pathology_scaat.system.names import shown_names
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.bundle_config import BundleConfig

TAKES_ANY_NETWORK = frozenset(
    {
        AUTO, "gradient", "gradient-x-input", "smoothgrad", "integrated-gradients", "occlusion",
        "rise",
    }
)  # fmt: skip
"""Methods that ask for slopes or scores alone; ``auto`` takes one that suits the model."""


def check_method_of_model(model: Path, config: ExplainConfig) -> None:
    """Refuse a method that cannot follow the model's network: a patch is explained by it.

    Raises
    ------
    UsageError
        In the method's own words.
    BundleError
        If the model cannot be read.
    """
    if config.method in TAKES_ANY_NETWORK:
        return
    # Imported here: torch is needed, which the other checks do not wait for.
    from pathology_scaat.saliency.explain import get_ready_to_explain

    settings = config.model_copy(update={"compile": False, "batch_size": 1})
    get_ready_to_explain(model, settings, "cpu", n_patches=1)


def check_method_of_training(train: TrainConfig, config: ExplainConfig, patch_size_px: int) -> None:
    """The same of a network that is still to be trained, with the weights that it begins with.

    Raises
    ------
    UsageError
        In the method's own words.
    """
    if config.method in TAKES_ANY_NETWORK:
        return
    import torch

    from pathology_scaat.saliency.attribution import attribution
    from pathology_scaat.training.backbones import create_backbone

    try:
        network = create_backbone(train.backbone, 2, patch_size_px, train.backbone_options)
        black = torch.zeros(1, 3, patch_size_px, patch_size_px)
        attribution(network.eval(), black, 0, config.method, n_samples=2, n_masks=2)
    except (RuntimeError, NotImplementedError):
        pass  # what is wrong with the network itself, training says


def refuse_without_slides(
    space: Workspace,
    slide_ids: Sequence[str],
    model: BundleConfig,
    config: ExplainConfig,
    overwrite: bool,
) -> None:
    """Refuse to make maps anew of slides whose pixels are not kept, where that is all of them.

    Raises
    ------
    UsageError
        Maps that are there are not touched. Where some have pixels, the others fail alone.
    """
    lacking = []
    for slide_id in slide_ids:
        try:
            meta = PatchStore(space.patches(slide_id)).meta
        except StoreError:
            return  # this one fails alone, with its reason
        if meta.has_pixels:
            return
        try:
            there = SaliencyStore(space.saliency(slide_id))
        except StoreError:
            lacking.append(slide_id)
            continue
        precisions = ("float32", "bfloat16") if config.precision == "auto" else (config.precision,)
        plans = [
            plan_explanation(meta, model, config.model_copy(update={"precision": p}), there)
            for p in precisions
        ]
        if overwrite or not any(plan.is_held_by(there, model) for plan in plans):
            lacking.append(slide_id)
    if lacking and len(lacking) == len(slide_ids):
        raise UsageError(
            "the patches",
            f"of {shown_names(lacking)} are kept without pixels: a model was applied, which reads "
            "them from the slides. Maps that are there are left as they are",
            "use 'scaat run --model' with these settings, or make the stores with 'scaat tile'",
        )
