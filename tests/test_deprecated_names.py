"""Names that were renamed before 0.3.0 still work for one release, with a warning."""

import numpy as np
import pytest
import torch
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import Columns
from pythae_fif.evaluation import Extractor, Features
from pythae_fif.volume_change import autograd_surrogate, published_surrogate


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FIF(FIFConfig(input_dim=(3,), latent_dim=2)).eval()


def assert_renamed(old, new, *args, **options):
    """The old name warns with the new one, and returns the same value."""
    torch.manual_seed(1)
    with pytest.warns(DeprecationWarning, match=f"renamed to {new.__name__}"):
        old_value = old(*args, **options)

    torch.manual_seed(1)
    torch.testing.assert_close(old_value, new(*args, **options))


def test_models(model):
    x = torch.rand(5, 3)
    assert_renamed(model.tube_scale, model.estimate_noise_std, x)
    assert_renamed(model.tube_log_prob, model.marginal_log_prob, x, 0.5, samples=3)
    with pytest.warns(DeprecationWarning, match="renamed to marginal_likelihood"):
        assert model.tube(x, 0.5).noise_std == 0.5


def test_conditional_model():
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2, condition_dim=3))
    with pytest.warns(DeprecationWarning, match="renamed to conditioned_on"):
        assert model.given(1).sample(4).shape == (4, 1, 4, 4)


def test_columns():
    columns = Columns(["a", "b"], [1.0, 2.0], [3.0, 4.0])
    assert_renamed(columns.restored, columns.inverse_transform, np.ones((2, 2)))


def test_features():
    extractor = Extractor("flat", "FD", nn.Flatten(), "0")
    images = torch.rand(4, 1, 2, 2)
    with pytest.warns(DeprecationWarning, match="renamed to takes_images"):
        assert extractor.of_images
    with pytest.warns(DeprecationWarning, match="renamed to from_images"):
        features = Features.of(images, extractor)
    assert torch.equal(features.values, Features.from_images(images, extractor).values)
    assert_renamed(features.once, features.cached, len)


def test_surrogate(model):
    x = torch.rand(5, 3)
    eps = torch.randn(1, 5, 2)
    encode, decode = model.networks_at()
    assert_renamed(published_surrogate, autograd_surrogate, encode, decode, x, eps)
