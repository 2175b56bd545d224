"""From samples to every score."""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.distances import (
    frechet_distance,
    frechet_error,
    kernel_distance,
    memorisation,
    neighbour_scores,
)
from pythae_fif.evaluation.extractors import BATCH_SIZE, Extractor, Features, rounded_images
from pythae_fif.evaluation.scores import CodeScores, MeanStd, Scores

T = TypeVar("T")
SCORE_SPLITS = 10
MIN_SAMPLES = 2048
"""Fewer samples or references than this, the number of Inception features, give a warning."""


def score_samples(
    samples: Tensor,
    extractor: Extractor,
    references: Mapping[str, Features],
    *,
    seed: int = 0,
    training: Features | None = None,
) -> Scores:
    """Every score of samples against each reference.

    Floating-point samples are clamped to [0, 1] and rounded to 1/255, as an image file would.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point; rows (N, D) of a table.
        extractor: Where features and logits come from; the one of the references.
        references: Name of a split -> the features of its images.
        seed: Of the shuffle before the score is split, and of the subsets of KID.
        training: Of the images that the model was trained on, for `Scores.memorisation`.

    Raises:
        DataError: Fewer than ten samples or references, or features of another extractor.
        NonFiniteError: NaN or infinite pixels; says in how many samples.

    Warns:
        UserWarning: Fewer than 2,048 samples or references: the bias is large.
    """
    known = [*references.values(), *([] if training is None else [training])]
    if any(held.extractor != extractor.hash for held in known):
        raise DataError(f"references have no features of {extractor.name}")
    fewest = min(map(len, references.values()))
    if min(len(samples), fewest) < SCORE_SPLITS:
        raise DataError(
            f"scores need {SCORE_SPLITS} samples and references, not {len(samples)} and {fewest}"
        )
    if min(len(samples), fewest) < MIN_SAMPLES:
        warnings.warn(
            f"scores of {len(samples):,} samples and {fewest:,} references, fewer than "
            f"{MIN_SAMPLES:,}: the bias of {extractor.distance_name} is large; compare at one "
            "number of samples alone",
            stacklevel=2,
        )
    if bad := int((~samples.isfinite()).flatten(1).any(dim=1).sum()):
        raise NonFiniteError(f"{bad} of {len(samples)} samples have NaN or infinite pixels")
    parts = rounded_images(samples).split(BATCH_SIZE)
    values, logits = zip(*map(extractor, parts), strict=True)
    features = Features(torch.cat(values), extractor.hash)
    score = None if logits[0] is None else inception_score(torch.cat(logits), seed=seed)

    def by_split(of: Callable[[Features, Features], T]) -> dict[str, T]:
        return {split: of(features, held) for split, held in references.items()}

    return Scores(
        num_samples=len(features),
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        distance_name=extractor.distance_name,
        score_name=extractor.score_name,
        rounded=extractor.takes_images,
        seed=seed,
        score=score,
        frechet=by_split(frechet_distance),
        frechet_error=by_split(frechet_error),
        kernel=by_split(partial(kernel_distance, seed=seed)),
        neighbours=by_split(neighbour_scores),
        memorisation=None if training is None else memorisation(features, training, references),
    )


def inception_score(logits: Tensor, *, seed: int | None = 0) -> MeanStd:
    r"""Inception score: how sure and how varied a classifier is about samples.

    $$ \exp \mathbb{E}_x \, KL(p(y|x) \| p(y)) $$

    over each of ten subsets of the samples, cut as in the authors' code (Salimans et al. 2016,
    sec. 4). With any network but Inception v3 it compares with nothing but itself. Samples are
    shuffled first: some samplers return them grouped, and a split of one group would score low.

    Args:
        logits: Class logits (N, classes) with N >= 10; Inception's leave the bias out.
        seed: Seed of the shuffle; None leaves the order.
    """
    logits = logits.detach().double()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        logits = logits[torch.randperm(len(logits), generator=generator).to(logits.device)]
    edges = [i * len(logits) // SCORE_SPLITS for i in range(SCORE_SPLITS + 1)]
    scores = []
    for start, stop in itertools.pairwise(edges):
        log_p = logits[start:stop].log_softmax(dim=1)
        marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
        scores.append((log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return MeanStd(float(found.mean()), float(found.std(correction=0)))


def score_codes(codes: Tensor) -> CodeScores | None:
    """Scores codes (N, d); None for maps of codes, and for codes that do not span their space."""
    if codes.ndim != 2:
        return None
    z = codes.detach().double()
    centred = z - z.mean(0)
    covariance = centred.mT @ centred / len(z)
    variances, along_axes = covariance.diagonal(), torch.linalg.eigvalsh(covariance)
    if not along_axes[0] > along_axes[-1] * len(variances) * torch.finfo(torch.float32).eps ** 2:
        return None
    divergence = (variances - 1 + z.mean(0).square()).sum() - along_axes.log().sum()
    return CodeScores(max(0.0, float(divergence) / 2))
