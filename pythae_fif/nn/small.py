"""Small convolutional and residual nets for images of any size from 4 x 4 upwards."""

__all__ = [
    "ConvDiscriminator",
    "SmallDecoder",
    "SmallEncoder",
    "downsampling",
    "map_sizes",
    "output_padding",
    "upsampling",
]

from itertools import pairwise

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDiscriminator
from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder


def output_padding(size: tuple[int, int]) -> tuple[int, int]:
    """With which a transposed convolution of stride 2 makes n pixels from n / 2, rounded up."""
    return 1 - size[0] % 2, 1 - size[1] % 2


def map_sizes(input_dim: tuple[int, ...], count: int = 0) -> list[tuple[int, int]]:
    """Heights and widths, the image's first, each half of the last, rounded up.

    Args:
        input_dim: Shape (C, H, W) of an image.
        count: Of the halvings; by default two, and three from 16 pixels on.
    """
    _, height, width = input_dim
    count = count or (2 if max(height, width) < 16 else 3)
    return [(-(-height >> i), -(-width >> i)) for i in range(count + 1)]


def downsampling(channels: list[int]) -> nn.Sequential:
    """Stride-2 convolutions that halve each side, rounding up, each followed by SiLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def upsampling(channels: list[int], sizes: list[tuple[int, int]]) -> nn.Sequential:
    """The mirror image of `downsampling`; hits `sizes` exactly and ends in a sigmoid."""
    layers: list[nn.Module] = []
    for (before, after), size in zip(pairwise(channels), sizes, strict=True):
        padding = output_padding(size)
        layers += [nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=padding), nn.SiLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


class _ResBlock(nn.Module):
    """A pre-activated residual block: 3 x 3 convolution to 32 channels, 1 x 1 back, skip."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 64, 1)
        self.layers = nn.Sequential(nn.SiLU(), convolutions[0], nn.SiLU(), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


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
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        *,
        residual: bool,
        variational: bool = False,
    ) -> None:
        height, width = map_sizes(input_dim)[-1]
        channels = _channels(input_dim, 64 if residual else 128)
        size = channels[-1] * height * width
        layers: list[nn.Module] = [downsampling(channels)]
        if residual:
            layers += [_ResBlock(), _ResBlock(), nn.Flatten()]
        else:
            layers += [nn.Flatten(), nn.Linear(size, 128), nn.SiLU()]
            size = 128
        heads = [nn.Linear(size, latent_dim) for _ in range(1 + variational)]
        super().__init__(nn.Sequential(*layers), *heads)


class SmallDecoder(LayeredDecoder):
    """The mirror image of `SmallEncoder`, whose arguments it has, ending in a sigmoid."""

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, *, residual: bool) -> None:
        sizes = map_sizes(input_dim)
        channels = _channels(input_dim, 64 if residual else 128)[::-1]
        map_shape = (channels[0], *sizes[-1])
        size = channels[0] * sizes[-1][0] * sizes[-1][1]
        if residual:
            layers: list[nn.Module] = [nn.Linear(latent_dim, size), nn.Unflatten(1, map_shape)]
            layers += [_ResBlock(), _ResBlock(), nn.SiLU()]
        else:
            layers = [nn.Linear(latent_dim, 128), nn.SiLU(), nn.Linear(128, size), nn.SiLU()]
            layers.append(nn.Unflatten(1, map_shape))
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
        """Scores images.

        Args:
            x: Images (B, C, H, W).
            output_layer_levels: Layers, counted from 1, whose outputs are wanted too.

        Returns:
            `embedding` (B, 1), the probability that an image is real, and `embedding_layer_i` of
            each wanted layer.
        """
        output = ModelOutput()
        for level, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if level in (output_layer_levels or ()):
                output[f"embedding_layer_{level}"] = x
        output["embedding"] = x
        return output
