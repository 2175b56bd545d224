"""Trains the networks of extractor `classifier` that come with the package.

    python benchmarks/classifiers.py --data-root DATA [--datasets digits mnist]

Each sees the whole training split of its data set. Another processor trains other weights: scores
by the new files cannot be compared with those by the old ones.
"""

import argparse

import torch

from pythae_fif.data import load_images
from pythae_fif.data.dataset import as_tensor
from pythae_fif.evaluation.classifier import SHIPPED, LabelledImages, save, train_classifier


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--datasets", nargs="+", default=["digits", "mnist"])
    flags = p.parse_args()
    for name in flags.datasets:
        splits = load_images(name, flags.data_root)
        labels = splits.labels
        train, test = (
            LabelledImages(as_tensor(splits[split]), torch.from_numpy(labels[split]))
            for split in ("train", "test")
        )
        classifier = train_classifier(train)
        classifier.accuracy = classifier.measure_accuracy(test)
        with open(SHIPPED / f"{name}.pt", "wb") as file:
            save(classifier, file)
        print(f"{name}: {classifier.accuracy:.2%} of the test images right, {classifier.hash}")


if __name__ == "__main__":
    main()
