"""Vision transformers as the library *transformers* names their tensors, renamed for timm.

Phikon is published as its ``ViTModel`` (as ``ViTForImageClassification`` is), Phikon-v2 as its
``Dinov2Model``. Same arithmetic, other names; query, key and value are one matrix in timm.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

SIGN = "embeddings.patch_embeddings.projection.weight"
_PLAIN = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}
_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
_QKV = ("query", "key", "value")
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)$")


def is_hugging_face_vit(state: dict[str, Tensor]) -> bool:
    """Whether tensors are named as *transformers* names a vision transformer's."""
    return any(key.endswith(SIGN) for key in state)


def renamed_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names; those that have none keep theirs."""
    (start, *_) = (key.removesuffix(SIGN) for key in state if key.endswith(SIGN))
    found: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        name = key.removeprefix(start)
        match = _BLOCK.match(name)
        if match is None:
            found[_PLAIN.get(name, name)] = value
            continue
        block, inner = match.groups()
        which = re.match(
            r"attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(weight|bias)$", inner
        )
        if which is not None:
            letter = which[1][0]
            word = next(w for w in _QKV if w[0] == letter)
            parts.setdefault((block, which[2]), {})[word] = value
            continue
        if inner in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            found[f"blocks.{block}.ls{inner[11]}.gamma"] = value
            continue
        stem, _, kind = inner.rpartition(".")
        known = _IN_BLOCK.get(stem)
        found[f"blocks.{block}.{known}.{kind}" if known else name] = value
    for (block, kind), three in parts.items():
        if set(three) == set(_QKV):
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([three[w] for w in _QKV])
    return found
