"""Whether samples are copies of training images: their distances to these, of features."""

__all__ = ["memorisation"]

from collections.abc import Mapping

from scipy.stats import mannwhitneyu
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.distances import check_features
from pythae_fif.evaluation.pairs import nearest
from pythae_fif.evaluation.reference import Reference
from pythae_fif.evaluation.scores import Memorisation


def memorisation(
    features: Tensor, training: Reference, references: Mapping[str, Reference]
) -> Memorisation:
    """How near samples are to the training images, by the Euclidean distance of features.

    `nearer` is the statistic of the data-copying test (Meehan et al. 2020, without its
    cells): the probability that a sample is nearer to its nearest training image than an image that
    was not trained on is to its own, where equal distances count half. It is about 0.5 for samples
    of the data's distribution, 1 for copies, and less than 0.5 for samples that lie apart.
    Authenticity is the fraction of samples that are farther from their nearest training image than
    that is from the nearest other one (Alaa et al. 2022).

    Args:
        features: Features (N, F) of the samples.
        training: The images that the model was trained on.
        references: Split -> images that it was not trained on.

    Raises:
        DataError: Shapes that do not fit, or fewer than two training images.
        NonFiniteError: NaN or infinite features.
    """
    features, images = check_features(features, training.features)
    if len(images) < 2:
        raise DataError(f"memorisation needs at least 2 training images, not {len(images)}")
    distance, which = nearest(features, images)
    found, place = which.unique(return_inverse=True)
    radius, _ = nearest(images[found], images, 2)
    return Memorisation(
        nearer={
            split: _share(distance, training.nearest_to(held)) for split, held in references.items()
        },
        authenticity=float((distance > radius[place]).double().mean()),
    )


def _share(ours: Tensor, theirs: Tensor) -> float:
    """The probability that one of ours is less than one of theirs."""
    found = mannwhitneyu(theirs.cpu().numpy(), ours.cpu().numpy(), method="asymptotic")
    return float(found.statistic) / (len(ours) * len(theirs))
