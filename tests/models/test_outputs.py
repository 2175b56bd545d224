"""Calls that may need gradients, and those that may not."""

import pytest
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import DataError
from pythae_fif.models.outputs import without_gradients
from pythae_fif.volume_change import UnsupportedOperationError, exact, replay, step


def test_gradients_are_there_only_for_what_differentiates():
    x = torch.ones(3, requires_grad=True)
    assert not without_gradients(torch.exp, x).requires_grad
    (found,) = without_gradients(lambda: torch.autograd.grad(x.exp().sum(), x))
    torch.testing.assert_close(found, x.exp())


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError])
def test_other_errors_are_raised_at_once(error):
    calls = []

    def call():
        calls.append(error("CUDA out of memory"))
        raise calls[-1]

    with pytest.raises(error, match="out of memory"):
        without_gradients(call)
    assert len(calls) == 1


class Normed(BaseEncoder):
    """An encoder with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

    def forward(self, x):
        return ModelOutput(embedding=self.layers(x))


def is_full(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def cannot_be_replayed(*_):
    raise UnsupportedOperationError("of this network")


def encoder_volume(model, x):
    exact.encoder_log_volume(lambda x: model.encoder(x).embedding, x)


def decoder_volume(model, x):
    model.log_volume(x)


def first_step(model, x):
    model.train()({"data": x})


def several_tangents(model, x):
    step._for_each(lambda t: (t,), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("hidden", "call"),
    [
        ((exact, "encoder_jacobian"), encoder_volume),
        ((exact, "decoder_jacobian"), decoder_volume),
        ((FIF, "surrogate_in"), first_step),
        ((torch.func, "vmap"), several_tangents),
    ],
)
def test_a_full_gpu_is_no_network_that_cannot_be_differentiated(hidden, call, monkeypatch):
    """It takes no slower way, and asks for no other mode."""
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2, mode="backward"))
    monkeypatch.setattr(exact, "check_replay", cannot_be_replayed)
    monkeypatch.setattr(*hidden, lambda *_, **__: is_full if hidden[0] is FIF else is_full())
    with pytest.raises(torch.cuda.OutOfMemoryError):
        call(model, torch.rand(3, 1, 4, 4))


def test_a_full_gpu_is_no_missing_second_derivative(monkeypatch):
    grad = torch.autograd.grad

    def full(*args, create_graph=False, **options):
        return is_full() if create_graph else grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        replay.check_replay(lambda x: x.erf().cumprod(1), torch.rand(2, 3), gradient=True)


def test_codes_and_reconstructions_are_those_of_evaluation_mode():
    torch.manual_seed(0)
    model, x = FIF(FIFConfig(input_dim=(4,), latent_dim=2), Normed()), torch.rand(9, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    in_evaluation = model.eval().embed(x), model.reconstruct(x), model.interpolate(x, x, 3)
    model.train()
    in_training = model.embed(x), model.reconstruct(x), model.interpolate(x, x, 3)
    torch.testing.assert_close(in_training, in_evaluation, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training and in_training[0].requires_grad
    with torch.no_grad():
        assert not model.embed(x[:1]).requires_grad


@pytest.mark.parametrize("batch", [torch.rand(2, 4), {}, {"images": torch.rand(2, 4)}])
def test_a_batch_is_a_mapping_with_data(batch):
    model = FIF(FIFConfig(input_dim=(4,), latent_dim=2))
    with pytest.raises(DataError, match=r'FIF: a (Tensor|dict) without "data": give {"data": x}'):
        model(batch)
