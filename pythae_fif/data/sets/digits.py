"""The digits of scikit-learn."""

from typing import Any

import numpy as np

from pythae_fif.data.source import DataSource
from pythae_fif.data.splits import SPLIT_NAMES, Splits


def read_digits() -> Splits:
    """Returns scikit-learn's digits, scaled from 0..16 to 0..255, with fixed test images."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    split_indices = dict(zip(SPLIT_NAMES, np.split(order, [1197, 1497]), strict=True))
    arrays: Any = {split: images[indices] for split, indices in split_indices.items()}
    return Splits(
        "digits",
        **arrays,
        labels={
            split: digits.target[indices].astype(np.int64)
            for split, indices in split_indices.items()
        },
        source="digits of scikit-learn, 8x8, 1197/300/300",
    )


DATASET = DataSource(find=lambda request: ([], read_digits), is_cached=False)
