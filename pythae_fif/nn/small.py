"""Small convolutional and residual autoencoder nets for images of any size from 4 x 4 upwards."""

__all__ = ["SmallDecoder", "SmallEncoder", "downsampling", "map_sizes", "upsampling"]

from itertools import pairwise

from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, halvings, output_padding


def map_sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths (pixels) of the feature maps, the image first, each half of the last."""
    return halvings(input_dim, 2 if max(input_dim[1:]) < 16 else 3)


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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def _channels(input_dim: tuple[int, ...], residual: bool) -> list[int]:
    """Channels of the image and of the maps of `map_sizes`."""
    return [input_dim[0], 32, 64, 64 if residual else 128][: len(map_sizes(input_dim))]


class SmallEncoder(HeadedEncoder):
    """Two stride-2 convolutions (three from 16 pixels on), then layers with SiLU, no BatchNorm.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        residual: Two residual blocks follow, else one hidden layer.
        variational: Adds a head for `log_covariance`.

    Example:
        >>> import torch
        >>> encoder = SmallEncoder((1, 8, 8), latent_dim=4, residual=True, variational=True)
        >>> encoder(torch.rand(2, 1, 8, 8)).log_covariance.shape
        torch.Size([2, 4])
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
        channels = _channels(input_dim, residual)
        size = channels[-1] * height * width
        layers: list[nn.Module] = [downsampling(channels)]
        if residual:
            layers += [_ResBlock(64), _ResBlock(64), nn.Flatten()]
        else:
            layers += [nn.Flatten(), nn.Linear(size, 128), nn.SiLU()]
            size = 128
        heads = [nn.Linear(size, latent_dim) for _ in range(1 + variational)]
        super().__init__(nn.Sequential(*layers), *heads)


class SmallDecoder(LayeredDecoder):
    """The mirror image of `SmallEncoder`, ending in a sigmoid.

    Args: As of `SmallEncoder`.

    Example:
        >>> import torch
        >>> decoder = SmallDecoder((3, 9, 14), latent_dim=4, residual=False)
        >>> decoder(torch.randn(2, 4)).reconstruction.shape
        torch.Size([2, 3, 9, 14])
    """

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, *, residual: bool) -> None:
        sizes = map_sizes(input_dim)
        channels = _channels(input_dim, residual)[::-1]
        map_shape = (channels[0], *sizes[-1])
        size = channels[0] * sizes[-1][0] * sizes[-1][1]
        if residual:
            layers: list[nn.Module] = [nn.Linear(latent_dim, size), nn.Unflatten(1, map_shape)]
            layers += [_ResBlock(64), _ResBlock(64), nn.SiLU()]
        else:
            layers = [nn.Linear(latent_dim, 128), nn.SiLU(), nn.Linear(128, size), nn.SiLU()]
            layers.append(nn.Unflatten(1, map_shape))
        super().__init__(*layers, upsampling(channels, sizes[-2::-1]))
