"""Frechet distance between Gaussians fitted to features."""

__all__ = ["frechet_distance", "frechet_error", "squared_wasserstein"]

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pythae_fif.evaluation.features import Features, require_alike

RELATIVE_ERROR = 1e-8
"""Rounding error of the distance, relative to it, up to which the fast way is taken."""


def frechet_distance(a: Features, b: Features) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). With :math:`S_a = L L^T` the last trace is
    the sum of the square roots of the eigenvalues of the symmetric :math:`L^T S_b L`: one symmetric
    eigenvalue problem, real by construction. L is a Cholesky factor (F, F), or, of N <= F features,
    the centred features (F, N) themselves. Where rounding of small eigenvalues could be seen in the
    distance (constant or collinear features, nearly equal sets), the trace is the sum of the
    singular values of :math:`L_a^T L_b` instead, which takes no square root of a rounded zero.

    Args:
        a: One set, of at least two features.
        b: The other, with the same number of features F.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        DataError: Fewer than two features in a set, different F or extractors.

    Example:
        >>> a = Features(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b = Features(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    require_alike(a, b)
    traces = a.covariance.trace() + b.covariance.trace()
    apart = float((a.mean - b.mean).square().sum() + traces)
    few, other = sorted((a, b), key=len)
    fewer = len(few) <= len(few.mean)
    left, failed = (_centred(few), 0) if fewer else torch.linalg.cholesky_ex(few.covariance)
    if not failed:
        with _one_thread():
            values = torch.linalg.eigvalsh(left.T @ other.covariance @ left)
        # of centred features one is zero
        fidelity, error = _sum_of_roots(values[1:] if fewer else values)
        distance = apart - 2 * fidelity
        if 2 * error < RELATIVE_ERROR * distance:
            return distance
    with _one_thread():
        fidelity = float(torch.linalg.svdvals(_root(a).T @ _root(b)).sum())
    return max(apart - 2 * fidelity, 0.0)


def frechet_error(samples: Features, reference: Features) -> float:
    r"""Standard deviation of a Frechet distance over draws of its samples; the reference is fixed.

    It says how far the distance would move with other samples of the same number. It does not hold
    the bias that falls with that number.

    The distance is linearised in the weights of the samples (the delta method; Rippl, Munk and
    Sturm 2016 prove its limit law): a sample x moves it by the N-th part of

    .. math:: 2 (x - \mu)^T (\mu - \mu_r) + |x - \mu|^2 - |(x - \mu)^T R (R^T S R)^{-1/4}|^2

    less its mean, where mu and S are of the samples, mu_r and R R^T = S_r of the reference. The
    result errs towards large: by a third for 16 samples a feature (2,000 samples of models of
    digits, 24 draws), by half for half a sample a feature.

    Args:
        samples: The samples' features, at least two.
        reference: The reference's.

    Returns:
        The standard deviation, in squared units of the features, as the distance.

    Raises:
        DataError: Fewer than two features, different F or extractors.
    """
    require_alike(samples, reference)
    root = _root(reference)
    with _one_thread():
        values, vectors = torch.linalg.eigh(root.T @ samples.covariance @ root)
    # `-1:`, as there are no values where the reference's features are all alike
    kept = values > values[-1:].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    scaled = root @ (vectors[:, kept] * values[kept] ** -0.25)
    centred = samples.values.double() - samples.mean
    moves = 2 * centred @ (samples.mean - reference.mean)
    # float32 is enough for a spread, at half the time
    carried = centred.to(samples.values.dtype) @ scaled.to(samples.values.dtype)
    moves += centred.square().sum(1) - carried.square().sum(1)
    return float(moves.std()) / math.sqrt(len(samples))


def squared_wasserstein(samples: Tensor, reference: Tensor) -> float:
    """The Frechet distance of rows (N, D) and (M, D) of tables, as their features.

    The published code of rectangular flows (Caterini et al. 2021) takes the same, as many samples
    as test rows, squared as an FID is.
    """
    return frechet_distance(Features(samples), Features(reference))


def _centred(features: Features) -> Tensor:
    """L (F, N) with L L^T the covariance."""
    return ((features.values - features.mean) / math.sqrt(len(features) - 1)).T


def _root(features: Features) -> Tensor:
    """L (F, rank) with L L^T the covariance, less the directions that are zero but for rounding."""

    def build() -> Tensor:
        if len(features) <= len(features.mean):
            return _centred(features)
        with _one_thread():
            values, vectors = torch.linalg.eigh(features.covariance)
        cutoff = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        kept = values > cutoff
        factors: Tensor = vectors[:, kept] * values[kept].sqrt()
        return factors

    return features.once("root", build)


def _sum_of_roots(values: Tensor) -> tuple[float, float]:
    """Sum of the square roots of eigenvalues, and how far off rounding may have moved it."""
    resolution = torch.finfo(values.dtype)
    moved = resolution.eps * values[-1].clamp(min=0)
    roots = values.clamp(min=0).sqrt()
    error = moved / (roots + moved.sqrt() + resolution.tiny)
    return float(roots.sum()), float(error.sum())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK on one thread of the CPU.

    Eigenvalues are bound by memory: measured, two threads gain little, and where other processes
    use the cores the threads wait for each other and take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
