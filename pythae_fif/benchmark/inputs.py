"""What a run starts from: images, the feature extractor, and the references of the scores."""

__all__ = ["Sizes", "load_extractor", "load_splits", "references_of"]

from typing import Any, Protocol

import torch
from torch import Tensor

from pythae_fif.data import Splits, load_images
from pythae_fif.data.images import Progress
from pythae_fif.data.locations import cache_home
from pythae_fif.evaluation import (
    Extractor,
    FeatureStatistics,
    build_extractor,
    reference_features,
    reference_statistics,
)
from pythae_fif.runs.kind import Environment


class Sizes(Protocol):
    """First images of a split that are used; all if None."""

    @property
    def train_size(self) -> int | None: ...
    @property
    def val_size(self) -> int | None: ...
    @property
    def test_size(self) -> int | None: ...


def load_splits(
    dataset: str,
    image_size: int | None,
    sizes: Sizes,
    environment: Environment,
    progress: Progress | None = None,
) -> Splits:
    """The images of a run or an experiment, cut to the sizes of its profile."""
    splits = load_images(
        dataset,
        environment.data_root,
        data=environment.data,
        image_size=image_size,
        download=not environment.offline,
        skip_undecodable=environment.skip_undecodable,
        progress=progress,
    )
    return splits.subset(train=sizes.train_size, val=sizes.val_size, test=sizes.test_size)


def load_extractor(
    name: str, splits: Splits, environment: Environment, device: str = "cpu"
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
        inception_weights=environment.inception_weights,
        download=not environment.offline,
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
