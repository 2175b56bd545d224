"""From samples to every score."""

__all__ = ["FEWEST_SAMPLES", "SampleCountWarning", "inception_score", "score_samples"]

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.evaluation.features import BATCH_SIZE, Features
from pythae_fif.evaluation.frechet import frechet_distance, frechet_error
from pythae_fif.evaluation.images import rounded_images
from pythae_fif.evaluation.kernel import kernel_distance
from pythae_fif.evaluation.neighbours import memorisation, neighbour_scores
from pythae_fif.evaluation.scores import MeanStd, Scores

FEWEST_SAMPLES = 2048
"""Fewer samples or references than this, the number of Inception features, give a warning."""


class SampleCountWarning(UserWarning):
    """A score of so few samples or references that its bias exceeds what models differ by."""


def score_samples(
    samples: Tensor | Iterable[Tensor],
    extractor: Extractor,
    references: Mapping[str, Features],
    *,
    seed: int = 0,
    training: Features | None = None,
) -> Scores:
    """Every score of samples against each reference, from one pass over the samples.

    Floating-point samples are clamped to [0, 1], then rounded to multiples of 1/255, as an image
    file would.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point, or batches of them.
        extractor: Where features and logits come from; the one of the references.
        references: Name of a split -> the features of its images.
        seed: Seed of the shuffle before the score is split and of the subsets of KID; the result
            records it.
        training: Of the images that the model was trained on, for `Scores.memorisation`.

    Raises:
        DataError: Fewer than ten samples (six without logits), fewer than six references, samples
            or references that do not fit the extractor, or no reference.
        NonFiniteError: NaN or infinite pixels; says in how many samples.

    Warns:
        SampleCountWarning: Fewer than 2,048 samples or references.
    """
    if {held.extractor for held in references.values()} != {extractor.hash}:
        raise DataError(f"references have no features of {extractor.name}")
    batches = [extractor(batch) for batch in _finite_batches(samples, extractor.of_images)]
    if not batches:
        raise DataError("no samples to score")
    features = Features(torch.cat([batch.features for batch in batches]), extractor.hash)
    fewest = min(map(len, references.values()))
    if min(len(features), fewest) < FEWEST_SAMPLES:
        warnings.warn(
            f"scores of {len(features):,} samples and {fewest:,} references, fewer than "
            f"{FEWEST_SAMPLES:,}: the bias of {extractor.distance_name} is large; compare at one "
            "number of samples alone",
            SampleCountWarning,
            stacklevel=2,
        )
    logits = [batch.logits for batch in batches if batch.logits is not None]
    score = inception_score(torch.cat(logits), seed=seed) if logits else None
    return Scores(
        num_samples=len(features),
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        distance_name=extractor.distance_name,
        score_name=extractor.score_name,
        rounded=extractor.of_images,
        seed=seed,
        score=score,
        frechet={split: frechet_distance(features, held) for split, held in references.items()},
        frechet_error={split: frechet_error(features, held) for split, held in references.items()},
        kernel={
            split: kernel_distance(features, held, seed=seed) for split, held in references.items()
        },
        neighbours={split: neighbour_scores(features, held) for split, held in references.items()},
        memorisation=None if training is None else memorisation(features, training, references),
    )


def _finite_batches(samples: Tensor | Iterable[Tensor], of_images: bool) -> Iterator[Tensor]:
    """The samples batch by batch; images are clamped and rounded.

    Once a sample is not finite there is no score: the rest are only counted, for the error.
    """
    total = bad = 0
    for chunk in [samples] if isinstance(samples, Tensor) else samples:
        for batch in chunk.split(BATCH_SIZE):
            total += len(batch)
            bad += int((~batch.isfinite()).flatten(1).any(dim=1).sum())
            if not bad:
                round_it = of_images and batch.is_floating_point()
                yield rounded_images(batch) if round_it else batch
    if bad:
        raise NonFiniteError(
            f"{bad} of {total} samples have NaN or infinite pixels; none were scored"
        )


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
        DataError: Fewer samples than splits.
        NonFiniteError: NaN or infinite logits.

    Example:
        >>> score = inception_score(100 * torch.eye(4).repeat(10, 1), splits=1)
        >>> round(score.mean, 6), score.std
        (4.0, 0.0)
    """
    if splits < 1 or len(logits) < splits:
        raise DataError(
            f"the score needs 1 <= splits <= N, not {splits} splits of N = {len(logits)} samples"
        )
    logits = logits.detach().double()
    if not logits.isfinite().all():
        raise NonFiniteError("some logits are NaN or infinite")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        logits = logits[torch.randperm(len(logits), generator=generator).to(logits.device)]
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(edges):
        log_p = logits[start:stop].log_softmax(dim=1)
        marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
        scores.append((log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return MeanStd(float(found.mean()), float(found.std(correction=0)))
