"""Kernel inception distance (KID)."""

__all__ = ["kernel_distance"]

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.features import Features, require_alike
from pythae_fif.evaluation.scores import MeanStd
from pythae_fif.volume_change.precision import full_float32


@full_float32()
def kernel_distance(
    samples: Features,
    reference: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> MeanStd:
    r"""Kernel inception distance: unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$.

    The mean over random subsets of both sets (Binkowski et al. 2018, sec. 4), drawn as
    torch-fidelity draws them from the same seed. Unlike the Frechet distance its expectation does
    not depend on the number of samples; it may be slightly negative for equal sets. The kernel has
    the precision of the features. Its sums nearly cancel, and are in float64.

    Args:
        samples: Of the samples.
        reference: Of the reference.
        subsets: Number of subsets.
        subset_size: Their size; the smaller set's, where that is less.
        seed: Seed of the subsets.

    Returns:
        Mean and (population) standard deviation over the subsets.

    Raises:
        DataError: Different F or extractors, or fewer than two features in a set.
    """
    require_alike(samples, reference)
    counts = len(samples), len(reference)
    size = min(subset_size, *counts)
    if size < 2:
        raise DataError(f"KID needs at least 2 samples and references, not {counts}")
    draws = np.random.RandomState(seed)
    found = []
    for _ in range(1 if size == max(counts) else subsets):  # each would be all
        x, y = (
            held.values[torch.from_numpy(draws.choice(len(held), size, replace=False))]
            for held in (samples, reference)
        )
        within = sum(_total(of := _kernel(z, z)) - _total(of.diagonal()) for z in (x, y))
        found.append((within / (size - 1) - 2 * _total(_kernel(x, y)) / size) / size)
    values = torch.stack(found)
    return MeanStd(float(values.mean()), float(values.std(correction=0)))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    inner = (x @ y.T).div_(x.shape[1]).add_(1)
    return inner.square().mul_(inner)


def _total(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)
