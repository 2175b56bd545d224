"""Three numbers that say how unusual a data point is to a model, and their ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

RISES_WITH_UNUSUAL = ("distance",)
"""Numbers that are large for unusual points; the others are low for them."""


@dataclass(frozen=True, eq=False)
class OutlierScores:
    """How unusual data points are to a model.

    Attributes:
        log_likelihood: `log_prob` in nats, (N,); low for unusual points.
        distance: Distance of a point x to its projection g(f(x)), (N,); large for unusual points.
        marginal_log_likelihood: `marginal_log_prob` in nats with the model's `noise_std`, (N,); low
            for unusual points. None if the model does not know its `noise_std`.
    """

    log_likelihood: Tensor
    distance: Tensor
    marginal_log_likelihood: Tensor | None

    def values(self) -> dict[str, Tensor]:
        """Returns the name of each number that the model has -> its values (N,)."""
        return {name: values for name, values in vars(self).items() if values is not None}

    def quantiles(self, validation: "OutlierScores") -> dict[str, Tensor]:
        """Computes the share of validation points that look more normal, by each number.

        Args:
            validation: The same model's scores of validation data, which are normal.

        Returns:
            Name of each number -> shares (N,). Here every number is large for unusual points: at 1
            all validation points look more normal, at 0 none.

        Example:
            >>> validation = OutlierScores(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), None)
            >>> point = OutlierScores(torch.tensor([1.5]), torch.tensor([5.0]), None)
            >>> point.quantiles(validation)
            {'log_likelihood': tensor([0.5000]), 'distance': tensor([1.])}
        """
        shares = {}
        for name, validation_values in validation.values().items():
            sign = 1 if name in RISES_WITH_UNUSUAL else -1
            ordered = (sign * validation_values).sort().values
            counts = torch.searchsorted(ordered, sign * self.values()[name])
            shares[name] = counts / len(ordered)
        return shares
