"""Trains the networks of the extractor `classifier` that come with the package.

    python -m studies.classifiers --data-root DATA [--datasets digits mnist]

Each network sees the whole training split of its data set, for 20 epochs and at most 600 steps.
Weights depend on the processor, and scores by new weights cannot be compared with older scores.
"""

import argparse
import math

import torch
from torch.nn import functional as F

from pythae_fif.data import Splits, load_images, to_float
from pythae_fif.evaluation.classifier import WEIGHTS_FOLDER, Network

BATCH_SIZE = 128
EPOCHS = 20
MAX_STEPS = 600
PEAK_LEARNING_RATE = 1e-2


def train(splits: Splits) -> Network:
    """Trains a network by Adam on the cross-entropy, with a one-cycle learning rate."""
    images = to_float(splits.train)
    labels = torch.from_numpy((splits.labels or {})["train"])
    torch.manual_seed(0)
    network = Network(splits.input_dim, int(splits.classes or 0))

    steps = min(MAX_STEPS, EPOCHS * math.ceil(len(images) / BATCH_SIZE))
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    generator = torch.Generator().manual_seed(0)
    batches: list[torch.Tensor] = []
    for _ in range(steps):
        if not batches:
            order = torch.randperm(len(images), generator=generator)
            batches = list(order.split(BATCH_SIZE))
        batch = batches.pop()
        logits = network(images[batch])[1]
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy_on_test_images(network: Network, splits: Splits) -> float:
    """Computes the share of test images whose class the network predicts."""
    predictions = network(to_float(splits.test))[1].argmax(dim=1)
    return float((predictions.numpy() == (splits.labels or {})["test"]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", help="folder with the data sets")
    parser.add_argument("--datasets", nargs="+", default=["digits", "mnist"])
    flags = parser.parse_args()

    for name in flags.datasets:
        splits = load_images(name, flags.data_root)
        network = train(splits)
        content = {
            "state": network.state_dict(),
            "image_shape": splits.input_dim,
            "num_classes": splits.classes,
        }
        torch.save(content, WEIGHTS_FOLDER / f"{name}.pt")
        print(f"{name}: {accuracy_on_test_images(network, splits):.2%} of the test images right")


if __name__ == "__main__":
    main()
