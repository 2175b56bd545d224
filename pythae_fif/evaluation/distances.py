"""Two sets of features compared: Frechet and kernel distance, scores from nearest neighbours."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.evaluation.extractors import Features
from pythae_fif.evaluation.scores import MeanStd, Memorisation, Neighbours

ROUNDING = 1e-7  # singular values below this part of the largest count as zero in an error
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance
NEAREST, DENSE = 3, 5  # k of precision and recall, and k of density and coverage
CHUNK_ELEMENTS = (
    2**20
)  # numbers of a matrix of pairs that are looked at together: few for a CPU's cache
CHUNK_ELEMENTS_ON_GPU = 2**27


def frechet_distance(a: Features, b: Features) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of two features at least.

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). With :math:`S_a = A A^T` and
    :math:`S_b = B B^T` the last trace is the sum of the singular values of :math:`A^T B`: no square
    root of a rounded eigenvalue is taken, whatever the rank.

    Example:
        >>> a = Features(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b = Features(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    values, _ = a.cached(_cross_covariance_svd, b)
    traces = a.covariance_root.square().sum() + b.covariance_root.square().sum() - 2 * values.sum()
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
    values, vectors = samples.cached(_cross_covariance_svd, reference)
    kept = values > ROUNDING * values.max()
    scaled = (reference.covariance_root @ (vectors[:, kept] * values[kept].rsqrt())).to(
        samples.values
    )
    centred = samples.values - samples.mean
    moves = 2 * centred @ (samples.mean - reference.mean)
    # the features' own precision is enough for a spread, at half the time
    carried = centred.to(scaled.dtype) @ scaled
    moves += centred.square().sum(1) - carried.square().sum(1)
    return float(moves.std()) / math.sqrt(len(samples))


def _cross_covariance_svd(samples: Features, reference: Features) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors, as columns, of S^T R, of both sets' roots."""
    _, values, rows = torch.linalg.svd(
        samples.covariance_root.T @ reference.covariance_root, full_matrices=False
    )
    return values, rows.T


@full_float32()
def kernel_distance(samples: Features, reference: Features, *, seed: int = 0) -> MeanStd:
    r"""Kernel inception distance: unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$.

    The mean over 100 random subsets of 1,000 of both sets, or as many as the smaller has (Binkowski
    et al. 2018, sec. 4), drawn as torch-fidelity draws them from the same seed. It may be slightly
    negative for equal sets, and its expectation does not depend on the number of samples.
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
        within = sum(
            _sum_float64(of := _kernel(z, z)) - _sum_float64(of.diagonal()) for z in (x, y)
        )
        found.append((within / (size - 1) - 2 * _sum_float64(_kernel(x, y)) / size) / size)
    values = torch.stack(found)
    return MeanStd(float(values.mean()), float(values.std(correction=0)))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    inner = (x @ y.T).div_(x.shape[1]).add_(1)
    return inner.square().mul_(inner)


def _sum_float64(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)


def neighbour_scores(samples: Features, reference: Features) -> Neighbours:
    """Improved precision and recall, density and coverage, of at least six features a set.

    Precision: the fraction of samples that lie within the distance of a reference to its k-th
    nearest other reference; recall the same with the two exchanged (Kynkaanniemi et al. 2019,
    k = 3). Density: how many references' neighbourhoods a sample lies in, on average, over k;
    coverage: the fraction of references with a sample in their neighbourhood (Naeem et al. 2020,
    k = 5). All need two sets of similar size, and compare at one size alone. Distances are
    float64.
    """
    of_samples, of_reference = samples.cached(_radii), reference.cached(_radii)
    recalled, covered = (torch.zeros_like(of_reference[:, 0], dtype=torch.bool) for _ in range(2))
    precise = dense = 0
    for rows, squared in _squared_distances(samples.values, reference.values):
        precise += int((squared <= of_reference[:, 0]).any(dim=1).sum())
        recalled |= (squared <= of_samples[rows, :1]).any(dim=0)
        inside = squared < of_reference[:, 1]
        covered |= inside.any(dim=0)
        dense += int(inside.sum())
    return Neighbours(
        precision=precise / len(samples),
        recall=float(recalled.double().mean()),
        density=dense / (DENSE * len(samples)),
        coverage=float(covered.double().mean()),
    )


def _radii(features: Features) -> Tensor:
    """Squared distance to the `NEAREST`-th and the `DENSE`-th nearest other, (N, 2), float64."""
    pairs = _squared_distances(features.values, features.values)
    # of all, each is nearest to itself
    closest = torch.cat([of.topk(DENSE + 1, dim=1, largest=False).values for _, of in pairs])
    return torch.stack([closest[:, NEAREST], closest[:, DENSE]], 1)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of x at once, and their |x - y|^2 (n, M), float64: of few whole numbers exact."""
    y = y.double()
    norms = torch.einsum("nf,nf->n", y, y)  # without all squares at once
    step = max(1, (CHUNK_ELEMENTS if x.is_cpu else CHUNK_ELEMENTS_ON_GPU) // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        part = x[rows].double()
        both = part.square().sum(dim=1)[:, None] + norms
        yield rows, both.addmm_(part, y.T, alpha=-2)


def memorisation(
    samples: Features, training: Features, references: Mapping[str, Features]
) -> Memorisation:
    """How near samples are to the training images, by the Euclidean distance of features.

    `nearer` is the statistic of the data-copying test (Meehan et al. 2020, without its cells): the
    probability that a sample is nearer to its nearest training image than an image that was not
    trained on is to its own. It is about 0.5 for samples of the data's distribution, 1 for copies,
    and less for samples that lie apart. Authenticity is the fraction of samples that are farther
    from their nearest training image than that is from the nearest other one (Alaa et al. 2022).

    Args:
        samples: Of the samples.
        training: Of the images that the model was trained on, two at least.
        references: Split -> those of images that it was not trained on.
    """
    distance, which = _nearest_distances(samples, training)
    copied, place = which.unique(return_inverse=True)
    radius, _ = _nearest_distances(Features(training.values[copied]), training, 2)
    nearer = {}
    for split, held in references.items():
        theirs, _ = held.cached(_nearest_distances, training)
        pair = (of.cpu().numpy() for of in (theirs, distance))
        found = mannwhitneyu(*pair, method="asymptotic").statistic
        nearer[split] = float(found) / (len(theirs) * len(distance))
    authentic = distance > radius[place]
    return Memorisation(nearer=nearer, authenticity=float(authentic.double().mean()))


def _nearest_distances(of: Features, among: Features, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances (N) to the k-th nearest of other features, 0 to equal ones, and its indices (N)."""
    x, y = of.values, among.values
    pairs = _squared_distances(x, y)
    which = torch.cat([near.topk(k, dim=1, largest=False).indices[:, -1] for _, near in pairs])
    return torch.linalg.vector_norm(x - y[which], dim=1), which
