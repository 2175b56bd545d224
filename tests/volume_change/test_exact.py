"""Exact Jacobians, volumes and singular values, and the memory that they take."""

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
D, d, B = 6, 3, 7


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


def jacobians(function, points):
    return torch.stack([jacobian(lambda p: function(p[None])[0], point) for point in points])


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_log_volume_is_the_sum_of_log_singular_values(rows, columns, seed):
    values = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    expected = torch.linalg.svdvals(values).log().sum(-1)
    assert torch.allclose(log_volume(values), expected, rtol=1e-8, atol=1e-8)


def test_log_volume_where_the_gram_matrix_is_singular_in_rounding():
    """Columns that differ by 1e-10: the determinant of J^T J is below the rounding of its terms."""
    values = torch.zeros(1, 3, 2)
    values[0, 0] = 1.0
    values[0, 1, 1] = 1e-10
    assert log_volume(values).item() == pytest.approx(math.log(1e-10), rel=1e-6)
    values[0, 1, 1] = 0.0
    assert log_volume(values).item() == -math.inf


@pytest.mark.parametrize("score", [decoder_log_volume, decoder_singular_values])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_networks_of_half_precision_in_float32(score, dtype):
    decode, z = mlp(2, 4).to(dtype), torch.randn(5, 2).to(dtype)
    found, expected = score(decode, z), score(decode.double(), z.double())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("chunk", [1, 2 * D * d, 2**20])
def test_chunks_do_not_change_results(chunk, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK_NUMEL", chunk)
    encode, decode, x, z = mlp(D, d), mlp(d, D), torch.randn(B, D), torch.randn(B, d)
    g, f = jacobians(decode, z), jacobians(encode, x)
    torch.testing.assert_close(decoder_log_volume(decode, z), log_volume(g))
    torch.testing.assert_close(decoder_singular_values(decode, z), torch.linalg.svdvals(g))
    torch.testing.assert_close(encoder_log_volume(encode, x), log_volume(f))
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
def test_what_is_given_goes_with_its_samples(chunk, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK_NUMEL", chunk)
    decode, encode = mlp(d + 2, D), mlp(D + 2, d)
    z, x, given = torch.randn(B, d), torch.randn(B, D), torch.randn(B, 2)
    g = jacobians(decode, torch.cat([z, given], 1))[..., :d]
    f = jacobians(encode, torch.cat([x, given], 1))[..., :D]

    def joined(network):
        return lambda x, c: network(torch.cat([x, c], 1))

    torch.testing.assert_close(decoder_log_volume(joined(decode), z, given), log_volume(g))
    torch.testing.assert_close(encoder_log_volume(joined(encode), x, given), log_volume(f))


@pytest.mark.parametrize("score", [decoder_log_volume, decoder_singular_values])
def test_chunks_bound_memory(score, monkeypatch):
    """Of a network whose hidden layer is five times as wide as its output."""
    monkeypatch.setattr(exact, "CHUNK_NUMEL", 4096)
    decode = nn.Sequential(nn.Linear(16, 200), nn.Tanh(), nn.Linear(200, 40))
    widest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal widest
            out = func(*args, **(kwargs or {}))
            for item in out if isinstance(out, tuple | list) else (out,):
                widest = max(widest, item.numel() if isinstance(item, torch.Tensor) else 0)
            return out

    z = torch.randn(50, 16)
    with Watch():
        score(decode, z)
    assert widest <= 5 * 4096 < decode[0](z).numel() * 16


def test_a_network_can_be_saved_with_what_it_kept_of_its_last_pass():
    kept = []
    decoder_log_volume(lambda z: kept.append(z) or z.sin(), torch.ones(3, 2))
    pickle.dumps(kept[-1])
