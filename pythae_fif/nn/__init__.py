"""Encoders and decoders for Pythae's models, built by the name of their architecture."""

__all__ = [
    "ARCHITECTURES",
    "ConvDiscriminator",
    "ResidualDecoder",
    "ResidualEncoder",
    "build_networks",
    "poincare_networks",
    "smooth_networks",
    "spatial_networks",
    "spherical_networks",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.nn.build import build_networks, smooth_networks
    from pythae_fif.nn.images import ConvDiscriminator
    from pythae_fif.nn.latent_spaces import poincare_networks, spatial_networks, spherical_networks
    from pythae_fif.nn.tabular import ResidualDecoder, ResidualEncoder
else:
    __getattr__ = lazily(__name__)

ARCHITECTURES: dict[str, str] = {
    "convnet": "Pythae's ConvNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "resnet": "Pythae's ResNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "fif_convnet": "the FIF-ConvNet of the FIF paper's table 11, for MNIST and CelebA; a small one "
    "of the same kind for other images",
    "tabular": "the feed-forward nets of the FIF paper's appendix E.2, for tables of numbers",
} | {
    f"{arch}_fc{count}": f"{arch} with {count} fully connected residual blocks behind the encoder "
    f"and {count} before the decoder"
    for arch in ("convnet", "resnet")
    for count in (2, 4)
}
"""Name of an architecture -> one line on it."""
