"""Whether two columns of a table have their models in the same order."""

__all__ = ["order_agreement"]

from collections.abc import Sequence

import numpy as np

PERMUTATIONS = 10_000


def order_agreement(measured: Sequence[float], published: Sequence[float]) -> str:
    """Spearman's correlation, and between which values 95% of random orders lie.

    Example:
        >>> order_agreement([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0])
        '1.00, random -0.90 to 0.90'
    """
    from scipy.stats import rankdata  # takes half a second

    ranks = np.stack([rankdata(values) for values in (measured, published)])
    ranks = (ranks - ranks.mean(1, keepdims=True)) / ranks.std(1, keepdims=True)
    orders = np.random.default_rng(0).permuted(np.tile(ranks[0], (PERMUTATIONS, 1)), axis=1)
    low, high = np.quantile(orders @ ranks[1] / len(measured), [0.025, 0.975], method="nearest")
    return f"{ranks[0] @ ranks[1] / len(measured):.2f}, random {low:.2f} to {high:.2f}"
