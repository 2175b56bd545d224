"""Networks for images: the paper's table 11, and small ones for any size from 4 x 4 upwards."""

import math
from itertools import pairwise

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDiscriminator
from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, ResidualBlock, residual_blocks

FIF_CONVNET_SHAPES = ((1, 28, 28), (3, 64, 64))
"""Image shapes (C, H, W) for which table 11 defines networks: MNIST and CelebA.

Networks for other shapes are not the paper's. They have the layers of MNIST's column, with as many
of its four convolutions as the size allows."""
CELEBA = FIF_CONVNET_SHAPES[1]


def map_sizes(input_dim: tuple[int, ...], count: int = 0) -> list[tuple[int, int]]:
    """Returns the sizes of an image and of its maps, each half of the one before, rounded up.

    Args:
        input_dim: Shape (C, H, W) of the image.
        count: Number of halvings. If 0, there are two below 16 pixels and three from 16 pixels.

    Returns:
        Heights and widths, beginning with the image's.
    """
    _, height, width = input_dim
    count = count or (2 if max(height, width) < 16 else 3)
    return [(-(-height >> i), -(-width >> i)) for i in range(count + 1)]


def downsampling(channels: list[int]) -> nn.Sequential:
    """Builds convolutions of stride 2 that halve each side, rounding up, each followed by SiLU.

    Args:
        channels: Channels of the input and of each convolution's output.
    """
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(channels):
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def _doubling(in_channels: int, out_channels: int, size: tuple[int, int]) -> nn.Module:
    """A transposed convolution of stride 2 to maps of a size, from half of it, rounded up."""
    output_padding = (1 - size[0] % 2, 1 - size[1] % 2)
    return nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding)


def upsampling(channels: list[int], sizes: list[tuple[int, int]]) -> nn.Sequential:
    """Builds the mirror image of :func:`downsampling`, which ends in a sigmoid.

    Args:
        channels: Channels of the input and of each convolution's output.
        sizes: Height and width of each convolution's output.
    """
    layers: list[nn.Module] = []
    for (in_channels, out_channels), size in zip(pairwise(channels), sizes, strict=True):
        layers += [_doubling(in_channels, out_channels, size), nn.SiLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def _convolution_block() -> ResidualBlock:
    """A pre-activated residual block on 64 channels: 3 x 3 convolution to 32, 1 x 1 back."""
    reduce_channels = nn.Conv2d(64, 32, 3, padding=1)
    restore_channels = nn.Conv2d(32, 64, 1)
    return ResidualBlock(nn.Sequential(nn.SiLU(), reduce_channels, nn.SiLU(), restore_channels))


def _map_channels(input_dim: tuple[int, ...], last: int = 128) -> list[int]:
    """Channels of the image and of its maps, one for each size of :func:`map_sizes`."""
    return [input_dim[0], 32, 64, last][: len(map_sizes(input_dim))]


class SmallEncoder(HeadedEncoder):
    """Two stride-2 convolutions (three from 16 pixels on), then layers with SiLU, no BatchNorm.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        residual: Whether two residual blocks follow the convolutions, or one hidden layer.
        variational: Whether there is a head for `log_covariance`.
    """

    def __init__(
        self, input_dim: tuple[int, ...], latent_dim: int, residual: bool, variational: bool = False
    ) -> None:
        height, width = map_sizes(input_dim)[-1]
        channels = _map_channels(input_dim, 64 if residual else 128)
        size = channels[-1] * height * width

        layers: list[nn.Module] = [downsampling(channels)]
        if residual:
            layers += [_convolution_block(), _convolution_block(), nn.Flatten()]
        else:
            layers += [nn.Flatten(), nn.Linear(size, 128), nn.SiLU()]
            size = 128

        heads = [nn.Linear(size, latent_dim) for _ in range(1 + variational)]
        super().__init__(nn.Sequential(*layers), *heads)


class SmallDecoder(LayeredDecoder):
    """The mirror image of :class:`SmallEncoder`, which ends in a sigmoid.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        residual: Whether the network has two residual blocks, or one hidden layer.
    """

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, residual: bool) -> None:
        sizes = map_sizes(input_dim)
        channels = _map_channels(input_dim, 64 if residual else 128)[::-1]
        shape = (channels[0], *sizes[-1])
        size = math.prod(shape)

        if residual:
            layers: list[nn.Module] = [
                nn.Linear(latent_dim, size),
                nn.Unflatten(1, shape),
                _convolution_block(),
                _convolution_block(),
                nn.SiLU(),
            ]
        else:
            layers = [
                nn.Linear(latent_dim, 128),
                nn.SiLU(),
                nn.Linear(128, size),
                nn.SiLU(),
                nn.Unflatten(1, shape),
            ]
        super().__init__(*layers, upsampling(channels, sizes[-2::-1]))


class ConvDiscriminator(BaseDiscriminator):
    """Tells images from reconstructions, for VAEGAN: convolutions and one linear layer.

    Args:
        input_dim: Shape (C, H, W) of an image.
    """

    def __init__(self, input_dim: tuple[int, ...]) -> None:
        super().__init__()
        channels = _map_channels(input_dim)
        height, width = map_sizes(input_dim)[-1]
        size = channels[-1] * height * width
        head = nn.Sequential(nn.Flatten(), nn.Linear(size, 1), nn.Sigmoid())
        convolutions = [downsampling(list(pair)) for pair in pairwise(channels)]
        self.layers = nn.ModuleList([*convolutions, head])
        self.depth = len(self.layers)

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> ModelOutput:
        """Computes the probability that images are real.

        Args:
            x: Images, (B, C, H, W).
            output_layer_levels: Numbers of the layers with outputs to return, counted from 1.

        Returns:
            The probability as `embedding`, (B, 1), and the output of layer i as
            `embedding_layer_i`.
        """
        output = ModelOutput()
        for level, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if output_layer_levels and level in output_layer_levels:
                output[f"embedding_layer_{level}"] = x
        output["embedding"] = x
        return output


def _with_batch_norm(convolution: nn.Module, channels: int) -> nn.Sequential:
    """A convolution, BatchNorm of its output channels, and ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def latent_blocks(input_dim: tuple[int, ...], dim: int, count: int = 4) -> nn.Sequential:
    """Builds the residual blocks on codes of table 11.

    A block is Linear-SiLU-Linear-SiLU-Linear with a skip connection (footnote of table 11). Its
    width depends on the shape of the images.

    Args:
        input_dim: Shape (C, H, W) of an image, or (D,) of a row.
        dim: Length of the codes.
        count: Number of blocks.
    """
    width = 256 if tuple(input_dim) == CELEBA else 512
    return nn.Sequential(*residual_blocks(count, dim, width, 2))


class FIFConvEncoder(HeadedEncoder):
    """The encoder of table 11: four convolutions, a linear layer, four residual blocks.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        variational: Whether the convolutions' output also has a linear head for
            `log_covariance`. The paper's encoder has none, because only FIF was trained with it.
        condition_dim: Number of channels of a joined condition.
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
        channels = [
            input_dim[0] + condition_dim,
            *(int(channel_multiplier * channel_count) for channel_count in widths[:count]),
        ]

        convolutions = [
            _with_batch_norm(nn.Conv2d(in_channels, out_channels, 4, 2, 1), out_channels)
            for in_channels, out_channels in pairwise(channels)
        ]
        features = nn.Sequential(*convolutions, nn.Flatten())
        size = channels[-1] * (height >> count) * (width >> count)
        embedding = nn.Sequential(nn.Linear(size, latent_dim), latent_blocks(input_dim, latent_dim))
        log_covariance = nn.Linear(size, latent_dim) if variational else None
        super().__init__(features, embedding, log_covariance)


class FIFConvDecoder(LayeredDecoder):
    """The decoder of table 11: four residual blocks, a linear layer, transposed convolutions.

    For MNIST the table lists four layers of stride 2 after Linear(latent, 4096). They overshoot 28
    pixels and have 3.96M parameters, but the table prints 3.3M. In table 9 the first width is the
    reshaped map's (256 x 4 x 4). Read in this way, table 11 has three layers, 28 x 28 pixels and
    3,370,161 parameters. CelebA's paddings are taken from Pythae's Decoder_Conv_AE_CELEBA.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        condition_dim: Number of columns of a condition that is joined to the codes. The residual
            blocks act on them, too.
        channel_multiplier: Factor on the channels of all convolutions; 4 in appendix E.1.2.
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
        is_celeba = tuple(input_dim) == CELEBA
        widths = [1024, 512, 256, 128] if is_celeba else [256, 128, 64]
        channels = [int(channel_multiplier * width) for width in widths]
        a, b, c = channels[:3]
        full, half, quarter, eighth = map_sizes(input_dim, 3)

        layers = [
            latent_blocks(input_dim, dim),
            nn.Linear(dim, a * eighth[0] * eighth[1]),
            nn.Unflatten(1, (a, *eighth)),
        ]
        if is_celeba:
            d = channels[3]
            layers += [
                _with_batch_norm(nn.ConvTranspose2d(a, b, 5, 2, 2), b),
                _with_batch_norm(nn.ConvTranspose2d(b, c, 5, 2, 1), c),
                _with_batch_norm(nn.ConvTranspose2d(c, d, 5, 2, 2, 1), d),
                nn.ConvTranspose2d(d, 3, 5, stride=1, padding=1),
            ]
        else:
            layers += [
                _with_batch_norm(_doubling(a, b, quarter), b),
                _with_batch_norm(_doubling(b, c, half), c),
                _doubling(c, input_dim[0], full),
            ]
        super().__init__(*layers, nn.Sigmoid())
