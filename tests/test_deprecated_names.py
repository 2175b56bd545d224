"""Names of version 0.2 still work for one release, with a warning."""

import pytest

from pythae_fif import FIF, FIFConfig


def test_given():
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2, condition_dim=3))
    with pytest.warns(DeprecationWarning, match="renamed to conditioned_on"):
        assert model.given(1).sample(4).shape == (4, 1, 4, 4)
