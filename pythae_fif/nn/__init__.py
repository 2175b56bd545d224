"""Encoders and decoders for Pythae's models, built by the name of their architecture."""

__all__ = [
    "ARCHITECTURES",
    "FIF_CONVNET_SHAPES",
    "ConvDiscriminator",
    "FIFConvDecoder",
    "FIFConvEncoder",
    "ResidualDecoder",
    "ResidualEncoder",
    "SmallConvDecoder",
    "SmallConvEncoder",
    "SmallResDecoder",
    "SmallResEncoder",
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
    from pythae_fif.nn.build import build_networks
    from pythae_fif.nn.conditional import joined_dim
    from pythae_fif.nn.fif_convnet import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder
    from pythae_fif.nn.residual import ResidualDecoder, ResidualEncoder, WideDecoder, WideEncoder
    from pythae_fif.nn.small import (
        SmallConvDecoder,
        SmallConvEncoder,
        SmallResDecoder,
        SmallResEncoder,
    )
    from pythae_fif.nn.special import (
        ConvDiscriminator,
        poincare_networks,
        smooth_networks,
        spatial_networks,
        spherical_networks,
    )
else:
    __getattr__ = lazily(__name__)
