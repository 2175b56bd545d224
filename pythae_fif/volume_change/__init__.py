"""The mathematics of free-form injective flows, on plain callables."""

__all__ = [
    "FIFLoss",
    "SurrogateOutput",
    "UnsupportedOperationError",
    "decoder_jacobian",
    "decoder_log_volume",
    "decoder_singular_values",
    "encoder_jacobian",
    "encoder_log_volume",
    "fif_loss",
    "log_volume",
    "published_surrogate",
    "sample_hutchinson",
    "singular_values",
    "squared_error",
    "volume_surrogate",
]

from pythae_fif.volume_change.exact import (
    decoder_jacobian,
    decoder_log_volume,
    decoder_singular_values,
    encoder_jacobian,
    encoder_log_volume,
    log_volume,
    singular_values,
)
from pythae_fif.volume_change.hutchinson import sample_hutchinson
from pythae_fif.volume_change.loss import FIFLoss, fif_loss, squared_error
from pythae_fif.volume_change.rules import UnsupportedOperationError
from pythae_fif.volume_change.surrogates import (
    SurrogateOutput,
    published_surrogate,
    volume_surrogate,
)
