"""Features of a small convolutional network trained on the data set's own labels."""

__all__ = [
    "ARCHITECTURE",
    "SHIPPED",
    "ClassifierExtractor",
    "LabelledImages",
    "check_training",
    "save",
    "shipped_classifier",
    "train_classifier",
]

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.device import fork_rng
from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.images import unit_images
from pythae_fif.evaluation.reference import tensor_hash
from pythae_fif.files import cached, digest

ARCHITECTURE = "gap-cnn/1"
"""Name and version of network, preprocessing and training; a change of any raises the version."""

SHIPPED = Path(__file__).parent / "classifiers"
"""Trained networks, `<data set>.pt`, made by `benchmarks/classifiers.py`."""

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


class _Network(nn.Module):
    """Four convolutions, global average pooling, one linear layer; any size from 8 x 8."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
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
        features = self.body(2 * images - 1).mean(dim=(2, 3))
        return features, self.head(features)


class ClassifierExtractor(Extractor):
    """Penultimate features and logits of a classifier of the data set's own classes.

    Args:
        state: Weights of the network.
        image_shape: The (C, H, W) it takes.
        num_classes: Number of classes.
        accuracy: Fraction of held-out images it gets right, or None where there were none.
        device: Where it runs; features stay there.
    """

    name = "classifier"
    distance_name = "FD-classifier"
    score_name = "classifier score"
    feature_dim = FEATURE_DIM

    def __init__(
        self,
        state: dict[str, Tensor],
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        accuracy: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.accuracy = accuracy
        self.state = {key: value.detach().cpu() for key, value in sorted(state.items())}
        with torch.random.fork_rng(devices=[]):
            self.network = _Network(image_shape, num_classes)
        self.network.load_state_dict(self.state)
        self.network.eval().requires_grad_(False)
        self.to(device)
        weights = (value.numpy().tobytes() for value in self.state.values())
        self.hash = digest(ARCHITECTURE, image_shape, num_classes, *weights)

    def to(self, device: str | torch.device) -> "ClassifierExtractor":
        """Moves the network; returns this extractor."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, 128) and logits (B, classes)."""
        return Extracted(*self.network(images.contiguous(memory_format=torch.channels_last)))

    def measure_accuracy(self, data: LabelledImages) -> float:
        """Fraction of images whose label is the most likely class."""
        right = 0
        batches = zip(data.images.split(BATCH_SIZE), data.labels.split(BATCH_SIZE), strict=True)
        for x, y in batches:
            logits = self(x).logits
            assert logits is not None
            right += int((logits.argmax(dim=1) == y.to(logits.device)).sum())
        return right / len(data.images)


def shipped_classifier(
    name: str, image_shape: tuple[int, ...], device: str | torch.device = "cpu"
) -> ClassifierExtractor | None:
    """The network that this package has for a data set, if any: scores of all machines compare.

    Another processor, or another number of threads, trains other weights from the same data. That
    of MNIST has seen all 50,000 training images, whatever part of them a benchmark trains on.
    """
    path = SHIPPED / f"{name}.pt"
    if not path.is_file():
        return None
    extractor = _read(path)
    return extractor.to(device) if extractor.image_shape == image_shape else None


def train_classifier(
    data: LabelledImages,
    *,
    seed: int = 0,
    max_steps: int = 600,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
) -> ClassifierExtractor:
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
        DataError: Images or labels of the wrong shape or type, fewer than two classes, or no step.
        NonFiniteError: The training diverged.
        StoreError: The cache folder cannot be used.
    """

    def build() -> ClassifierExtractor:
        return _train(data, seed, max_steps, device)

    if cache_dir is None:
        extractor = build()
    else:
        data_hashes = tensor_hash(data.images), tensor_hash(data.labels)
        key = digest(*data_hashes, ARCHITECTURE, seed, EPOCHS, max_steps)
        extractor = cached(
            Path(cache_dir) / f"classifier-{key}.pt",
            read=_read,
            build=build,
            write=save,
        ).to(device)  # not by `_read`: a full GPU says nothing of the file
    extractor.accuracy = None if data.holdout is None else extractor.measure_accuracy(data.holdout)
    return extractor


def _read(path: Path) -> ClassifierExtractor:
    held = torch.load(path, map_location="cpu", weights_only=True)
    shape, classes = tuple(held["image_shape"]), held["num_classes"]
    return ClassifierExtractor(held["state"], shape, classes, accuracy=held["accuracy"])


def save(extractor: ClassifierExtractor, file: BinaryIO) -> None:
    """Writes what :func:`train_classifier` and :func:`shipped_classifier` read."""
    names = ("state", "image_shape", "num_classes", "accuracy")
    torch.save({name: getattr(extractor, name) for name in names}, file)


def check_training(data: LabelledImages) -> Tensor:
    """The labels (N), int64, of what a classifier can be trained on.

    Raises:
        DataError: Images or labels of the wrong shape or type, or fewer than two classes.
    """
    images = data.images
    if images.dtype != torch.uint8 or images.ndim != 4 or min(images.shape[2:]) < SMALLEST_SIDE:
        raise DataError(
            f"classifier: images must be uint8 (N, C, H, W) from 8 x 8 up, "
            f"not {images.dtype} {tuple(images.shape)}"
        )
    labels = data.labels.to(device="cpu")
    if labels.is_floating_point() or labels.shape != (len(images),) or labels.numel() == 0:
        raise DataError(
            f"classifier: labels must be integers of shape ({len(images)},), "
            f"not {labels.dtype} {tuple(labels.shape)}"
        )
    labels = labels.long()
    if labels.min() < 0 or labels.min() == labels.max():
        raise DataError("classifier: labels must be at least two classes counted from 0")
    return labels


def _train(
    data: LabelledImages, seed: int, max_steps: int, device: str | torch.device
) -> ClassifierExtractor:
    if max_steps < 1:
        raise DataError(f"classifier: max_steps must be at least 1, not {max_steps}")
    images, labels = data.images, check_training(data)
    num_classes = int(labels.max()) + 1
    image_shape = (images.shape[1], images.shape[2], images.shape[3])

    with fork_rng():
        torch.manual_seed(seed)
        network = _Network(image_shape, num_classes)
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
            x = unit_images(images[batch].to(device))
            _, logits = network(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if not loss.isfinite():
        raise NonFiniteError(f"classifier: the loss is {loss.item()} after {steps} steps")
    return ClassifierExtractor(network.state_dict(), image_shape, num_classes, device=device)
