"""Densities and losses of unusual data and models: a right number, or an error of one line."""

import math

import pytest
import torch
from support.networks import linear_decoder, linear_encoder

from pythae_fif.baselines import (
    DNF,
    DNFConfig,
    RectangularFlow,
    RectangularFlowConfig,
    Trumpet,
    TrumpetConfig,
)
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import FIF, FIFConfig

CONFIG = FIFConfig(input_dim=(1, 4, 4), latent_dim=3)
SCORES = ("log_prob", "log_volume", "singular_values", "embed", "reconstruct")
X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(matrix: torch.Tensor) -> FIF:
    """Builds a linear model with the first pixels as codes."""
    networks = linear_encoder(torch.eye(3, 16)), linear_decoder(matrix, (1, 4, 4))
    return FIF(CONFIG, *networks).to(matrix.dtype).eval()


@pytest.fixture(scope="module")
def model() -> FIF:
    torch.manual_seed(0)
    return FIF(CONFIG).eval()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4, 4), (4, 4, 1), (4, 1, 4), (16,)])
def test_data_of_another_shape_are_refused(model, score, shape):
    """Also a multiple of the size, which an MLP would take for more rows, and channels last."""
    with pytest.raises(DataError, match="for input_dim="):
        getattr(model, score)(torch.rand(2, *shape))


@pytest.mark.parametrize("score", SCORES)
def test_data_take_the_type_of_the_weights(model, score):
    compute = getattr(model, score)
    expected = compute(X)
    assert torch.equal(compute(X.double()), expected)
    assert torch.equal(compute(X.numpy()), expected)
    assert compute(X[:0]).shape == (0, *expected.shape[1:])

    pixels = (255 * X).to(torch.uint8)
    for wrong in (pixels, pixels.numpy(), X.numpy().astype(object)):
        with pytest.raises(DataError, match="floating-point numbers as in training, not"):
            compute(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_jacobian_is_named(dtype):
    with pytest.warns(RuntimeWarning, match=r"5 of 5 samples \(samples 0, 1, 2, 3, 4\)"):
        density = linear(torch.eye(16, 3, dtype=dtype) * torch.tensor([1, 1, 0])).log_prob(X)
    assert density.dtype == dtype
    assert (density == math.inf).all()


@pytest.mark.parametrize("shape", [(16,), (1, 1, 4, 4), (1,)], ids=str)
def test_a_decoder_of_another_shape_than_the_data_is_refused(shape):
    decoder = linear_decoder(torch.rand(math.prod(shape), 3), shape)
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3), decoder=decoder).train()
    with pytest.raises(ConfigError, match=r"reconstruction of shape \(5, .*: \(B, 1, 4, 4\) is"):
        model({"data": X})


FLOW = {"steps": 1, "hidden_channels": 8, "latent_blocks": 1, "latent_hidden_dim": 8}
LOSSES = {
    "FIF": (lambda: FIF(CONFIG), X),
    "RectangularFlow": (
        lambda: RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=3)),
        torch.linspace(0, 1, 30).view(6, 5),
    ),
    "DNF": (lambda: DNF(DNFConfig(input_dim=(1, 4, 4), latent_dim=3, **FLOW)), X),
    "Trumpet": (lambda: Trumpet(TrumpetConfig(input_dim=(1, 4, 4), latent_dim=3, **FLOW)), X),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_data_of_other_types(name, training):
    build, x = LOSSES[name]
    model = build().train(training)
    losses = []
    for data in (x, x.double()):
        torch.manual_seed(0)
        losses.append(model({"data": data}, epoch=1).loss)
    torch.testing.assert_close(losses[1], losses[0])
    with pytest.raises(DataError, match=f"{name}: .*floating-point numbers as in training"):
        model({"data": (255 * x).to(torch.uint8)})
