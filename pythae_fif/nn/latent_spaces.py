"""Networks with codes on a sphere, in a ball, or in the form of maps."""

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.nn.build import PYTHAE_NETS, add_latent_blocks, build_networks, pythae_net
from pythae_fif.nn.images import downsampling, map_sizes, upsampling


def spherical_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[BaseEncoder, BaseDecoder]:
    """Builds networks for SVAE: the encoder has a `log_concentration` (B, 1), and no variances.

    It is Pythae's encoder if there is one for the shape, and otherwise the common encoder with a
    different second head.

    Args:
        arch: Name of the architecture.
        input_dim: Shape (C, H, W) of an image.
        latent_dim: d, at least 2. Codes are on the unit sphere of R^d.

    Raises:
        ConfigError: If the architecture is not defined for the shape, or d is 1.
    """
    if latent_dim < 2:
        raise ConfigError(f"model svae needs latent_dim of at least 2, not {latent_dim}")

    encoder, decoder = build_networks(arch, input_dim, latent_dim, variational=True)
    if input_dim not in PYTHAE_NETS or arch == "fif_convnet":
        head = nn.Linear(encoder.log_covariance.in_features, 1)
        return _SphericalEncoder(encoder.features, encoder.embedding, head), decoder

    encoder = pythae_net("Encoder", arch, "SVAE", input_dim, latent_dim)
    add_latent_blocks(arch, input_dim, encoder, latent_dim)
    return encoder, decoder


def poincare_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[BaseEncoder, BaseDecoder]:
    """Builds networks with embeddings in the unit ball, for PoincareVAE of curvature up to 1.

    Pythae's model expects an embedding in the ball, but does not map it there.

    Args:
        arch: Name of the architecture.
        input_dim: Shape of the data.
        latent_dim: Latent dimension d.

    Raises:
        ConfigError: If the architecture is not defined for the shape.
    """
    encoder, decoder = build_networks(arch, input_dim, latent_dim, variational=True)
    return _BallEncoder(encoder), decoder


def spatial_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[BaseEncoder, BaseDecoder]:
    """Builds networks with maps of codes (B, d, h, w), for a VQVAE with a PixelCNN prior.

    They are Pythae's ResNets if there are any for the shape, and otherwise two convolutions of
    stride 2 and their mirror image.

    Args:
        arch: 'convnet' or 'resnet'.
        input_dim: Shape (C, H, W) of an image.
        latent_dim: d, the number of channels of the maps.

    Raises:
        ConfigError: If the architecture is not defined for the shape, or has no maps of codes.
    """
    build_networks(arch, input_dim, latent_dim)  # for its errors
    if arch not in ("convnet", "resnet"):
        raise ConfigError(f"arch {arch!r} has no maps of codes: use convnet or resnet")

    if arch == "resnet" and input_dim in PYTHAE_NETS:
        return (
            pythae_net("Encoder", arch, "VQVAE", input_dim, latent_dim),
            pythae_net("Decoder", arch, "VQVAE", input_dim, latent_dim),
        )

    channels = input_dim[0]
    sizes = map_sizes(input_dim)[1::-1]
    features = nn.Sequential(downsampling([channels, 32, 64]), nn.Conv2d(64, latent_dim, 1))
    decoder = LayeredDecoder(
        nn.Conv2d(latent_dim, 64, 1), nn.SiLU(), upsampling([64, 32, channels], sizes)
    )
    return HeadedEncoder(features, nn.Identity()), decoder


class _SphericalEncoder(HeadedEncoder):
    """An encoder with a concentration from its second head."""

    def forward(self, x: Tensor) -> ModelOutput:
        output = super().forward(x)
        output["log_concentration"] = output.pop("log_covariance")
        return output


class _BallEncoder(BaseEncoder):
    """A variational encoder followed by the exponential map at the centre of the unit ball."""

    def __init__(self, encoder: BaseEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> ModelOutput:
        output = self.encoder(x)
        norm = output.embedding.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        output["embedding"] = 0.99 * norm.tanh() * output.embedding / norm
        return output
