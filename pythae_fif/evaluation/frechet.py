"""Frechet distance between Gaussians fitted to features."""

__all__ = ["frechet_distance", "frechet_error", "squared_wasserstein"]

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pythae_fif.evaluation.features import Features, require_alike


def frechet_distance(a: Features, b: Features) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). With :math:`S_b = R R^T` the last trace is
    the sum of the square roots of the eigenvalues of the symmetric :math:`R^T S_a R`: one symmetric
    eigenvalue problem, real by construction. Rounding of eigenvalues near zero moves the result by
    about 1e-8 of the largest eigenvalue of a covariance for each of them.

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
    values, _ = _product(a, b)
    traces = a.covariance.trace() + b.covariance.trace() - 2 * values.sqrt().sum()
    return max(float((a.mean - b.mean).square().sum() + traces), 0.0)


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
    values, vectors = _product(samples, reference)
    kept = _above_rounding(values)
    scaled = _root(reference) @ (vectors[:, kept] * values[kept] ** -0.25)
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


def _product(samples: Features, reference: Features) -> tuple[Tensor, Tensor]:
    """Eigenvalues, at least 0, and eigenvectors of R^T S R."""
    require_alike(samples, reference)

    def build() -> tuple[Features, Tensor, Tensor]:  # with the set, so that no other gets its id
        root = _root(reference)
        with _one_thread():
            values, vectors = torch.linalg.eigh(root.T @ samples.covariance @ root)
        return reference, values.clamp(min=0), vectors

    return samples.once(f"product with {id(reference)}", build)[1:]


def _root(features: Features) -> Tensor:
    """R (F, rank) with R R^T the covariance, less the directions that are zero but for rounding."""

    def build() -> Tensor:
        if len(features) <= len(features.mean):
            return ((features.values - features.mean) / math.sqrt(len(features) - 1)).T
        with _one_thread():
            values, vectors = torch.linalg.eigh(features.covariance)
        kept = _above_rounding(values)
        factors: Tensor = vectors[:, kept] * values[kept].sqrt()
        return factors

    return features.once("root", build)


def _above_rounding(values: Tensor) -> Tensor:
    """Which of ascending eigenvalues are more than the rounding of the last; there may be none."""
    return values > values[-1:].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps


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
