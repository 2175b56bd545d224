"""From images to numbers: statistics of reference images, kept on disk, and scores of samples."""

__all__ = [
    "FEWEST_SAMPLES",
    "SampleCountWarning",
    "content_hash",
    "reference_features",
    "reference_statistics",
    "score_samples",
]

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.distances import kernel_distance, neighbour_scores
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance
from pythae_fif.evaluation.images import rounded_images, unit_images
from pythae_fif.evaluation.inception_score import inception_score
from pythae_fif.evaluation.scores import Intervals, Scores
from pythae_fif.evaluation.uncertainty import (
    bootstrap_frechet,
    bootstrap_inception,
    bootstrap_kernel,
    frechet_at_infinity,
)
from pythae_fif.files import cached, digest

FEWEST_SAMPLES = 2048
"""Fewer samples than this, the number of Inception features, and the scores come with a warning."""


class SampleCountWarning(UserWarning):
    """A score of so few samples that its bias is larger than what models differ by."""


def content_hash(images: Tensor) -> str:
    """Identifies images by what they hold: shape, type and every pixel.

    Example:
        >>> content_hash(torch.zeros(1, 2)) == content_hash(torch.zeros(2, 1))
        False
    """
    sha = hashlib.sha256()
    for part in images.split(1024):
        sha.update(part.cpu().contiguous().numpy().tobytes())
    return digest(tuple(images.shape), images.dtype, sha.hexdigest())


def reference_features(
    images: Tensor,
    extractor: Extractor,
    *,
    data_hash: str,
    split: str,
    cache_dir: str | Path | None = None,
    batch_size: int = 256,
    round_to_uint8: bool = True,
) -> Tensor:
    """Features (N, F) of reference images, computed once; for scores that need all of them.

    Where both are wanted, ask for these before `reference_statistics`, which then reads them.

    Args:
        images: See `reference_statistics`, as for all arguments.
        extractor: See `reference_statistics`.
        data_hash: See `reference_statistics`.
        split: See `reference_statistics`.
        cache_dir: See `reference_statistics`.
        batch_size: See `reference_statistics`.
        round_to_uint8: See `reference_statistics`.

    Raises:
        DataError: see `reference_statistics`.
        StoreError: see `reference_statistics`.
    """

    def build() -> Tensor:
        return torch.cat(list(_features(images, extractor, batch_size, round_to_uint8)))

    if cache_dir is None:
        return build()
    path = _path("features", images, extractor, data_hash, split, cache_dir, round_to_uint8)
    return cached(path, read=_read_features, build=build, write=_write_features)


def reference_statistics(
    images: Tensor,
    extractor: Extractor,
    *,
    data_hash: str,
    split: str,
    cache_dir: str | Path | None = None,
    batch_size: int = 256,
    round_to_uint8: bool = True,
) -> FeatureStatistics:
    """Mean and covariance of the features of reference images, computed once.

    The key on disk is made of data hash, split, shape and type of the images, rounding, and the
    extractor's hash (weights, preprocessing, precision).

    Args:
        images: Images (N, C, H, W), uint8 or floating point in [0, 1].
        extractor: Where the features come from.
        data_hash: Identifies the data set, such as `content_hash` of the images.
        split: Which of its parts the images are, such as "val" or "test".
        cache_dir: Folder of the statistics, which processes may share; None computes them.
        batch_size: Images at once; does not change the result.
        round_to_uint8: Whether floating-point images are rounded as those of a file are.

    Raises:
        DataError: images that the extractor does not take.
        NonFiniteError: NaN or infinite pixels.
        StoreError: the cache folder cannot be used.
    """
    arguments = (images, extractor, data_hash, split)

    def build() -> FeatureStatistics:
        batches: Iterable[Tensor] = _features(images, extractor, batch_size, round_to_uint8)
        if cache_dir is not None:
            known = _path("features", *arguments, cache_dir, round_to_uint8)
            if known.is_file():
                batches = reference_features(
                    images,
                    extractor,
                    data_hash=data_hash,
                    split=split,
                    cache_dir=cache_dir,
                    batch_size=batch_size,
                    round_to_uint8=round_to_uint8,
                ).split(batch_size)
        statistics = FeatureStatistics()
        for batch in batches:
            statistics.update(batch)
        return statistics

    if cache_dir is None:
        return build()
    path = _path("reference", *arguments, cache_dir, round_to_uint8)
    return cached(path, read=_read, build=build, write=_write)


def _features(
    images: Tensor, extractor: Extractor, batch_size: int, round_to_uint8: bool
) -> Iterator[Tensor]:
    for batch in images.split(batch_size):
        if round_to_uint8 and batch.is_floating_point():
            # out of range is a mistake in data, where in samples it is clamped
            batch = rounded_images(unit_images(batch))
        yield extractor(batch)[0]


def _path(
    kind: str,
    images: Tensor,
    extractor: Extractor,
    data_hash: str,
    split: str,
    cache_dir: str | Path,
    round_to_uint8: bool,
) -> Path:
    if images.dtype == torch.uint8:
        pixels = "uint8"
    else:
        pixels = f"{images.dtype} {'rounded' if round_to_uint8 else 'as they are'}"
    key = digest(data_hash, split, tuple(images.shape), pixels, extractor.hash)
    suffix = "npy" if kind == "features" else "npz"
    return Path(cache_dir) / f"{kind}-{extractor.name}-{key}.{suffix}"


def _read_features(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False))


def _write_features(features: Tensor, file: BinaryIO) -> None:
    np.save(file, features.numpy())


def _read(path: Path) -> FeatureStatistics:
    with np.load(path, allow_pickle=False) as held:
        mean, scatter = torch.from_numpy(held["mean"]), torch.from_numpy(held["scatter"])
        return FeatureStatistics(int(held["count"]), mean, scatter)


def _write(statistics: FeatureStatistics, file: BinaryIO) -> None:
    np.savez(
        file,
        count=np.int64(statistics.count),
        mean=statistics.mean.numpy(),
        scatter=statistics.scatter.numpy(),
    )


def score_samples(
    samples: Tensor | Iterable[Tensor],
    extractor: Extractor,
    references: Mapping[str, FeatureStatistics],
    *,
    features: Mapping[str, Tensor] | None = None,
    round_to_uint8: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    bootstrap: int = 0,
    infinity: bool = False,
) -> Scores:
    """Every score of samples against each reference, from one pass over the samples.

    Floating-point samples are clamped to [0, 1], then rounded to multiples of 1/255, as an image
    file would.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point, or batches of them.
        extractor: Where features and logits come from; the one of the references.
        references: Name of a split -> statistics of its images.
        features: Name of a split -> features of its images, for the scores that need them: KID,
            precision, recall, density and coverage.
        round_to_uint8: Whether to round; the result records it.
        seed: Seed of the shuffle before the score is split, of the subsets of KID and of the
            bootstrap; the result records it.
        batch_size: Most samples at once; does not change the result.
        bootstrap: Number of bootstrap replicates behind 95% intervals; 0 gives none.
        infinity: Whether to extrapolate the Frechet distance to infinitely many samples.

    Raises:
        DataError: fewer than ten samples (two without logits), or samples or references that do
            not fit the extractor.
        NonFiniteError: NaN or infinite pixels; says in how many samples.

    Warns:
        SampleCountWarning: fewer than 2,048 samples.
    """
    features = features or {}
    keep = bool(features) or bootstrap > 0 or infinity
    statistics = FeatureStatistics()
    kept: list[Tensor] = []
    kept_logits: list[Tensor] = []
    total = bad = 0
    chunks = [samples] if isinstance(samples, Tensor) else samples
    for chunk in chunks:
        for batch in chunk.split(batch_size):
            total += len(batch)
            if batch.is_floating_point():
                bad += int((~batch.isfinite()).flatten(1).any(dim=1).sum())
                batch = rounded_images(batch) if round_to_uint8 else batch.clamp(0, 1)
            # once one is bad there is no score, and the rest are only counted
            if bad:
                continue
            batch_features, batch_logits = extractor(batch)
            statistics.update(batch_features)
            if keep:
                kept.append(batch_features)
            if batch_logits is not None:
                kept_logits.append(batch_logits)
    if bad:
        raise NonFiniteError(
            f"{bad} of {total} samples have NaN or infinite pixels; none were scored"
        )
    if 0 < total < FEWEST_SAMPLES:
        warnings.warn(
            f"scores of {total:,} samples, fewer than {FEWEST_SAMPLES:,}: the bias of "
            f"{extractor.distance_name} is large; compare at one number of samples alone",
            SampleCountWarning,
            stacklevel=2,
        )
    logits = torch.cat(kept_logits) if kept_logits else None
    bias = getattr(extractor, "logit_bias", None)
    score = None if logits is None else inception_score(logits, seed=seed)
    with_bias = logits is not None and bias is not None
    frechet = {name: frechet_distance(statistics, held) for name, held in references.items()}
    sampled = torch.cat(kept) if kept else torch.empty(0, extractor.feature_dim)
    kernel = {name: kernel_distance(sampled, held, seed=seed) for name, held in features.items()}
    intervals = None
    if bootstrap:
        how = {"replicates": bootstrap, "seed": seed}
        intervals = Intervals(
            replicates=bootstrap,
            frechet={
                name: bootstrap_frechet(sampled, held, frechet[name], **how)
                for name, held in references.items()
            },
            score=(
                None
                if logits is None or score is None
                else bootstrap_inception(logits, score.mean, **how)
            ),
            kernel={
                name: bootstrap_kernel(sampled, held, kernel[name].mean, **how)
                for name, held in features.items()
            },
        )
    return Scores(
        num_samples=total,
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        distance_name=extractor.distance_name,
        score_name=extractor.score_name,
        rounded=round_to_uint8,
        seed=seed,
        score=score,
        score_with_bias=inception_score(logits + bias, seed=seed) if with_bias else None,
        frechet=frechet,
        kernel=kernel,
        neighbours={name: neighbour_scores(sampled, held) for name, held in features.items()},
        frechet_infinity=(
            {
                name: frechet_at_infinity(sampled, held, seed=seed)
                for name, held in references.items()
            }
            if infinity
            else None
        ),
        intervals=intervals,
    )
