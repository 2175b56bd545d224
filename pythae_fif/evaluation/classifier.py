"""Features of a small convolutional network that is trained on the labels of digits or MNIST."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.catalog import ExtractorRequest
from pythae_fif.evaluation.extractors import Extractor, state_bytes
from pythae_fif.files import digest

ARCHITECTURE = "gap-cnn/1"
"""Name and version of the network, its preprocessing and its training; the version rises with any
change of them."""

WEIGHTS_FOLDER = Path(__file__).parent / "classifiers"
"""Folder of the trained networks, `<data set>.pt`, which `studies/classifiers.py` writes."""

FEATURE_DIM = 128


class Network(nn.Module):
    """A classifier: four convolutions, global average pooling, and one linear layer.

    Args:
        image_shape: Shape (C, H, W) of the images.
        num_classes: Number of classes.
    """

    def __init__(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        side = min(height, width)
        layers: list[nn.Module] = []

        # Small images keep their resolution; large ones are halved by the first layers.
        for out_channels, min_side_to_halve in (
            (32, 16),
            (64, 8),
            (64, 8),
            (FEATURE_DIM, math.inf),
        ):
            stride = 2 if side >= min_side_to_halve else 1
            side //= stride
            layers += [
                nn.Conv2d(
                    channels, out_channels, 3, stride, padding=1, bias=False, dtype=torch.float32
                ),
                nn.BatchNorm2d(out_channels, dtype=torch.float32),
                nn.ReLU(),
            ]
            channels = out_channels

        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURE_DIM, num_classes, dtype=torch.float32)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (B, 128) and logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        images = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


def classifier(request: ExtractorRequest) -> Extractor:
    """Returns the shipped classifier of a data set, so that scores of all machines are comparable.

    Raises:
        ConfigError: There is no classifier for the data set and shape.
    """
    image_shape = request.image_shape
    content = _read_weights(request.dataset, image_shape)
    num_classes = content["num_classes"]

    with torch.random.fork_rng(devices=[]):
        network = Network(image_shape, num_classes)
    network.load_state_dict(content["state"])

    return Extractor(
        name="classifier",
        distance_name="FD-classifier",
        network=network,
        hash=digest(ARCHITECTURE, image_shape, num_classes, *state_bytes(content["state"])),
        device=request.device,
        score_name="classifier score",
    )


def _read_weights(dataset: str, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Reads the file of the classifier of a data set, or of any data set if the name is empty."""
    for path in WEIGHTS_FOLDER.glob("*.pt"):
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if dataset in ("", path.stem) and tuple(content["image_shape"]) == image_shape:
            return content

    raise ConfigError(
        "extractor 'classifier' exists only for digits and mnist: choose inception, "
        "efficientnet-lite0, pixels or module:function (--extractor)"
    )
