"""Comparison of two sets of features: Frechet and kernel distances, nearest-neighbour scores."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.evaluation.extractors import Features
from pythae_fif.evaluation.score_types import MeanStd, Memorisation, Neighbours

RELATIVE_ROUNDING = 1e-7  # Smaller singular values, relative to the largest, count as zero.
SQUARES_ROUNDING = 1e-12  # Bound of the rounding of |x - y|^2 in float64, relative to |y|^2.

# The kernel distance averages over random subsets.
SUBSETS = 100
SUBSET_SIZE = 1000
BLOCK_ROWS = 250  # rows of a symmetric matrix that are multiplied at once

ENERGY_ROWS = 2000
"""Number of samples, and of references, between which the energy distance is computed."""

PRECISION_NEIGHBOUR = 3  # k of precision and recall
DENSITY_NEIGHBOUR = 5  # k of density and coverage

# Elements of a distance matrix that are computed at once: few enough for a CPU's cache.
CHUNK_ELEMENTS = 2**20
CHUNK_ELEMENTS_ON_GPU = 2**27


def frechet_distance(a: Features, b: Features) -> float:
    r"""Computes the Frechet distance of two sets of features.

    It is the squared 2-Wasserstein distance between Gaussians with the sets' moments:

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). With :math:`S_a = A A^T` and
    :math:`S_b = B B^T` the last trace is the sum of the singular values of :math:`A^T B`, so that
    no square root of a rounded eigenvalue is taken, even if a covariance is rank-deficient.

    Args:
        a: Features of one set, at least two.
        b: Features of the other set, at least two.

    Example:
        >>> a = Features(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b = Features(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    singular_values, _ = a.cached(_cross_covariance_svd, b)
    variances = a.covariance_root.square().sum() + b.covariance_root.square().sum()
    mean_distance = (a.mean - b.mean).square().sum()
    return max(float(mean_distance) + float(variances - 2 * singular_values.sum()), 0.0)


def frechet_error(samples: Features, reference: Features) -> float:
    r"""Estimates the standard deviation of a Frechet distance over draws of its samples.

    It says how far the distance would move with other samples of the same number, for the same
    reference. It does not include the bias, which falls with that number. The distance is
    linearised in the weights of the samples (Rippl, Munk and Sturm 2016 prove its limit law): a
    sample x moves it by the N-th part of

    .. math:: 2 (x - \mu)^T (\mu - \mu_r) + |x - \mu|^2 - |(x - \mu)^T R (R^T S R)^{-1/4}|^2

    minus its mean, where mu and S are the moments of the samples, and mu_r and R R^T = S_r those of
    the reference. The result is too large: by a third for 16 samples per feature, by half for half
    a sample per feature.

    Args:
        samples: Features of N samples.
        reference: Features of the reference.
    """
    singular_values, vectors = samples.cached(_cross_covariance_svd, reference)
    positive = singular_values > RELATIVE_ROUNDING * singular_values.max()
    scaled_vectors = vectors[:, positive] * singular_values[positive].rsqrt()
    projection = (reference.covariance_root @ scaled_vectors).to(samples.values)

    # The features' own precision is enough for a spread, and takes half the time.
    deviations = samples.values - samples.mean
    projected = deviations.to(projection.dtype) @ projection
    influences = 2 * deviations @ (samples.mean - reference.mean)
    influences += deviations.square().sum(1) - projected.square().sum(1)
    return float(influences.std()) / math.sqrt(len(samples))


def _cross_covariance_svd(samples: Features, reference: Features) -> tuple[Tensor, Tensor]:
    """Computes singular values and right singular vectors of S^T R, with both covariances' roots.

    Returns:
        The singular values (n), and the vectors as columns (columns of R, n).
    """
    _, singular_values, right_vectors = torch.linalg.svd(
        samples.covariance_root.T @ reference.covariance_root, full_matrices=False
    )
    return singular_values, right_vectors.T


@full_float32()
def kernel_distance(samples: Features, reference: Features, *, seed: int = 0) -> MeanStd:
    r"""Computes the kernel distance of two sets of features, known as KID.

    It is the unbiased squared MMD with the kernel $(x \cdot y / F + 1)^3$, as a mean over 100
    random subsets of 1,000 of both sets, or as many as the smaller set has (Binkowski et al. 2018,
    sec. 4). They are drawn as torch-fidelity draws them from the same seed. The expectation does
    not depend on the number of samples. The distance may be slightly negative for equal sets.

    Args:
        samples: Features of the samples.
        reference: Features of the reference.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation over the subsets.
    """
    size = min(SUBSET_SIZE, len(samples), len(reference))
    subset_is_everything = size == max(len(samples), len(reference))
    rng = np.random.RandomState(seed)

    estimates = []
    for _ in range(1 if subset_is_everything else SUBSETS):
        x = samples.values[torch.from_numpy(rng.choice(len(samples), size, replace=False))]
        y = reference.values[torch.from_numpy(rng.choice(len(reference), size, replace=False))]
        within_sets = _off_diagonal_sum(x) + _off_diagonal_sum(y)
        across_sets = _kernel_sum(x, y)
        estimates.append((within_sets / (size - 1) - 2 * across_sets / size) / size)

    distances = torch.stack(estimates)
    return MeanStd(float(distances.mean()), float(distances.std(correction=0)))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sums the cubic kernel of all pairs of rows: in float32 within a row, then in float64."""
    inner = torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1])
    return torch.linalg.vecdot(inner.square(), inner).sum(dtype=torch.float64)


def _off_diagonal_sum(x: Tensor) -> Tensor:
    """Sums the cubic kernel of all pairs of different rows, by blocks, since it is symmetric."""
    diagonal = (torch.linalg.vecdot(x, x) / x.shape[1] + 1).pow(3)
    total = -diagonal.sum(dtype=torch.float64)
    for start in range(0, len(x), BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        later_rows = x[start + BLOCK_ROWS :]
        total += _kernel_sum(block, block) + 2 * _kernel_sum(block, later_rows)
    return total


def energy_distance(samples: Features, reference: Features) -> float:
    r"""Estimates the energy distance of two sets of features (Székely and Rizzo 2013),

    .. math:: 2 E|X - Y| - E|X - X'| - E|Y - Y'|,

    which is 0 only if both have the same distribution. The estimate is unbiased, so it may be
    slightly negative. It is for at most 2,000 evenly spaced features of each set.

    Args:
        samples: Features of the samples, at least two.
        reference: Features of the reference, at least two.
    """
    x, y = (
        features.values[:: math.ceil(len(features) / ENERGY_ROWS)].cpu().double().numpy()
        for features in (samples, reference)
    )
    within_samples = cdist(x, x).sum() / (len(x) * (len(x) - 1))
    within_reference = cdist(y, y).sum() / (len(y) * (len(y) - 1))
    return float(2 * cdist(x, y).mean() - within_samples - within_reference)


def neighbour_scores(samples: Features, reference: Features) -> Neighbours:
    """Computes improved precision and recall, density and coverage.

    Precision is the fraction of samples within the distance of a reference to its k-th nearest
    other reference; recall is the same with samples and references exchanged (Kynkaanniemi et al.
    2019, k = 3). Density is the average number of references with a sample in their neighbourhood,
    divided by k; coverage is the fraction of references with a sample in their neighbourhood (Naeem
    et al. 2020, k = 5). All need two sets of similar size, and only scores of the same size are
    comparable. Distances are float64.

    Args:
        samples: Features of the samples, at least six.
        reference: Features of the reference, at least six.
    """
    sample_radii = samples.cached(_squared_radii)
    reference_radii = reference.cached(_squared_radii)

    precision_count = 0
    density_count = 0
    is_recalled = torch.zeros(len(reference), dtype=torch.bool, device=reference_radii.device)
    is_covered = is_recalled.clone()
    for part, squares in _squared_distances(samples.values, reference.values):
        precision_count += int((squares <= reference_radii[:, 0]).any(dim=1).sum())
        is_recalled |= (squares <= sample_radii[part, :1]).any(dim=0)

        in_neighbourhood = squares < reference_radii[:, 1]
        density_count += int(in_neighbourhood.sum())
        is_covered |= in_neighbourhood.any(dim=0)

    return Neighbours(
        precision=precision_count / len(samples),
        recall=float(is_recalled.double().mean()),
        density=density_count / (DENSITY_NEIGHBOUR * len(samples)),
        coverage=float(is_covered.double().mean()),
    )


def _squared_radii(features: Features) -> Tensor:
    """Computes the squared distances to the k-th nearest other features, (N, 2), float64.

    The columns are for k = `PRECISION_NEIGHBOUR` and k = `DENSITY_NEIGHBOUR`.
    """
    count = DENSITY_NEIGHBOUR + 1  # Each feature is its own nearest one, at distance 0.
    nearest = torch.cat(
        [
            squares.topk(count, dim=1, largest=False).values
            for _, squares in _squared_distances(features.values, features.values)
        ]
    )
    # The k-th neighbour is at the border of a neighbourhood; rounding must not put it inside.
    norms = torch.linalg.vector_norm(features.values, dim=1, dtype=torch.float64)
    density_radii = nearest[:, DENSITY_NEIGHBOUR] - SQUARES_ROUNDING * norms.square()
    # Not indexed by a list, which would be copied to a GPU.
    return torch.stack([nearest[:, PRECISION_NEIGHBOUR], density_radii], 1)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Computes |x - y|^2 for all pairs of rows, some rows of x at a time.

    Yields:
        Rows of x, and their squared distances (n, M), float64: exact for small whole numbers.
    """
    y = y.double()
    y_norms = torch.einsum("nf,nf->n", y, y)  # It does not hold the squares of all elements.
    chunk_elements = CHUNK_ELEMENTS if x.is_cpu else CHUNK_ELEMENTS_ON_GPU
    step = max(1, chunk_elements // len(y))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        x_part = x[part].double()
        norms = x_part.square().sum(dim=1)[:, None] + y_norms
        yield part, norms.addmm_(x_part, y.T, alpha=-2)


def memorisation(
    samples: Features, training: Features, references: Mapping[str, Features]
) -> Memorisation:
    """Measures how near samples are to the training images, by Euclidean distance of features.

    `nearer` is the statistic of the data-copying test (Meehan et al. 2020, without its cells): the
    probability that a sample is nearer to its nearest training image than an image not used for
    training is to its nearest one. It is about 0.5 for samples of the data's distribution, 1 for
    copies, and lower for samples apart from the data. It is also near 1 for blurred samples.
    Authenticity is the fraction of samples that are farther from their nearest training image than
    that image is from its nearest other one (Alaa et al. 2022). New, real images do not have 1
    either: pass them as samples for their value.

    Args:
        samples: Features of the samples.
        training: Features of the training images, at least two.
        references: Split -> features of images that the model was not trained on.
    """
    distances, _ = samples.cached(_nearest_distances, training)
    distances_to_training = distances.cpu().numpy()
    nearer = {}
    for split, reference in references.items():
        reference_distances, _ = reference.cached(_nearest_distances, training)
        test = mannwhitneyu(
            reference_distances.cpu().numpy(), distances_to_training, method="asymptotic"
        )
        nearer[split] = float(test.statistic) / (len(reference_distances) * len(distances))

    return Memorisation(nearer, _authenticity(samples, training))


def _authenticity(samples: Features, training: Features) -> float:
    """Computes the fraction of samples that are not copies of training images."""
    distances, nearest = samples.cached(_nearest_distances, training)
    images, positions = nearest.unique(return_inverse=True)
    radii, _ = _nearest_distances(Features(training.values[images]), training, 2)
    return float((distances > radii[positions]).double().mean())


def _nearest_distances(
    features: Features, neighbours: Features, k: int = 1
) -> tuple[Tensor, Tensor]:
    """Finds the k-th nearest neighbour of each of N features.

    Returns:
        Its distance (N), exactly 0 for equal features, and its index (N).
    """
    x = features.values
    y = neighbours.values
    indices = torch.cat(
        [
            squares.topk(k, dim=1, largest=False).indices[:, -1]
            for _, squares in _squared_distances(x, y)
        ]
    )
    return torch.linalg.vector_norm(x - y[indices], dim=1), indices
