"""Exact Jacobians, volumes and singular values, and the memory that they need."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode

from pythae_fif.errors import NonFiniteError
from pythae_fif.volume_change import exact
from pythae_fif.volume_change.exact import (
    decoder_log_volume,
    decoder_singular_values,
    encoder_log_volume,
    log_volume,
)

pytestmark = pytest.mark.usefixtures("float64")
D = 6
d = 3
B = 7


def mlp(inputs, outputs):
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


def jacobians(function, points):
    """The Jacobian at each point, by PyTorch."""

    def function_of_one(point):
        return function(point[None])[0]

    return torch.stack([jacobian(function_of_one, point) for point in points])


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_log_volume_is_the_sum_of_log_singular_values(rows, columns, seed):
    values = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    expected = torch.linalg.svdvals(values).log().sum(-1)
    assert torch.allclose(log_volume(values), expected, rtol=1e-8, atol=1e-8)


def test_log_volume_of_a_gram_matrix_that_is_singular_to_rounding():
    """Columns that differ by 1e-10: the determinant of J^T J is below the rounding of its terms."""
    values = torch.zeros(1, 3, 2)
    values[0, 0] = 1.0
    values[0, 1, 1] = 1e-10
    assert log_volume(values).item() == pytest.approx(math.log(1e-10), rel=1e-6)

    values[0, 1, 1] = 0.0
    assert log_volume(values).item() == -math.inf


@pytest.mark.parametrize("score", [decoder_log_volume, decoder_singular_values])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_scored_in_float32(score, dtype):
    decode = mlp(2, 4).to(dtype)
    z = torch.randn(5, 2).to(dtype)
    actual = score(decode, z)
    expected = score(decode.double(), z.double())
    assert actual.dtype == torch.float32
    assert torch.allclose(actual.double(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("chunk", [1, 2 * D * d, 2**20])
def test_chunks_do_not_change_results(chunk, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK_NUMEL", chunk)
    encode = mlp(D, d)
    decode = mlp(d, D)
    x = torch.randn(B, D)
    z = torch.randn(B, d)
    decoder_jacobians = jacobians(decode, z)
    encoder_jacobians = jacobians(encode, x)
    torch.testing.assert_close(decoder_log_volume(decode, z), log_volume(decoder_jacobians))
    torch.testing.assert_close(
        decoder_singular_values(decode, z), torch.linalg.svdvals(decoder_jacobians)
    )
    torch.testing.assert_close(encoder_log_volume(encode, x), log_volume(encoder_jacobians))

    for function, score, points in (
        (encode, encoder_log_volume, x),
        (decode, decoder_log_volume, z),
        (decode, decoder_singular_values, z),
    ):
        assert len(score(function, points[:0])) == 0
        points[5] = math.nan
        with pytest.raises(NonFiniteError, match=r"not finite for 1 of . samples \(samples 5\)"):
            score(function, points)


@pytest.mark.parametrize("chunk", [1, 2 * D * d])
def test_chunks_of_conditions_follow_their_samples(chunk, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK_NUMEL", chunk)
    decode = mlp(d + 2, D)
    encode = mlp(D + 2, d)
    z = torch.randn(B, d)
    x = torch.randn(B, D)
    condition = torch.randn(B, 2)
    decoder_jacobians = jacobians(decode, torch.cat([z, condition], 1))[..., :d]
    encoder_jacobians = jacobians(encode, torch.cat([x, condition], 1))[..., :D]

    def conditional(network):
        return lambda x, condition: network(torch.cat([x, condition], 1))

    torch.testing.assert_close(
        decoder_log_volume(conditional(decode), z, condition), log_volume(decoder_jacobians)
    )
    torch.testing.assert_close(
        encoder_log_volume(conditional(encode), x, condition), log_volume(encoder_jacobians)
    )


@pytest.mark.parametrize("score", [decoder_log_volume, decoder_singular_values])
def test_chunks_bound_memory(score, monkeypatch):
    """The hidden layer of this network is five times as wide as its output."""
    monkeypatch.setattr(exact, "CHUNK_NUMEL", 4096)
    decode = nn.Sequential(nn.Linear(16, 200), nn.Tanh(), nn.Linear(200, 40))
    largest_numel = 0

    class LargestTensor(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest_numel
            out = func(*args, **(kwargs or {}))
            items = out if isinstance(out, tuple | list) else (out,)
            for item in items:
                if isinstance(item, torch.Tensor):
                    largest_numel = max(largest_numel, item.numel())
            return out

    z = torch.randn(50, 16)
    with LargestTensor():
        score(decode, z)
    assert largest_numel <= 5 * 4096 < decode[0](z).numel() * 16


def test_tensors_that_a_network_keeps_of_its_last_pass_can_be_pickled():
    inputs = []

    def decode(z):
        inputs.append(z)
        return z.sin()

    decoder_log_volume(decode, torch.ones(3, 2))
    pickle.dumps(inputs[-1])
