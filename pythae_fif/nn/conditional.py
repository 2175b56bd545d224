"""Networks of a condition: what is joined to their inputs, and networks at a fixed condition."""

__all__ = ["GivenDecoder", "GivenEncoder", "join", "joined_dim"]

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn


def join(x: Tensor, condition: Tensor) -> Tensor:
    """The condition behind the columns or channels of x, constant over an image.

    Args:
        x: (B, D) or (B, C, ...).
        condition: (B, c).

    Returns:
        (B, D + c) or (B, C + c, ...).

    Example:
        >>> join(torch.zeros(5, 1, 8, 8), torch.ones(5, 10)).shape
        torch.Size([5, 11, 8, 8])
    """
    condition = condition.to(x.dtype)[(..., *[None] * (x.dim() - 2))]
    return torch.cat([x, condition.expand(-1, -1, *x.shape[2:])], 1)


def joined_dim(input_dim: tuple[int, ...], condition_dim: int) -> tuple[int, ...]:
    """Shape of one data point with its condition: what the encoder of a conditional model takes.

    Example:
        >>> joined_dim((1, 28, 28), 10)
        (11, 28, 28)
    """
    return (input_dim[0] + condition_dim, *input_dim[1:])


class _Given(nn.Module):
    """A network at one fixed condition (c,), which is joined to whatever it is given."""

    condition: Tensor

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("condition", condition)

    def forward(self, x: Tensor) -> ModelOutput:
        """The network's output of x (B, ...) and the condition."""
        return self.network(join(x, self.condition.expand(len(x), -1)))


class GivenEncoder(_Given, BaseEncoder):
    """An encoder of data and condition (B, C + c, ...) at one condition: `embedding` (B, d)."""


class GivenDecoder(_Given, BaseDecoder):
    """A decoder of codes and condition (B, d + c) at one condition: `reconstruction` (B, ...)."""
