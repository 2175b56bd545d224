"""Networks of a condition: what is joined to their inputs, and networks at a fixed condition."""

__all__ = ["GivenDecoder", "GivenEncoder", "join", "joined_dim"]

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


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


class GivenEncoder(BaseEncoder):
    """An encoder of data and condition at one fixed condition.

    Args:
        encoder: From (B, C + c, ...) to `embedding` (B, d).
        condition: (c,).
    """

    def __init__(self, encoder: BaseEncoder, condition: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("condition", condition)

    def forward(self, x: Tensor) -> ModelOutput:
        """`embedding` (B, d) of data (B, C, ...)."""
        return self.encoder(join(x, self.condition.expand(len(x), -1)))


class GivenDecoder(BaseDecoder):
    """A decoder of codes and condition at one fixed condition.

    Args:
        decoder: From (B, d + c) to `reconstruction` (B, ...).
        condition: (c,).
    """

    def __init__(self, decoder: BaseDecoder, condition: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("condition", condition)

    def forward(self, z: Tensor) -> ModelOutput:
        """`reconstruction` (B, ...) of codes (B, d)."""
        return self.decoder(join(z, self.condition.expand(len(z), -1)))
