"""Small networks, and a pickle that nobody may open."""

import pytest

from pythae_fif.nn.coupling import build_coupling


def coupling(columns=5, latent_dim=3):
    """An encoder and its inverse, which share their weights, in float64."""
    encoder, decoder = build_coupling(
        (columns,), latent_dim, data_blocks=3, data_hidden=[8], latent_hidden=[8]
    )
    return encoder.double(), decoder.double()


class Opened:
    """Whoever opens its pickle fails."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)
