"""Encoders and decoders for Pythae's models, built by the name of an architecture."""

__all__ = [
    "ConvDiscriminator", "ResidualDecoder", "ResidualEncoder", "build_networks",
    "poincare_networks", "spatial_networks", "spherical_networks",
]  # fmt: skip

from pythae_fif.nn.build import (
    build_networks,
    poincare_networks,
    spatial_networks,
    spherical_networks,
)
from pythae_fif.nn.images import ConvDiscriminator
from pythae_fif.nn.tabular import ResidualDecoder, ResidualEncoder
