"""How sure a score is: bootstrap intervals, and the Frechet distance at infinitely many samples."""

__all__ = ["bootstrap_frechet", "bootstrap_inception", "bootstrap_kernel", "frechet_at_infinity"]

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

    Sets drawn with replacement score worse than the set they come from, by about as much as that
    one does than an infinite one: the plain percentiles of a Frechet distance lie all above it.
    """
    centred = np.asarray(replicates) - np.mean(replicates)
    low, high = np.quantile(centred, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate + float(low), estimate + float(high))


def _weights(count: int, replicates: int, seed: int) -> np.ndarray:
    """How often each of `count` samples is drawn in each replicate: (replicates, count)."""
    if replicates < 2:
        raise DataError(f"a bootstrap needs at least 2 replicates, not {replicates}")
    draws = np.random.default_rng(seed)
    return draws.multinomial(count, np.full(count, 1 / count), size=replicates)


def bootstrap_frechet(
    features: Tensor,
    reference: FeatureStatistics,
    estimate: float,
    *,
    replicates: int = 100,
    seed: int = 0,
) -> Interval:
    """95% interval of a Frechet distance from drawing its samples anew; the reference is fixed.

    It says how far the score would move with other samples of the same number. It does not hold
    the bias that falls with that number; for that see `frechet_at_infinity`.

    Args:
        features: Features (N, F) of the samples.
        reference: Statistics of the reference.
        estimate: The distance of the samples.
        replicates: Number of draws; each takes one eigenvalue problem of F x F.
        seed: Seed of the draws.

    Raises:
        DataError: fewer than two replicates or features, or different F.
    """
    mean, covariance = reference.mean, reference.covariance
    require_one_length(features.shape[1], len(mean))
    features, root = features.double(), factor(covariance)
    values = []
    for drawn in _weights(len(features), replicates, seed):
        weights = torch.from_numpy(drawn).to(features)
        total = weights.sum()
        centre = weights @ features / total
        centred = (features - centre) * weights.sqrt()[:, None]
        trace = centred.square().sum() / (total - 1)
        # (N, rank): its singular values are the roots of the eigenvalues of L^T S L
        projected = centred @ root / (total - 1).sqrt()
        wide = projected.shape[0] < projected.shape[1]
        gram = projected @ projected.T if wide else projected.T @ projected
        with one_thread():
            roots = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        shift = (centre - mean).square().sum()
        values.append(float(shift + trace + covariance.trace()) - 2 * float(roots.sum()))
    return _interval(estimate, values)


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
    count, dim = features.shape
    if count < 4 * dim:
        raise DataError(
            f"the distance at infinitely many samples needs at least 4 F = {4 * dim} samples for "
            f"F = {dim} features, not {count}"
        )
    draws = np.random.default_rng(seed)
    sizes = np.linspace(count // 4, count, 15).round().astype(int)
    values = []
    for size in sizes:
        statistics = FeatureStatistics()
        statistics.update(features[draws.choice(count, size, replace=False)])
        values.append(frechet_distance(statistics, reference))
    return float(np.polyfit(1 / sizes, values, 1)[1])
