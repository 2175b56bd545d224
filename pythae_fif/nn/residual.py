"""Residual networks for data of a few dimensions, as the paper's toy experiments use them."""

__all__ = ["ResidualDecoder", "ResidualEncoder"]

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


class ResidualBlock(nn.Module):
    """x + a network of one hidden layer with SiLU."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualEncoder(BaseEncoder):
    """Residual blocks in data space, then a linear layer to the latent space.

    Args:
        dim: D, the dimension of the data.
        latent_dim: d.
        blocks: Number of residual blocks.
        width: Of their hidden layers.

    Example:
        >>> import torch
        >>> ResidualEncoder(3, 2)(torch.zeros(5, 3)).embedding.shape
        torch.Size([5, 2])
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[ResidualBlock(dim, width) for _ in range(blocks)])
        self.embedding = nn.Linear(dim, latent_dim)

    def forward(self, x: Tensor) -> ModelOutput:
        """`embedding` (B, d) of data (B, D)."""
        return ModelOutput(embedding=self.embedding(self.blocks(x)))


class ResidualDecoder(BaseDecoder):
    """The mirror image of `ResidualEncoder`.

    Example:
        >>> import torch
        >>> ResidualDecoder(3, 2)(torch.zeros(5, 2)).reconstruction.shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        super().__init__()
        self.unembedding = nn.Linear(latent_dim, dim)
        self.blocks = nn.Sequential(*[ResidualBlock(dim, width) for _ in range(blocks)])

    def forward(self, z: Tensor) -> ModelOutput:
        """`reconstruction` (B, D) of codes (B, d)."""
        return ModelOutput(reconstruction=self.blocks(self.unembedding(z)))
