"""Foundation encoders of pathology by name: architecture, normalisation, input size, licence.

Weights are never downloaded: whoever wants them agrees to their terms where they are published,
and gives the file. What is written here was taken from the published descriptions, and each
architecture is verified to have the published number of parameters
(``tests/training/test_encoders.py``).

Left out, since timm cannot build them as published: CONCH and CONCH v1.5 (their embedding comes
out of an attentional pooler over the tokens of a plain vision transformer), and every encoder
that brings its own code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Encoder:
    """An encoder that can be named as a backbone.

    Attributes
    ----------
    name : str
        As ``--backbone`` takes it.
    title : str
        As its authors write it.
    architecture : str
        Name that timm knows.
    options : dict
        Options of the architecture, as :mod:`.backbone_options` allows them.
    normalisation : pair of 3 floats
        Mean and standard deviation of each channel on [0, 1] that the weights expect.
    input_px : int
        Side of the images that it was trained on.
    token_px : int
        Side of a token: patches must be a whole number of them wide.
    n_parameters : int
        Of the encoder without a classifier.
    licence : str
        Of the weights, as their page stated it when this was written; the page decides.
    page : str
        Where weights and terms are published, as owner/name on the Hugging Face hub.
    note : str
        What a user must know beside.
    """

    name: str
    title: str
    architecture: str
    normalisation: tuple[Colour, Colour]
    input_px: int
    token_px: int
    n_parameters: int
    licence: str
    page: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def terms(self) -> str:
        """The licence in a sentence, for notes and cards."""
        return (
            f"Encoder {self.title}: its weights are under {self.licence} ({self.page} on the "
            "Hugging Face hub; the terms there decide, and hold for models made from them)"
        )


_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "init_values": 1e-5}
_CLASS_TOKEN = "its class token is used"  # noqa: S105  (no password)

ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Encoder(
            "uni", "UNI", "vit_large_patch16_224", IMAGENET, 224, 16, 303_350_784,
            "CC-BY-NC-ND-4.0, access on request", "MahmoodLab/UNI", {"init_values": 1e-5},
        ),
        Encoder(
            "uni2-h", "UNI2-h", "vit_giant_patch14_224", IMAGENET, 224, 14, 681_394_176,
            "CC-BY-NC-ND-4.0, access on request", "MahmoodLab/UNI2-h",
            {**_SWIGLU, "patch_size": 14, "depth": 24, "num_heads": 24, "embed_dim": 1536,
             "mlp_ratio": 5.33334, "no_embed_class": True, "reg_tokens": 8},
        ),
        Encoder(
            "virchow", "Virchow", "vit_huge_patch14_224", IMAGENET, 224, 14, 631_229_184,
            "Apache-2.0, access on request", "paige-ai/Virchow",
            {**_SWIGLU, "mlp_ratio": 5.3375, "global_pool": "token"},
            f"{_CLASS_TOKEN}; its authors add the mean of the others",
        ),
        Encoder(
            "virchow2", "Virchow2", "vit_huge_patch14_224", IMAGENET, 224, 14, 631_239_424,
            "CC-BY-NC-ND-4.0, access on request", "paige-ai/Virchow2",
            {**_SWIGLU, "mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": "token"},
            f"{_CLASS_TOKEN}; its authors add the mean of the others",
        ),
        Encoder(
            "h-optimus-0", "H-optimus-0", "vit_giant_patch14_reg4_dinov2", H_OPTIMUS, 224, 14,
            1_134_774_272, "Apache-2.0", "bioptimus/H-optimus-0",
            {"init_values": 1e-5, "global_pool": "token"},
        ),
        Encoder(
            "h-optimus-1", "H-optimus-1", "vit_giant_patch14_reg4_dinov2", H_OPTIMUS, 224, 14,
            1_134_774_272, "a licence of its own, access on request", "bioptimus/H-optimus-1",
            {"init_values": 1e-5, "global_pool": "token"},
        ),
        Encoder(
            "gigapath", "Prov-GigaPath (tile encoder)", "vit_giant_patch14_dinov2", IMAGENET, 224,
            16, 1_134_953_984, "a licence of its own, access on request",
            "prov-gigapath/prov-gigapath",
            {"patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24,
             "init_values": 1e-5, "mlp_ratio": 5.33334},
        ),
        Encoder(
            "phikon", "Phikon", "vit_base_patch16_224", IMAGENET, 224, 16, 85_798_656,
            "a licence of its own, for non-commercial use", "owkin/phikon",
        ),
        Encoder(
            "phikon-v2", "Phikon-v2", "vit_large_patch16_224", IMAGENET, 224, 16, 303_350_784,
            "a licence of its own, for non-commercial use", "owkin/phikon-v2",
            {"init_values": 1.0},
        ),
    )
}  # fmt: skip
"""By name. The options of init_values only shape the layer: the weights decide its values."""


def encoder_of(backbone: str) -> Encoder | None:
    """The encoder of a backbone's name; None for every other network."""
    return ENCODERS.get(backbone)
