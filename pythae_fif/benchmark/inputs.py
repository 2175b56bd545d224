"""What a run starts from: images, the feature extractor, and the references of the scores."""

__all__ = ["lent", "load_extractor", "load_splits", "references_of"]

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pythae_fif.data import Splits, load_images
from pythae_fif.data.locations import cache_home
from pythae_fif.evaluation import (
    Extractor,
    FeatureStatistics,
    build_extractor,
    reference_features,
    reference_statistics,
)

_LENT: dict[str, Splits] = {}


@contextlib.contextmanager
def lent(splits: Splits | None) -> Iterator[None]:
    """Within the block, a run of these images takes them as they are and loads nothing."""
    if splits is not None:
        _LENT[splits.content_hash] = splits
    try:
        yield
    finally:
        _LENT.clear()


def load_splits(spec_or_experiment: Any, environment: dict[str, Any], settings: Any) -> Splits:
    """The images of a run or an experiment, cut to the sizes of its profile."""
    if (known := getattr(spec_or_experiment, "data_hash", None)) in _LENT:
        return _LENT[known]
    splits = load_images(
        spec_or_experiment.dataset,
        environment["data_root"],
        data=environment["data"],
        image_size=spec_or_experiment.image_size,
        download=not environment["offline"],
        skip_undecodable=environment["skip_undecodable"],
        progress=environment.get("progress"),
    )
    return splits.subset(
        train=settings["train_size"], val=settings["val_size"], test=settings["test_size"]
    )


def load_extractor(
    name: str, splits: Splits, environment: dict[str, Any], device: str = "cpu"
) -> Extractor:
    """The extractor of an experiment; a classifier is trained once and cached."""
    labels = splits.labels
    return build_extractor(
        name,
        torch.from_numpy(splits.train),
        None if labels is None else torch.from_numpy(labels["train"]),
        data_hash=splits.content_hash,
        holdout=(
            None
            if labels is None
            else (torch.from_numpy(splits.test), torch.from_numpy(labels["test"]))
        ),
        cache_dir=cache_home(),
        device=device,
        inception_weights=environment["inception_weights"],
        download=not environment["offline"],
    )


def references_of(
    splits: Splits, extractor: Extractor
) -> tuple[dict[str, Tensor], dict[str, FeatureStatistics]]:
    """Features of the validation and test images and their statistics, computed once a machine."""
    features, statistics = {}, {}
    for split in ("val", "test"):
        images = torch.from_numpy(splits[split])
        key: dict[str, Any] = {
            "data_hash": splits.content_hash, "split": split, "cache_dir": cache_home()
        }  # fmt: skip
        # In this order: the statistics are made of the features that are there.
        features[split] = reference_features(images, extractor, **key)
        statistics[split] = reference_statistics(images, extractor, **key)
    return features, statistics
