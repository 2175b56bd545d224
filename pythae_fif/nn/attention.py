"""Networks with attention: a Vision Transformer, and the autoencoder of latent diffusion."""

__all__ = ["AttentionDecoder", "AttentionEncoder"]

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes, constants and imports.

_SIDE, _WIDTH, _HEADS, _DEPTH = 4, 128, 4, 3  # of `vit`: a side of its map, in patches


def _patch(input_dim: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a patch of `vit`, in pixels."""
    height, width = input_dim[1:]
    if height % _SIDE or width % _SIDE:
        raise ConfigError(
            f"arch 'vit' needs images whose sides can be divided by {_SIDE}, such as 28, 32 or 64 "
            f"pixels, not {height} x {width}"
        )
    return height // _SIDE, width // _SIDE


def _sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths of the maps of `ldm`, the image's first, each half, until at most 8."""
    sizes = [(input_dim[1], input_dim[2])]
    while (max(sizes[-1]) > 8 or len(sizes) == 1) and not (sizes[-1][0] % 2 or sizes[-1][1] % 2):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    if len(sizes) == 1 or max(sizes[-1]) > 16:
        raise ConfigError(
            "arch 'ldm' needs images whose sides can be halved until they are at most 16, such "
            f"as 28, 32 or 64 pixels, not {input_dim[1]} x {input_dim[2]}"
        )
    return sizes


class _Attention(nn.Module):
    """Self-attention of tokens (B, N, C) with one another, in `heads` heads.

    By matrix products: `scaled_dot_product_attention` takes kernels without a second derivative,
    which gradient penalties and the surrogate in mode 'backward' need.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (  # (B, heads, N, C / heads); contiguous, or every product would copy them anew
            part.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()
            for part in self.qkv(x).chunk(3, -1)
        )
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1), -1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return y


class _TransformerBlock(nn.Module):
    """Attention, then a perceptron of one hidden layer, each behind LayerNorm and skipped."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), _Attention(dim, heads))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        y: Tensor = x + self.perceptron(x)
        return y


class _Transformer(nn.Module):
    """A map of patches (B, C, h, w) as tokens with learnt positions, through blocks, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(_SIDE**2, _WIDTH))
        blocks = (_TransformerBlock(_WIDTH, _HEADS) for _ in range(_DEPTH))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(x.flatten(2).transpose(1, 2) + self.positions)
        y: Tensor = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return y


class _ConvBlock(nn.Module):
    """x + GroupNorm, SiLU and a 3 x 3 convolution, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = (
            layer
            for _ in range(2)
            for layer in (
                nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            )
        )  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


class _MapAttention(nn.Module):
    """x + attention of one head between all places of its map, behind GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.attention = _Attention(channels, heads=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        y: Tensor = x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return y


def _middle(channels: int) -> list[nn.Module]:
    return [_ConvBlock(channels), _MapAttention(channels), _ConvBlock(channels)]


def _end(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels), nn.SiLU()]


def _channels(sizes: list[tuple[int, int]]) -> list[int]:
    """Of the maps of `ldm`, the largest map first."""
    return [min(32 << level, 128) for level in range(len(sizes))]


class AttentionEncoder(HeadedEncoder):
    """An encoder to a small map, and one linear layer on all of it.

    `vit` is a Vision Transformer (Dosovitskiy et al. 2021): 4 x 4 patches become tokens of width
    128 for 3 blocks of 4 heads. There is no class token, since the linear layer reads all tokens,
    as that of the other architectures reads maps.

    `ldm` is the first stage of latent diffusion (Rombach et al. 2022), small: of the U-Net it has
    the residual blocks of GroupNorm and SiLU, one at each size, and self-attention at the smallest;
    it has none of the skips from encoder to decoder, since all of an autoencoder's information goes
    through its code. Channels are 32, 64, 128, 128, ...; each halving widens.

    Args:
        input_dim: Shape (C, H, W) of an image.
        latent_dim: Latent dimension d.
        arch: 'vit' or 'ldm'.
        variational: Adds a head for `log_covariance`.

    Raises:
        ConfigError: The sides of an image cannot be divided by 4, or halved often enough.

    Example:
        >>> encoder = AttentionEncoder((1, 28, 28), 16, arch="vit", variational=True)
        >>> encoder(torch.rand(2, 1, 28, 28)).log_covariance.shape
        torch.Size([2, 16])
    """

    def __init__(
        self, input_dim: tuple[int, ...], latent_dim: int, *, arch: str, variational: bool = False
    ) -> None:
        layers: list[nn.Module]
        if arch == "vit":
            patch = _patch(input_dim)
            size = _WIDTH * _SIDE**2
            layers = [nn.Conv2d(input_dim[0], _WIDTH, patch, patch), _Transformer()]
        else:
            sizes = _sizes(input_dim)
            channels = _channels(sizes)
            size = channels[-1] * sizes[-1][0] * sizes[-1][1]
            layers = [nn.Conv2d(input_dim[0], channels[0], 3, padding=1)]
            for before, after in pairwise(channels):
                layers += [_ConvBlock(before), nn.Conv2d(before, after, 3, stride=2, padding=1)]
            layers += _middle(channels[-1]) + _end(channels[-1])
        super().__init__(
            nn.Sequential(*layers, nn.Flatten()),
            nn.Linear(size, latent_dim),
            nn.Linear(size, latent_dim) if variational else None,
        )


class AttentionDecoder(LayeredDecoder):
    """The mirror image of :class:`AttentionEncoder`, ending in a sigmoid.

    Tokens become patches by one linear map; sizes are doubled by repeated pixels and a convolution.

    Args:
        input_dim, latent_dim, arch: As of :class:`AttentionEncoder`.

    Example:
        >>> decoder = AttentionDecoder((3, 32, 32), 16, arch="ldm")
        >>> decoder(torch.randn(2, 16)).reconstruction.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, *, arch: str) -> None:
        layers: list[nn.Module]
        if arch == "vit":
            patch = _patch(input_dim)
            shape = (_WIDTH, _SIDE, _SIDE)
            layers = [_Transformer(), nn.ConvTranspose2d(_WIDTH, input_dim[0], patch, patch)]
        else:
            sizes = _sizes(input_dim)
            channels = _channels(sizes)
            shape = (channels[-1], *sizes[-1])
            layers = _middle(channels[-1])
            for before, after in pairwise(channels[::-1]):
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
                layers += [_ConvBlock(after)]
            layers += [*_end(channels[0]), nn.Conv2d(channels[0], input_dim[0], 3, padding=1)]
        super().__init__(
            nn.Linear(latent_dim, math.prod(shape)), nn.Unflatten(1, shape), *layers, nn.Sigmoid()
        )
