"""Builds encoders and decoders from the name of an architecture and a shape of the data.

Some models need codes on a sphere, in a ball, or in the form of maps.
"""

from typing import Any

from pythae.models import BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks import celeba, cifar, mnist
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, check_choice
from pythae_fif.names import ARCHITECTURES
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.nn.images import (
    FIFConvDecoder,
    FIFConvEncoder,
    SmallDecoder,
    SmallEncoder,
    downsampling,
    latent_blocks,
    map_sizes,
    upsampling,
)
from pythae_fif.nn.recipe import records_recipe
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder

PYTHAE_NETS: dict[tuple[int, ...], tuple[Any, str]] = {
    (1, 28, 28): (mnist, "MNIST"),
    (3, 32, 32): (cifar, "CIFAR"),
    (3, 64, 64): (celeba, "CELEBA"),
}
"""Image shape (C, H, W) -> Pythae's module with networks for it, and the end of their names."""

TABULAR_OPTIONS: dict[str, dict[str, Any]] = {
    "tabular": {},
    "tabular_relu": {"activation": nn.ReLU},
    "tabular_small": {"hidden_dim": 80},
}
"""Architecture for rows of a table -> options of its encoder and decoder."""


@records_recipe
def build_networks(
    arch: str,
    input_dim: tuple[int, ...],
    latent_dim: int,
    *,
    variational: bool = False,
    condition_dim: int = 0,
) -> tuple[BaseEncoder, BaseDecoder]:
    """Builds a freshly initialised encoder and decoder; seed torch before calling.

    `convnet` and `resnet` are the networks of the paper's tables 9 and 10, which are Pythae's.
    For images of other shapes they are `small_convnet` and `small_resnet`, which grow with them.

    Args:
        arch: A key of `ARCHITECTURES`.
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels; (D,) for the
            architectures of tables, whose names begin with `tabular`.
        latent_dim: Latent dimension d, at least 1.
        variational: Whether the encoder also gives the `log_covariance` that VAEs need.
        condition_dim: Length c of a conditional model's condition. The encoder takes c further
            channels or columns, the decoder c further columns of its codes.

    Returns:
        An encoder from (B, C, H, W) to `embedding` (B, d), and a decoder from (B, d) to
        `reconstruction` (B, C, H, W) with values in [0, 1]. For tables both take and return rows
        (B, D) of any value.

    Raises:
        ConfigError: If the architecture is unknown or not defined for the shape.

    Example:
        >>> encoder, decoder = build_networks("convnet", (1, 8, 8), latent_dim=4)
        >>> sum(p.numel() for net in (encoder, decoder) for p in net.parameters())
        104645
    """
    check_choice(arch, ARCHITECTURES, f"arch {arch!r} is unknown")
    shape = tuple(input_dim)
    encoder_shape = (shape[0] + condition_dim, *shape[1:])
    code_dim = latent_dim + condition_dim

    if arch in TABULAR_OPTIONS:
        if len(shape) != 1:
            raise ConfigError(f"arch {arch!r} takes rows (D,), not {shape}")
        options = TABULAR_OPTIONS[arch]
        return (
            TabularEncoder(encoder_shape, latent_dim, variational=variational, **options),
            TabularDecoder(shape, code_dim, **options),
        )

    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 4:
        raise ConfigError(
            f"arch {arch!r} needs images (channels, height, width) of at least 4 x 4 pixels, "
            f"not input_dim {shape}"
        )

    if arch == "fif_convnet":
        encoder: BaseEncoder = FIFConvEncoder(
            shape, latent_dim, variational=variational, condition_dim=condition_dim
        )
        decoder: BaseDecoder = FIFConvDecoder(shape, latent_dim, condition_dim=condition_dim)
    elif _has_pythae_net(arch, shape):
        encoder = pythae_net("Encoder", arch, "VAE" if variational else "AE", shape, latent_dim)
        if condition_dim:
            _add_input_channels(encoder, condition_dim)
        decoder = pythae_net("Decoder", arch, "AE", shape, code_dim)
    else:
        residual = "resnet" in arch
        encoder = SmallEncoder(
            encoder_shape, latent_dim, residual=residual, variational=variational
        )
        decoder = SmallDecoder(shape, code_dim, residual=residual)

    add_latent_blocks(arch, shape, encoder, latent_dim)
    add_latent_blocks(arch, shape, decoder, code_dim)
    return encoder, decoder


def _has_pythae_net(arch: str, input_dim: tuple[int, ...]) -> bool:
    """Returns whether Pythae has the networks of an architecture for images of a shape."""
    return arch.startswith(("convnet", "resnet")) and input_dim in PYTHAE_NETS


def _add_input_channels(encoder: BaseEncoder, count: int) -> None:
    """Replaces the first convolution of Pythae's encoder by one with more input channels."""
    name, convolution = next(
        (name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)
    )
    sizes: Any = (convolution.kernel_size, convolution.stride, convolution.padding)
    wider_convolution = nn.Conv2d(convolution.in_channels + count, convolution.out_channels, *sizes)
    parent_name, _, attribute = name.rpartition(".")
    setattr(encoder.get_submodule(parent_name), attribute, wider_convolution)


def add_latent_blocks(arch: str, input_dim: tuple[int, ...], network: Any, dim: int) -> None:
    """Adds the residual blocks on codes that an architecture's name ends with, if any.

    `_fc4` has the blocks of table 11: four after the encoder's linear layer and four before the
    decoder's. `_fc2` has two and two. They act on the code itself (on the mean, if an encoder also
    gives a variance). The last layer of each block starts at zero, so that the network starts as
    the same function as without the blocks.

    Args:
        arch: Name of the architecture.
        input_dim: Shape of the data.
        network: An encoder with a module `embedding`, or a decoder with `layers`. It is changed
            in place.
        dim: Length of the encoder's or decoder's codes.
    """
    count = arch.partition("_fc")[2]
    if not count:
        return

    blocks: Any = latent_blocks(input_dim, dim, int(count))
    for block in blocks:
        for parameter in block.layers[-1].parameters():
            nn.init.zeros_(parameter)

    if isinstance(network, BaseEncoder):
        network.embedding = nn.Sequential(network.embedding, blocks)
    else:
        network.layers[0] = nn.Sequential(blocks, network.layers[0])


def pythae_net(role: str, arch: str, kind: str, input_dim: tuple[int, ...], latent_dim: int) -> Any:
    """Builds one of Pythae's networks.

    Args:
        role: 'Encoder' or 'Decoder'.
        arch: Name of the architecture, 'convnet' or 'resnet' with any ending.
        kind: Pythae's model that the network is for: 'AE', 'VAE', 'SVAE' or 'VQVAE'.
        input_dim: A shape in `PYTHAE_NETS`.
        latent_dim: Latent dimension d.
    """
    module, dataset = PYTHAE_NETS[input_dim]
    layers = "Conv" if arch.startswith("convnet") else "ResNet"
    network_class = getattr(module, f"{role}_{layers}_{kind}_{dataset}")
    return network_class(BaseAEConfig(input_dim=input_dim, latent_dim=latent_dim))


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
    if not _has_pythae_net(arch, input_dim):
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
        arch: 'convnet', 'resnet', 'small_convnet' or 'small_resnet'.
        input_dim: Shape (C, H, W) of an image.
        latent_dim: d, the number of channels of the maps.

    Raises:
        ConfigError: If the architecture is not defined for the shape, or has no maps of codes.
    """
    build_networks(arch, input_dim, latent_dim)  # for its errors
    if arch.removeprefix("small_") not in ("convnet", "resnet"):
        raise ConfigError(f"arch {arch!r} has no maps of codes: use convnet or resnet")

    if arch == "resnet" and _has_pythae_net(arch, input_dim):
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
