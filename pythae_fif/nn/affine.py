"""Networks with an affine map of the code."""

__all__ = ["AffineDecoder", "AffineEncoder", "CodeMap"]

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from torch.nn.functional import linear

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


class CodeMap(nn.Module):
    """matrix @ z + shift, in buffers: no gradient step changes it."""

    matrix: Tensor
    shift: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("shift", torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        return linear(z, self.matrix, self.shift)

    @torch.no_grad()
    def set(self, matrix: Tensor, shift: Tensor) -> None:
        """Another map, in the same tensors."""
        self.matrix.copy_(matrix)
        self.shift.copy_(shift)


class AffineEncoder(BaseEncoder):
    """z = A f(x) + b, the identity at first.

    Args:
        network: f, from (B, ...) to `embedding` (B, d).
        dim: d.
    """

    def __init__(self, network: BaseEncoder, dim: int) -> None:
        super().__init__()
        self.network = network
        self.code_map = CodeMap(dim)

    def forward(self, x: Tensor) -> ModelOutput:
        """`embedding` (B, d) of data (B, ...)."""
        return ModelOutput(embedding=self.code_map(self.network(x)["embedding"]))


class AffineDecoder(BaseDecoder):
    """x = g(A z + b), the identity at first.

    Args:
        network: g, from (B, d) to `reconstruction` (B, ...).
        dim: d; with the c columns of a condition, which the map leaves alone, d + c.
    """

    def __init__(self, network: BaseDecoder, dim: int) -> None:
        super().__init__()
        self.network = network
        self.code_map = CodeMap(dim)

    def forward(self, z: Tensor) -> ModelOutput:
        """`reconstruction` (B, ...) of codes (B, d)."""
        return self.network(self.code_map(z))
