"""Scores from nearest neighbours: precision, recall, density, coverage, memorisation."""

__all__ = ["memorisation", "neighbour_scores"]

from collections.abc import Iterator, Mapping

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from pythae_fif.evaluation.features import Features
from pythae_fif.evaluation.scores import Memorisation, Neighbours
from pythae_fif.volume_change.precision import full_float32

NEAREST, DENSE = 3, 5  # k of precision and recall, and k of density and coverage
AT_ONCE = 2**20  # numbers of a matrix of pairs that are looked at together: few for a CPU's cache


def neighbour_scores(samples: Features, reference: Features) -> Neighbours:
    """Improved precision and recall, density and coverage, of at least six features a set.

    Precision: the fraction of samples that lie within the distance of a reference to its k-th
    nearest other reference; recall the same with the two exchanged (Kynkaanniemi et al. 2019,
    k = 3). Density: how many references' neighbourhoods a sample lies in, on average, over k;
    coverage: the fraction of references with a sample in their neighbourhood (Naeem et al. 2020,
    k = 5). All need two sets of similar size, and compare at one size alone. Distances are
    float64.
    """
    of_samples, of_reference = samples.once(_radii), reference.once(_radii)
    recalled, covered = (torch.zeros_like(of_reference[:, 0], dtype=torch.bool) for _ in range(2))
    precise = dense = 0
    for rows, squared in _squared_distances(samples.values, reference.values, torch.float64):
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
    pairs = _squared_distances(features.values, features.values, torch.float64)
    # of all, each is nearest to itself
    closest = torch.cat([of.topk(DENSE + 1, dim=1, largest=False).values for _, of in pairs])
    return torch.stack([closest[:, NEAREST], closest[:, DENSE]], 1)


def _squared_distances(x: Tensor, y: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of x at once, and their |x - y|^2 (n, M) in a precision.

    The mean of y is taken off first: distances do not see it, but their rounding does.
    """
    centre = y.mean(dim=0, dtype=torch.float64).to(dtype)
    about = y.to(dtype) - centre
    norms = about.square().sum(dim=1)
    step = max(1, AT_ONCE // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        part = x[rows].to(dtype) - centre
        both = part.square().sum(dim=1)[:, None] + norms
        yield rows, both.addmm_(part, about.T, alpha=-2)


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
    distance, which = _nearest(samples, training)
    copied, place = which.unique(return_inverse=True)
    radius, _ = _nearest(Features(training.values[copied]), training, 2)
    nearer = {}
    for split, held in references.items():
        theirs, _ = held.once(_nearest, training)
        pair = (of.cpu().numpy() for of in (theirs, distance))
        found = mannwhitneyu(*pair, method="asymptotic").statistic
        nearer[split] = float(found) / (len(theirs) * len(distance))
    authentic = distance > radius[place]
    return Memorisation(nearer=nearer, authenticity=float(authentic.double().mean()))


@full_float32()
def _nearest(of: Features, among: Features, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances (N) to the k-th nearest of other features, and which these are (N).

    Those in the features' own precision find it; its distance is exact, 0 for equal features.
    """
    x, y = of.values, among.values
    pairs = _squared_distances(x, y, y.dtype)
    which = torch.cat([near.topk(k, dim=1, largest=False).indices[:, -1] for _, near in pairs])
    return torch.linalg.vector_norm(x - y[which], dim=1), which
