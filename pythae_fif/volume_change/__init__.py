"""The mathematics of free-form injective flows, on plain callables."""

__all__ = [
    "HUTCHINSON_KINDS",
    "SurrogateOutput",
    "UnsupportedOperationError",
    "decoder_jacobian",
    "decoder_log_volume",
    "decoder_singular_values",
    "encoder_jacobian",
    "encoder_log_volume",
    "exact_surrogate",
    "log_volume",
    "sample_hutchinson",
    "singular_values",
    "surrogate",
]

from .exact import (
    decoder_jacobian,
    decoder_log_volume,
    decoder_singular_values,
    encoder_jacobian,
    encoder_log_volume,
    exact_surrogate,
    log_volume,
    singular_values,
)
from .hutchinson import HUTCHINSON_KINDS, sample_hutchinson
from .rules import UnsupportedOperationError
from .surrogate import SurrogateOutput, surrogate
