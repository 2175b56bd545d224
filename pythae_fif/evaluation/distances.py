"""Scores that need all features or logits: KID, nearest neighbours, and the inception score."""

__all__ = ["inception_score", "kernel_distance", "neighbour_scores"]

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.scores import MeanStd, Neighbours

BLOCK = 1024


def check_features(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as they are, on the CPU and of one floating type.

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
    pair = [features.detach().to(device="cpu", dtype=dtype) for features in (samples, reference)]
    for name, features in zip(("samples", "reference"), pair, strict=True):
        bad = int((~features.isfinite().all(dim=1)).sum())
        if bad:
            raise NonFiniteError(
                f"{bad} of {len(features)} feature vectors of the {name} are NaN or infinite"
            )
    return pair[0], pair[1]


def kernel_distance(
    samples: Tensor,
    reference: Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
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
    size = min(subset_size, len(samples), len(reference))
    if size < 2:
        raise DataError(
            f"KID needs at least 2 samples and references, not {len(samples)} and {len(reference)}"
        )
    draws = np.random.RandomState(seed)
    chosen = [
        [torch.from_numpy(draws.choice(len(s), size, replace=False)) for s in (samples, reference)]
        for _ in range(subsets)
    ]
    ours, theirs = (torch.stack(rows) for rows in zip(*chosen, strict=True))
    within = _kernel_sums(samples, samples, ours, ours) - _diagonal_sums(samples, ours)
    within += _kernel_sums(reference, reference, theirs, theirs) - _diagonal_sums(reference, theirs)
    across = _kernel_sums(samples, reference, ours, theirs)
    values = within / (size * (size - 1)) - 2 * across / size**2
    return MeanStd(float(values.mean()), float(values.std(correction=0)))


def _kernel_sums(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums of the kernel of (N, F) and (M, F) over S subsets (S, n), (S, m) of them: (S), float64.

    Kernel values of pairs that several subsets share are computed once, unless the subsets are so
    few or so small that most pairs are in none.
    """
    if len(x) * len(y) > rows.numel() * columns.shape[1]:
        return torch.stack([kernel(x[i], y[j]).sum() for i, j in zip(rows, columns, strict=True)])
    # 1 where a subset holds a row: the sums of subset s are u_s^T K v_s
    held = torch.zeros(len(rows), len(x), dtype=torch.float64).scatter_(1, rows, 1)
    taken = torch.zeros(len(rows), len(y), dtype=torch.float64).scatter_(1, columns, 1)
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for block, indicator in zip(x.split(BLOCK), held.split(BLOCK, dim=1), strict=True):
        sums += ((indicator @ kernel(block, y)) * taken).sum(dim=1)
    return sums


def _diagonal_sums(x: Tensor, rows: Tensor) -> Tensor:
    """Sums of the kernel of each of (N, F) with itself over subsets (S, n): (S), float64."""
    return ((((x * x).sum(dim=1).double() / x.shape[1] + 1) ** 3)[rows]).sum(dim=1)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """The polynomial kernel of two sets (N, F), (M, F): (N, M), float64."""
    return ((x @ y.T).double() / x.shape[1] + 1) ** 3


def neighbour_scores(
    samples: Tensor, reference: Tensor, *, neighbours: int = 3, density_neighbours: int = 5
) -> Neighbours:
    """Improved precision and recall, density and coverage.

    Precision: the fraction of samples that lie within the distance of a reference to its k-th
    nearest other reference; recall the same with the two exchanged (Kynkaanniemi et al. 2019,
    k = 3). Density: how many references' neighbourhoods a sample lies in, on average, over k;
    coverage: the fraction of references with a sample in their neighbourhood (Naeem et al. 2020,
    k = 5). All need two sets of similar size, and compare at one size alone.

    Args:
        samples: Features (N, F).
        reference: Features (M, F).
        neighbours: k of precision and recall.
        density_neighbours: k of density and coverage.

    Raises:
        DataError: shapes that do not fit, or not more than k features in a set.
        NonFiniteError: NaN or infinite features.
    """
    samples, reference = check_features(samples, reference)
    most = max(neighbours, density_neighbours)
    if min(len(samples), len(reference)) <= most:
        raise DataError(
            f"precision, recall, density and coverage need more than {most} samples and "
            f"references, not {len(samples)} and {len(reference)}"
        )
    # a distance does not see a common shift, but its rounding does
    centre = reference.mean(dim=0)
    samples, reference = samples - centre, reference - centre
    around_samples = _radii(samples, neighbours)
    radii = _radii(reference, neighbours, density_neighbours)
    around_reference, around_dense = radii[:, 0], radii[:, 1]
    precise = torch.zeros(len(samples), dtype=torch.bool)
    recalled, covered = [], []
    inside = 0
    for start in range(0, len(reference), BLOCK):
        block = slice(start, start + BLOCK)
        distance = torch.cdist(reference[block], samples)
        precise |= (distance <= around_reference[block, None]).any(dim=0)
        recalled.append((distance <= around_samples[:, 0]).any(dim=1))
        # Naeem et al. compare with <, Kynkaanniemi et al. with <=
        dense = distance < around_dense[block, None]
        inside += int(dense.sum())
        covered.append(dense.any(dim=1))
    return Neighbours(
        precision=float(precise.double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=inside / (density_neighbours * len(samples)),
        coverage=float(torch.cat(covered).double().mean()),
    )


def _radii(features: Tensor, *neighbours: int) -> Tensor:
    """Distance of each of (N, F) to its k-th nearest other, for each k: (N, number of k)."""
    columns = torch.tensor(neighbours)
    parts = []
    for block in features.split(BLOCK):
        nearest = torch.cdist(block, features).topk(max(neighbours) + 1, largest=False).values
        parts.append(nearest[:, columns])
    return torch.cat(parts)


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
    logits = logits.detach().to(device="cpu", dtype=torch.float64)
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(logits)} rows of logits are NaN or infinite")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        logits = logits[torch.randperm(len(logits), generator=generator)]
    log_p = logits.log_softmax(dim=1)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = torch.stack(
        [_split_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)]
    )
    return MeanStd(float(scores.mean()), float(scores.std(correction=0)))


def _split_score(log_p: Tensor) -> Tensor:
    marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp()
