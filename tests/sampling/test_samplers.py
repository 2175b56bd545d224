"""Pythae's samplers: seeded, fitted to all codes, and with Pythae's peculiarities worked around."""

import math

import numpy as np
import pytest
import torch
from pythae import models
from pythae.models import BaseAE
from pythae.samplers import NormalSampler, PixelCNNSampler, VAMPSampler
from support.networks import Map

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import to_float
from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.nn import spatial_networks
from pythae_fif.sampling import samplers as module
from pythae_fif.sampling.samplers import (
    draw_samples,
    embed,
    generate,
    map_batches,
    reconstruction_mse,
)

SHAPE = (1, 8, 8)
IMAGES = np.random.default_rng(0).integers(0, 100, (40, *SHAPE), dtype=np.uint8)
"""Darker than Pythae's own fits allow: they ask for a maximum of at least 1."""
DETERMINISTIC = ("AE", "FIF", "RAE_L2", "RAE_GP", "WAE_MMD")
RANDOM = ("VAE", "VAMP", "SVAE", "PoincareVAE", "HVAE", "FactorVAE", "Adversarial_AE",
         "VQVAE", "maps")  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def build_model(name: str, latent_dim: int = 4, **options) -> BaseAE:
    """Builds a model with Pythae's MLPs; `maps` is a VQVAE with maps of codes."""
    torch.manual_seed(0)
    sizes = {"input_dim": SHAPE, "latent_dim": latent_dim, **options}
    if name == "FIF":
        return FIF(FIFConfig(**sizes))
    if name == "maps":
        networks = spatial_networks("convnet", SHAPE, latent_dim)
        return models.VQVAE(models.VQVAEConfig(use_ema=True, **sizes), *networks)
    has_underscore = name in ("RAE_L2", "RAE_GP", "WAE_MMD", "Adversarial_AE")
    config = getattr(models, f"{name}_Config" if has_underscore else f"{name}Config")
    return getattr(models, name)(config(**sizes))


def code_decoder():
    """Builds a decoder that writes codes into the first pixels."""
    pad = torch.nn.functional.pad
    return Map("reconstruction", lambda z: pad(z, (0, 64 - z.shape[1])).reshape(-1, *SHAPE))


def draw_codes(sampler, codes, number, **options):
    """Draws codes (n, d) with a sampler of an untrained autoencoder."""
    model = build_model("AE", latent_dim=codes.shape[1])
    model.decoder = code_decoder()
    samples = generate(sampler, model, codes, num_samples=number, seed=0, **options)
    return samples.flatten(1)[:, : codes.shape[1]]


CASES = (
    ("AE", "normal"), ("AE", "gaussian"), ("AE", "gmm"), ("AE", "maf"), ("AE", "iaf"),
    ("AE", "flow"), ("AE", "flow_matching"), ("VAE", "flow_matching"),
    ("VAE", "two_stage"), ("VAMP", "vamp"), ("SVAE", "hypersphere"), ("PoincareVAE", "poincare"),
    ("maps", "pixelcnn"), ("VQVAE", "pixelcnn"), ("FIF", "own_prior"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_samples_are_seeded_have_the_shape_of_the_data_and_differ(name, sampler):
    model = build_model(name)
    codes = embed(model, IMAGES)
    assert len(codes) == 40

    def draw(num_samples, seed):
        return generate(sampler, model, codes, num_samples=num_samples, seed=seed, fit_steps=3)

    samples = draw(20, seed=1)
    assert samples.shape == (20, *SHAPE)
    assert samples.min() >= 0
    assert samples.max() <= 1
    assert torch.equal(draw(20, seed=1), samples)
    assert not torch.equal(draw(20, seed=2), samples)

    two_batches = draw(510, seed=1)
    if sampler != "pixelcnn":  # it has few different codes
        assert len(two_batches.flatten(1).unique(dim=0)) == 510


@pytest.mark.parametrize("name", [*DETERMINISTIC, *RANDOM])
def test_codes_are_seeded_and_in_the_order_of_the_images(name, monkeypatch):
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 15)
    model = build_model(name)
    codes = embed(model, IMAGES, seed=1)
    assert codes.shape[:2] == (40, 4)
    assert torch.equal(codes, embed(model, IMAGES, seed=1))
    assert not codes.requires_grad
    if name in DETERMINISTIC:
        torch.testing.assert_close(codes, model.encoder(to_float(IMAGES)).embedding.detach())


def test_a_model_that_writes_in_place_changes_no_images():
    images = np.full((4, *SHAPE), -1, np.float32)
    map_batches(lambda model, x: x.relu_(), build_model("AE"), images)
    assert (images == -1).all()


def test_reconstruction_error_is_a_mean_per_pixel(monkeypatch):
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 15)
    model = build_model("AE")
    images = to_float(IMAGES)
    expected = (model.reconstruct(images) - images).square().mean().item()
    assert expected > 0
    assert reconstruction_mse(model, IMAGES) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(model, "reconstruct", lambda x: x.mul_(0).add_(math.inf))
    with pytest.raises(NonFiniteError, match="mean squared error of the reconstructions is inf"):
        reconstruction_mse(model, IMAGES)


def test_no_batch_has_one_image(monkeypatch):
    """The loss of some of Pythae's models would divide by zero."""
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 13)
    assert embed(build_model("BetaTCVAE"), IMAGES).shape == (len(IMAGES), 4)


def test_vamp_draws_from_every_pseudo_input_as_often(monkeypatch):
    calls = []
    sample = VAMPSampler.sample

    def record_call(sampler, num_samples, batch_size):
        calls.append((num_samples, batch_size))
        return sample(sampler, num_samples, batch_size=batch_size)

    monkeypatch.setattr(VAMPSampler, "sample", record_call)
    model = build_model("VAMP", number_components=7)
    assert len(generate("vamp", model, torch.zeros(1, 4), num_samples=20, seed=0)) == 20
    assert calls == [(21, 21)]


def test_gaussian_has_the_mean_and_the_covariance_of_the_codes():
    mix = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    codes = noise @ mix.T + torch.tensor([3.0, -2])
    samples = draw_codes("gaussian", codes, 100_000)
    torch.testing.assert_close(samples.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(samples.T.cov(), codes.T.cov(correction=0), atol=0.06, rtol=0)


@pytest.mark.parametrize("name", ["normal", "student_t", "multivariate_student_t"])
def test_own_prior_draws_from_the_prior_of_the_training(name):
    model = build_model("FIF", latent_distribution=name, student_t_df=3)
    model.decoder = code_decoder()
    codes = torch.zeros(10, 4)
    samples = generate("own_prior", model, codes, num_samples=200, seed=5).flatten(1)[:, :4]
    torch.manual_seed(5)
    expected = model.latent_distribution(codes).sample(200)
    assert torch.equal(samples.msort(), expected.msort())


@pytest.mark.parametrize("sampler", ["maf", "iaf"])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_flows_learn_codes_of_any_mean_and_scale(sampler, scale):
    """Without standardisation, so few steps would not reach these codes."""
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    codes = scale * (noise * 0.3 + torch.tensor([3.0, -2]))
    samples = draw_codes(sampler, codes, 1000, fit_steps=200) / scale
    torch.testing.assert_close(samples.mean(0), codes.mean(0) / scale, atol=0.05, rtol=0)
    torch.testing.assert_close(samples.std(0), codes.std(0) / scale, atol=0.05, rtol=0)

    with_constant = torch.nn.functional.pad(codes, (0, 1), value=7.0)
    assert draw_codes(sampler, with_constant, 10, fit_steps=3).isfinite().all()


def test_pixelcnn_learns_how_often_each_code_is_used():
    model = build_model("VQVAE", num_embeddings=8, use_ema=True)
    vectors = model.quantizer.embeddings
    model.decoder = code_decoder()
    # The first of four coordinates is one of two numbers, and determines the others.
    codes = vectors[torch.tensor([[2, 1, 2, 2]] * 300 + [[5, 5, 5, 6]] * 100)].squeeze(-1)
    samples = generate("pixelcnn", model, codes, num_samples=1000, seed=0, fit_steps=200)

    def share(code):
        return (samples[:, 0, 0, :4] == code).all(1).float().mean().item()

    assert share(codes[0]) == pytest.approx(0.75, abs=0.12)
    assert share(codes[-1]) == pytest.approx(0.25, abs=0.12)


def test_mixture_samples_are_not_grouped_by_component():
    codes = torch.cat([torch.full((40, 4), -50.0), torch.full((40, 4), 50.0)])
    codes = codes + torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
    samples = generate("gmm", build_model("AE"), codes, num_samples=100, seed=0).flatten(1)
    distances = (samples - samples[0]).norm(dim=1)
    in_other_component = distances > distances.max() / 2
    assert (in_other_component[1:] != in_other_component[:-1]).sum() > 20


@pytest.mark.parametrize("ema", [True, False])
def test_networks_are_in_evaluation_mode_and_code_vectors_may_be_a_buffer(ema):
    model = build_model("VQVAE", num_embeddings=8, use_ema=ema)
    sampler = PixelCNNSampler(model)
    sampler.is_fitted = True
    sampler.pixelcnn_model.train()
    batches = draw_samples(sampler, 3)
    assert next(batches).shape == (3, *SHAPE)
    assert not sampler.pixelcnn_model.training
    assert sampler.model is model  # although more batches are still to be drawn


def test_a_conditional_model_is_encoded_with_labels():
    fif = build_model("FIF", condition_dim=3)
    labels = np.arange(len(IMAGES)) % 3
    with pytest.raises(ConfigError, match="needs labels"):
        embed(fif, IMAGES)

    codes = embed(fif, IMAGES, labels=labels)
    assert torch.equal(embed(fif, IMAGES, labels=torch.from_numpy(labels)), codes)
    assert not torch.equal(embed(fif, IMAGES, labels=labels * 0 + 1), codes)


def test_codes_that_are_not_finite_are_one_line():
    model = build_model("AE")
    torch.nn.init.constant_(model.encoder.embedding.bias, math.nan)
    with pytest.raises(NonFiniteError, match="codes of 40 of 40 training images"):
        embed(model, IMAGES)


@pytest.mark.parametrize(
    ("sampler", "name", "message"),
    [
        ("nrmal", "AE", "'nrmal' is unknown: did you mean 'normal'"),
        ("vamp", "AE", "'vamp' cannot sample from AE: it is for VAMP"),
        ("own_prior", "AE", "'own_prior' cannot sample from AE: it is for InjectiveFlow"),
        ("pixelcnn", "VAE", "'pixelcnn' cannot sample from VAE: it is for VQVAE"),
    ],
)
def test_a_sampler_that_does_not_suit_the_model_is_one_line(sampler, name, message):
    with pytest.raises(ConfigError, match=message):
        generate(sampler, build_model(name), torch.zeros(9, 4), num_samples=3, seed=0)


def test_a_fit_that_diverges_is_one_line():
    codes = torch.randn(40, 4)
    codes[0] = 1e30
    with pytest.raises(NonFiniteError, match="two_stage sampler gave samples that are not finite"):
        generate("two_stage", build_model("VAE"), codes, num_samples=20, seed=0, fit_steps=9)


@pytest.mark.parametrize("shape", [(3, *SHAPE[::-1]), (3, 1, 16, 16), (6, *SHAPE), (3, 1, 4, 4)])
def test_samples_of_another_shape_are_refused(shape):
    sampler = NormalSampler(build_model("AE"))
    sampler.sample = lambda **options: torch.zeros(shape)
    with pytest.raises(DataError, match=r"the sampler returned shape \(.*\), needs \(3, "):
        next(draw_samples(sampler, 3))
