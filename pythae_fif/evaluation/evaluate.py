"""From images to numbers: statistics of reference images, kept on disk, and scores of samples."""

__all__ = ["reference_statistics", "score_samples"]

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.cache import cached, digest
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance
from pythae_fif.evaluation.scores import inception_score


def reference_statistics(
    images: Tensor,
    extractor: Extractor,
    *,
    data_hash: str,
    split: str,
    cache_dir: str | Path | None = None,
    batch_size: int = 256,
) -> FeatureStatistics:
    """Mean and covariance of the features of reference images, computed once.

    Args:
        images: Images (N, C, H, W), uint8.
        extractor: Where the features come from.
        data_hash: Identifies the data set.
        split: Which of its parts the images are, such as "val" or "test".
        cache_dir: Folder of the statistics, which processes may share; None computes them.
        batch_size: Images at once; does not change the result.

    Raises:
        DataError: images that are not uint8 or that the extractor does not take.
        StoreError: the cache folder cannot be used.
    """
    if images.dtype != torch.uint8:
        raise DataError(f"reference images of split {split!r} must be uint8, not {images.dtype}")

    def build() -> FeatureStatistics:
        statistics = FeatureStatistics()
        for batch in images.split(batch_size):
            statistics.update(extractor(batch)[0])
        return statistics

    if cache_dir is None:
        return build()
    key = digest(data_hash, split, tuple(images.shape), extractor.hash)
    path = Path(cache_dir) / f"reference-{extractor.name}-{key}.npz"
    return cached(path, read=_read, build=build, write=_write)


def _read(path: Path) -> FeatureStatistics:
    with np.load(path, allow_pickle=False) as held:
        mean, scatter = torch.from_numpy(held["mean"]), torch.from_numpy(held["scatter"])
        return FeatureStatistics(int(held["count"]), mean, scatter)


def _write(statistics: FeatureStatistics, path: Path) -> None:
    np.savez(
        path,
        count=np.int64(statistics.count),
        mean=statistics.mean.numpy(),
        scatter=statistics.scatter.numpy(),
    )


def score_samples(
    samples: Tensor | Iterable[Tensor],
    extractor: Extractor,
    references: Mapping[str, FeatureStatistics],
    *,
    round_to_uint8: bool = True,
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Frechet distance of samples to each reference, and their score, from one pass.

    Floating-point samples are clamped to [0, 1], then rounded to multiples of 1/255, as an image
    file would.

    Args:
        samples: Samples (N, C, H, W), uint8 or floating point, or batches of them.
        extractor: Where features and logits come from; the one of the references.
        references: Name of a split -> statistics of its images.
        round_to_uint8: Whether to round; the result records it.
        seed: Seed of the shuffle before the score is split.
        batch_size: Most samples at once; does not change the result.

    Returns:
        A dictionary of plain values: `num_samples`, `extractor`, `extractor_hash`,
        `distance_name`, `score_name`, `rounded`, `frechet` (split -> distance) and `score`
        (`mean` and `std` over ten splits, or None where the extractor has no logits).

    Raises:
        DataError: fewer than ten samples (two without logits), or samples or references that do
            not fit the extractor.
        NonFiniteError: NaN or infinite pixels; says in how many samples.
    """
    statistics = FeatureStatistics()
    logits: list[Tensor] = []
    total = bad = 0
    chunks = [samples] if isinstance(samples, Tensor) else samples
    for chunk in chunks:
        for batch in chunk.split(batch_size):
            total += len(batch)
            if batch.is_floating_point():
                bad += int((~batch.isfinite()).flatten(1).any(dim=1).sum())
                batch = batch.clamp(0, 1)
                if round_to_uint8:
                    batch = (255 * batch).round().to(torch.uint8)
            # once one is bad there is no score, and the rest are only counted
            if bad:
                continue
            features, batch_logits = extractor(batch)
            statistics.update(features)
            if batch_logits is not None:
                logits.append(batch_logits)
    if bad:
        raise NonFiniteError(
            f"{bad} of {total} samples have NaN or infinite pixels; none were scored"
        )
    score = None
    if logits:
        mean, std = inception_score(torch.cat(logits), seed=seed)
        score = {"mean": mean, "std": std}
    return {
        "num_samples": total,
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "distance_name": extractor.distance_name,
        "score_name": extractor.score_name,
        "rounded": round_to_uint8,
        "frechet": {
            split: frechet_distance(statistics, reference)
            for split, reference in references.items()
        },
        "score": score,
    }
