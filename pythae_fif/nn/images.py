"""Networks for images: the paper's table 11, and small ones for any size from 4 x 4 upwards."""

import math
from itertools import pairwise

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDiscriminator
from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, ResidualBlock, residual_blocks

FIF_CONVNET_SHAPES = ((1, 28, 28), (3, 64, 64))
"""Image shapes (C, H, W) for which table 11 defines the nets: MNIST and CelebA. Other shapes get
MNIST's column with as many convolutions as their size allows, at most its four; that is ours."""
CELEBA = FIF_CONVNET_SHAPES[1]


def map_sizes(input_dim: tuple[int, ...], count: int = 0) -> list[tuple[int, int]]:
    """Heights and widths, the image's (C, H, W) first, each half of the last, rounded up: two
    halvings, and three from 16 pixels on, unless their number is given."""
    _, height, width = input_dim
    count = count or (2 if max(height, width) < 16 else 3)
    return [(-(-height >> i), -(-width >> i)) for i in range(count + 1)]


def downsampling(channels: list[int]) -> nn.Sequential:
    """Stride-2 convolutions that halve each side, rounding up, each followed by SiLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def _doubling(before: int, after: int, size: tuple[int, int]) -> nn.Module:
    """A transposed convolution of stride 2 to maps of a size, from its half, rounded up."""
    return nn.ConvTranspose2d(before, after, 3, 2, 1, (1 - size[0] % 2, 1 - size[1] % 2))


def upsampling(channels: list[int], sizes: list[tuple[int, int]]) -> nn.Sequential:
    """The mirror image of `downsampling`; hits `sizes` exactly and ends in a sigmoid."""
    layers: list[nn.Module] = []
    for (before, after), size in zip(pairwise(channels), sizes, strict=True):
        layers += [_doubling(before, after, size), nn.SiLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def _blocks() -> list[nn.Module]:
    """Two pre-activated residual blocks on 64 channels: 3 x 3 convolution to 32, 1 x 1 back."""
    pairs = [(nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 64, 1)) for _ in range(2)]
    return [ResidualBlock(nn.Sequential(nn.SiLU(), a, nn.SiLU(), b)) for a, b in pairs]


def _channels(input_dim: tuple[int, ...], last: int = 128) -> list[int]:
    """Channels of the image and of the maps of `map_sizes`."""
    return [input_dim[0], 32, 64, last][: len(map_sizes(input_dim))]


class SmallEncoder(HeadedEncoder):
    """Two stride-2 convolutions (three from 16 pixels on), then layers with SiLU, no BatchNorm.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        residual: Two residual blocks follow, else one hidden layer.
        variational: Adds a head for `log_covariance`.
    """

    def __init__(
        self, input_dim: tuple[int, ...], latent_dim: int, residual: bool, variational: bool = False
    ) -> None:
        height, width = map_sizes(input_dim)[-1]
        channels = _channels(input_dim, 64 if residual else 128)
        size = channels[-1] * height * width
        layers: list[nn.Module] = [downsampling(channels)]
        if residual:
            layers += [*_blocks(), nn.Flatten()]
        else:
            layers += [nn.Flatten(), nn.Linear(size, 128), nn.SiLU()]
            size = 128
        heads = [nn.Linear(size, latent_dim) for _ in range(1 + variational)]
        super().__init__(nn.Sequential(*layers), *heads)


class SmallDecoder(LayeredDecoder):
    """The mirror image of `SmallEncoder`, whose arguments it has, ending in a sigmoid."""

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, residual: bool) -> None:
        sizes = map_sizes(input_dim)
        channels = _channels(input_dim, 64 if residual else 128)[::-1]
        shape = (channels[0], *sizes[-1])
        size = math.prod(shape)
        maps: nn.Module = nn.Unflatten(1, shape)
        if residual:
            layers = [nn.Linear(latent_dim, size), maps, *_blocks(), nn.SiLU()]
        else:
            layers = [nn.Linear(latent_dim, 128), nn.SiLU(), nn.Linear(128, size), nn.SiLU(), maps]
        super().__init__(*layers, upsampling(channels, sizes[-2::-1]))


class ConvDiscriminator(BaseDiscriminator):
    """Tells images from reconstructions, for VAEGAN: convolutions and one linear layer.

    Args:
        input_dim: Shape (C, H, W) of an image.
    """

    def __init__(self, input_dim: tuple[int, ...]) -> None:
        super().__init__()
        channels, (height, width) = _channels(input_dim), map_sizes(input_dim)[-1]
        linear = nn.Linear(channels[-1] * height * width, 1)
        convolutions = [downsampling(list(pair)) for pair in pairwise(channels)]
        head = nn.Sequential(nn.Flatten(), linear, nn.Sigmoid())
        self.layers = nn.ModuleList([*convolutions, head])
        self.depth = len(self.layers)

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> ModelOutput:
        """The probability that images (B, C, H, W) are real, `embedding` (B, 1), and
        `embedding_layer_i` of the layers that are wanted too, counted from 1."""
        output = ModelOutput()
        for level, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if level in (output_layer_levels or ()):
                output[f"embedding_layer_{level}"] = x
        output["embedding"] = x
        return output


def _with_batch_norm(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def latent_blocks(input_dim: tuple[int, ...], dim: int, count: int = 4) -> nn.Sequential:
    """Residual blocks on codes (B, dim), as wide as table 11 has them for images of a shape.

    A block is Linear-SiLU-Linear-SiLU-Linear with a skip connection (footnote of table 11).
    """
    width = 256 if tuple(input_dim) == CELEBA else 512
    return nn.Sequential(*residual_blocks(count, dim, width, 2))


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
        convolved = (_with_batch_norm(nn.Conv2d(a, b, 4, 2, 1), b) for a, b in pairwise(channels))
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
        input_dim, latent_dim, channel_multiplier: See :class:`FIFConvEncoder`.
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
                _with_batch_norm(nn.ConvTranspose2d(a, b, 5, 2, 2), b),
                _with_batch_norm(nn.ConvTranspose2d(b, c, 5, 2, 1), c),
                _with_batch_norm(nn.ConvTranspose2d(c, last[0], 5, 2, 2, 1), last[0]),
                nn.ConvTranspose2d(last[0], 3, 5, stride=1, padding=1),
            ]
        else:
            layers += [
                _with_batch_norm(_doubling(a, b, quarter), b),
                _with_batch_norm(_doubling(b, c, half), c),
                _doubling(c, input_dim[0], full),
            ]
        super().__init__(*layers, nn.Sigmoid())
