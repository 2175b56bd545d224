"""Small networks, and a pickle that must not be opened."""

import pytest
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.nn.coupling import build_coupling


def coupling(columns=5, latent_dim=3, **options):
    """Builds an encoder and its inverse, which share their weights, in float64."""
    sizes = {"data_blocks": 3, "data_hidden": [8], "latent_hidden": [8], **options}
    encoder, decoder = build_coupling((columns,), latent_dim, **sizes)
    return encoder.double(), decoder.double()


def hand_built_networks():
    """Builds networks with batch statistics for images of 4 x 4, which are saved as pickles."""
    features = nn.Sequential(nn.Conv2d(1, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    encoder = HeadedEncoder(features, nn.Linear(32, 3))
    decoder = LayeredDecoder(
        nn.Linear(3, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.Sigmoid(),
        nn.Unflatten(1, (1, 4, 4)),
    )  # fmt: skip
    return encoder, decoder


class Map(BaseEncoder, BaseDecoder):
    """An encoder (name `embedding`) or a decoder (name `reconstruction`) from a function."""

    def __init__(self, name, function, weight=None):
        nn.Module.__init__(self)
        self.name = name
        self.function = function
        self.weight = nn.Parameter(torch.zeros(1) if weight is None else weight)

    def forward(self, x):
        return ModelOutput(**{self.name: self.function(x)})


def linear_encoder(weight):
    """f(x) = A x, for data (B, ...) and A (d, D)."""
    network = Map("embedding", lambda x: x.flatten(1) @ network.weight.T, weight)
    return network


def linear_decoder(weight, shape=(-1,)):
    """g(z) = A z, reshaped, for A (D, d)."""
    network = Map("reconstruction", lambda z: (z @ network.weight.T).unflatten(1, shape), weight)
    return network


class Opened:
    """Fails the test when its pickle is opened."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


class Cubed(torch.autograd.Function):
    """Can be differentiated backwards, and twice, but has no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2
