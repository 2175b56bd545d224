"""Conjugate gradients, and the estimators of rectangular flows."""

import pytest
import torch
from support.networks import coupling
from torch import nn

from pythae_fif.baselines.rectangular_flow import conjugate_gradient, rectangular_surrogate
from pythae_fif.volume_change import log_volume, sample_hutchinson
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian


def curved(columns=5, latent_dim=3):
    """Builds a curved encoder and decoder in float64 that are not inverse to each other."""
    encoder = nn.Sequential(nn.Linear(columns, 8), nn.Tanh(), nn.Linear(8, latent_dim)).double()
    decoder = nn.Sequential(nn.Linear(latent_dim, 8), nn.Tanh(), nn.Linear(8, columns)).double()
    return encoder, decoder


@pytest.mark.parametrize("dim", [1, 4, 12])
def test_conjugate_gradient_agrees_with_a_dense_solve(dim):
    root = torch.randn(3, 7, dim + 3, dim, dtype=torch.float64)
    a = root.mT @ root
    b = torch.randn(3, 7, dim, dtype=torch.float64)
    solution, iterations = conjugate_gradient(
        lambda v: torch.einsum("kbij,kbj->kbi", a, v), b, tolerance=1e-12
    )
    torch.testing.assert_close(solution, torch.linalg.solve(a, b), rtol=1e-7, atol=1e-9)
    assert iterations.shape == (3, 7)


def test_conjugate_gradient_stops_each_system_at_the_tolerance():
    scale = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 3.0, 9.0, 27.0]], dtype=torch.float64)
    b = torch.ones(2, 4, dtype=torch.float64)
    _, iterations = conjugate_gradient(lambda v: scale * v, b, tolerance=1e-9)
    assert iterations.tolist() == [1, 4]  # as many steps as distinct eigenvalues

    loose, steps = conjugate_gradient(lambda v: scale * v, b, tolerance=0.5)
    residual = (b - scale * loose).norm(dim=-1) / b.norm(dim=-1)
    assert (steps < 4).all() and (residual <= 0.5).all()


def exact_log_volume(encode, decode, x, jacobian_at):
    """Computes the log-volume itself, (B,), with a graph."""
    if jacobian_at == "data":
        return -log_volume(encoder_jacobian(encode, x))
    return log_volume(decoder_jacobian(decode, encode(x)))


@pytest.mark.parametrize("nets", [curved, coupling])
@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_gradient_with_all_directions_is_the_gradient_of_the_log_determinant(nets, jacobian_at):
    encoder, decoder = nets()
    encode = encoder if nets is curved else lambda x: encoder(x).embedding
    decode = decoder if nets is curved else lambda z: decoder(z).reconstruction
    x = torch.randn(4, 5, dtype=torch.float64)
    eps = sample_hutchinson(4, 3, samples=3, dtype=torch.float64)  # exact at K = d

    output, iterations = rectangular_surrogate(
        encode, decode, x, eps, jacobian_at=jacobian_at, tolerance=1e-13
    )
    assert iterations.shape == (3, 4)
    torch.testing.assert_close((output.z, output.x_hat), (encode(x), decode(encode(x))))

    shared = {id(p): p for p in [*encoder.parameters(), *decoder.parameters()]}
    parameters = list(shared.values())

    def gradients(volume):
        options = {"allow_unused": True, "materialize_grads": True}
        return torch.autograd.grad(volume.sum(), parameters, **options)

    estimated = gradients(output.surrogate)
    exact = gradients(exact_log_volume(encode, decode, x, jacobian_at))
    torch.testing.assert_close(estimated, exact, rtol=1e-7, atol=1e-9)
    assert sum(gradient.abs().sum() for gradient in exact) > 0


def test_one_direction_is_right_on_the_average_over_directions():
    encoder, decoder = curved(4, 2)
    angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    eps = 2**0.5 * torch.stack([angles.cos(), angles.sin()], -1)[None]  # their mean square is I
    x = torch.randn(1, 4, dtype=torch.float64)
    output, _ = rectangular_surrogate(encoder, decoder, x.expand(8, 4), eps, tolerance=1e-13)
    volume = exact_log_volume(encoder, decoder, x, "reconstruction")

    def gradient(values):
        return torch.autograd.grad(values.mean(), decoder[0].weight)[0]

    torch.testing.assert_close(gradient(output.surrogate), gradient(volume))
