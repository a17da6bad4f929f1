"""The trained model in the WSInfer format: for QuPath's extension and ``wsinfer run``.

A folder named after the model (:func:`model_name`; QuPath's extension lists local models by
their folders, and of two of one name shows one) with one TorchScript file, ``config.json``, and
``README.md``, which the extension shows. Both programs resize a patch to
``patch_size_pixels``, make it float in [0, 1], run the script and apply the softmax themselves,
so the script gives logits (over the bundle's temperature, so that their softmax is the
calibrated probability that our maps show) and normalises inside.
"""

from __future__ import annotations

import copy
import io
import re
import warnings
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.system.disk_errors import PatientWriter
from pathology_scaat.system.rounding import significant
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint, model_name

SCRIPT_NAME = "torchscript_model.pt"
SPEC_VERSION = "1.0"
DEBUG_SUFFIX = ".debug_pkl"
MANGLED = re.compile(rb"___torch_mangle_[0-9]+")
OWN_RECORDS = frozenset(
    {"version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment"}
)
"""Records that the archive writer adds itself."""

NOT_OF_LABELS = (
    "No model is written for WSInfer and QuPath's extension: they take the softmax over the "
    "classes, and here each label has a probability of its own."
)
"""What is to be said of a model for several labels."""

_traced: set[str] = set()
"""Classes of modules that this process has traced."""


class Calibrated(nn.Module):
    """A model whose logits are divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = float(temperature)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, P, P) in [0, 1] to logits (B, K) over the temperature."""
        logits: Tensor = self.model(images)
        return logits / self.temperature


def wsinfer_config(config: BundleConfig) -> dict[str, Any]:
    """The model configuration of the WSInfer zoo, specification 1.0."""
    return {
        "spec_version": SPEC_VERSION,
        "architecture": config.backbone,
        "num_classes": len(config.class_names),
        "class_names": list(config.class_names),
        "patch_size_pixels": config.patch_size_px,
        "spacing_um_px": config.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": config.patch_size_px}},
            {"name": "ToTensor"},
        ],
    }


def write_wsinfer_model(folder: Path, model: nn.Module, config: BundleConfig) -> None:
    """Write TorchScript, configuration and README into ``folder``/:func:`model_name`, made anew."""
    folder = folder / model_name(config)
    folder.mkdir(parents=True)
    side = config.patch_size_px
    plain: nn.Module = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    if config.temperature != 1.0:
        plain = Calibrated(plain, config.temperature).eval()
    example = torch.linspace(0, 1, 2 * 3 * side * side).reshape(2, 3, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        # tracing is how these programs want it; torch announces its successor at each call
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # the first trace of a class in a process leaves its name unnumbered: the next numbers all
        # (not frozen: frozen weights are constants, which .to(device) does not move)
        classes = {f"{type(m).__module__}.{type(m).__qualname__}" for m in plain.modules()}
        for _ in range(1 if classes <= _traced else 2):
            script = torch.jit.trace(plain, example, check_trace=False)  # type: ignore[no-untyped-call]
        _traced.update(classes)
    traced = io.BytesIO()  # given a path on a full disk, torch ends the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(script, traced)
    with (folder / SCRIPT_NAME).open("wb") as stream:
        target = PatientWriter(stream)
        _rewrite_reproducibly(traced, target)
        target.check()
    write_json(folder / "config.json", wsinfer_config(config))
    (folder / "README.md").write_text(wsinfer_readme(config), encoding="utf-8")


def wsinfer_readme(config: BundleConfig) -> str:
    """What QuPath shows when one asks about the model."""
    measured = [f"* {name}: {significant(value)}" for name, value in sorted(config.metrics.items())]
    classes = ", ".join(config.class_names)
    return "\n".join(
        [
            f"# {model_name(config)}",
            "",
            f"A patch classifier of pathology_scaat ({config.backbone}, {_made(config)}). For "
            "research; not a medical device.",
            "",
            f"* Classes: {classes}",
            f"* Patches: {config.patch_size_px} x {config.patch_size_px} px at "
            f"{config.mpp:g} um/px",
            f"* Fingerprint: {model_fingerprint(config)[:16]}",
            "* Its probabilities are "
            + ("calibrated" if config.is_calibrated else "not calibrated"),
            *([f"* {config.terms}"] if config.terms else []),
            "",
            "## Measured when it was trained",
            "",
            *(measured or ["Nothing was measured."]),
            "",
            *(_MEASURED if measured else ()),
            "A probability here says what the model says, not how often it is right on "
            "slides of another laboratory or scanner.",
            "",
        ]
    )


_MEASURED = (
    "Names that begin with `test` are of slides that took no part in training; `val` chose the "
    "epoch.",
)


def _made(config: BundleConfig) -> str:
    """How the model was trained, in words."""
    if config.imported is not None:
        return "imported; how and on what it was trained is not known"
    return f"trained with {config.method}"


def _rewrite_reproducibly(source: io.BytesIO, target: PatientWriter) -> None:
    """Copy a TorchScript archive without what depends on the machine and the process.

    Debug records hold the paths of the Python files on the machine that traced the model; class
    names hold a counter of the process, which is numbered anew here.
    """
    source.seek(0)
    reader = torch._C.PyTorchFileReader(source)
    writer = torch._C.PyTorchFileWriter(cast(IO[bytes], target))
    numbers: dict[bytes, bytes] = {}

    def renumber(text: bytes) -> bytes:
        return MANGLED.sub(
            lambda m: numbers.setdefault(m[0], b"___torch_mangle_%d" % len(numbers)), text
        )

    for name in reader.get_all_records():
        if name.endswith(DEBUG_SUFFIX) or name.startswith("traced_inputs") or name in OWN_RECORDS:
            continue
        data = reader.get_record(name)
        if name.endswith((".py", ".pkl")):
            data = renumber(data)
        writer.write_record(renumber(name.encode()).decode(), data, len(data))
    writer.write_end_of_file()
