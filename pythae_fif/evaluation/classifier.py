"""Features of a small convolutional network trained on the data set's own labels."""

__all__ = ["ARCHITECTURE", "SHIPPED", "LabelledImages", "load_classifier", "train_classifier"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.data.dataset import as_tensor
from pythae_fif.device import fork_rng
from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.cache import cached_tensors, tensor_hash
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.evaluation.images import unit_images
from pythae_fif.files import digest

if TYPE_CHECKING:
    from pythae_fif.data.splits import Splits

ARCHITECTURE = "gap-cnn/1"
"""Name and version of network, preprocessing and training; a change of any raises the version."""

SHIPPED = Path(__file__).parent / "classifiers"
"""Trained networks, `<data set>.pt`: scores of all machines compare, since another processor, or
another number of threads, trains other weights from the same data. That of MNIST has seen all
50,000 training images, whatever part of them a benchmark trains on."""

FEATURE_DIM = 128
BATCH_SIZE = 128
EPOCHS = 20
PEAK_LEARNING_RATE = 1e-2
SMALLEST_SIDE = 8


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes, for `classifier`.

    Attributes:
        images: (N, C, H, W), uint8.
        labels: (N), integers from 0 up.
        holdout: Images and labels kept for the accuracy that the extractor records.
        name: Of the data set; some have a network in `SHIPPED`.
    """

    images: Tensor
    labels: Tensor
    holdout: "LabelledImages | None" = None
    name: str = ""

    @classmethod
    def of(cls, splits: "Splits") -> "LabelledImages | None":
        """The training images of a data set, the test images held out; None without labels."""
        if splits.labels is None:
            return None
        train, test = (
            (as_tensor(splits[split]), torch.from_numpy(splits.labels[split]))
            for split in ("train", "test")
        )
        return cls(*train, cls(*test), splits.name)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The (C, H, W) of an image."""
        return tuple(self.images.shape[1:])

    def check(self) -> None:
        """Refuses what no classifier can be trained on.

        Raises:
            DataError: Images or labels of the wrong shape or type, or fewer than two classes.
        """
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or min(images.shape[2:]) < SMALLEST_SIDE:
            raise DataError(
                f"classifier: images must be uint8 (N, C, H, W) from 8 x 8 up, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        integers = not labels.is_floating_point() and labels.shape == (len(images),)
        if not integers or not 0 <= labels.min() < labels.max() < len(labels):
            raise DataError(
                f"classifier: labels must be integers from 0 up of shape ({len(images)},), of at "
                "least two classes and fewer than the images"
            )


class _Network(nn.Module):
    """Four convolutions, global average pooling, one linear layer; any size from 8 x 8."""

    def __init__(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        side = min(height, width)
        layers: list[nn.Module] = []
        # small images keep their resolution, large ones lose it early
        for out, smallest in ((32, 16), (64, 8), (64, 8), (FEATURE_DIM, None)):
            stride = 2 if smallest is not None and side >= smallest else 1
            side //= stride
            layers += [
                nn.Conv2d(channels, out, 3, stride, padding=1, bias=False, dtype=torch.float32),
                nn.BatchNorm2d(out, dtype=torch.float32),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURE_DIM, num_classes, dtype=torch.float32)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


def load_classifier(
    data: LabelledImages, *, device: str | torch.device = "cpu", cache_dir: str | Path | None = None
) -> Extractor:
    """The network of `SHIPPED` for such images of a data set, else one trained on its labels.

    Args:
        data, device, cache_dir: As of :func:`train_classifier`, which tells of the errors.
    """
    path = SHIPPED / f"{data.name}.pt"
    if path.is_file():
        held = torch.load(path, map_location="cpu", weights_only=True)
        if tuple(held["image_shape"]) == data.image_shape:
            shipped = _extractor(held["state"], data.image_shape, held["num_classes"], device)
            return replace(shipped, accuracy=held["accuracy"])
    return train_classifier(data, device=device, cache_dir=cache_dir)


def train_classifier(
    data: LabelledImages,
    *,
    seed: int = 0,
    max_steps: int = 600,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
) -> Extractor:
    """Trains the classifier whose features serve as the data set's own yardstick.

    Adam on the cross-entropy with a one-cycle learning rate, for 20 epochs. On the CPU the result
    is a function of data, seed and number of threads; the global random state is left as it was.

    Args:
        data: Training images from 8 x 8 up, of at least two classes.
        seed: Seed of the initial weights and of the order of the images.
        max_steps: Most optimiser steps, each on 128 images, however many epochs that is.
        device: Where to train, and where the extractor runs.
        cache_dir: Folder of the weights, which processes may share; a classifier of the same data,
            seed and length is then trained once. None trains it.

    Raises:
        DataError: Images or labels of the wrong shape or type, or fewer than two classes.
        NonFiniteError: The training diverged.
        StoreError: The cache folder cannot be used.
    """
    data.check()
    num_classes = int(data.labels.max()) + 1

    def build() -> dict[str, Tensor]:
        return _train(data, num_classes, seed, max_steps, torch.device(device))

    if cache_dir is None:
        state = build()
    else:
        data_hashes = tensor_hash(data.images), tensor_hash(data.labels)
        key = digest(*data_hashes, ARCHITECTURE, seed, EPOCHS, max_steps)
        state = cached_tensors(Path(cache_dir) / f"classifier-{key}.pt", build)
    extractor = _extractor(state, data.image_shape, num_classes, device)
    if data.holdout is None:
        return extractor
    return replace(extractor, accuracy=_accuracy(extractor, data.holdout))


def _extractor(
    state: Mapping[str, Tensor],
    image_shape: tuple[int, ...],
    num_classes: int,
    device: str | torch.device,
) -> Extractor:
    with torch.random.fork_rng(devices=[]):
        network = _Network(image_shape, num_classes)
    network.load_state_dict(state)
    weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
    return Extractor(
        "classifier",
        "FD-classifier",
        network,
        digest(ARCHITECTURE, image_shape, num_classes, *weights),
        device,
        score_name="classifier score",
        image_shape=image_shape,
    )


def _accuracy(extractor: Extractor, data: LabelledImages) -> float:
    """Fraction of images whose label is the most likely class."""
    found = [
        torch.as_tensor(extractor(x).logits).argmax(1).cpu() for x in data.images.split(BATCH_SIZE)
    ]
    return float((torch.cat(found) == data.labels.cpu()).double().mean())


def _train(
    data: LabelledImages, num_classes: int, seed: int, max_steps: int, device: torch.device
) -> dict[str, Tensor]:
    images, labels = data.images, data.labels.long().cpu()
    with fork_rng():
        torch.manual_seed(seed)
        network = _Network(data.image_shape, num_classes)
    network.to(device)
    steps = min(max_steps, EPOCHS * -(-len(images) // BATCH_SIZE))
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=steps
    )
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    with torch.enable_grad():
        for _ in range(steps):
            if not order:
                order = list(torch.randperm(len(images), generator=generator).split(BATCH_SIZE))
            batch = order.pop()
            _, logits = network(unit_images(images[batch].to(device)))
            loss = F.cross_entropy(logits, labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if not loss.isfinite():
        raise NonFiniteError(f"classifier: the loss is {loss.item()} after {steps} steps")
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
