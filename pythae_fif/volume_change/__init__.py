"""The mathematics of free-form injective flows, on plain callables."""

__all__ = [
    "autograd_surrogate", "decoder_log_volume", "decoder_singular_values", "encoder_log_volume",
    "fif_loss", "log_volume", "sample_hutchinson", "squared_error", "volume_surrogate",
]  # fmt: skip

from pythae_fif.volume_change.exact import (
    decoder_log_volume,
    decoder_singular_values,
    encoder_log_volume,
    log_volume,
)
from pythae_fif.volume_change.hutchinson import sample_hutchinson
from pythae_fif.volume_change.loss import (
    autograd_surrogate,
    fif_loss,
    squared_error,
    volume_surrogate,
)
