"""Encoders and decoders for Pythae's models, built by the name of their architecture."""

__all__ = [
    "ARCHITECTURES",
    "FIF_CONVNET_SHAPES",
    "ConvDiscriminator",
    "FIFConvDecoder",
    "FIFConvEncoder",
    "ResidualDecoder",
    "ResidualEncoder",
    "SmallDecoder",
    "SmallEncoder",
    "WideDecoder",
    "WideEncoder",
    "build_networks",
    "joined_dim",
    "poincare_networks",
    "smooth_networks",
    "spatial_networks",
    "spherical_networks",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily
from pythae_fif.nn.names import ARCHITECTURES

if TYPE_CHECKING:
    from pythae_fif.nn.build import build_networks, smooth_networks
    from pythae_fif.nn.conditional import joined_dim
    from pythae_fif.nn.discriminator import ConvDiscriminator
    from pythae_fif.nn.fif_convnet import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder
    from pythae_fif.nn.latent_spaces import (
        poincare_networks,
        spatial_networks,
        spherical_networks,
    )
    from pythae_fif.nn.residual import ResidualDecoder, ResidualEncoder, WideDecoder, WideEncoder
    from pythae_fif.nn.small import SmallDecoder, SmallEncoder
else:
    __getattr__ = lazily(__name__)
