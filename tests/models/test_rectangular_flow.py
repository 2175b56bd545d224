"""Conjugate gradients, the rectangular flow's estimators, its model, and the coupling flow."""

import copy

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.ensemble.stacked import StackedFlows
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.volume_change import encoder_jacobian, log_volume, sample_hutchinson
from pythae_fif.volume_change.conjugate_gradient import conjugate_gradient, rectangular_surrogate


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def curved(columns=5, latent_dim=3):
    """A small curved encoder and decoder in float64 that are not inverse to each other."""
    encoder = nn.Sequential(nn.Linear(columns, 8), nn.Tanh(), nn.Linear(8, latent_dim)).double()
    decoder = nn.Sequential(nn.Linear(latent_dim, 8), nn.Tanh(), nn.Linear(8, columns)).double()
    return encoder, decoder


def coupling(columns=5, latent_dim=3):
    encoder, decoder = build_coupling(
        (columns,), latent_dim, data_blocks=3, latent_blocks=2, hidden_dim=8
    )
    return encoder.double(), decoder.double()


# ---------------------------------------------------------------- conjugate gradients


@pytest.mark.parametrize("dim", [1, 4, 12])
def test_conjugate_gradient_agrees_with_a_dense_solve(dim):
    root = torch.randn(3, 7, dim + 3, dim, dtype=torch.float64)
    a, b = root.mT @ root, torch.randn(3, 7, dim, dtype=torch.float64)
    out = conjugate_gradient(
        lambda v: torch.einsum("kbij,kbj->kbi", a, v), b, tolerance=1e-12, max_iterations=10 * dim
    )
    torch.testing.assert_close(out.solution, torch.linalg.solve(a, b), rtol=1e-7, atol=1e-9)
    assert out.iterations.shape == (3, 7)


def test_conjugate_gradient_stops_each_system_at_the_tolerance():
    scale = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 3.0, 9.0, 27.0]], dtype=torch.float64)
    b = torch.ones(2, 4, dtype=torch.float64)
    out = conjugate_gradient(lambda v: scale * v, b, tolerance=1e-9)
    assert out.iterations.tolist() == [1, 4]  # as many steps as distinct eigenvalues
    loose = conjugate_gradient(lambda v: scale * v, b, tolerance=0.5)
    residual = (b - scale * loose.solution).norm(dim=-1) / b.norm(dim=-1)
    assert (loose.iterations < 4).all() and (residual <= 0.5).all()


def test_conjugate_gradient_takes_at_most_the_steps_it_may():
    scale = torch.logspace(0, 6, 9, dtype=torch.float64)
    out = conjugate_gradient(lambda v: scale * v, torch.ones(2, 9, dtype=torch.float64))
    assert out.iterations.max() <= 9
    limited = conjugate_gradient(
        lambda v: scale * v, torch.ones(2, 9, dtype=torch.float64), max_iterations=2
    )
    assert limited.iterations.tolist() == [2, 2]


def test_conjugate_gradient_of_zero_is_zero():
    out = conjugate_gradient(lambda v: 2 * v, torch.zeros(4, 3))
    assert out.solution.eq(0).all() and out.iterations.eq(0).all()


# ---------------------------------------------------------------- the estimators


@pytest.mark.parametrize("nets", [curved, coupling])
@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_gradient_with_all_directions_is_that_of_the_log_determinant(nets, jacobian_at):
    encoder, decoder = nets()
    encode = encoder if nets is curved else lambda x: encoder(x).embedding
    decode = decoder if nets is curved else lambda z: decoder(z).reconstruction
    x = torch.randn(4, 5, dtype=torch.float64)
    eps = sample_hutchinson(4, 3, samples=3, dtype=torch.float64)  # exact at K = d
    parameters = list({id(p): p for p in [*encoder.parameters(), *decoder.parameters()]}.values())

    def gradients(**options):
        out = rectangular_surrogate(encode, decode, x, eps, jacobian_at=jacobian_at, **options)
        return out, torch.autograd.grad(
            out.log_volume.sum(), parameters, allow_unused=True, materialize_grads=True
        )

    estimated, ours = gradients(tolerance=1e-13, max_iterations=30)
    exact, theirs = gradients(estimator="exact")
    assert estimated.iterations.shape == (3, 4) and exact.iterations is None
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert sum(g.abs().sum() for g in theirs) > 0


@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_exact_value_is_the_log_volume_of_the_full_jacobian(jacobian_at):
    encoder, decoder = curved()
    x = torch.randn(4, 5, dtype=torch.float64)
    out = rectangular_surrogate(
        encoder, decoder, x, torch.empty(0), estimator="exact", jacobian_at=jacobian_at
    )
    z = encoder(x)
    reference = torch.func.vmap(torch.func.jacrev(decoder))(z)
    expected = log_volume(reference)
    if jacobian_at == "data":
        expected = -log_volume(encoder_jacobian(encoder, x))
    torch.testing.assert_close(out.log_volume, expected)
    torch.testing.assert_close(out.z, z)
    torch.testing.assert_close(out.x_hat, decoder(z))


def test_one_direction_is_right_on_the_average_over_directions():
    encoder, decoder = curved(4, 2)
    angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    eps = 2**0.5 * torch.stack([angles.cos(), angles.sin()], -1)[None]  # their mean square is I
    x = torch.randn(1, 4, dtype=torch.float64)

    def gradient(x, **options):
        out = rectangular_surrogate(encoder, decoder, x, eps, **options)
        return torch.autograd.grad(out.log_volume.mean(), decoder[0].weight)[0]

    estimate = gradient(x.expand(8, 4), tolerance=1e-13, max_iterations=10)
    torch.testing.assert_close(estimate, gradient(x, estimator="exact"))


@pytest.mark.parametrize(
    "options", [{"estimator": "cg"}, {"jacobian_at": "decoder"}, {"eps": torch.ones(1, 2, 3)}]
)
def test_wrong_arguments_are_named(options):
    encoder, decoder = curved()
    arguments = {"eps": torch.ones(1, 4, 3, dtype=torch.float64), **options}
    with pytest.raises(ValueError, match=r"valid:|is needed"):
        rectangular_surrogate(encoder, decoder, torch.ones(4, 5, dtype=torch.float64), **arguments)


# ---------------------------------------------------------------- the coupling flow


@pytest.mark.parametrize(("columns", "latent_dim"), [(6, 3), (8, 2), (3, 1), (4, 4)])
def test_coupling_encoder_inverts_its_decoder(columns, latent_dim):
    encoder, decoder = coupling(columns, latent_dim)
    z = 3 * torch.randn(50, latent_dim, dtype=torch.float64)
    x = decoder(z).reconstruction
    assert x.shape == (50, columns)
    torch.testing.assert_close(encoder(x).embedding, z)


def test_coupling_parameters_are_counted_once():
    encoder, decoder = coupling()
    model = FIF(FIFConfig(input_dim=(5,), latent_dim=3), encoder, decoder)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in encoder.parameters()
    )


# ---------------------------------------------------------------- the model


def small_flow(**options):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3, **options)
    return RectangularFlow(config, *coupling()).double()


@pytest.mark.parametrize("estimator", ["conjugate_gradient", "exact"])
@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_training_raises_the_likelihood(estimator, jacobian_at):
    model = small_flow(estimator=estimator, jacobian_at=jacobian_at).train()
    mixing = torch.randn(3, 5, dtype=torch.float64)
    x = torch.randn(256, 3, dtype=torch.float64) @ mixing
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.eval()(DatasetOutput(data=x)).loss
    model.train()
    for _ in range(25):
        optimizer.zero_grad()
        output = model(DatasetOutput(data=x))
        output.loss.backward()
        optimizer.step()
    assert (model.cg_iterations is None) == (estimator == "exact")
    if estimator != "exact":
        assert 1 <= model.cg_iterations.max() <= 3
    assert model.eval()(DatasetOutput(data=x)).loss < before - 10


@pytest.mark.parametrize("model_class", [FIF, RectangularFlow])
def test_log_prob_of_a_linear_injective_model_is_the_closed_form(model_class):
    class Linear(nn.Module):
        def __init__(self, weight, key):
            super().__init__()
            self.weight, self.key = nn.Parameter(weight), key

        def forward(self, x):
            return DatasetOutput({self.key: x @ self.weight.mT})

    g = torch.randn(5, 3, dtype=torch.float64)
    config = FIFConfig if model_class is FIF else RectangularFlowConfig
    model = model_class(
        config(input_dim=(5,), latent_dim=3),
        as_net(Linear(torch.linalg.pinv(g), "embedding"), "embedding"),
        as_net(Linear(g, "reconstruction"), "reconstruction"),
    )
    z = torch.randn(7, 3, dtype=torch.float64)
    # x = g z has the density of N(0, g g^T) on the span of g: pseudo-determinant and -inverse.
    quadratic = torch.einsum("bi,ij,bj->b", z @ g.mT, torch.linalg.pinv(g @ g.mT), z @ g.mT)
    log_det = torch.linalg.svdvals(g).log().sum()
    expected = -0.5 * quadratic - 1.5 * torch.log(torch.tensor(2 * torch.pi)) - log_det
    torch.testing.assert_close(model.log_prob(z @ g.mT), expected)


def as_net(module, key):
    """Pythae insists on its base classes."""
    base = BaseEncoder if key == "embedding" else BaseDecoder
    net = type(key, (base,), {"forward": lambda self, x: self.inner(x)})()
    net.inner = module
    return net


def test_fif_trains_on_the_free_form_and_on_the_coupling_nets():
    x = torch.randn(16, 6)
    for nets in (
        (TabularEncoder((6,), 3, 8), TabularDecoder((6,), 3, 8)),
        build_coupling((6,), 3, data_blocks=2, latent_blocks=1, hidden_dim=8),
    ):
        for jacobian_at in ("data", "reconstruction"):
            config = FIFConfig(input_dim=(6,), latent_dim=3, jacobian_at=jacobian_at)
            model = FIF(config, *nets).train()
            model(DatasetOutput(data=x)).loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())
            assert model.sample(3).shape == (3, 6)


def test_nets_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="or neither"):
        RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=3), coupling()[0])
    with pytest.raises(ConfigError, match=r"\(1, 8, 8\)"):
        RectangularFlow(RectangularFlowConfig(input_dim=(1, 8, 8), latent_dim=3))


# ---------------------------------------------------------------- several at once


def members(kind, jacobian_at):
    shape = {"input_dim": (5,), "latent_dim": 3}
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        if kind == "free-form":
            nets = TabularEncoder(**shape, hidden_dim=8), TabularDecoder(**shape, hidden_dim=8)
        else:
            nets = build_coupling(**shape, data_blocks=2, latent_blocks=2, hidden_dim=8)
        rectangular = kind == "rectangular"
        config = RectangularFlowConfig if rectangular else FIFConfig
        model = RectangularFlow if rectangular else FIF
        models.append(model(config(**shape, jacobian_at=jacobian_at), *nets).double())
    return models


@pytest.mark.parametrize("kind", ["free-form", "coupling", "rectangular"])
@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
def test_stacked_flows_end_where_each_ends_alone(kind, jacobian_at):
    data = torch.randn(45, 5, dtype=torch.float64)
    options = {"epochs": 2, "batch_size": 10, "learning_rate": 1e-2, "weight_decay": 1e-3}
    together = StackedFlows(members(kind, jacobian_at), [5, 6, 7])
    together.train(data, **options)
    for seed, model, start in zip(
        [5, 6, 7], together.members(), members(kind, jacobian_at), strict=True
    ):
        torch.manual_seed(seed)
        before = [p.clone() for p in start.parameters()]
        optimizer = torch.optim.Adam(start.parameters(), lr=1e-2, weight_decay=1e-3)
        start.train()
        for _ in range(2):
            for rows in torch.randperm(45).split(10)[:4]:
                optimizer.zero_grad()
                start(DatasetOutput(data=data[rows])).loss.backward()
                optimizer.step()
        for ours, alone, first in zip(model.parameters(), start.parameters(), before, strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-6, atol=1e-8)
            assert not torch.equal(ours, first)
    assert (together.cg_iterations is None) == (kind != "rectangular")


@pytest.mark.parametrize("kind", ["free-form", "rectangular"])
@pytest.mark.parametrize("ensemble", [Ensemble, StackedFlows])
def test_a_learning_rate_of_each_member_is_the_rate_alone(kind, ensemble):
    if kind == "rectangular" and ensemble is Ensemble:
        pytest.skip("Ensemble is for FIF")
    data = torch.randn(30, 5, dtype=torch.float64)
    options = {"epochs": 2, "batch_size": 10, "weight_decay": 1e-2}

    def schedule(highest):
        return lambda optimizer, steps: OneCycleLR(optimizer, max_lr=highest, total_steps=steps)

    rates = [1e-2, 3e-4, 1e-3]
    together = ensemble(members(kind, "data"), [5, 6, 7])
    together.train(data, learning_rate=rates, schedule=schedule(1e-2), **options)
    for i, rate in enumerate(rates):
        alone = ensemble(members(kind, "data")[i : i + 1], [5 + i])
        alone.train(data, learning_rate=rate, schedule=schedule(rate), **options)
        pairs = zip(
            together.members()[i].parameters(), alone.members()[0].parameters(), strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_stacked_flows_refuse_what_cannot_be_stacked():
    models = members("coupling", "data")
    with pytest.raises(ConfigError, match="3 models with 2 seeds"):
        StackedFlows(models, [0, 1])
    other = members("coupling", "reconstruction")[0]
    with pytest.raises(ConfigError, match="must agree in jacobian_at"):
        StackedFlows([models[0], other], [0, 1])
    moving = copy.deepcopy(models[0])
    moving.model_config.beta_final, moving.model_config.beta_epochs = 20.0, 5
    with pytest.raises(ConfigError, match="beta_final=None"):
        StackedFlows([moving], [0])
    odd = FIF(
        FIFConfig(input_dim=(5,), latent_dim=3),
        as_net(nn.ParameterDict({"w": torch.ones(3)}), "embedding"),
        as_net(nn.Linear(3, 5), "reconstruction"),
    )
    with pytest.raises(ConfigError, match="only linear layers"):
        StackedFlows([odd], [0])
