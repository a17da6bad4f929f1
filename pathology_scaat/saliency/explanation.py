"""What an explanation is to be: which classes, in which arrays, by which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.errors import UsageError
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.saliency.attributions import AUTO, OPTIONS_OF, SIGNED
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.schema import (
    MAIN_ARRAY,
    SCHEMA_NAME,
    SCHEMA_VERSION,
    SaliencyStoreMeta,
)
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint

if TYPE_CHECKING:
    from pathology_scaat.saliency.store import SaliencyStore

MPP_TOLERANCE = 0.10
NOT_IN_FINGERPRINT = {"batch_size", "compile", "patches_per_shard"}


def check_match(patches: PatchStoreMeta, bundle_config: Any, subject: str) -> None:
    """Refuse patches that the model was not made for.

    Raises
    ------
    UsageError
        If their size or µm/px is another one.
    """
    size, mpp = patches.grid.patch_size_px, patches.effective_mpp
    if size != bundle_config.patch_size_px:
        raise UsageError(
            subject,
            f"holds patches of {size} px, the model was trained on {bundle_config.patch_size_px}",
            f"tile again with --patch-size {bundle_config.patch_size_px}",
        )
    if bundle_config.mpp and abs(mpp / bundle_config.mpp - 1) > MPP_TOLERANCE:
        raise UsageError(
            subject,
            f"is at {mpp:g} µm/px, the model was trained at {bundle_config.mpp:g}",
            f"tile again with --mpp {bundle_config.mpp:g}",
        )


def explained_classes(target: str | None, model_config: BundleConfig) -> tuple[str, ...]:
    """The classes to explain, in the model's order.

    Without any named: of two classes that exclude each other the positive one, since a map of
    the other would say the same once more; else every class.

    Raises
    ------
    UsageError
        If a class is none of the model's.
    """
    names = tuple(model_config.class_names)
    if target is None:
        alone = len(names) <= 2 and not model_config.multi_label
        return (model_config.positive_class,) if alone else names
    asked = [target] if target in names else [part.strip() for part in target.split(",")]
    for name in asked:
        if name not in names:
            raise UsageError(
                "--target", f"'{name}' is no class of the model", f"use one of {', '.join(names)}"
            )
    return tuple(name for name in names if name in asked)


def array_names(
    targets: Sequence[str], main: str, class_names: Sequence[str], config: ExplainConfig
) -> dict[str, str]:
    """Which array holds the saliency of which class."""
    # the margins of two classes differ in sign alone, and saliency is its size
    shared = len(class_names) == 2 and config.output != "logit" and config.method in SIGNED
    return {
        name: MAIN_ARRAY if shared or name == main else f"{MAIN_ARRAY}_{class_names.index(name)}"
        for name in targets
    }


def chosen_method(asked: str, model_config: BundleConfig) -> str:
    """The attribution method; of ``auto`` the one that the model's reference maps were made by."""
    settings = model_config.reference_settings
    recorded = settings.method if settings is not None else "gradient"
    return recorded if asked == AUTO else asked


CASE = "case"
"""Parameter of a store of a model of cases: fingerprints of the other slides' patches."""


def settled(config: ExplainConfig, model_config: BundleConfig) -> ExplainConfig:
    """The settings with what the model decides: the method of ``auto``, and what is explained."""
    method = chosen_method(config.method, model_config)
    if method != config.method:
        config = config.model_copy(update={"method": method})
    if model_config.multi_label and config.output != "logit":
        # Classes do not exclude each other: there is no margin between them.
        config = config.model_copy(update={"output": "logit"})
    return config


def _parameters(
    config: ExplainConfig, model_config: BundleConfig, case: Sequence[str]
) -> dict[str, Any]:
    """All that decides the result beside patches and model, but the classes."""
    idle = {name for name, methods in OPTIONS_OF.items() if config.method not in methods}
    parameters = config.model_dump(mode="json", exclude={*NOT_IN_FINGERPRINT, "target", *idle})
    # the model's fingerprint holds it too: this tells that it was applied
    parameters["temperature"] = model_config.temperature
    alone = model_config.multi_label and len(model_config.class_names) == 1
    if alone and model_config.bag is None and config.method not in SIGNED:
        # once these showed what speaks against the label: such maps are not this explanation
        parameters["explains"] = "the only label"
    if model_config.bag is not None:
        parameters["unit"] = "gradient of the slide's score x number of its patches"
    if model_config.bag_of is not None:
        parameters["unit"] = "gradient of the case's score x number of its patches"
        parameters[CASE] = sorted(case)
    return parameters


def _with_those_there(
    targets: tuple[str, ...],
    found: SaliencyStore | None,
    patches: str,
    model: str,
    parameters: dict[str, Any],
) -> tuple[str, ...]:
    """Classes asked for, and those that the same explanation holds already: it adds to them."""
    if found is None:
        return targets
    meta = found.meta
    rest = {k: v for k, v in meta.parameters.items() if k != "targets"}
    if (meta.patch_fingerprint, meta.model_fingerprint, rest) != (patches, model, parameters):
        return targets
    return tuple(n for n in meta.class_names if n in targets or n in meta.targets)


@dataclass(frozen=True)
class Explanation:
    """What is to be made for a slide: classes, parameters, and the fingerprint they give."""

    config: ExplainConfig
    class_names: tuple[str, ...]
    targets: tuple[str, ...]
    target_class: str
    parameters: dict[str, Any]
    model_print: str
    fingerprint: str

    @property
    def arrays(self) -> dict[str, str]:
        """Which array holds the saliency of which class."""
        return array_names(self.targets, self.target_class, self.class_names, self.config)

    def is_held_by(self, found: SaliencyStore | None, model_config: BundleConfig) -> bool:
        """Whether a store is this explanation.

        Stores of before it was written do not say that their probabilities are sigmoids.
        """
        return (
            found is not None
            and found.meta.multi_label == model_config.multi_label
            and found.meta.fingerprint == self.fingerprint
        )

    def meta(
        self, patches: PatchStoreMeta, model_config: BundleConfig, versions: dict[str, str]
    ) -> SaliencyStoreMeta:
        """Metadata of the store that holds it."""
        return SaliencyStoreMeta(
            slide_id=patches.slide_id,
            slide_fingerprint=patches.slide_fingerprint,
            fingerprint=self.fingerprint,
            patch_fingerprint=patches.fingerprint,
            model_fingerprint=self.model_print,
            slide=patches.slide,
            grid=patches.grid,
            effective_mpp=patches.effective_mpp,
            stride_px=self.config.stride_px,
            class_names=self.class_names,
            target_class=self.target_class,
            method=self.config.method,
            parameters=self.parameters,
            versions=versions,
            multi_label=model_config.multi_label,
            arrays=self.arrays,
            model=model_config.facts(patches.slide_fingerprint),
        )


def plan_explanation(
    patches: PatchStoreMeta,
    model_config: BundleConfig,
    config: ExplainConfig,
    there: SaliencyStore | None,
    case: Sequence[str] = (),
) -> Explanation:
    """What is to be made of some patches under a model.

    Parameters
    ----------
    patches : PatchStoreMeta
    model_config : BundleConfig
    config : ExplainConfig
        Its precision is one that a device computes in, not ``auto``.
    there : SaliencyStore or None
        What stands in the place; the classes that it explains likewise are kept.
    case : sequence of str
        Fingerprints of the patches of the case's other slides, where the model's bags are cases.

    Raises
    ------
    UsageError
        If the target is not a class.
    """
    class_names = tuple(model_config.class_names)
    targets = explained_classes(config.target, model_config)
    config = settled(config, model_config)
    parameters = _parameters(config, model_config, case)
    model_print = model_fingerprint(model_config)
    targets = _with_those_there(targets, there, patches.fingerprint, model_print, parameters)
    positive = model_config.positive_class
    parameters["targets"] = list(targets)
    if config.method == "smoothgrad":
        parameters["noise_by"] = "patch"  # once it was drawn by the index in the batch
    wanted = fingerprint(
        {
            "schema": SCHEMA_NAME,
            "schema_version": SCHEMA_VERSION,
            "patches": patches.fingerprint,
            "model": model_print,
            "parameters": parameters,
        }
    )
    main = positive if positive in targets else targets[0]
    return Explanation(config, class_names, targets, main, parameters, model_print, wanted)
