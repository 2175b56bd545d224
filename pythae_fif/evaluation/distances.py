"""Scores that need all features or logits: KID, nearest neighbours, and the inception score."""

__all__ = ["inception_score", "kernel_distance", "neighbour_scores"]

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.pairs import Inside, Kernel, Nearest, require_neighbours, watch
from pythae_fif.evaluation.scores import MeanStd, Neighbours

SUBSETS, SUBSET_SIZE = 100, 1000


def check_features(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as they are, on the device of the samples and of one floating type.

    Raises:
        DataError: not two axes, or of different length.
        NonFiniteError: NaN or infinite features.
    """
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise DataError(
            "features must have shapes (N, F) and (M, F), "
            f"not {tuple(samples.shape)} and {tuple(reference.shape)}; use one extractor for both"
        )
    double = torch.float64 in (samples.dtype, reference.dtype)
    dtype = torch.float64 if double else torch.float32
    pair = [held.detach().to(samples.device, dtype) for held in (samples, reference)]
    for name, features in zip(("samples", "reference"), pair, strict=True):
        bad = int((~features.isfinite().all(dim=1)).sum())
        if bad:
            raise NonFiniteError(
                f"{bad} of {len(features)} feature vectors of the {name} are NaN or infinite"
            )
    return pair[0], pair[1]


def subset_weights(
    num_samples: int,
    num_references: int,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Random subsets of samples and references, drawn as torch-fidelity draws them.

    Returns:
        (S, N) and (S, M), float64: 1 where a subset holds a feature.

    Raises:
        DataError: Fewer than two features in a set.
    """
    size = min(subset_size, num_samples, num_references)
    if size < 2:
        raise DataError(
            f"KID needs at least 2 samples and references, not {num_samples} and {num_references}"
        )
    draws = np.random.RandomState(seed)
    sizes = (num_samples, num_references)
    weights = [torch.zeros(subsets, count, dtype=torch.float64) for count in sizes]
    for pair in zip(*weights, strict=True):
        for held in pair:
            held[torch.from_numpy(draws.choice(len(held), size, replace=False))] = 1
    return weights[0].to(device), weights[1].to(device)


def kernel_mean_std(ours: Tensor, theirs: Tensor, across: Tensor) -> MeanStd:
    """KID from the kernel's means (S) within each set's subsets and across the two."""
    values = ours + theirs - 2 * across
    return MeanStd(float(values.mean()), float(values.std(correction=0)))


def kernel_distance(
    samples: Tensor,
    reference: Tensor,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> MeanStd:
    r"""Kernel inception distance: unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$.

    The mean over random subsets of both sets (Binkowski et al. 2018, sec. 4), drawn as
    torch-fidelity draws them from the same seed. Unlike the Frechet distance its expectation does
    not depend on the number of samples; it may be slightly negative for equal sets. Products are
    in the type of the features, sums in float64.

    Args:
        samples: Features (N, F).
        reference: Features (M, F).
        subsets: Number of subsets.
        subset_size: Their size; the smaller set's, where that is less.
        seed: Seed of the subsets.

    Returns:
        Mean and (population) standard deviation over the subsets.

    Raises:
        DataError: shapes that do not fit, or fewer than two features in a set.
        NonFiniteError: NaN or infinite features.
    """
    samples, reference = check_features(samples, reference)
    u, v = subset_weights(
        len(samples),
        len(reference),
        subsets=subsets,
        subset_size=subset_size,
        seed=seed,
        device=samples.device,
    )
    means = []
    for x, y, a, b in (
        (samples, samples, u, u),
        (reference, reference, v, v),
        (samples, reference, u, v),
    ):
        kernel = Kernel(a, b, samples.shape[1])
        watch(x, y, kernel.see)
        means.append(kernel.means)
    return kernel_mean_std(*means)


def neighbour_scores(samples: Tensor, reference: Tensor) -> Neighbours:
    """Improved precision and recall, density and coverage.

    Precision: the fraction of samples that lie within the distance of a reference to its k-th
    nearest other reference; recall the same with the two exchanged (Kynkaanniemi et al. 2019,
    k = 3). Density: how many references' neighbourhoods a sample lies in, on average, over k;
    coverage: the fraction of references with a sample in their neighbourhood (Naeem et al. 2020,
    k = 5). All need two sets of similar size, and compare at one size alone.

    Args:
        samples: Features (N, F).
        reference: Features (M, F).

    Raises:
        DataError: shapes that do not fit, or five features or fewer in a set.
        NonFiniteError: NaN or infinite features.
    """
    samples, reference = check_features(samples, reference)
    require_neighbours(min(len(samples), len(reference)))
    radii = []
    for features in (samples, reference):
        nearest = Nearest(len(features))
        watch(features, features, nearest.see)
        radii.append(nearest.radii)
    inside = Inside(*radii)
    watch(samples, reference, inside.see)
    return inside.scores


def inception_score(logits: Tensor, splits: int = 10, *, seed: int | None = 0) -> MeanStd:
    r"""Inception score: how sure and how varied a classifier is about samples.

    $$ \exp \mathbb{E}_x \, KL(p(y|x) \| p(y)) $$

    over each of `splits` subsets of the samples (Salimans et al. 2016, sec. 4). With any network
    but Inception v3 it is called classifier score and compares with nothing but itself. Samples are
    shuffled first: some samplers return them grouped by mixture component, and a split of one
    component would score too low. With N not a multiple of `splits`, split i holds the samples
    i N // splits up to (i + 1) N // splits, as in the authors' code. The logits decide which score
    it is: those of `inception` leave the bias out, as the authors' code did.

    Args:
        logits: Class logits (N, classes) with N >= splits.
        splits: Number of splits.
        seed: Seed of the shuffle; None leaves the order.

    Returns:
        Mean and (population) standard deviation over the splits, each in [1, classes].

    Raises:
        DataError: not two axes, or fewer samples than splits.
        NonFiniteError: NaN or infinite logits.

    Example:
        >>> score = inception_score(100 * torch.eye(4).repeat(10, 1), splits=1)
        >>> round(score.mean, 6), score.std
        (4.0, 0.0)
    """
    if logits.ndim != 2:
        raise DataError(f"logits must have shape (N, classes), not {tuple(logits.shape)}")
    if splits < 1 or len(logits) < splits:
        raise DataError(
            f"the score needs 1 <= splits <= N, not {splits} splits of N = {len(logits)} samples"
        )
    logits = logits.detach().double()
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(logits)} rows of logits are NaN or infinite")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        logits = logits[torch.randperm(len(logits), generator=generator).to(logits.device)]
    log_p = logits.log_softmax(dim=1)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = torch.stack(
        [_split_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)]
    )
    return MeanStd(float(scores.mean()), float(scores.std(correction=0)))


def _split_score(log_p: Tensor) -> Tensor:
    marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp()
