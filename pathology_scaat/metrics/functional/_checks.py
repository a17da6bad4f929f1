"""What every metric checks about its arguments."""

from __future__ import annotations

from torch import Tensor

from pathology_scaat.errors import UsageError


def check_maps(maps: Tensor, name: str = "maps") -> Tensor:
    """Maps as (N, H, W) floating point; UsageError for anything else."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise UsageError(
            name,
            f"are {tuple(maps.shape)} {maps.dtype}",
            "give one float map an image, (N, H, W), channels already summed",
        )
    return maps


def check_masks(maps: Tensor, masks: Tensor) -> Tensor:
    """Masks as bool of the maps' shape; UsageError for anything else.

    ``maps`` are (N, H, W); masks of a whole-number type count as True where they are not 0.
    """
    if masks.dtype.is_floating_point or masks.shape != maps.shape:
        raise UsageError(
            "masks",
            f"are {tuple(masks.shape)} {masks.dtype} where the maps are {tuple(maps.shape)}",
            "give bool masks of the maps' shape",
        )
    return masks.bool()


def check_images(images: Tensor, maps: Tensor) -> Tensor:
    """Images as float (N, C, H, W) that fit the maps; UsageError for anything else."""
    fits = images.ndim == 4 and images.shape[0] == maps.shape[0]
    if not fits or images.shape[2:] != maps.shape[1:] or not images.is_floating_point():
        raise UsageError(
            "images",
            f"are {tuple(images.shape)} {images.dtype} where the maps are {tuple(maps.shape)}",
            "give float images (N, C, H, W) in 0..1 of the maps' size",
        )
    return images
