"""Scores from nearest neighbours: precision, recall, density, coverage, memorisation."""

__all__ = ["memorisation", "neighbour_scores"]

from collections.abc import Iterator, Mapping

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.features import Features, require_alike
from pythae_fif.evaluation.scores import Memorisation, Neighbours
from pythae_fif.volume_change.precision import full_float32

NEAREST, DENSE = 3, 5
"""k of precision and recall, and k of density and coverage."""

TIE = 16
"""Squared distances that differ by so many units of rounding of |x|^2 + |y|^2 are equal; of copies,
in 3 to 2,048 dimensions, the measured error of both is up to 12."""


def numbers_at_once(device: torch.device) -> int:
    """Numbers of a matrix of pairs that are looked at together: few for a CPU's cache, and many for
    a GPU, which a start of an operation would keep waiting."""
    return 2**20 if device.type == "cpu" else 2**27


def neighbour_scores(samples: Features, reference: Features) -> Neighbours:
    """Improved precision and recall, density and coverage.

    Precision: the fraction of samples that lie within the distance of a reference to its k-th
    nearest other reference; recall the same with the two exchanged (Kynkaanniemi et al. 2019,
    k = 3). Density: how many references' neighbourhoods a sample lies in, on average, over k;
    coverage: the fraction of references with a sample in their neighbourhood (Naeem et al. 2020,
    k = 5). All need two sets of similar size, and compare at one size alone. Distances are
    float64. What differs by rounding alone is a tie, which the `<=` of the former pair takes and
    the `<` of the latter does not: features of tables of integers, or of copies, are often as far
    off as the radius is long.

    Args:
        samples: Of the samples.
        reference: Of the reference.

    Raises:
        DataError: Different F or extractors, or five features or fewer in a set.
    """
    require_alike(samples, reference)
    of_samples, of_reference = _radii(samples), _radii(reference)
    recalled, covered = (torch.zeros_like(of_reference[:, 0], dtype=torch.bool) for _ in range(2))
    precise, dense = list[Tensor](), list[Tensor]()
    for rows, squared, slack in _squared_distances(samples.values, reference.values):
        least = squared - slack
        precise.append((least <= of_reference[:, 0]).any(dim=1))
        recalled |= (least <= of_samples[rows, :1]).any(dim=0)
        inside = squared.add_(slack) < of_reference[:, 1]
        covered |= inside.any(dim=0)
        dense.append(inside.sum())
    return Neighbours(
        precision=float(torch.cat(precise).double().mean()),
        recall=float(recalled.double().mean()),
        density=int(torch.stack(dense).sum()) / (DENSE * len(samples)),
        coverage=float(covered.double().mean()),
    )


def _radii(features: Features) -> Tensor:
    """Squared distance to the `NEAREST`-th and the `DENSE`-th nearest other, (N, 2), float64."""
    if len(features) <= DENSE:
        raise DataError(
            f"precision, recall, density and coverage need more than {DENSE} samples and as many "
            f"references, not {len(features)}"
        )

    def build() -> Tensor:
        pairs = _squared_distances(features.values, features.values)
        # of all, each is nearest to itself
        closest = (of.topk(DENSE + 1, dim=1, largest=False).values for _, of, _ in pairs)
        return torch.cat([torch.stack([of[:, NEAREST], of[:, DENSE]], dim=1) for of in closest])

    return features.once("radii", build)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows of x at once; their |x - y|^2 (n, M), and how far off rounding may have put these.

    The mean of y is taken off first: distances do not see it, but their rounding does.
    """
    centre = y.mean(dim=0, dtype=torch.float64)
    about = y - centre
    norms = about.square().sum(dim=1)
    step = max(1, numbers_at_once(y.device) // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        part = x[rows] - centre
        both = part.square().sum(dim=1)[:, None] + norms
        squared = torch.addmm(both, part, about.T, alpha=-2)
        yield rows, squared, both.mul_(TIE * torch.finfo(norms.dtype).eps)


def memorisation(
    samples: Features, training: Features, references: Mapping[str, Features]
) -> Memorisation:
    """How near samples are to the training images, by the Euclidean distance of features.

    `nearer` is the statistic of the data-copying test (Meehan et al. 2020, without its
    cells): the probability that a sample is nearer to its nearest training image than an image that
    was not trained on is to its own, where equal distances count half. It is about 0.5 for samples
    of the data's distribution, 1 for copies, and less than 0.5 for samples that lie apart.
    Authenticity is the fraction of samples that are farther from their nearest training image than
    that is from the nearest other one (Alaa et al. 2022).

    Args:
        samples: Of the samples.
        training: Of the images that the model was trained on.
        references: Split -> those of images that it was not trained on.

    Raises:
        DataError: Different F or extractors, or fewer than two training images.
    """
    require_alike(samples, training)
    images = training.values
    if len(images) < 2:
        raise DataError(f"memorisation needs at least 2 training images, not {len(images)}")
    distance, which = _nearest(samples.values, images)
    copied, place = which.unique(return_inverse=True)
    radius, _ = _nearest(images[copied], images, 2)
    nearer = {}
    for split, held in references.items():
        theirs = _to_training(held, training).cpu().numpy()
        found = mannwhitneyu(theirs, distance.cpu().numpy(), method="asymptotic").statistic
        nearer[split] = float(found) / (len(theirs) * len(distance))
    authentic = distance > radius[place]
    return Memorisation(nearer=nearer, authenticity=float(authentic.double().mean()))


def _to_training(held: Features, training: Features) -> Tensor:
    """Distances of images that were not trained on to the nearest that were, taken once."""

    def build() -> tuple[Features, Tensor]:  # with the set, so that no other one gets its id
        return training, _nearest(held.values, training.values)[0]

    return held.once(f"to {id(training)}", build)[1]


@full_float32()
def _nearest(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances (N) of each of x (N, F) to its k-th nearest of y (M, F), and which these are (N).

    Inner products about the mean of y find the nearest; the distance to that is exact, 0 for equal
    features.
    """
    centre = y.mean(dim=0)
    about = y - centre
    half = torch.linalg.vector_norm(about, dim=1).square() / 2
    step = max(128, numbers_at_once(y.device) // len(y))
    which = torch.cat(
        [
            ((part - centre) @ about.T).sub_(half).topk(k, dim=1).indices[:, -1]
            for part in x.split(step)
        ]
    )
    return torch.linalg.vector_norm(x - y[which], dim=1), which
