"""Residual networks for data of a few dimensions."""

__all__ = ["ResidualDecoder", "ResidualEncoder", "WideDecoder", "WideEncoder"]

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.nn.base import LayeredDecoder, ResidualBlock

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


class ResidualEncoder(BaseEncoder):
    """Residual blocks in data space, then a linear layer to the latent space (appendix E.1.1).

    Args:
        dim: D, the dimension of the data.
        latent_dim: d.
        blocks: Number of residual blocks.
        width: Of their hidden layers.
        hidden: Hidden layers of a block; the authors' released code has two.

    Example:
        >>> import torch
        >>> ResidualEncoder(3, 2)(torch.zeros(5, 3)).embedding.shape
        torch.Size([5, 2])
    """

    def __init__(
        self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256, hidden: int = 1
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[ResidualBlock(dim, width, hidden) for _ in range(blocks)])
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

    def __init__(
        self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256, hidden: int = 1
    ) -> None:
        super().__init__()
        self.unembedding = nn.Linear(latent_dim, dim)
        self.blocks = nn.Sequential(*[ResidualBlock(dim, width, hidden) for _ in range(blocks)])

    def forward(self, z: Tensor) -> ModelOutput:
        """`reconstruction` (B, D) of codes (B, d)."""
        return ModelOutput(reconstruction=self.blocks(self.unembedding(z)))


def _wide(before: int, after: int, blocks: int, width: int) -> nn.Sequential:
    """Residual blocks between a layer to their width and one from it."""
    inside = [ResidualBlock(width, width) for _ in range(blocks)]
    return nn.Sequential(
        nn.Linear(before, width), nn.SiLU(), *inside, nn.SiLU(), nn.Linear(width, after)
    )


class WideEncoder(BaseEncoder):
    """Residual blocks of many dimensions, which can fold what the few of the data cannot.

    Args:
        dim: D, the dimension of the data.
        latent_dim: d.
        blocks: Number of residual blocks.
        width: Of them and of their hidden layers.

    Example:
        >>> import torch
        >>> WideEncoder(3, 2)(torch.zeros(5, 3)).embedding.shape
        torch.Size([5, 2])
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 2, width: int = 64) -> None:
        super().__init__()
        self.layers = _wide(dim, latent_dim, blocks, width)

    def forward(self, x: Tensor) -> ModelOutput:
        """`embedding` (B, d) of data (B, D)."""
        return ModelOutput(embedding=self.layers(x))


class WideDecoder(LayeredDecoder):
    """The mirror image of `WideEncoder`.

    Example:
        >>> import torch
        >>> WideDecoder(3, 2)(torch.zeros(5, 2)).reconstruction.shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 2, width: int = 64) -> None:
        super().__init__(*_wide(latent_dim, dim, blocks, width))
