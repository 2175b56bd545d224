"""Computation of all scores from samples, also as a pipeline, and of the score of codes."""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from pythae.models import BaseAE
from pythae.pipelines import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.evaluation.build import load_extractor
from pythae_fif.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    memorisation,
    neighbour_scores,
)
from pythae_fif.evaluation.extractors import (
    BATCH_SIZE,
    Extractor,
    Features,
    rounded_images,
    unit_images,
)
from pythae_fif.evaluation.score_types import CodeScores, MeanStd, Scores
from pythae_fif.evaluation.scores import find_columns
from pythae_fif.sampling.samplers import Array, draw_samples
from pythae_fif.training import quiet_pythae

T = TypeVar("T")
SCORE_SPLITS = 10
"""Parts of the samples over which the inception score is averaged."""

MIN_SAMPLES = 2048
"""Fewer samples or references than this, the number of Inception features, cause a warning."""


def score_samples(
    samples: Tensor,
    extractor: Extractor,
    references: Mapping[str, Features],
    *,
    seed: int = 0,
    training: Features | None = None,
    scores: Sequence[str] = (),
    on_batch: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Computes every score of samples against each reference.

    Floating-point samples are clamped to [0, 1] and rounded to 1/255, as in an image file. The
    global random states are seeded, since your own scores may draw random numbers.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point, or rows (N, D) of a table.
        extractor: Extractor of features and logits; the references must have the same.
        references: Split -> features of its images.
        seed: Seed of the shuffle before the inception score, and of the subsets of KID.
        training: Features of the training images, for `Scores.memorisation`.
        scores: Your own scores as `module:function`, a function of the features of samples (N, F)
            and of reference images (M, F).
        on_batch: Called with the number of samples after each batch whose features are computed.

    Raises:
        DataError: There are fewer than ten samples or references, or features are from another
            extractor.
        ConfigError: One of your own scores cannot be imported, or fails.
        NonFiniteError: Samples have NaN or infinite pixels; the message says how many.

    Warns:
        UserWarning: There are fewer than 2,048 samples or references, so the bias is large.
    """
    _check_arguments(len(samples), extractor, references, training)
    non_finite_count = int((~samples.isfinite()).flatten(1).any(dim=1).sum())
    if non_finite_count:
        raise NonFiniteError(
            f"{non_finite_count} of {len(samples)} samples have NaN or infinite pixels"
        )

    outputs = []
    for part in rounded_images(samples).split(BATCH_SIZE):
        outputs.append(extractor(part))
        on_batch(len(part))
    values, logits = zip(*outputs, strict=True)
    features = Features(torch.cat(values), extractor.hash)

    def by_split(score_function: Callable[[Features, Features], T]) -> dict[str, T]:
        set_seed(seed)
        return {
            split: score_function(features, reference) for split, reference in references.items()
        }

    return Scores(
        num_samples=len(features),
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        distance_name=extractor.distance_name,
        score_name=extractor.score_name,
        rounded=extractor.takes_images,
        seed=seed,
        score=None if logits[0] is None else inception_score(torch.cat(logits), seed=seed),
        frechet=by_split(frechet_distance),
        kernel=by_split(partial(kernel_distance, seed=seed)),
        neighbours=by_split(neighbour_scores),
        memorisation=None if training is None else memorisation(features, training, references),
        extra={
            column.name: by_split(column.function)
            for column in find_columns(scores, is_table=not extractor.takes_images)
            if column.function is not None
        },
    )


def _check_arguments(
    num_samples: int,
    extractor: Extractor,
    references: Mapping[str, Features],
    training: Features | None,
) -> None:
    """Raises a DataError if features are from another extractor, or samples or references too few.

    Warns if there are few samples or references.
    """
    feature_sets = (*references.values(), training)
    hashes = {features.extractor for features in feature_sets if features is not None}
    if hashes - {extractor.hash}:
        raise DataError(f"the references' features are not from extractor {extractor.name!r}")

    num_references = min(map(len, references.values()))
    smaller_number = min(num_samples, num_references)
    if smaller_number < SCORE_SPLITS:
        raise DataError(
            f"scores need {SCORE_SPLITS} samples and references, not {num_samples} and "
            f"{num_references}"
        )
    if smaller_number < MIN_SAMPLES:
        warnings.warn(
            f"scores of {num_samples:,} samples and {num_references:,} references, fewer than "
            f"{MIN_SAMPLES:,}: the bias of {extractor.distance_name} is large; compare only scores "
            "of the same number of samples",
            stacklevel=3,
        )


def inception_score(logits: Tensor, *, seed: int | None = 0) -> MeanStd:
    r"""Computes the inception score: how sure and how varied a classifier is about samples.

    $$ \exp \mathbb{E}_x \, KL(p(y|x) \| p(y)) $$

    It is computed for each of ten subsets of the samples, split as in the authors' code (Salimans
    et al. 2016, sec. 4). With any network but Inception v3 it is comparable only with itself.
    Samples are shuffled first, because some samplers return them grouped, and a subset of one group
    would score low.

    Args:
        logits: Class logits (N, classes) with N >= 10; Inception's are without the bias.
        seed: Seed of the shuffle; None keeps the order.

    Returns:
        Mean and standard deviation over the subsets.
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
        divergences = (log_p.exp() * (log_p - marginal)).sum(dim=1)
        scores.append(divergences.mean().exp())

    stacked_scores = torch.stack(scores)
    return MeanStd(float(stacked_scores.mean()), float(stacked_scores.std(correction=0)))


def score_codes(codes: Tensor) -> CodeScores | None:
    """Computes the divergence of codes (N, d) from the standard normal distribution.

    Returns:
        The score; None for codes that are feature maps, or that do not span their space.
    """
    if codes.ndim != 2:
        return None

    codes = codes.detach().double()
    mean = codes.mean(0)
    deviations = codes - mean
    covariance = deviations.mT @ deviations / len(codes)
    variances = covariance.diagonal()
    eigenvalues = torch.linalg.eigvalsh(covariance)

    rounding = eigenvalues[-1] * len(variances) * torch.finfo(torch.float32).eps ** 2
    if not eigenvalues[0] > rounding:  # also if they are NaN
        return None

    divergence = (variances - 1 + mean.square()).sum() - eigenvalues.log().sum()
    return CodeScores(max(0.0, float(divergence) / 2))


@dataclass(eq=False, repr=False, kw_only=True)
class EvaluationPipeline:
    """Scores the samples of a Pythae model and sampler against evaluation images.

    A call seeds all random numbers, and leaves the model in evaluation mode, as Pythae's pipelines
    do.

    Args:
        model: A trained model of images.
        sampler: A sampler of the model, or the configuration of one; None samples codes from the
            standard normal.
        extractor: An extractor or its name: a key of `EXTRACTORS` or `module:function`.
        num_samples: Number of samples.
        batch_size: Number of samples that are drawn at once.
        seed: Seed of the sampler's fit, the samples, their shuffle and the subsets of KID.

    Example::

        pipeline = EvaluationPipeline(model, NormalSampler(model), extractor="inception")
        scores = pipeline(train_data, eval_data)
        print(scores)
        scores.save_json("my_model")
    """

    model: BaseAE = field(kw_only=False)
    sampler: BaseSampler | BaseSamplerConfig | None = field(default=None, kw_only=False)
    extractor: str | Extractor = "inception"
    num_samples: int = 10_000
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, BaseSampler):
            self.sampler = GenerationPipeline(self.model, self.sampler).sampler

    def __call__(self, train_data: Array | None, eval_data: Array) -> Scores:
        """Fits the sampler unless it is fitted, draws samples, and scores them.

        Args:
            train_data: Training images (N, C, H, W), uint8 or in [0, 1]. The sampler is fitted to
                them, and memorisation is measured against them; None leaves memorisation out.
            eval_data: Evaluation images, which the sampler does not see.

        Returns:
            The scores, with a single split "eval".

        Raises:
            ConfigError: The sampler must be fitted and there is no `train_data`.
            DataError: Images have the wrong shape or range.
            NonFiniteError: Images or samples have NaN or infinite pixels.
        """
        sampler: Any = self.sampler
        eval_images = self._as_images("eval_data", eval_data)
        train_images = None if train_data is None else self._as_images("train_data", train_data)

        if isinstance(self.extractor, str):
            self.extractor = load_extractor(
                self.extractor, eval_images.shape[1:], device=sampler.device
            )
        extractor = self.extractor

        set_seed(self.seed)
        if not sampler.is_fitted and type(sampler).fit is not BaseSampler.fit:
            self._fit_sampler(sampler, train_images)
        references = {"eval": Features.from_images(eval_images, extractor)}
        training = None if train_images is None else Features.from_images(train_images, extractor)

        set_seed(self.seed)
        samples = torch.cat([*draw_samples(sampler, self.num_samples, self.batch_size)])
        samples = samples[torch.randperm(len(samples))[: self.num_samples]]
        return score_samples(samples, extractor, references, seed=self.seed, training=training)

    def _as_images(self, name: str, data: Array) -> Tensor:
        """Converts data to a tensor on the CPU, and checks its shape."""
        images = torch.as_tensor(data).detach().cpu()
        shape = tuple(images.shape[1:])
        # Some models of Pythae have no `input_dim`.
        expected_shape = tuple(self.model.model_config.input_dim or shape)
        if shape != expected_shape:
            raise DataError(f"{name}: images have shape {shape}, the model's is {expected_shape}")

        return images

    def _fit_sampler(self, sampler: Any, train_images: Tensor | None) -> None:
        """Fits the sampler to the training images."""
        if train_images is None:
            raise ConfigError(f"{type(sampler).__name__} must be fitted: pass train_data")
        images = unit_images(train_images)
        if images.max() != 1:
            raise DataError("Pythae fits a sampler only to images with largest value 1")

        self.model.eval()
        with quiet_pythae():
            sampler.fit(train_data=images)
