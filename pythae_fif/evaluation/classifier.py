"""Features of a small convolutional network trained on the data set's own labels."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.data.cache import cached
from pythae_fif.data.splits import Splits, as_tensor
from pythae_fif.device import fork_rng
from pythae_fif.errors import DataError
from pythae_fif.evaluation.extractors import Extractor, unit_images
from pythae_fif.files import digest

ARCHITECTURE = "gap-cnn/1"
"""Name and version of network, preprocessing and training; a change of any raises the version."""
SHIPPED = Path(__file__).parent / "classifiers"
"""Trained networks, `<data set>.pt`, by which scores of all machines compare."""

FEATURE_DIM = BATCH_SIZE = 128
EPOCHS, MOST_STEPS = 20, 600
PEAK_LEARNING_RATE = 1e-2


class _Network(nn.Module):
    """Four convolutions, global average pooling, one linear layer."""

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


def train_classifier(splits: Splits, *, device: str | torch.device = "cpu") -> Extractor:
    """The classifier whose features serve as the data set's own yardstick.

    That of digits and MNIST is shipped. Others are trained once by Adam on the cross-entropy with a
    one-cycle learning rate, for 20 epochs and at most 600 steps. On the CPU the result is a
    function of data and number of threads; the global random state is left as it was.

    Args:
        splits: Data, of whose training images and labels it learns.
        device: Where to train, and where the extractor runs.
    """
    path, shape, held = SHIPPED / f"{splits.name}.pt", splits.input_dim, {}
    if path.is_file():
        held = torch.load(path, map_location="cpu", weights_only=True)
    if tuple(held.get("image_shape", ())) == shape:
        state = held["state"]
    else:
        key = digest(splits.content_hash, splits.labels_hash, ARCHITECTURE, EPOCHS, MOST_STEPS)
        state = cached(f"classifier-{key}.pt", lambda: _train(splits, device))
    classes = len(state["head.bias"])
    with torch.random.fork_rng(devices=[]):
        network = _Network(shape, classes)
    network.load_state_dict(state)
    weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
    key = digest(ARCHITECTURE, shape, classes, *weights)
    return Extractor("classifier", "FD-classifier", network, key, device, "classifier score")


def _train(splits: Splits, device: str | torch.device) -> dict[str, Tensor]:
    assert splits.labels is not None, "there are no labels"
    images, labels = as_tensor(splits.train), torch.from_numpy(splits.labels["train"])
    if not 0 <= labels.min() < labels.max() < len(labels):
        raise DataError(
            f"classifier: the labels of {splits.name} must be integers from 0 up, of at least two "
            "classes and fewer than the images"
        )
    with fork_rng():
        torch.manual_seed(0)
        network = _Network(splits.input_dim, int(labels.max()) + 1)
    network.to(device)
    steps = min(MOST_STEPS, EPOCHS * -(-len(images) // BATCH_SIZE))
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=steps
    )
    generator = torch.Generator().manual_seed(0)
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(images), generator=generator).split(BATCH_SIZE))
        batch = order.pop()
        _, logits = network(unit_images(images[batch].to(device)))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[batch].to(device)).backward()
        optimizer.step()
        schedule.step()
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
