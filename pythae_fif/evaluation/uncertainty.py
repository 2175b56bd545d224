"""How sure a score is: spreads over draws of samples, and the distance at infinitely many."""

__all__ = [
    "bootstrap_inception",
    "bootstrap_kernel",
    "check_for_infinity",
    "check_replicates",
    "frechet_at_infinity",
    "frechet_error",
]

import math

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.distances import check_features, inception_score
from pythae_fif.evaluation.frechet import (
    FeatureStatistics,
    factor,
    frechet_distance,
    one_thread,
    require_one_length,
)
from pythae_fif.evaluation.pairs import Kernel, watch
from pythae_fif.evaluation.scores import Interval

LEVEL = 0.95


def _interval(estimate: float, replicates: list[float]) -> Interval:
    """The replicates' spread about their own mean, put around the estimate.

    Their mean is not used. A set drawn with replacement has fewer different samples, which biases
    its inception score; and replicates of a KID leave out the part that is of the reference alone.
    """
    centred = np.asarray(replicates) - np.mean(replicates)
    low, high = np.quantile(centred, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate + float(low), estimate + float(high))


def _weights(count: int, replicates: int, seed: int) -> np.ndarray:
    """How often each of `count` samples is drawn in each replicate: (replicates, count)."""
    check_replicates(replicates)
    draws = np.random.default_rng(seed)
    return draws.multinomial(count, np.full(count, 1 / count), size=replicates)


def check_replicates(replicates: int) -> None:
    """Raises DataError where a bootstrap has too few replicates."""
    if replicates < 2:
        raise DataError(f"a bootstrap needs at least 2 replicates, not {replicates}")


def check_for_infinity(count: int, dim: int) -> None:
    """Raises DataError where N samples of F features are too few for `frechet_at_infinity`."""
    if count < 4 * dim:
        raise DataError(
            f"the distance at infinitely many samples needs at least 4 F = {4 * dim} samples for "
            f"F = {dim} features, not {count}"
        )


def frechet_error(
    features: Tensor,
    reference: FeatureStatistics,
    *,
    statistics: FeatureStatistics | None = None,
    root: Tensor | None = None,
) -> float:
    r"""Standard deviation of a Frechet distance over draws of its samples; the reference is fixed.

    It says how far the distance would move with other samples of the same number. It does not hold
    the bias that falls with that number; for that see `frechet_at_infinity`.

    The distance is linearised in the weights of the samples (the delta method; Rippl, Munk and
    Sturm 2016 prove its limit law): a sample x moves it by the N-th part of

    .. math:: 2 (x - \mu)^T (\mu - \mu_r) + |x - \mu|^2 - |(x - \mu)^T R (R^T S R)^{-1/4}|^2

    less its mean, where mu and S are of the samples, mu_r and R R^T = S_r of the reference. The
    result errs towards large: by a third for 16 samples a feature (2,000 samples of models of
    digits, 24 draws), by half for half a sample a feature.

    Args:
        features: Features (N, F) of the samples.
        reference: Statistics of the reference.
        statistics: Those of the features, where they are known.
        root: The `factor` of the reference's covariance, where it is known.

    Returns:
        The standard deviation, in squared units of the features, as the distance.

    Raises:
        DataError: fewer than two features, or different F.
    """
    require_one_length(features.shape[1], len(reference.mean))
    if statistics is None:
        statistics = FeatureStatistics()
        statistics.update(features)
    root = factor(reference.covariance) if root is None else root
    projected = root.T @ statistics.covariance @ root
    with one_thread():
        values, vectors = torch.linalg.eigh(projected)
    # `-1:`, as there are no values where the reference's features are all alike
    kept = values > values[-1:].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    scaled = root @ (vectors[:, kept] * values[kept] ** -0.25)
    centred = features.double() - statistics.mean
    moves = 2 * centred @ (statistics.mean - reference.mean)
    # the features' own float32 is enough for a spread, at half the time
    carried = centred.to(features.dtype) @ scaled.to(features.dtype)
    moves += centred.square().sum(1) - carried.square().sum(1)
    return float(moves.std()) / math.sqrt(len(features))


def bootstrap_inception(
    logits: Tensor, estimate: float, *, replicates: int = 100, seed: int = 0
) -> Interval:
    """95% interval of an inception score from drawing its samples anew.

    Args:
        logits: Logits (N, classes) of the samples.
        estimate: Their score.
        replicates: Number of draws.
        seed: Seed of the draws.

    Raises:
        DataError: fewer than two replicates, or fewer than ten samples.
    """
    counts = _weights(len(logits), replicates, seed)
    scores = [
        inception_score(logits[np.repeat(np.arange(len(logits)), weights)], seed=seed).mean
        for weights in counts
    ]
    return _interval(estimate, scores)


def bootstrap_kernel(
    samples: Tensor,
    reference: Tensor,
    estimate: float,
    *,
    replicates: int = 100,
    seed: int = 0,
) -> Interval:
    """95% interval of a KID from drawing its samples anew; the reference is fixed.

    The replicates are unbiased MMDs of all samples, in which a sample drawn twice is no pair.

    Args:
        samples: Features (N, F).
        reference: Features (M, F).
        estimate: The KID of the two.
        replicates: Number of draws, which together take one pass over the pairs.
        seed: Seed of the draws.

    Raises:
        DataError: fewer than two replicates, or shapes that do not fit.
        NonFiniteError: NaN or infinite features.
    """
    samples, reference = check_features(samples, reference)
    drawn = torch.from_numpy(_weights(len(samples), replicates, seed)).to(samples)
    weights, alike = drawn.double(), drawn.new_ones(1, len(reference), dtype=torch.float64)
    within = Kernel(weights, weights, samples.shape[1])
    across = Kernel(weights, alike, samples.shape[1])
    watch(samples, samples, within.see)
    watch(samples, reference, across.see)
    return _interval(estimate, (within.means - 2 * across.means).tolist())


def frechet_at_infinity(features: Tensor, reference: FeatureStatistics, *, seed: int = 0) -> float:
    """Frechet distance extrapolated to infinitely many samples ("FID-infinity").

    The bias of the distance at N samples falls as 1/N: a line in 1/N through the distances of
    random subsets of N/4 up to N samples, read at zero (Chong and Forsyth 2020, sec. 3, there with
    subsets of 5,000 up to 50,000). It takes away the bias of the samples' number, not that of the
    reference's.

    Args:
        features: Features (N, F) of the samples, N >= 4 F: with fewer, the bias is no line.
        reference: Statistics of the reference.
        seed: Seed of the subsets.

    Raises:
        DataError: fewer than 4 F samples, or different F.
    """
    count = len(features)
    check_for_infinity(*features.shape)
    draws = np.random.default_rng(seed)
    sizes = np.linspace(count // 4, count, 15).round().astype(int)
    values = []
    for size in sizes:
        statistics = FeatureStatistics()
        statistics.update(features[draws.choice(count, size, replace=False)])
        values.append(frechet_distance(statistics, reference))
    return float(np.polyfit(1 / sizes, values, 1)[1])
