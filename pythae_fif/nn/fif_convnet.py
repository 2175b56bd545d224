"""The FIF-ConvNet of the paper's table 11: convolutions and fully-connected residual blocks."""

__all__ = ["FIF_CONVNET_SHAPES", "FIFConvDecoder", "FIFConvEncoder", "latent_blocks"]

from itertools import pairwise
from typing import Any

from torch import nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, ResidualBlock
from pythae_fif.nn.small import map_sizes, output_padding

FIF_CONVNET_SHAPES = ((1, 28, 28), (3, 64, 64))
"""Image shapes (C, H, W) for which table 11 defines the nets: MNIST and CelebA. Other shapes get
MNIST's column with as many convolutions as their size allows, at most its four; that is ours."""
CELEBA = FIF_CONVNET_SHAPES[1]


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def _transposed(before: int, after: int, kernel: int, padding: int, more: Any) -> nn.Sequential:
    return _normed(nn.ConvTranspose2d(before, after, kernel, 2, padding, more), after)


def latent_blocks(input_dim: tuple[int, ...], dim: int, count: int = 4) -> nn.Sequential:
    """Residual blocks on codes (B, dim), as wide as table 11 has them for images of a shape.

    A block is Linear-SiLU-Linear-SiLU-Linear with a skip connection (footnote of table 11).
    """
    inner_dim = 256 if tuple(input_dim) == CELEBA else 512
    return nn.Sequential(*(ResidualBlock(dim, inner_dim, hidden=2) for _ in range(count)))


class FIFConvEncoder(HeadedEncoder):
    """The encoder of table 11: four convolutions, a linear layer, four residual blocks.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        variational: Adds a linear head for `log_covariance` on the convolutions' output, which
            the paper, training FIF alone, does not have.
        condition_dim: Channels of a joined condition.
        channel_multiplier: Factor on the channels of all convolutions; 4 in appendix E.1.2.
    """

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        *,
        variational: bool = False,
        condition_dim: int = 0,
        channel_multiplier: float = 1,
    ) -> None:
        widths = [128, 256, 512, 1024] if tuple(input_dim) == CELEBA else [32, 64, 128, 256]
        height, width = input_dim[1:]
        count = min(4, min(height, width).bit_length() - 1)  # each halves, rounding down
        channels = [input_dim[0] + condition_dim]
        channels += [int(channel_multiplier * width) for width in widths[:count]]
        convolved = (_normed(nn.Conv2d(a, b, 4, 2, 1), b) for a, b in pairwise(channels))
        features = nn.Sequential(*convolved, nn.Flatten())
        size = channels[-1] * (height >> count) * (width >> count)
        codes = nn.Sequential(nn.Linear(size, latent_dim), latent_blocks(input_dim, latent_dim))
        super().__init__(features, codes, nn.Linear(size, latent_dim) if variational else None)


class FIFConvDecoder(LayeredDecoder):
    """The decoder of table 11: four residual blocks, a linear layer, transposed convolutions.

    For MNIST the table lists four layers of stride 2 after Linear(latent, 4096), which overshoot 28
    pixels and make 3.96M parameters where it prints 3.3M. Read as in table 9, where the first width
    is that of the reshaped map (256 x 4 x 4), three layers are left: 28 x 28 pixels and 3,370,161
    parameters. CelebA's paddings are those of Pythae's Decoder_Conv_AE_CELEBA.

    Args:
        input_dim, latent_dim, channel_multiplier: As of :class:`FIFConvEncoder`.
        condition_dim: Columns of a condition joined to the codes; the residual blocks keep them.
    """

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        channel_multiplier: float = 1,
    ) -> None:
        dim = latent_dim + condition_dim
        faces = tuple(input_dim) == CELEBA
        widths = [1024, 512, 256, 128] if faces else [256, 128, 64]
        a, b, c, *last = (int(channel_multiplier * width) for width in widths)
        full, half, quarter, eighth = map_sizes(input_dim, 3)
        layers = [
            latent_blocks(input_dim, dim),
            nn.Linear(dim, a * eighth[0] * eighth[1]),
            nn.Unflatten(1, (a, *eighth)),
        ]
        if faces:
            layers += [
                _transposed(a, b, 5, 2, 0),
                _transposed(b, c, 5, 1, 0),
                _transposed(c, last[0], 5, 2, 1),
                nn.ConvTranspose2d(last[0], 3, 5, stride=1, padding=1),
            ]
        else:
            layers += [
                _transposed(a, b, 3, 1, output_padding(quarter)),
                _transposed(b, c, 3, 1, output_padding(half)),
                nn.ConvTranspose2d(c, input_dim[0], 3, 2, 1, output_padding(full)),
            ]
        super().__init__(*layers, nn.Sigmoid())
