"""Random vectors: their lengths, second moments and distributions."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.hutchinson import HutchinsonKind, hutchinson_from_gaussian

KINDS = get_args(HutchinsonKind)


@pytest.mark.parametrize("kind", KINDS)
@given(dim=st.integers(1, 9), samples=st.integers(1, 9), batch=st.integers(1, 4))
def test_shape_length_and_repeatable_draws(kind, dim, samples, batch):
    options = {"kind": kind, "dtype": torch.float64}
    if samples > dim:
        with pytest.raises(ValueError, match=f"use 1 to {dim}"):
            sample_hutchinson(batch, dim, samples, **options)
        return
    eps, again = (
        sample_hutchinson(
            batch, dim, samples, generator=torch.Generator().manual_seed(1), **options
        )
        for _ in range(2)
    )
    assert eps.shape == (samples, batch, dim) and torch.equal(eps, again)
    gram = torch.einsum("kbi,lbi->bkl", eps, eps)
    if kind == "orthogonal":
        torch.testing.assert_close(gram, dim * torch.eye(samples).double().expand_as(gram))
    if kind in ("scaled_gaussian", "rademacher"):
        assert (gram.diagonal(dim1=1, dim2=2) - dim).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_moment_is_the_identity(kind):
    n = 200_000
    eps = sample_hutchinson(n, 4, 2, kind=kind).reshape(-1, 4)
    assert torch.allclose(eps.T @ eps / len(eps), torch.eye(4), atol=6 * math.sqrt(2 / n))


@pytest.mark.parametrize("samples, kind", [(0, "gaussian"), (1, "uniform")])
def test_what_is_wrong_is_told(samples, kind):
    with pytest.raises(ValueError, match=r"orthogonal, scaled_gaussian|use 1 to 3"):
        sample_hutchinson(2, 3, samples, kind=kind)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@given(data=st.data(), dim=st.integers(1, 40), batch=st.integers(1, 3))
def test_orthogonal_vectors_of_any_draw(dtype, tolerance, data, dim, batch):
    """Columns alike, zero or of very different lengths too."""
    samples = dim if data.draw(st.booleans()) else data.draw(st.integers(1, dim))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    draw = torch.randn(samples, batch, dim, generator=generator, dtype=dtype)
    for k in data.draw(st.lists(st.integers(1, max(1, samples - 1)), max_size=3, unique=True)):
        factor = data.draw(st.sampled_from([0.0, 1e-12, 1.0, 1e6]))
        draw[k % samples] = factor * draw[0] if factor else 0.0
    if samples == 1:
        draw += (draw == 0) * 1.0
    eps = hutchinson_from_gaussian(draw, "orthogonal")
    gram = torch.einsum("kbi,lbi->bkl", eps, eps) / dim
    assert eps.dtype == dtype
    assert (gram - torch.eye(samples, dtype=dtype)).abs().max() < tolerance


@pytest.mark.parametrize("samples", [2, 3])
def test_orthogonal_vectors_have_haars_distribution(samples):
    """Moments up to the fourth, of single entries and of pairs of columns (d = 3)."""
    n = 200_000
    q = sample_hutchinson(n, 3, samples).movedim(0, -1) / math.sqrt(3)  # (n, d, K)
    noise = 5 / math.sqrt(n)
    assert q.mean(0).abs().max() < noise
    assert (q.square().mean(0) - 1 / 3).abs().max() < noise
    assert (q.pow(4).mean(0) - 1 / 5).abs().max() < noise
    first, second = q[..., 0], q[..., 1]
    # E q_i1^2 q_i2^2 = 1/15, E q_i1^2 q_j2^2 = 2/15, E q_i1 q_i2 q_j1 q_j2 = -1/30 (i != j)
    both = torch.einsum("ni,nj->ij", first**2, second**2) / n
    assert (both - (2 / 15 - torch.eye(3) / 15)).abs().max() < noise
    cross = (first * second)[:, 0] * (first * second)[:, 1]
    assert abs(cross.mean() + 1 / 30) < noise


@pytest.mark.parametrize("kind", ["orthogonal", "scaled_gaussian"])
def test_a_draw_of_exactly_zero_is_finite(kind):
    eps = torch.tensor([0.0, 0.5, -2.0]).view(1, 3, 1)
    assert hutchinson_from_gaussian(eps, kind).flatten().tolist() == [0.0, 1.0, -1.0]
