"""Random numbers that belong to an image, whatever batch it comes in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class ImageNoise:
    """Seeded random numbers of each image of a batch, by the image's own number.

    They are drawn on the CPU, so that a seed means the same numbers on every device. Each call
    goes on where the last one stopped.

    Parameters
    ----------
    seed : int
    index : sequence of int or Tensor, (N,)
        Number of each image: with one seed an image has the same noise wherever it stands.

    Examples
    --------
    >>> import torch
    >>> images = torch.zeros(3, 1, 2, 2)
    >>> together = ImageNoise(0, [4, 5, 6]).normal(images)
    >>> alone = ImageNoise(0, [6]).normal(images[2:])
    >>> bool((together[2:] == alone).all())
    True
    """

    def __init__(self, seed: int, index: Sequence[int] | Tensor) -> None:
        numbers = index.tolist() if isinstance(index, Tensor) else [int(i) for i in index]
        self._generators = [
            torch.Generator().manual_seed(
                int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
            )
            for number in numbers
        ]

    def normal(self, images: Tensor) -> Tensor:
        """Standard normal numbers of the images' shape (N, ...), dtype and device."""
        shape = images.shape[1:]
        drawn = [torch.randn(shape, generator=g) for g in self._generators]
        return torch.stack(drawn).to(images) if drawn else torch.zeros_like(images)

    def uniform(self, images: Tensor) -> Tensor:
        """Uniform numbers in [-1, 1) of the images' shape (N, ...), dtype and device."""
        shape = images.shape[1:]
        drawn = [torch.rand(shape, generator=g) for g in self._generators]
        return torch.stack(drawn).to(images) * 2 - 1 if drawn else torch.zeros_like(images)

    def permutations(self, n: int) -> Tensor:
        """A random order of 0 to n - 1 for each image, (N, n) int64 on the CPU."""
        drawn = [torch.randperm(n, generator=g) for g in self._generators]
        return torch.stack(drawn) if drawn else torch.zeros((0, n), dtype=torch.int64)

    def choices(self, n: int) -> Tensor:
        """One of 0 to n - 1 for each image, (N,) int64 on the CPU."""
        drawn = [int(torch.randint(n, (1,), generator=g)) for g in self._generators]
        return torch.tensor(drawn, dtype=torch.int64)


def image_noise(seed: int, index: Tensor | Sequence[int] | None, n: int) -> ImageNoise:
    """Noise of n images: by their numbers where those are known, else by their index here.

    ``index`` is (N,), of n = N images.

    Raises
    ------
    ValueError
        If there are not as many numbers as images.
    """
    numbers: Sequence[int] | Tensor = range(n) if index is None else index
    if len(numbers) != n:
        raise ValueError(f"{len(numbers)} numbers for {n} images")
    return ImageNoise(seed, numbers)
