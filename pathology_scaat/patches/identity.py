"""What decides a patch store, in two parts: its pixels, and the labels on them.

A corrected annotation or a new class name changes labels alone. So the store carries two
fingerprints: that of the patches (``fingerprint``: slide, tissue, grid, bytes), on which saliency
is built, and that of their labels (``label_fingerprint``), on which training is built as well.
Where only labelled patches are kept, labels decide which patches there are, and are part of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pathology_scaat.artifacts.fingerprint import file_sha256, fingerprint
from pathology_scaat.errors import AnnotationError
from pathology_scaat.patches.config import LOSSLESS, TileConfig, TileJob
from pathology_scaat.patches.schema import JPEG_VERSION, PatchStoreMeta, store_version
from pathology_scaat.slides.fingerprint import keyed

METHOD_VERSION = 4
"""Counts up when other patches are chosen or other bytes written for one slide and settings.

2: tissue is sought on a level that is shrunk by two at least, and patches are encoded without
bit shuffling.
3: blue and green stains are tissue, tinted glass is glass; objects that are no annotations,
spellings of class names and indexed masks are read otherwise; the store keeps its notes.
4: labels have a fingerprint of their own.
"""

LABEL_METHOD_VERSION = 1
"""Counts up when patches get other labels of one annotation and one set of settings."""

LABEL_SETTINGS = ("class_names", "background_class", "min_coverage")
"""Settings that decide labels and, unless only labelled patches are kept, nothing else."""
LABEL_INPUTS = ("label", "annotation")
"""Inputs of the same kind: the label to copy, and the hash of the annotations."""
_PIXEL_INPUTS = ("mpp", "mask")
_NOT_SETTINGS = ("inputs", "tissue_flags")


@dataclass(frozen=True)
class StoreIdentity:
    """The two fingerprints of a patch store."""

    pixels: str
    labels: str


def settings_of(config: TileConfig) -> dict[str, Any]:
    """The settings as a store's metadata hold them."""
    return config.model_dump(mode="json")


def inputs_of(job: TileJob) -> dict[str, Any]:
    """What beside slide and settings decides a store's content.

    Raises
    ------
    AnnotationError
        If annotations or mask cannot be read.
    """

    def hashed(name: str) -> str | None:
        path = getattr(job, f"{name}_path")
        if path is None:
            return None
        try:
            return keyed(file_sha256(path), job.fingerprint_key)
        except OSError as error:
            raise AnnotationError(
                path.name, f"cannot be read ({error.strerror})", "check the manifest's paths"
            ) from None

    return {
        "mpp": job.mpp,
        "label": job.label,
        "annotation": hashed("annotation"),
        "mask": hashed("mask"),
    }


def identity(
    slide_print: str,
    slide_id: str,
    schema_version: int,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> StoreIdentity:
    """Both fingerprints of the store of a slide under some settings and inputs."""
    labels = {
        "stage": "label",
        "method": LABEL_METHOD_VERSION,
        "parameters": {name: settings.get(name) for name in LABEL_SETTINGS},
        **{name: inputs.get(name) for name in LABEL_INPUTS},
    }
    parameters = {k: v for k, v in settings.items() if k not in LABEL_SETTINGS}
    if parameters.get("pixels") == LOSSLESS:
        del parameters["pixels"]  # as it was before there was a choice
    # Whether a slide's own tiles can be kept is the slide's matter, not the settings'.
    asks_for_jpeg = "pixels" in parameters
    pixels = {
        "stage": "tile",
        "schema": JPEG_VERSION if asks_for_jpeg else schema_version,
        "method": METHOD_VERSION,
        "slide": slide_print,
        "slide_id": slide_id,
        "parameters": parameters,
        **{name: inputs.get(name) for name in _PIXEL_INPUTS},
    }
    if settings.get("only_labelled"):
        pixels["labels"] = labels
    pixel_print = fingerprint(pixels)
    return StoreIdentity(pixel_print, fingerprint({**labels, "patches": pixel_print}))


def identity_of_job(job: TileJob, slide_print: str, inputs: Mapping[str, Any]) -> StoreIdentity:
    """Both fingerprints of the store that a job makes; ``inputs`` are :func:`inputs_of` it."""
    version = store_version(job.config.patch_size_px, job.config.step_px)
    return identity(slide_print, job.slide_id, version, settings_of(job.config), inputs)


def identity_of_meta(meta: PatchStoreMeta) -> StoreIdentity:
    """Both fingerprints that a store's own inputs and parameters give."""
    settings = {k: v for k, v in meta.parameters.items() if k not in _NOT_SETTINGS}
    inputs = dict(meta.parameters.get("inputs", {}))
    return identity(meta.slide_fingerprint, meta.slide_id, meta.schema_version, settings, inputs)


def dataset_fingerprint(metas: Iterable[PatchStoreMeta]) -> str:
    """Fingerprint of the patches and labels of some stores."""
    return fingerprint({"stores": sorted({(m.fingerprint, m.label_fingerprint) for m in metas})})
