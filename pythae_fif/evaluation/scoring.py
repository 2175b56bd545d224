"""From samples to every score."""

__all__ = ["FEWEST_SAMPLES", "SampleCountWarning", "score_samples"]

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.copies import memorisation
from pythae_fif.evaluation.distances import (
    SUBSETS,
    inception_score,
    kernel_mean_std,
    subset_weights,
)
from pythae_fif.evaluation.extractor import Extractor
from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance, frechet_error
from pythae_fif.evaluation.images import rounded_images
from pythae_fif.evaluation.pairs import Inside, Kernel, own_pairs, watch
from pythae_fif.evaluation.reference import BATCH_SIZE, Reference
from pythae_fif.evaluation.scores import MeanStd, Neighbours, Scores

FEWEST_SAMPLES = 2048
"""Fewer samples or references than this, the number of Inception features, give a warning."""


class SampleCountWarning(UserWarning):
    """A score of so few samples or references that its bias exceeds what models differ by."""


def score_samples(
    samples: Tensor | Iterable[Tensor],
    extractor: Extractor,
    references: Mapping[str, Reference],
    *,
    round_to_uint8: bool = True,
    seed: int = 0,
    training: Reference | None = None,
) -> Scores:
    """Every score of samples against each reference, from one pass over the samples.

    Floating-point samples are clamped to [0, 1], then rounded to multiples of 1/255, as an image
    file would.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point, or batches of them.
        extractor: Where features and logits come from; the one of the references.
        references: Name of a split -> the reference that its images are.
        round_to_uint8: Whether to round; the result records it.
        seed: Seed of the shuffle before the score is split and of the subsets of KID; the result
            records it.
        training: The images that the model was trained on, for `Scores.memorisation`.

    Raises:
        DataError: Fewer than ten samples (six without logits), fewer than six references, samples
            or references that do not fit the extractor, or no reference.
        NonFiniteError: NaN or infinite pixels; says in how many samples.

    Warns:
        SampleCountWarning: Fewer than 2,048 samples or references.
    """
    if not references:
        raise DataError("references is empty: samples are scored against one at least")
    if {held.extractor for held in references.values()} != {extractor.hash}:
        raise DataError(f"a reference has features of another extractor, not of {extractor.name}")
    round_to_uint8 &= extractor.of_images
    feature_batches: list[Tensor] = []
    logit_batches: list[Tensor] = []
    total = 0
    for batch in _finite_batches(samples, round_to_uint8, extractor.of_images):
        extracted = extractor(batch)
        total += len(batch)
        feature_batches.append(extracted.features)
        if extracted.logits is not None:
            logit_batches.append(extracted.logits)
    counts = [total, *(reference.statistics.count for reference in references.values())]
    if 0 < min(counts) < FEWEST_SAMPLES:
        warnings.warn(
            f"scores of {total:,} samples and {min(counts[1:]):,} references, fewer "
            f"than {FEWEST_SAMPLES:,}: the bias of "
            f"{extractor.distance_name} is large; compare at one number of samples alone",
            SampleCountWarning,
            stacklevel=2,
        )
    if not feature_batches:
        raise DataError("no samples to score")
    features = torch.cat(feature_batches)
    statistics = FeatureStatistics.of(features)
    score: MeanStd | None = None
    with_bias: MeanStd | None = None
    logits = torch.cat(logit_batches) if logit_batches else None
    if logits is not None:
        score = inception_score(logits, seed=seed)
        if extractor.logit_bias is not None:
            with_bias = inception_score(logits + extractor.logit_bias, seed=seed)
    frechet = {
        split: frechet_distance(statistics, reference.statistics, root=reference.root())
        for split, reference in references.items()
    }
    kernel, neighbours = _pair_scores(features, references, seed)
    errors = {
        split: frechet_error(features, held.statistics, statistics=statistics, root=held.root())
        for split, held in references.items()
    }
    return Scores(
        num_samples=total,
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        distance_name=extractor.distance_name,
        score_name=extractor.score_name,
        rounded=round_to_uint8,
        seed=seed,
        score=score,
        score_with_bias=with_bias,
        frechet=frechet,
        kernel=kernel,
        neighbours=neighbours,
        frechet_error=errors,
        memorisation=None if training is None else memorisation(features, training, references),
    )


def _pair_scores(
    features: Tensor, references: Mapping[str, Reference], seed: int
) -> tuple[dict[str, MeanStd], dict[str, Neighbours]]:
    """KID and neighbours against each reference; the samples' own pairs are looked at once."""
    kernel: dict[str, MeanStd] = {}
    neighbours: dict[str, Neighbours] = {}
    subsets: list[tuple[Tensor, Tensor]] = []
    for held in (reference.features for reference in references.values()):
        subsets.append(subset_weights(len(features), len(held), seed=seed, device=features.device))
    ours = own_pairs(features, torch.cat([u for u, _ in subsets]))
    own_kernels = ours.kernel.split(SUBSETS)
    for (split, reference), (u, v), own in zip(
        references.items(), subsets, own_kernels, strict=True
    ):
        theirs = reference.own_pairs(v, len(features), seed)
        means, inside = Kernel(u, v, features.shape[1]), Inside(ours.radii, theirs.radii)
        watch(features, reference.features, means.see, inside.see)
        kernel[split] = kernel_mean_std(own, theirs.kernel, means.means)
        neighbours[split] = inside.scores
    return kernel, neighbours


def _finite_batches(
    samples: Tensor | Iterable[Tensor], round_to_uint8: bool, clamp: bool
) -> Iterable[Tensor]:
    """The samples batch by batch; images are clamped and rounded.

    Once a sample is not finite there is no score: the rest are only counted, for the error.
    """
    total = bad = 0
    for chunk in [samples] if isinstance(samples, Tensor) else samples:
        for batch in chunk.split(BATCH_SIZE):
            total += len(batch)
            if batch.is_floating_point():
                bad += int((~batch.isfinite()).flatten(1).any(dim=1).sum())
                if clamp:
                    batch = rounded_images(batch) if round_to_uint8 else batch.clamp(0, 1)
            if not bad:
                yield batch
    if bad:
        raise NonFiniteError(
            f"{bad} of {total} samples have NaN or infinite pixels; none were scored"
        )
