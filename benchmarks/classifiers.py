"""Trains the networks of extractor `classifier` that come with the package.

    python benchmarks/classifiers.py --data-root DATA [--datasets digits mnist]

Each sees the whole training split of its data set, for 20 epochs and at most 600 steps. Another
processor trains other weights: scores by the new files cannot be compared with those by the old.
"""

import argparse

import torch
from torch.nn import functional as F

from pythae_fif.data import Splits, load_images, to_float
from pythae_fif.evaluation.classifier import WEIGHTS_FOLDER, Network

BATCH_SIZE = 128
EPOCHS, MOST_STEPS = 20, 600
PEAK_LEARNING_RATE = 1e-2


def train(splits: Splits) -> Network:
    """A network trained by Adam on the cross-entropy, with a one-cycle learning rate."""
    images, labels = to_float(splits.train), torch.from_numpy(splits.labels["train"])
    torch.manual_seed(0)
    network = Network(splits.input_dim, splits.classes)
    steps = min(MOST_STEPS, EPOCHS * -(-len(images) // BATCH_SIZE))
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    generator = torch.Generator().manual_seed(0)
    order: list[torch.Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(images), generator=generator).split(BATCH_SIZE))
        batch = order.pop()
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch])[1], labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--datasets", nargs="+", default=["digits", "mnist"])
    flags = p.parse_args()
    for name in flags.datasets:
        data = load_images(name, flags.data_root)
        network = train(data)
        with torch.no_grad():
            found = network(to_float(data.test))[1].argmax(dim=1)
        right = (found.numpy() == data.labels["test"]).mean()
        held = {"state": network.state_dict(), "image_shape": data.input_dim}
        torch.save({**held, "num_classes": data.classes}, WEIGHTS_FOLDER / f"{name}.pt")
        print(f"{name}: {right:.2%} of the test images right")


if __name__ == "__main__":
    main()
