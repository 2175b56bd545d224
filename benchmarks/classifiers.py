"""Trains the networks of extractor `classifier` that come with the package.

    python benchmarks/classifiers.py --data-root DATA [--datasets digits mnist]

Each sees the whole training split of its data set. Another processor trains other weights: scores
by the new files cannot be compared with those by the old ones.
"""

import argparse
from dataclasses import replace

import torch

from pythae_fif.data import load_images
from pythae_fif.evaluation.classifier import SHIPPED, train_classifier


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--datasets", nargs="+", default=["digits", "mnist"])
    flags = p.parse_args()
    for name in flags.datasets:
        data = load_images(name, flags.data_root)
        classifier = train_classifier(replace(data, name=""))  # and not the shipped one
        _, logits = classifier(torch.from_numpy(data.test))
        right = (logits.argmax(dim=1).numpy() == data.labels["test"]).mean()
        state = classifier.network.state_dict()
        held = {
            "state": state,
            "image_shape": data.input_dim,
            "num_classes": len(state["head.bias"]),
        }
        torch.save(held, SHIPPED / f"{name}.pt")
        print(f"{name}: {right:.2%} of the test images right, {classifier.hash}")


if __name__ == "__main__":
    main()
