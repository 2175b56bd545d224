"""Small convolutional and residual autoencoder nets for images of any size from 4 x 4 upwards."""

__all__ = ["SmallConvDecoder", "SmallConvEncoder", "SmallResDecoder", "SmallResEncoder"]

from itertools import pairwise

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


def map_sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths (pixels) of the feature maps, the image first, each half of the last."""
    height, width = input_dim[1:]
    sizes = [(height, width)]
    for _ in range(2 if max(height, width) < 16 else 3):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def downsampling(channels: list[int]) -> nn.Sequential:
    """Stride-2 convolutions that halve each side, rounding up, each followed by SiLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def upsampling(channels: list[int], sizes: list[tuple[int, int]]) -> nn.Sequential:
    """The mirror image of `downsampling`; hits `sizes` exactly and ends in a sigmoid."""
    layers: list[nn.Module] = []
    for (before, after), (height, width) in zip(pairwise(channels), sizes, strict=True):
        # From ceil(n / 2) this transposed convolution makes n or n - 1 pixels; make it n.
        output_padding = (1 - height % 2, 1 - width % 2)
        layers += [
            nn.ConvTranspose2d(
                before, after, 3, stride=2, padding=1, output_padding=output_padding
            ),
            nn.SiLU(),
        ]
    layers[-1] = nn.Sigmoid()
    return nn.Sequential(*layers)


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


class _SmallEncoder(BaseEncoder):
    """What both small encoders share: features of an image, then linear heads."""

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        features: nn.Sequential,
        feature_dim: int,
        variational: bool,
    ) -> None:
        super().__init__()
        self.input_dim = tuple(input_dim)
        self.latent_dim = latent_dim
        self.features = features
        self.embedding = nn.Linear(feature_dim, latent_dim)
        self.log_covariance = nn.Linear(feature_dim, latent_dim) if variational else None

    def forward(self, x: Tensor) -> ModelOutput:
        """Encodes images.

        Args:
            x: Images of shape (B, C, H, W) with values in [0, 1].

        Returns:
            `embedding` of shape (B, d) and, if variational, `log_covariance` of shape (B, d).
        """
        features = self.features(x)
        output = ModelOutput(embedding=self.embedding(features))
        if self.log_covariance is not None:
            output["log_covariance"] = self.log_covariance(features)
        return output


class _SmallDecoder(BaseDecoder):
    """What both small decoders share: latent codes to images in (0, 1)."""

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int, layers: nn.Sequential) -> None:
        super().__init__()
        self.input_dim = tuple(input_dim)
        self.latent_dim = latent_dim
        self.layers = layers

    def forward(self, z: Tensor) -> ModelOutput:
        """Decodes latent codes.

        Args:
            z: Latent codes of shape (B, d).

        Returns:
            `reconstruction` of shape (B, C, H, W) with values in (0, 1).
        """
        return ModelOutput(reconstruction=self.layers(z))


class SmallConvEncoder(_SmallEncoder):
    """Two stride-2 convolutions (three from 16 pixels on) and one hidden layer, SiLU, no BatchNorm.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        variational: Adds a head for `log_covariance`.

    Example:
        >>> import torch
        >>> encoder = SmallConvEncoder((1, 8, 8), latent_dim=4)
        >>> encoder(torch.rand(2, 1, 8, 8)).embedding.shape
        torch.Size([2, 4])
    """

    def __init__(
        self, input_dim: tuple[int, ...], latent_dim: int, *, variational: bool = False
    ) -> None:
        *_, (height, width) = sizes = map_sizes(input_dim)
        channels = [input_dim[0], 32, 64, 128][: len(sizes)]
        features = nn.Sequential(
            downsampling(channels),
            nn.Flatten(),
            nn.Linear(channels[-1] * height * width, 128),
            nn.SiLU(),
        )
        super().__init__(input_dim, latent_dim, features, 128, variational)


class SmallConvDecoder(_SmallDecoder):
    """The mirror image of `SmallConvEncoder`, ending in a sigmoid.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.

    Example:
        >>> import torch
        >>> decoder = SmallConvDecoder((3, 9, 14), latent_dim=4)
        >>> decoder(torch.randn(2, 4)).reconstruction.shape
        torch.Size([2, 3, 9, 14])
    """

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int) -> None:
        *_, (height, width) = sizes = map_sizes(input_dim)
        channels = [input_dim[0], 32, 64, 128][: len(sizes)][::-1]
        layers = nn.Sequential(
            nn.Linear(latent_dim, 128),
            nn.SiLU(),
            nn.Linear(128, channels[0] * height * width),
            nn.SiLU(),
            nn.Unflatten(1, (channels[0], height, width)),
            upsampling(channels, sizes[-2::-1]),
        )
        super().__init__(input_dim, latent_dim, layers)


class SmallResEncoder(_SmallEncoder):
    """Two stride-2 convolutions (three from 16 pixels on) and two residual blocks, SiLU.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.
        variational: Adds a head for `log_covariance`.

    Example:
        >>> import torch
        >>> encoder = SmallResEncoder((1, 8, 8), latent_dim=4, variational=True)
        >>> encoder(torch.rand(2, 1, 8, 8)).log_covariance.shape
        torch.Size([2, 4])
    """

    def __init__(
        self, input_dim: tuple[int, ...], latent_dim: int, *, variational: bool = False
    ) -> None:
        *_, (height, width) = sizes = map_sizes(input_dim)
        channels = [input_dim[0], 32, 64, 64][: len(sizes)]
        features = nn.Sequential(downsampling(channels), _ResBlock(64), _ResBlock(64), nn.Flatten())
        super().__init__(input_dim, latent_dim, features, 64 * height * width, variational)


class SmallResDecoder(_SmallDecoder):
    """The mirror image of `SmallResEncoder`, ending in a sigmoid.

    Args:
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels.
        latent_dim: Latent dimension d.

    Example:
        >>> import torch
        >>> decoder = SmallResDecoder((1, 8, 8), latent_dim=4)
        >>> decoder(torch.randn(2, 4)).reconstruction.shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, input_dim: tuple[int, ...], latent_dim: int) -> None:
        *_, (height, width) = sizes = map_sizes(input_dim)
        channels = [input_dim[0], 32, 64, 64][: len(sizes)][::-1]
        layers = nn.Sequential(
            nn.Linear(latent_dim, 64 * height * width),
            nn.Unflatten(1, (64, height, width)),
            _ResBlock(64),
            _ResBlock(64),
            nn.SiLU(),
            upsampling(channels, sizes[-2::-1]),
        )
        super().__init__(input_dim, latent_dim, layers)
