"""Networks whose codes are no vectors of R^d: on a sphere, in a ball, or maps."""

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
    """An encoder with one `log_concentration` (B, 1) instead of variances, for SVAE.

    Pythae's own where there is one, else the common encoder with another second head.

    Args:
        arch, input_dim, latent_dim: As in :func:`~pythae_fif.nn.build_networks`; the codes lie on
            the unit sphere of R^d, d at least 2.

    Raises:
        ConfigError: The architecture is not defined for the shape, or d is 1.
    """
    if latent_dim < 2:
        raise ConfigError(f"model svae needs latent_dim of at least 2, not {latent_dim}")
    encoder, decoder = build_networks(arch, input_dim, latent_dim, variational=True)
    if input_dim not in PYTHAE_NETS or arch == "fif_convnet":
        one = nn.Linear(encoder.log_covariance.in_features, 1)
        return _SphericalEncoder(encoder.features, encoder.embedding, one), decoder
    encoder = pythae_net("Encoder", arch, "SVAE", input_dim, latent_dim)
    add_latent_blocks(arch, input_dim, encoder, latent_dim)
    return encoder, decoder


def poincare_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[BaseEncoder, BaseDecoder]:
    """An encoder whose embeddings lie in the unit ball, for PoincareVAE of curvature up to 1.

    Pythae's model takes the embedding as a point of the ball without making it one.
    """
    encoder, decoder = build_networks(arch, input_dim, latent_dim, variational=True)
    return _BallEncoder(encoder), decoder


def spatial_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[BaseEncoder, BaseDecoder]:
    """Nets with maps of codes (B, d, h, w) between them, for a VQVAE with a PixelCNN prior.

    Pythae's own ResNets where those exist, else two convolutions of stride 2 and their mirror.

    Raises:
        ConfigError: The architecture has none.
    """
    build_networks(arch, input_dim, latent_dim)  # for its errors
    if arch not in ("convnet", "resnet"):
        raise ConfigError(f"arch {arch!r} has no maps of codes: use convnet or resnet")
    if arch == "resnet" and input_dim in PYTHAE_NETS:
        encoder = pythae_net("Encoder", arch, "VQVAE", input_dim, latent_dim)
        return encoder, pythae_net("Decoder", arch, "VQVAE", input_dim, latent_dim)
    sizes = map_sizes(input_dim)[1::-1]
    down = [downsampling([input_dim[0], 32, 64]), nn.Conv2d(64, latent_dim, 1)]
    up = nn.Conv2d(latent_dim, 64, 1), nn.SiLU(), upsampling([64, 32, input_dim[0]], sizes)
    return HeadedEncoder(nn.Sequential(*down), nn.Identity()), LayeredDecoder(*up)


class _SphericalEncoder(HeadedEncoder):
    """Its second head gives a concentration."""

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
