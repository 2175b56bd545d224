"""Frechet and kernel distance between two sets of features."""

__all__ = ["frechet_distance", "frechet_error", "kernel_distance"]

import math

import numpy as np
import torch
from torch import Tensor

from pythae_fif.evaluation.features import Features
from pythae_fif.evaluation.scores import MeanStd
from pythae_fif.volume_change.precision import full_float32

ROUNDING = 1e-7  # singular values below this part of the largest count as zero in an error
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance


def frechet_distance(a: Features, b: Features) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). With :math:`S_a = A A^T` and
    :math:`S_b = B B^T` the last trace is the sum of the singular values of :math:`A^T B`: no square
    root of a rounded eigenvalue is taken, whatever the rank.

    Args:
        a, b: Both sets, of at least two features of the same extractor.

    Example:
        >>> a = Features(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b = Features(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    values, _ = a.once(_product, b)
    traces = a.root.square().sum() + b.root.square().sum() - 2 * values.sum()
    return max(float((a.mean - b.mean).square().sum()) + float(traces), 0.0)


def frechet_error(samples: Features, reference: Features) -> float:
    r"""Standard deviation of a Frechet distance over draws of its samples; the reference is fixed.

    It says how far the distance would move with other samples of the same number, and does not hold
    the bias that falls with it. The distance is linearised in the weights of the samples (Rippl,
    Munk and Sturm 2016 prove its limit law): a sample x moves it by the N-th part of

    .. math:: 2 (x - \mu)^T (\mu - \mu_r) + |x - \mu|^2 - |(x - \mu)^T R (R^T S R)^{-1/4}|^2

    less its mean, where mu and S are of the samples, mu_r and R R^T = S_r of the reference. The
    result errs towards large: by a third for 16 samples a feature, by half for half a sample.
    """
    values, vectors = samples.once(_product, reference)
    kept = values > ROUNDING * values.max()
    scaled = (reference.root @ (vectors[:, kept] * values[kept].rsqrt())).to(samples.values)
    centred = samples.values - samples.mean
    moves = 2 * centred @ (samples.mean - reference.mean)
    # the features' own precision is enough for a spread, at half the time
    carried = centred.to(scaled.dtype) @ scaled
    moves += centred.square().sum(1) - carried.square().sum(1)
    return float(moves.std()) / math.sqrt(len(samples))


def _product(samples: Features, reference: Features) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors, as columns, of S^T R, of both sets' roots."""
    _, values, rows = torch.linalg.svd(samples.root.T @ reference.root, full_matrices=False)
    return values, rows.T


@full_float32()
def kernel_distance(samples: Features, reference: Features, *, seed: int = 0) -> MeanStd:
    r"""Kernel inception distance: unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$.

    The mean over 100 random subsets of 1,000 of both sets, or as many as the smaller has (Binkowski
    et al. 2018, sec. 4), drawn as torch-fidelity draws them from the same seed. Unlike the Frechet
    distance its expectation does not depend on the number of samples; it may be slightly negative
    for equal sets. The kernel has the precision of the features; its sums are in float64.
    """
    counts = len(samples), len(reference)
    size = min(SUBSET_SIZE, *counts)
    draws = np.random.RandomState(seed)
    found = []
    for _ in range(1 if size == max(counts) else SUBSETS):  # each would be all
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
