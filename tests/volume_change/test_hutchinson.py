"""Hutchinson vectors: their lengths, second moments and distributions."""

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

    def draw():
        generator = torch.Generator().manual_seed(1)
        return sample_hutchinson(batch, dim, samples, generator=generator, **options)

    eps = draw()
    assert eps.shape == (samples, batch, dim)
    assert torch.equal(eps, draw())

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
def test_wrong_arguments_are_refused(samples, kind):
    with pytest.raises(ValueError, match=r"orthogonal, scaled_gaussian|use 1 to 3"):
        sample_hutchinson(2, 3, samples, kind=kind)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@given(data=st.data(), dim=st.integers(1, 40), batch=st.integers(1, 3))
def test_orthogonal_vectors_of_any_draw(dtype, tolerance, data, dim, batch):
    """The draw may have columns that are equal, zero or of very different lengths."""
    samples = dim if data.draw(st.booleans()) else data.draw(st.integers(1, dim))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    normal = torch.randn(samples, batch, dim, generator=generator, dtype=dtype)

    columns = st.lists(st.integers(1, max(1, samples - 1)), max_size=3, unique=True)
    for k in data.draw(columns):
        factor = data.draw(st.sampled_from([0.0, 1e-12, 1.0, 1e6]))
        normal[k % samples] = factor * normal[0] if factor else 0.0
    if samples == 1:
        normal += (normal == 0) * 1.0

    eps = hutchinson_from_gaussian(normal, "orthogonal")
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

    # E q_i1^2 q_i2^2 = 1/15, E q_i1^2 q_j2^2 = 2/15, E q_i1 q_i2 q_j1 q_j2 = -1/30 (i != j)
    first_column = q[..., 0]
    second_column = q[..., 1]
    square_moments = torch.einsum("ni,nj->ij", first_column**2, second_column**2) / n
    assert (square_moments - (2 / 15 - torch.eye(3) / 15)).abs().max() < noise
    column_product = first_column * second_column
    mixed_moment = (column_product[:, 0] * column_product[:, 1]).mean()
    assert abs(mixed_moment + 1 / 30) < noise


@pytest.mark.parametrize("kind", ["orthogonal", "scaled_gaussian"])
def test_a_draw_of_exactly_zero_is_finite(kind):
    eps = torch.tensor([0.0, 0.5, -2.0]).view(1, 3, 1)
    assert hutchinson_from_gaussian(eps, kind).flatten().tolist() == [0.0, 1.0, -1.0]
