"""Residual networks for data of a few dimensions."""

__all__ = ["ResidualDecoder", "ResidualEncoder", "WideDecoder", "WideEncoder"]

from torch import nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, ResidualBlock


class ResidualEncoder(HeadedEncoder):
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
        features = nn.Sequential(*[ResidualBlock(dim, width, hidden) for _ in range(blocks)])
        super().__init__(features, nn.Linear(dim, latent_dim))


class ResidualDecoder(LayeredDecoder):
    """The mirror image of `ResidualEncoder`.

    Example:
        >>> import torch
        >>> ResidualDecoder(3, 2)(torch.zeros(5, 2)).reconstruction.shape
        torch.Size([5, 3])
    """

    def __init__(
        self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256, hidden: int = 1
    ) -> None:
        unembedding = nn.Linear(latent_dim, dim)
        super().__init__(unembedding, *[ResidualBlock(dim, width, hidden) for _ in range(blocks)])


def _wide(before: int, after: int, blocks: int, width: int) -> nn.Sequential:
    """Residual blocks between a layer to their width and one from it."""
    inside = [ResidualBlock(width, width) for _ in range(blocks)]
    return nn.Sequential(
        nn.Linear(before, width), nn.SiLU(), *inside, nn.SiLU(), nn.Linear(width, after)
    )


class WideEncoder(HeadedEncoder):
    """Residual blocks of many dimensions, which can fold what the few of the data cannot.

    Args:
        dim: D, the dimension of the data.
        latent_dim: d.
        blocks: Number of residual blocks.
        width: Of them and of their hidden layers.
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 2, width: int = 64) -> None:
        super().__init__(_wide(dim, latent_dim, blocks, width), nn.Identity())


class WideDecoder(LayeredDecoder):
    """The mirror image of `WideEncoder`."""

    def __init__(self, dim: int, latent_dim: int, blocks: int = 2, width: int = 64) -> None:
        super().__init__(*_wide(latent_dim, dim, blocks, width))
