"""Features of a small convolutional network trained on the labels of digits or MNIST."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.files import digest

ARCHITECTURE = "gap-cnn/1"
"""Name and version of network, preprocessing and training; a change of any raises the version."""
WEIGHTS_FOLDER = Path(__file__).parent / "classifiers"
"""Trained networks, `<data set>.pt`, which `benchmarks/classifiers.py` makes."""

FEATURE_DIM = 128


class Network(nn.Module):
    """Four convolutions, global average pooling, one linear layer, for images (C, H, W)."""

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
        """Features (B, 128) and logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        images = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


def classifier(
    dataset: str, image_shape: tuple[int, ...], device: str | torch.device = "cpu"
) -> Extractor:
    """The shipped classifier of a data set, or of such images, by which scores of all machines
    compare; a ConfigError says that there is none."""
    for path in WEIGHTS_FOLDER.glob("*.pt"):
        held = torch.load(path, map_location="cpu", weights_only=True)
        if dataset in ("", path.stem) and tuple(held["image_shape"]) == image_shape:
            break
    else:
        raise ConfigError(
            "extractor 'classifier' is of digits and mnist alone: choose inception, "
            "efficientnet-lite0, pixels or module:function (--extractor)"
        )
    state, classes = held["state"], held["num_classes"]
    with torch.random.fork_rng(devices=[]):
        network = Network(image_shape, classes)
    network.load_state_dict(state)
    weights = (state[key].numpy().tobytes() for key in sorted(state))
    key = digest(ARCHITECTURE, image_shape, classes, *weights)
    return Extractor("classifier", "FD-classifier", network, key, device, "classifier score")
