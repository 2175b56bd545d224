"""Fitted priors, other autoencoders as densities, the likelihood of a tube, and the beta of it."""

import math

import numpy as np
import pytest
import torch
from pythae.models import AE, VAE, VQVAE, AEConfig, AutoModel, VAEConfig, VQVAEConfig
from support.networks import Map, linear_decoder, linear_encoder

from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, NonFiniteError
from pythae_fif.evaluation.likelihood import fit_priors, marginal_likelihoods
from pythae_fif.models import FIF, FIFConfig, InjectiveFlow, as_density
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.fitted_priors import fit_mixture, fit_new_prior
from pythae_fif.models.priors import StudentT
from pythae_fif.nn import build_networks
from pythae_fif.sampling.samplers import generate, reconstruction_mse

KINDS = ["gaussian", "mixture", "flow"]


def codes_of_two_bows(n=600):
    """Codes (n, 2), float64, that no Gaussian fits."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    side = torch.arange(n) % 2 * 2.0 - 1
    bows = torch.stack([angle.cos() + 0.5 * side, side * angle.sin()], 1)
    return bows + 0.1 * torch.randn(n, 2, generator=generator, dtype=torch.float64), side > 0


def one_hot(second):
    return torch.stack([~second, second], 1).double()


# ---------------------------------------------------------------- priors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conditional", [False, True])
def test_a_fitted_prior_is_a_density_near_its_codes_and_draws_from_it(kind, conditional):
    codes, second = codes_of_two_bows()
    given = [one_hot(second)] if conditional else []
    prior = fit_new_prior(kind, codes, *given, steps=60)
    side = torch.linspace(-6, 6, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    upper = [torch.tensor([0.0, 1.0]).double().expand(len(grid), -1)] if conditional else []
    density = prior.log_prob(grid, *upper).exp()
    assert float(density.sum() * (side[1] - side[0]) ** 2) == pytest.approx(1, abs=2e-3)
    normal = torch.distributions.MultivariateNormal(codes.mean(0), codes.T.cov())
    assert prior.log_prob(codes, *given).mean() > normal.log_prob(codes).mean() - 1e-4
    generator = torch.Generator().manual_seed(1)
    drawn = prior.sample(len(grid), generator, *upper)
    weights = (density / density.sum())[:, None]
    mean = (weights * grid).sum(0)
    assert torch.allclose(drawn.mean(0), mean, atol=0.02)
    covariance = (weights * (grid - mean)).T @ (grid - mean)
    assert torch.allclose(drawn.T.cov(), covariance, atol=0.03)
    found = prior.moments(upper[0][:1] if upper else None)
    for of, expected in zip(found, (mean, covariance), strict=True):
        assert torch.allclose(of, expected, atol=0.15 if kind == "flow" else 2e-3)


def test_a_flow_of_one_dimension():
    codes = torch.randn(2000, 1)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(codes).mean()
    assert fit_new_prior("flow", codes).log_prob(codes).mean() > expected - 0.02


def test_a_mixture_is_scikit_learn_s_and_of_a_class_that_of_its_codes():
    codes, second = codes_of_two_bows()
    expected = fit_mixture(codes, 10, 3).score_samples(codes.numpy())
    mixture = fit_new_prior("mixture", codes, seed=3)
    assert mixture.log_prob(codes).numpy() == pytest.approx(expected, abs=1e-9)
    by_class = fit_new_prior("mixture", codes, one_hot(second), seed=3)
    alone = fit_new_prior("mixture", codes[second], seed=3)
    found = by_class.log_prob(codes[second], one_hot(second)[second])
    assert torch.allclose(found, alone.log_prob(codes[second]), atol=1e-12)


def test_a_flow_changes_variables():
    codes = codes_of_two_bows()[0][:20]
    prior = fit_new_prior("flow", codes, steps=5)

    def latent(z):
        return prior.flow().transform((z - prior.mean) / prior.scale)

    for z in codes[:5]:
        jacobian = torch.autograd.functional.jacobian(latent, z)
        normal = -latent(z).square().sum() / 2 - math.log(2 * math.pi)
        assert float(prior.log_prob(z)) == pytest.approx(
            float(normal + torch.linalg.slogdet(jacobian).logabsdet), abs=1e-9
        )


def test_priors_refused():
    codes, second = codes_of_two_bows()
    with pytest.raises(ConfigError, match=r"prior 'mixtur'.*mixture"):
        fit_new_prior("mixtur", codes)
    with pytest.raises(ConfigError, match=r"'gaussian' is fitted class by class.*use 'flow'"):
        fit_new_prior("gaussian", codes, one_hot(second) / 2)
    with pytest.raises(ConfigError, match="conditions must be one-hot"):
        fit_new_prior("mixture", codes, torch.ones(len(codes), 2).double())
    with pytest.raises(NonFiniteError, match="1 of 600 codes"):
        fit_new_prior("flow", torch.cat([codes[1:], codes[:1] * math.nan]))


# ---------------------------------------------------------------- models with them


@pytest.mark.parametrize("kind", [*KINDS, "flow_matching"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_model_uses_its_fitted_prior_exactly_and_keeps_it(kind, classes, tmp_path):
    torch.manual_seed(0)
    options = {"condition_dim": classes, "latent_distribution": "student_t"}
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3, **options)).double().eval()
    x = torch.rand(60, 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(60) % 3 if classes else None
    z, given = model.encode(x, labels), model.condition(labels, x)
    before = model.log_prob(x, labels) - model.latent_distribution(z).log_prob(z)
    model.fit_prior(x, kind, labels, steps=20)
    expected = before + model.prior.log_prob(z, *given)
    assert torch.allclose(model.log_prob(x, labels), expected, atol=1e-9)
    some = None if labels is None else labels[:5]
    samples, density = model.sample_and_log_prob(5, labels=some)
    assert samples.shape == (5, 1, 4, 4) and density.isfinite().all()
    model.save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path)).eval()
    assert torch.equal(loaded.log_prob(x, labels), model.log_prob(x, labels))
    loaded.prior = None  # taken away
    loaded.save(str(tmp_path))
    assert AutoModel.load_from_folder(str(tmp_path)).prior is None
    if classes:
        assert model.conditioned_on(1).sample(4).shape == (4, 1, 4, 4)
        assert isinstance(model.conditioned_on(1).latent_distribution(z), StudentT)


def test_pythae_s_autoencoders_are_densities(tmp_path):
    networks = build_networks("convnet", (1, 8, 8), 4)
    model = as_density(AE(AEConfig((1, 8, 8), 4), *networks))
    x = torch.rand(30, 1, 8, 8)
    assert model.encoder is networks[0] and as_density(model) is model
    assert torch.equal(model({"data": x}).z, model.encode(x))
    model.fit_prior(x, "gaussian")
    model.save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path))
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    for other in (VAE(VAEConfig((1, 8, 8), 4)), VQVAE(VQVAEConfig((1, 8, 8), 4))):
        with pytest.raises(ConfigError, match=f"{type(other).__name__} is not a deterministic"):
            as_density(other)
    with pytest.raises(ConfigError, match="InjectiveFlow has no default networks"):
        InjectiveFlow(InjectiveFlowConfig((2,), 1))


# ---------------------------------------------------------------- the tube


def flow_of(encode, decode, input_dim, latent_dim):
    networks = Map("embedding", encode), Map("reconstruction", decode)
    return InjectiveFlow(InjectiveFlowConfig((input_dim,), latent_dim), *networks).double()


def on_circle(z):
    return 2 * torch.cat([z.cos(), z.sin()], 1)


def angle(x):
    return torch.atan2(x[:, 1:], x[:, :1])


@pytest.fixture
def circle():
    model = flow_of(angle, on_circle, 2, 1)
    generator = torch.Generator().manual_seed(0)
    angles = 0.7 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    model.fit_prior(model.decode(angles), "gaussian")
    return model


@pytest.mark.parametrize("scale", [0.05, 0.3, 3.0])
def test_a_tube_has_mass_one_however_thick(circle, scale):
    torch.manual_seed(0)
    reach = 12 if scale > 1 else 4
    side = torch.linspace(-reach, reach, 401, dtype=torch.float64)
    plane = torch.cartesian_prod(side, side)
    density = circle.marginal_log_prob(plane, scale, samples=10).exp()
    assert float(density.sum() * (side[1] - side[0]) ** 2) == pytest.approx(1, abs=5e-3)


def test_a_tube_is_the_integral_over_codes_even_of_an_encoder_that_does_not_project(circle):
    torch.manual_seed(0)
    x = circle.sample(200) + 0.2 * torch.randn(200, 2, dtype=torch.float64)
    z = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    error = (circle.decode(z)[:, None] - x).square().sum(-1)
    weights = circle.prior.log_prob(z)[:, None] - error / (2 * 0.04) - math.log(2 * math.pi * 0.04)
    expected = weights.logsumexp(0) + math.log(10 / 4000)
    other = flow_of(lambda x: angle(x) + 0.1, on_circle, 2, 1)
    other.prior = circle.prior
    for model in (circle, other):
        found = model.marginal_log_prob(x, 0.2, samples=200)
        assert torch.allclose(found, expected, atol=0.1)
        assert float((found - expected).mean()) == pytest.approx(0, abs=0.005)


def test_a_linear_tube_is_a_normal_whatever_the_encoder():
    torch.manual_seed(0)
    weight, noise = torch.randn(5, 2).double(), 0.3 * torch.randn(400, 5).double()
    model = flow_of(lambda x: 3 * x[:, :2] + 1, lambda z: z @ weight.T, 5, 2)
    x = torch.randn(400, 2).double() @ weight.T + noise
    model.fit_prior(x, "gaussian")
    covariance = model.prior.scale_trils[0, 0] @ model.prior.scale_trils[0, 0].T
    normal = torch.distributions.MultivariateNormal(
        model.prior.means[0, 0] @ weight.T,
        weight @ covariance @ weight.T + 0.09 * torch.eye(5).double(),
    )
    assert torch.allclose(model.marginal_log_prob(x, 0.3), normal.log_prob(x), atol=1e-6)
    tube = model.marginal_likelihood(
        torch.cat([x, x + 99 * weight[:, 0]]), 30.0
    )  # two classes far apart
    classes = one_hot(torch.arange(800) >= 400)
    prior = fit_new_prior("gaussian", tube.z, classes)
    found = tube._replace(condition=(classes,)).log_prob(prior)[:400]
    assert torch.allclose(found, model.marginal_log_prob(x, 30.0), atol=1e-6)


def test_its_scale_is_that_of_the_noise():
    torch.manual_seed(0)
    model = flow_of(lambda x: x[:, :2], lambda z: torch.cat([z, 0 * z, 0 * z], 1), 6, 2)
    assert model.estimate_noise_std(0.1 * torch.randn(4000, 6)) == pytest.approx(0.1, rel=0.03)
    with pytest.raises(ConfigError, match="noise around the manifold needs a latent_dim below 2"):
        FIF(FIFConfig(input_dim=(2,), latent_dim=2)).estimate_noise_std(torch.rand(5, 2))


def test_its_negative_is_the_loss_of_fif_with_the_exact_volume_where_it_is_thin():
    torch.manual_seed(0)
    weight, beta = torch.randn(7, 2).double(), 1e6
    networks = linear_encoder(torch.linalg.pinv(weight)), linear_decoder(weight)
    config = FIFConfig(input_dim=(7,), latent_dim=2, beta=beta, jacobian_at="reconstruction")
    model, x = FIF(config, *networks).double().eval(), torch.rand(50, 7).double()
    loss = float(model({"data": x}).loss)
    tube = -model.marginal_log_prob(x, math.sqrt(1 / (2 * beta))).mean()
    assert float(tube) == pytest.approx(loss + 2.5 * math.log(math.pi / beta), abs=1e-4)


# ---------------------------------------------------------------- beta='auto'


def test_beta_follows_the_error_of_the_epoch_before():
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(1, 4, 4), latent_dim=3, beta="auto", noise=0.0)
    model, other = FIF(config), FIF(config)
    x = torch.rand(10, 1, 4, 4)
    batches = x[:7], x[7:]
    losses = [model({"data": batch}, epoch=1) for batch in batches]
    assert float(model.beta) == 10
    other.load_state_dict(model.state_dict())  # a training that goes on from a checkpoint
    for trained in (model, other):
        trained({"data": x}, epoch=2)
        errors = [float(of.recon_loss.detach()) for of in losses]
        mean = (7 * errors[0] + 3 * errors[1]) / 10
        assert float(trained.beta) == pytest.approx(13 / (2 * mean), rel=1e-6)
    beta = float(model.beta)
    fixed = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3, beta=beta))
    fixed.load_state_dict(model.state_dict(), strict=False)
    found, expected = (float(m.eval()({"data": x}).loss) for m in (model, fixed))
    assert found == pytest.approx(expected - 6.5 * math.log(beta / math.pi), rel=1e-5)


def test_beta_auto_refused():
    with pytest.raises(ConfigError, match=r"beta='auto'.*without beta_final"):
        FIFConfig(input_dim=(4,), latent_dim=2, beta="auto", beta_final=3.0)
    with pytest.raises(ConfigError, match=r"beta='auto' needs a latent_dim below 4"):
        FIFConfig(input_dim=(4,), latent_dim=4, beta="auto")
    model, x = FIF(FIFConfig(input_dim=(4,), latent_dim=2, beta="auto")), torch.rand(5, 4)
    model({"data": x})  # as Pythae's trainers try a batch, which does not count
    model({"data": x}, epoch=1)
    assert float(model.beta) == 10 and float(model.errors[1]) == 5
    other = FIF(model.model_config)
    other({"data": x})
    with pytest.raises(ConfigError, match="needs `epoch` with each batch"):  # as in an own loop
        other({"data": x})


# ---------------------------------------------------------------- in the benchmark


@pytest.mark.parametrize("classes", [0, 2])
def test_the_benchmark_scores_a_tube_on_both_splits(classes):
    torch.manual_seed(0)
    shape = {"input_dim": (6,), "latent_dim": 2, "condition_dim": classes}
    model = FIF(FIFConfig(**shape, latent_distribution="student_t"))
    parts = {of: torch.randn(40, 6).numpy() for of in ("train", "val", "test")}
    labels = {of: np.arange(40) % 2 for of in parts} if classes else {}
    splits = Splits("rows", **parts, labels=labels or None, source="", partial=False)
    codes = model.encode(parts["train"], labels.get("train"))
    error = reconstruction_mse(model, parts["val"], labels.get("val"))
    how = {"seed": 0, "steps": 10}
    names = ["normal", "own_prior", "gmm", "flow", "flow_matching", "vamp"]
    priors = fit_priors(model, names, codes, labels.get("train"), **how)
    found = marginal_likelihoods(model, priors, splits, labels, error, 0)
    assert found.keys() == {"normal", "own_prior", "gmm", "flow", "flow_matching"}
    if not classes:  # the samplers' own fit is the same
        drawn = [generate("flow", model, codes, num_samples=5, seed=0, fit_steps=10, prior=prior)
                 for prior in (priors["flow"], None)]  # fmt: skip
        assert torch.equal(*drawn)
    scale = model.estimate_noise_std(parts["val"], labels.get("val"))
    kinds = {"own_prior": None, "normal": "normal", "gmm": "mixture", "flow": "flow"}
    kinds["flow_matching"] = "flow_matching"
    for name, kind in kinds.items():
        if kind == "normal":
            model = FIF(FIFConfig(**shape), model.encoder, model.decoder)
        elif kind:
            model.fit_prior(parts["train"], kind, labels.get("train"), **how)
        torch.manual_seed(0)
        for split in ("val", "test"):
            nats = model.marginal_log_prob(parts[split], scale, labels.get(split)).mean()
            held = found[name][split]
            assert held.nats == pytest.approx(float(nats), abs=1e-3)
            assert held.bits_per_dim == pytest.approx(-held.nats / 6 / math.log(2))
    for no_density in (VAE(VAEConfig((6,), 2)), AE(AEConfig((6,), 7))):
        assert fit_priors(no_density, names, codes, **how) == {}
    assert marginal_likelihoods(VAE(VAEConfig((6,), 2)), {}, splits, {}, error, 0) == {}
    assert marginal_likelihoods(model, priors, splits, labels, val_mse=0.0, seed=0) == {}
    if classes:  # one of which has a single code
        few = fit_priors(model, names, codes, (np.arange(40) == 7).astype(int), **how)
        assert few.keys() == {"normal", "own_prior", "flow", "flow_matching"}
