"""Fitted priors, densities of autoencoders, and the marginal likelihood."""

import dataclasses
import functools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pythae.models import AE, VAE, VQVAE, AEConfig, AutoModel, VAEConfig, VQVAEConfig
from sklearn.decomposition import PCA
from support.networks import Map, linear_decoder, linear_encoder

from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, NonFiniteError, TooSlowError
from pythae_fif.evaluation import likelihood as likelihood_module
from pythae_fif.evaluation.likelihood import fit_priors, marginal_likelihoods
from pythae_fif.models import FIF, FIFConfig, InjectiveFlow, as_density, flow_matching_prior
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.explained_entropy import explain_entropy
from pythae_fif.models.fitted_priors import fit_mixture, fit_new_prior
from pythae_fif.models.priors import StudentT
from pythae_fif.nn import build_networks

KINDS = ["gaussian", "mixture", "flow"]


def two_bows(count=600):
    """Codes (n, 2), float64, that no Gaussian fits, and whether each is on the second bow."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    side = torch.arange(count) % 2 * 2.0 - 1
    bows = torch.stack([angle.cos() + 0.5 * side, side * angle.sin()], 1)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return bows + 0.1 * noise, side > 0


def one_hot(is_second):
    return torch.stack([~is_second, is_second], 1).double()


def grid_of_plane(reach, points):
    """A grid (points**2, 2) over the square from -reach to reach, and the area of a cell."""
    side = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(side, side), float(side[1] - side[0]) ** 2


# ---------------------------------------------------------------- priors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conditional", [False, True])
def test_a_fitted_prior_is_a_density_near_its_codes_and_samples_from_it(kind, conditional):
    codes, is_second = two_bows()
    condition = [one_hot(is_second)] if conditional else []
    prior = fit_new_prior(kind, codes, *condition, steps=60)

    grid, cell = grid_of_plane(6, 121)
    second = torch.tensor([[0.0, 1.0]]).double()
    grid_condition = [second.expand(len(grid), -1)] if conditional else []
    density = prior.log_prob(grid, *grid_condition).exp()
    assert float(density.sum()) * cell == pytest.approx(1, abs=2e-3)

    normal = torch.distributions.MultivariateNormal(codes.mean(0), codes.T.cov())
    assert prior.log_prob(codes, *condition).mean() > normal.log_prob(codes).mean() - 1e-4

    weights = (density / density.sum())[:, None]
    mean = (weights * grid).sum(0)
    covariance = (weights * (grid - mean)).T @ (grid - mean)
    samples = prior.sample(len(grid), torch.Generator().manual_seed(1), *grid_condition)
    assert torch.allclose(samples.mean(0), mean, atol=0.02)
    assert torch.allclose(samples.T.cov(), covariance, atol=0.03)

    prior_mean, prior_covariance = prior.moments(second if conditional else None)
    tolerance = 0.15 if kind == "flow" else 2e-3
    assert torch.allclose(prior_mean, mean, atol=tolerance)
    assert torch.allclose(prior_covariance, covariance, atol=tolerance)


def test_a_flow_of_one_dimension():
    codes = torch.randn(2000, 1)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(codes).mean()
    assert fit_new_prior("flow", codes, steps=100).log_prob(codes).mean() > expected - 0.02


def test_a_mixture_is_scikit_learn_s_and_each_class_has_the_mixture_of_its_codes():
    codes, is_second = two_bows()
    expected = fit_mixture(codes, 10, 3).score_samples(codes.numpy())
    mixture = fit_new_prior("mixture", codes, seed=3)
    assert mixture.log_prob(codes).numpy() == pytest.approx(expected, abs=1e-9)

    classes = one_hot(is_second)
    class_codes = codes[is_second]
    by_class = fit_new_prior("mixture", codes, classes, seed=3)
    second_only = fit_new_prior("mixture", class_codes, seed=3)
    density = by_class.log_prob(class_codes, classes[is_second])
    assert torch.allclose(density, second_only.log_prob(class_codes), atol=1e-12)


def test_a_flow_changes_variables():
    codes = two_bows()[0][:20]
    prior = fit_new_prior("flow", codes, steps=5)

    def latent(z):
        return prior.flow().transform((z - prior.mean) / prior.scale)

    for z in codes[:5]:
        jacobian = torch.autograd.functional.jacobian(latent, z)
        normal = -latent(z).square().sum() / 2 - math.log(2 * math.pi)
        expected = float(normal + torch.linalg.slogdet(jacobian).logabsdet)
        assert float(prior.log_prob(z)) == pytest.approx(expected, abs=1e-9)


def test_priors_refuse_unknown_kinds_and_codes_and_conditions_that_do_not_fit():
    codes, is_second = two_bows()
    with pytest.raises(ConfigError, match=r"prior 'mixtur'.*mixture"):
        fit_new_prior("mixtur", codes)
    with pytest.raises(ConfigError, match=r"'gaussian' is fitted class by class.*use 'flow'"):
        fit_new_prior("gaussian", codes, one_hot(is_second) / 2)
    with pytest.raises(ConfigError, match="conditions must be one-hot"):
        fit_new_prior("mixture", codes, torch.ones(len(codes), 2).double())
    with pytest.raises(ConfigError, match="class 0 has 1 codes: give at least two"):
        fit_new_prior("gaussian", codes[:1])
    with pytest.raises(NonFiniteError, match="1 of 600 codes"):
        fit_new_prior("flow", torch.cat([codes[1:], codes[:1] * math.nan]))


# ---------------------------------------------------------------- models with fitted priors


@pytest.mark.parametrize("kind", [*KINDS, "flow_matching"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_model_uses_its_fitted_prior_exactly_and_saves_it(kind, classes, tmp_path):
    torch.manual_seed(0)
    options = {"condition_dim": classes, "latent_distribution": "student_t"}
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3, **options)).double().eval()
    x = torch.rand(60, 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(60) % 3 if classes else None
    z = model.encode(x, labels)
    condition = model.condition(labels, x)

    volume_term = model.log_prob(x, labels) - model.latent_distribution(z).log_prob(z)
    model.fit_prior(x, kind, labels, steps=20)
    expected = volume_term + model.prior.log_prob(z, *condition)
    assert torch.allclose(model.log_prob(x, labels), expected, atol=1e-9)

    samples, density = model.sample_and_log_prob(5, labels=labels[:5] if classes else None)
    assert samples.shape == (5, 1, 4, 4)
    assert density.isfinite().all()
    if classes:
        assert model.conditioned_on(1).sample(4).shape == (4, 1, 4, 4)
        assert isinstance(model.conditioned_on(1).latent_distribution(z), StudentT)

    model.save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path)).eval()
    assert torch.equal(loaded.log_prob(x, labels), model.log_prob(x, labels))


def test_a_fitted_prior_can_be_removed(tmp_path):
    model = FIF(FIFConfig(input_dim=(5,), latent_dim=2))
    model.fit_prior(torch.rand(20, 5), "gaussian")
    model.prior = None
    model.save(str(tmp_path))
    assert AutoModel.load_from_folder(str(tmp_path)).prior is None


def test_pythae_s_autoencoders_are_densities(tmp_path):
    networks = build_networks("convnet", (1, 8, 8), 4)
    model = as_density(AE(AEConfig((1, 8, 8), 4), *networks))
    x = torch.rand(30, 1, 8, 8)
    assert model.encoder is networks[0]
    assert as_density(model) is model
    assert torch.equal(model({"data": x}).z, model.encode(x))

    model.fit_prior(x, "gaussian")
    model.save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path))
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))


def test_models_that_are_not_densities_are_refused():
    for model in (VAE(VAEConfig((1, 8, 8), 4)), VQVAE(VQVAEConfig((1, 8, 8), 4))):
        with pytest.raises(ConfigError, match=f"{type(model).__name__} is not a deterministic"):
            as_density(model)
    with pytest.raises(ConfigError, match="InjectiveFlow has no default networks"):
        InjectiveFlow(InjectiveFlowConfig((2,), 1))


# ---------------------------------------------------------------- the marginal likelihood


def injective_flow(encode, decode, input_dim, latent_dim):
    encoder = Map("embedding", encode)
    decoder = Map("reconstruction", decode)
    return InjectiveFlow(InjectiveFlowConfig((input_dim,), latent_dim), encoder, decoder).double()


def on_circle(z):
    return 2 * torch.cat([z.cos(), z.sin()], 1)


def angle(x):
    return torch.atan2(x[:, 1:], x[:, :1])


@pytest.fixture
def circle():
    model = injective_flow(angle, on_circle, 2, 1)
    generator = torch.Generator().manual_seed(0)
    angles = 0.7 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    model.fit_prior(model.decode(angles), "gaussian")
    return model


@pytest.mark.parametrize(("noise_std", "samples"), [(0.05, 10), (0.3, 10), (3.0, 10), (0.3, 3)])
def test_the_marginal_likelihood_has_mass_one_for_any_noise(circle, noise_std, samples):
    torch.manual_seed(0)
    reach = 2.5 + 5 * noise_std
    plane, cell = grid_of_plane(reach, math.ceil(6 * reach / noise_std))
    density = circle.marginal_log_prob(plane, noise_std, samples=samples).exp()
    assert float(density.sum()) * cell == pytest.approx(1, abs=5e-3)


def test_the_marginal_likelihood_is_the_integral_over_codes_for_any_encoder(circle):
    torch.manual_seed(0)
    x = circle.sample(200) + 0.2 * torch.randn(200, 2, dtype=torch.float64)
    z = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    error = (circle.decode(z)[:, None] - x).square().sum(-1)
    log_normal = -error / (2 * 0.04) - math.log(2 * math.pi * 0.04)
    log_joint = circle.prior.log_prob(z)[:, None] + log_normal
    expected = log_joint.logsumexp(0) + math.log(10 / 4000)

    not_projecting = injective_flow(lambda x: angle(x) + 0.1, on_circle, 2, 1)
    not_projecting.prior = circle.prior
    for model in (circle, not_projecting):
        density = model.marginal_log_prob(x, 0.2, samples=200)
        assert torch.allclose(density, expected, atol=0.1)
        assert float((density - expected).mean()) == pytest.approx(0, abs=0.005)


@pytest.fixture
def linear_model():
    """A linear model with noise of 0.3, an encoder that does not project, and data (400, 5)."""
    torch.manual_seed(0)
    weight = torch.randn(5, 2).double()
    noise = 0.3 * torch.randn(400, 5).double()
    model = injective_flow(lambda x: 3 * x[:, :2] + 1, lambda z: z @ weight.T, 5, 2)
    x = torch.randn(400, 2).double() @ weight.T + noise
    model.fit_prior(x, "gaussian")
    return model, weight, x


def test_the_marginal_likelihood_of_a_linear_model_is_normal_for_any_encoder(linear_model):
    model, weight, x = linear_model
    scale_tril = model.prior.scale_trils[0, 0]
    normal = torch.distributions.MultivariateNormal(
        model.prior.means[0, 0] @ weight.T,
        weight @ scale_tril @ scale_tril.T @ weight.T + 0.09 * torch.eye(5).double(),
    )
    assert torch.allclose(model.marginal_log_prob(x, 0.3), normal.log_prob(x), atol=1e-6)


def test_samples_with_noise_have_the_density_of_the_marginal_likelihood(linear_model):
    model, weight, _ = linear_model
    scale_tril = model.prior.scale_trils[0, 0]
    covariance = weight @ scale_tril @ scale_tril.T @ weight.T + 0.09 * torch.eye(5).double()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.sample(100_000, generator=generator, noise_std=0.3)

    samples = draw(0)
    root = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(root, torch.cov(samples.T), upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.T, upper=False)
    assert torch.allclose(whitened, torch.eye(5).double(), atol=0.02)
    assert torch.equal(samples, draw(0))


def test_the_marginal_likelihood_with_a_prior_for_each_class(linear_model):
    model, weight, x = linear_model
    two_classes = torch.cat([x, x + 99 * weight[:, 0]])  # far apart
    likelihood = model.marginal_likelihood(two_classes)
    classes = one_hot(torch.arange(800) >= 400)
    prior = fit_new_prior("gaussian", likelihood.z, classes)
    first_class = dataclasses.replace(likelihood, condition=(classes,)).log_prob(prior, 30.0)[:400]
    assert torch.allclose(first_class, model.marginal_log_prob(x, 30.0), atol=1e-6)


def test_the_noise_is_estimated_from_the_reconstruction_error():
    torch.manual_seed(0)
    model = injective_flow(lambda x: x[:, :2], lambda z: torch.cat([z, 0 * z, 0 * z], 1), 6, 2)
    assert model.estimate_noise_std(0.1 * torch.randn(4000, 6)) == pytest.approx(0.1, rel=0.03)
    with pytest.raises(ConfigError, match="noise around the manifold needs a latent_dim below 2"):
        FIF(FIFConfig(input_dim=(2,), latent_dim=2)).estimate_noise_std(torch.rand(5, 2))


def coil(z):
    return torch.cat([(3 * z).cos(), (3 * z).sin(), 0.3 * z], 1)


@pytest.mark.parametrize(
    ("encode", "tolerance"),
    [(lambda x: x[:, 2:] / 0.3, 0.01), (lambda x: 0 * x[:, :1], 0.2)],
    ids=["projecting", "constant"],
)
def test_the_modes_of_a_coil_are_found_with_any_encoder(encode, tolerance):
    torch.manual_seed(0)
    model = injective_flow(encode, coil, 3, 1)
    x = coil(torch.randn(400, 1).double()) + 0.1 * torch.randn(400, 3).double()

    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    log_normal = -torch.cdist(x, coil(z)).square() / (2 * 0.01) - 1.5 * math.log(2 * math.pi * 0.01)
    log_prior = torch.distributions.Normal(0, 1).log_prob(z[:, 0])
    expected = (log_prior + log_normal).logsumexp(1) + math.log(12 / 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the modes are not far from the data
        density = model.marginal_log_prob(x, 0.1)
    loss = float((expected - density).mean())
    assert loss == pytest.approx(0, abs=tolerance)

    assert model.estimate_noise_std(x, codes="mode") == pytest.approx(0.1, rel=0.25)
    model.fit_prior(x, "gaussian", codes="mode")
    assert model.prior.means[0, 0].item() == pytest.approx(0, abs=0.1)
    assert model.prior.scale_trils[0, 0].item() == pytest.approx(1, abs=0.15)


def test_the_modes_of_a_linear_model_are_those_of_its_normal_posterior(linear_model):
    model, weight, x = linear_model
    precision = weight.T @ weight / 0.09 + torch.linalg.inv(model.prior.moments()[1])
    mean = model.prior.moments()[0]
    expected = mean + torch.linalg.solve(precision, weight.T @ (x - mean @ weight.T).T / 0.09).T
    modes = model.marginal_likelihood(x).find_modes(model.prior, 0.3)
    assert torch.allclose(modes, expected, atol=1e-6)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_prior_fitted_to_modes_does_not_depend_on_the_encoder(classes):
    torch.manual_seed(0)
    weight = torch.randn(6, 2).double()
    x = torch.randn(300, 2).double() @ weight.T + 0.1 * torch.randn(300, 6).double()
    labels = torch.arange(300) % classes if classes else None

    def build(bias):
        config = FIFConfig(input_dim=(6,), latent_dim=2, condition_dim=classes)
        encode = lambda x: x[:, :6] @ torch.linalg.pinv(weight).T + bias  # noqa: E731
        encoder = Map("embedding", encode)
        return FIF(config, encoder, Map("reconstruction", lambda z: z[:, :2] @ weight.T)).double()

    right, wrong = build(0.0), build(0.3)
    assert wrong.estimate_noise_std(x, labels) > 2 * right.estimate_noise_std(x, labels)
    for model in (right, wrong):
        model.fit_prior(x, "gaussian", labels, codes="mode")
    assert torch.allclose(right.prior.means, wrong.prior.means, atol=0.02)
    assert torch.allclose(right.prior.scale_trils, wrong.prior.scale_trils, atol=0.02)


def test_codes_are_those_of_the_encoder_or_modes(circle):
    with pytest.raises(ConfigError, match="codes='best': valid: encoder, mode"):
        circle.estimate_noise_std(torch.rand(5, 2), codes="best")


def test_one_warning_says_that_points_are_far_from_the_manifold(circle):
    with pytest.warns(UserWarning, match=r"the squared error is \d+ times as large as noise_std"):
        circle.marginal_log_prob(torch.full((5, 2), 9.0), 0.1)


def test_for_little_noise_the_marginal_likelihood_is_the_exact_loss_of_fif():
    torch.manual_seed(0)
    weight = torch.randn(7, 2).double()
    beta = 1e6
    config = FIFConfig(input_dim=(7,), latent_dim=2, beta=beta, jacobian_at="reconstruction")
    networks = linear_encoder(torch.linalg.pinv(weight)), linear_decoder(weight)
    model = FIF(config, *networks).double().eval()
    x = torch.rand(50, 7).double()
    loss = float(model({"data": x}).loss)
    nll = -model.marginal_log_prob(x, math.sqrt(1 / (2 * beta))).mean()
    assert float(nll) == pytest.approx(loss + 2.5 * math.log(math.pi / beta), abs=1e-4)


# ---------------------------------------------------------------- in the benchmark

SAMPLERS = ["normal", "own_prior", "gmm", "flow", "flow_matching", "vamp"]
FIT = {"seed": 0, "steps": 10}


class Rows:
    """Three splits of random rows, a model of them, its training codes and validation error."""

    def __init__(self, classes):
        torch.manual_seed(0)
        self.shape = {"input_dim": (6,), "latent_dim": 2, "condition_dim": classes}
        self.model = FIF(FIFConfig(**self.shape, latent_distribution="student_t"))
        self.parts = {split: torch.randn(40, 6).numpy() for split in ("train", "val", "test")}
        self.labels = {split: np.arange(40) % 2 for split in self.parts} if classes else {}
        self.splits = Splits(
            "rows", **self.parts, labels=self.labels or None, source="", partial=False
        )
        self.train_labels = self.labels.get("train")
        self.codes = self.model.encode(self.parts["train"], self.train_labels)
        self.options = {"num_samples": 2000, "train_seconds": math.inf, **FIT}


@pytest.mark.parametrize("classes", [0, 2])
def test_the_benchmark_scores_both_splits_with_every_prior(classes, monkeypatch):
    short_ode = functools.partial(flow_matching_prior.solve_ode, steps=2)
    monkeypatch.setattr(flow_matching_prior, "solve_ode", short_ode)
    rows = Rows(classes)
    model = rows.model
    scores = marginal_likelihoods(model, SAMPLERS, rows.splits, rows.labels, **rows.options)
    kinds = {"own_prior": None, "normal": "normal", "gmm": "mixture", "flow": "flow"}
    kinds["flow_matching"] = "flow_matching"
    assert scores.keys() == kinds.keys()

    for name, kind in kinds.items():
        if kind == "normal":
            model = FIF(FIFConfig(**rows.shape), model.encoder, model.decoder)
        elif kind:
            train = rows.parts["train"]
            model.fit_prior(train, kind, rows.train_labels, codes="mode", **FIT)
        torch.manual_seed(0)
        val_labels = rows.labels.get("val")
        noise_std = model.estimate_noise_std(rows.parts["val"], val_labels, codes="mode")
        for split in ("val", "test"):
            labels = rows.labels.get(split)
            nats = model.marginal_log_prob(rows.parts[split], noise_std, labels).numpy()
            likelihood = scores[name][split]
            # Searches start at other codes here, so that single points may find another mode.
            assert likelihood.nats.mean() == pytest.approx(nats.mean(), abs=0.05), name
            assert likelihood.score.scale == pytest.approx(noise_std, abs=1e-3)
            assert [*likelihood.examples] == [*range(40)]

            score = likelihood.score
            assert score.nats == pytest.approx(likelihood.nats.mean(), abs=1e-3)
            assert score.bits_per_dim == pytest.approx(-score.nats / 6 / math.log(2))
            assert (score.points, score.codes) == (40, "mode")


@pytest.mark.parametrize(
    ("num_samples", "seconds_per_point", "expected"),
    [
        (10_000, 0.0, {"train": 10_000, "val": 500, "test": 2_000}),
        (2_000, 0.0, {"train": 10_000, "val": 400, "test": 400}),  # a short profile
        (2_000, 0.010, {"train": 5_000, "val": 200, "test": 200}),  # 14,400 steps: 144 s
        (2_000, 0.030, {"train": 1_250, "val": 50, "test": 50}),
        (10, 0.0, {"train": 10_000, "val": 50, "test": 50}),
        (2_000, 0.060, {"train": 1_000, "val": 50, "test": 50}),  # the smallest numbers
    ],
)
def test_the_number_of_scored_points(num_samples, seconds_per_point, expected):
    sizes = {"train": 20_000, "val": 10_000, "test": 10_000}
    rows = likelihood_module._choose_rows(sizes, num_samples, 3, seconds_per_point, 100)
    assert {split: len(indices) for split, indices in rows.items()} == expected
    assert (rows["test"][0], rows["test"][-1]) == (0, 9_999)


@pytest.mark.parametrize("source", ["split", "table", "folder"])
def test_likelihoods_are_written_point_by_point(tmp_path, source):
    rows = Rows(0)
    examples = {
        "split": [*range(40)],
        "table": [*np.random.default_rng(0).permutation(400)[:40]],
        "folder": [f"cats, old/{number}.png" for number in range(40)],
    }[source]
    if source != "split":
        example_ids = {split: np.array(examples) for split in rows.parts}
        rows.splits = dataclasses.replace(rows.splits, example_ids=example_ids)
    scores = marginal_likelihoods(rows.model, ["normal"], rows.splits, {}, **rows.options)
    test_scores = scores["normal"]["test"]

    path = tmp_path / "likelihood.csv"
    path.write_text(test_scores.to_csv())
    table = pd.read_csv(path)
    assert [*table["file" if source == "folder" else "row"]] == examples
    assert table["nats"].to_numpy() == pytest.approx(test_scores.nats, abs=1e-4)


def test_the_benchmark_leaves_out_likelihoods_that_take_too_long(monkeypatch):
    rows = Rows(0)
    options = {**rows.options, "train_seconds": 1e-9}
    # A training of any length allows some seconds.
    assert marginal_likelihoods(rows.model, ["normal"], rows.splits, {}, **options)
    monkeypatch.setattr(likelihood_module, "FREE_SECONDS", 0)
    with pytest.raises(TooSlowError, match=r"40 points would take .* longer than the training and"):
        marginal_likelihoods(rows.model, ["normal"], rows.splits, {}, **options)


def test_the_points_are_counted():
    rows = Rows(0)
    counts = []
    marginal_likelihoods(
        rows.model,
        ["normal", "gmm"],
        rows.splits,
        {},
        progress=lambda *count: counts.append(count),
        **rows.options,
    )
    done, totals = zip(*counts, strict=True)
    assert set(totals) == {3 * 40 + 2 * 3 * 40}
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1]


def test_the_benchmark_leaves_out_what_has_no_marginal_likelihood():
    rows = Rows(0)
    vae = VAE(VAEConfig((6,), 2))
    for no_density in (vae, AE(AEConfig((6,), 7))):
        assert fit_priors(no_density, SAMPLERS, rows.codes, **FIT) == {}
        scores = marginal_likelihoods(no_density, SAMPLERS, rows.splits, {}, **rows.options)
        assert scores == {}

    exact = torch.zeros(40, 6)
    decoder = Map("reconstruction", lambda z: 0 * z.sum(1, keepdim=True).expand(-1, 6))
    model = InjectiveFlow(
        InjectiveFlowConfig((6,), 2), Map("embedding", lambda x: x[:, :2]), decoder
    )
    splits = dataclasses.replace(rows.splits, train=exact, val=exact, test=exact)
    assert marginal_likelihoods(model, SAMPLERS, splits, {}, **rows.options) == {}


def test_a_class_of_one_code_has_no_mixture():
    rows = Rows(2)
    labels = (np.arange(40) == 7).astype(int)
    priors = fit_priors(rows.model, SAMPLERS, rows.codes, labels, **FIT)
    assert priors.keys() == {"normal", "own_prior", "flow", "flow_matching"}


# ---------------------------------------------------------------- entropy of code directions


def test_the_entropies_of_a_linear_model_are_those_of_principal_components():
    torch.manual_seed(0)
    weight = torch.randn(6, 3).double()
    x = torch.randn(200, 3).double() @ torch.randn(3, 3).double() @ weight.T + 1
    inverse = torch.linalg.pinv(weight)
    turned = torch.linalg.qr(torch.randn(3, 3).double()).Q @ torch.diag(
        torch.tensor([9.0, 1, 0.1]).double()
    )
    model = injective_flow(
        lambda x: (x - 1) @ inverse.T @ turned,
        lambda z: 1 + z @ torch.linalg.inv(turned) @ weight.T,
        6,
        3,
    )
    explained = model.explained_entropy(x)
    variances = PCA(3).fit(x.numpy()).explained_variance_
    expected = 0.5 * np.log(2 * math.pi * math.e * variances)
    assert explained.entropy.numpy() == pytest.approx(expected, abs=1e-6)
    assert explained.total_correlation == pytest.approx(0, abs=1e-6)

    codes = model.encode(x)
    rise = (model.decode(explained.drop(codes, 1)) - x).square().sum(1).mean()
    assert float(rise) == pytest.approx(variances[1] * 199 / 200, rel=1e-6)


def test_a_direction_without_variance_has_no_entropy_and_can_be_dropped():
    codes = torch.randn(50, 2).double() * torch.tensor([1.0, 0.0])
    explained = explain_entropy(codes, torch.eye(2).double().expand(50, 2, 2))
    assert explained.entropy[1] == -math.inf
    assert torch.allclose(explained.drop(codes, 1), codes)


def test_the_total_correlation_of_a_decoder_is_the_angle_between_its_directions():
    """Codes (r, a) of independent size, whose directions are skewed differently at each point."""
    codes = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double()
    angle = math.pi / 2 + 0.8 * torch.sign(codes[:, :1])
    columns = torch.cat([torch.ones_like(angle), angle.cos(), 0 * angle, angle.sin()], 1)
    jacobian = columns.view(-1, 2, 2)
    explained = explain_entropy(codes, jacobian.mT @ jacobian)
    assert explained.total_correlation > 0.01
    total = explained.entropy.sum() - explained.total_correlation
    expected = 1 + math.log(2 * math.pi) + 0.5 * codes.T.cov().logdet() + angle.sin().log().mean()
    assert float(total) == pytest.approx(float(expected), abs=1e-9)
