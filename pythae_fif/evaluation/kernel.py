"""Kernel inception distance (KID)."""

__all__ = ["SUBSETS", "SUBSET_SIZE", "kernel_distance"]

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.features import Features, require_alike
from pythae_fif.evaluation.neighbours import numbers_at_once
from pythae_fif.evaluation.scores import MeanStd

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(
    samples: Features,
    reference: Features,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> MeanStd:
    r"""Kernel inception distance: unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$.

    The mean over random subsets of both sets (Binkowski et al. 2018, sec. 4), drawn as
    torch-fidelity draws them from the same seed. Unlike the Frechet distance its expectation does
    not depend on the number of samples; it may be slightly negative for equal sets. All is in
    float64, since the sums nearly cancel.

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
    if size == max(counts):
        subsets = 1  # each would be all
    draws = np.random.RandomState(seed)
    weights = [torch.zeros(subsets, count, dtype=torch.float64) for count in counts]
    for pair in zip(*weights, strict=True):
        for held in pair:
            held[torch.from_numpy(draws.choice(len(held), size, replace=False))] = 1
    x, y = samples.values, reference.values
    u, v = (held.to(x.device) for held in weights)
    key = f"kernel {(*counts, subsets, size, seed)}"
    ours = samples.once(f"{key} of samples", lambda: _sums(x, x, u, u))
    theirs = reference.once(key, lambda: _sums(y, y, v, v))
    values = ((ours + theirs) / (size - 1) - 2 * _sums(x, y, u, v) / size) / size
    return MeanStd(float(values.mean()), float(values.std(correction=0)))


def _sums(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sums of the kernel over the pairs of S subsets, (S); of one set without each and itself.

    Args:
        x: One set (N, F).
        y: The other (M, F), or the same.
        u: 1 where a subset holds a feature of x, else 0, (S, N).
        v: The same of y, (S, M).
    """
    alone, y_double = x is y, y.double()
    sums = u.new_zeros(len(u))
    step = max(1, numbers_at_once(y.device) // len(y))
    for start in range(0, len(x), step):
        rows, columns = slice(start, start + step), slice(start if alone else 0, None)
        inner = (x[rows].double() @ y_double[columns].T).div_(y.shape[1]).add_(1)
        values = inner.square().mul_(inner)
        if alone:
            values.triu_(1)  # the others mirror these
        sums += ((u[:, rows] @ values) * v[:, columns]).sum(dim=1)
    return 2 * sums if alone else sums
