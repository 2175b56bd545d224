"""Pythae's samplers: seeded, of every code, as Pythae draws and with what is odd in it mended."""

import math

import numpy as np
import pytest
import torch
from pythae import models
from pythae.models import BaseAE
from pythae.samplers import PixelCNNSampler, VAMPSampler
from support.networks import Map

from pythae_fif import FIF, FIFConfig
from pythae_fif.baselines import RHVAE
from pythae_fif.data import to_float
from pythae_fif.errors import ConfigError, NonFiniteError
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
"""Darker than Pythae's own fits allow, which ask for a maximum of at least 1."""
DETERMINISTIC = ("AE", "FIF", "RAE_L2", "RAE_GP", "WAE_MMD")
DRAWN = ("VAE", "VAMP", "SVAE", "PoincareVAE", "RHVAE", "HVAE", "FactorVAE", "Adversarial_AE",
         "VQVAE", "maps")  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name: str, latent_dim: int = 4, **options) -> BaseAE:
    """A model of Pythae's own MLPs; maps: a VQVAE of maps of codes."""
    torch.manual_seed(0)
    sizes = {"input_dim": SHAPE, "latent_dim": latent_dim, **options}
    if name == "FIF":
        return FIF(FIFConfig(**sizes))
    if name == "RHVAE":
        return RHVAE(models.RHVAEConfig(**sizes))
    if name == "maps":
        networks = spatial_networks("convnet", SHAPE, latent_dim)
        return models.VQVAE(models.VQVAEConfig(use_ema=True, **sizes), *networks)
    with_line = name in ("RAE_L2", "RAE_GP", "WAE_MMD", "Adversarial_AE")
    config = getattr(models, f"{name}_Config" if with_line else f"{name}Config")
    return getattr(models, name)(config(**sizes))


def decoder_of_codes():
    """Writes codes as they are into the first pixels."""
    pad = torch.nn.functional.pad
    return Map("reconstruction", lambda z: pad(z, (0, 64 - z.shape[1])).reshape(-1, *SHAPE))


def drawn_codes(sampler, codes, number, **options):
    """Codes that a sampler of a fresh autoencoder draws, (n, d)."""
    model = model_of("AE", latent_dim=codes.shape[1])
    model.decoder = decoder_of_codes()
    samples = generate(sampler, model, codes, num_samples=number, seed=0, **options)
    return samples.flatten(1)[:, : codes.shape[1]]


CASES = (
    ("AE", "normal"), ("AE", "gaussian"), ("AE", "gmm"), ("AE", "maf"), ("AE", "iaf"),
    ("AE", "flow"), ("AE", "flow_matching"), ("VAE", "flow_matching"),
    ("VAE", "two_stage"), ("VAMP", "vamp"), ("SVAE", "hypersphere"), ("PoincareVAE", "poincare"),
    ("maps", "pixelcnn"), ("VQVAE", "pixelcnn"), ("RHVAE", "rhvae"), ("FIF", "own_prior"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_seeded_samples_of_the_data_s_shape(name, sampler):
    model = model_of(name)
    codes = embed(model, IMAGES)
    assert len(codes) == 40
    one, same, other = (
        generate(sampler, model, codes, num_samples=20, seed=seed, fit_steps=3)
        for seed in (1, 1, 2)
    )
    assert one.shape == (20, *SHAPE)
    assert one.min() >= 0 and one.max() <= 1
    many = generate(sampler, model, codes, num_samples=510, seed=1, fit_steps=3)
    assert len(many) == 510
    if sampler != "pixelcnn":  # whose codes are few
        assert len(many.flatten(1).unique(dim=0)) == 510  # no batch is another's copy
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *DRAWN])
def test_codes_are_seeded_and_in_the_order_of_the_images(name, monkeypatch):
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 15)
    model = model_of(name)
    codes = embed(model, IMAGES, seed=1)
    assert codes.shape[:2] == (40, 4)
    assert torch.equal(codes, embed(model, IMAGES, seed=1))
    assert not codes.requires_grad
    if name in DETERMINISTIC:
        torch.testing.assert_close(codes, model.encoder(to_float(IMAGES)).embedding.detach())


def test_a_model_that_writes_in_place_changes_no_images():
    images = np.full((4, *SHAPE), -1, np.float32)
    map_batches(lambda model, x: x.relu_(), model_of("AE"), images)
    assert (images == -1).all()


def test_reconstruction_error_is_a_mean_per_pixel(monkeypatch):
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 15)
    model = model_of("AE")
    images = to_float(IMAGES)
    expected = (model.reconstruct(images) - images).square().mean().item()
    assert expected > 0
    assert reconstruction_mse(model, IMAGES) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(model, "reconstruct", lambda x: x.mul_(0).add_(math.inf))
    with pytest.raises(NonFiniteError, match="mean squared error of the reconstructions is inf"):
        reconstruction_mse(model, IMAGES)


def test_no_batch_has_one_image(monkeypatch):
    """Of which the loss of some models of Pythae's divides by zero."""
    monkeypatch.setattr(module, "ENCODE_BATCH_SIZE", 13)
    assert embed(model_of("BetaTCVAE"), IMAGES).shape == (len(IMAGES), 4)


def test_vamp_draws_from_every_pseudo_input_as_often(monkeypatch):
    seen, sample = [], VAMPSampler.sample

    def watched(sampler, num_samples, batch_size):
        seen.append((num_samples, batch_size))
        return sample(sampler, num_samples, batch_size=batch_size)

    monkeypatch.setattr(VAMPSampler, "sample", watched)
    model = model_of("VAMP", number_components=7)
    assert len(generate("vamp", model, torch.zeros(1, 4), num_samples=20, seed=0)) == 20
    assert seen == [(21, 21)]


def test_gaussian_has_the_mean_and_the_covariance_of_the_codes():
    mix = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    codes = noise @ mix.T + torch.tensor([3.0, -2])
    drawn = drawn_codes("gaussian", codes, 100_000)
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(correction=0), atol=0.06, rtol=0)


@pytest.mark.parametrize("name", ["normal", "student_t", "multivariate_student_t"])
def test_prior_draws_what_a_flow_was_trained_with(name):
    model = model_of("FIF", latent_distribution=name, student_t_df=3)
    model.decoder = decoder_of_codes()
    codes = torch.zeros(10, 4)
    found = generate("own_prior", model, codes, num_samples=200, seed=5).flatten(1)[:, :4]
    torch.manual_seed(5)
    drawn = model.latent_distribution(codes).sample(200)
    assert torch.equal(found.msort(), drawn.msort())


@pytest.mark.parametrize("sampler", ["maf", "iaf"])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_flows_learn_codes_of_any_mean_and_scale(sampler, scale):
    """Few steps would not reach these codes, were they not standardised."""
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    codes = scale * (noise * 0.3 + torch.tensor([3.0, -2]))
    drawn = drawn_codes(sampler, codes, 1000, fit_steps=200) / scale
    torch.testing.assert_close(drawn.mean(0), codes.mean(0) / scale, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), codes.std(0) / scale, atol=0.05, rtol=0)
    still = torch.nn.functional.pad(codes, (0, 1), value=7.0)
    assert drawn_codes(sampler, still, 10, fit_steps=3).isfinite().all()


def test_pixelcnn_learns_how_often_each_code_is_used():
    model = model_of("VQVAE", num_embeddings=8, use_ema=True)
    vectors = model.quantizer.embeddings
    model.decoder = decoder_of_codes()
    # Of four coordinates the first is one number or another, the others follow it.
    codes = vectors[torch.tensor([[2, 1, 2, 2]] * 300 + [[5, 5, 5, 6]] * 100)].squeeze(-1)
    samples = generate("pixelcnn", model, codes, num_samples=1000, seed=0, fit_steps=200)
    drawn = samples[:, 0, 0, :4]
    shares = [(drawn == code).all(1).float().mean().item() for code in (codes[0], codes[-1])]
    assert shares == [pytest.approx(0.75, abs=0.12), pytest.approx(0.25, abs=0.12)]


def test_mixture_samples_are_not_grouped_by_component():
    codes = torch.cat([torch.full((40, 4), -50.0), torch.full((40, 4), 50.0)])
    codes = codes + torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
    samples = generate("gmm", model_of("AE"), codes, num_samples=100, seed=0).flatten(1)
    far = (samples - samples[0]).norm(dim=1) > (samples - samples[0]).norm(dim=1).max() / 2
    assert (far[1:] != far[:-1]).sum() > 20


@pytest.mark.parametrize("ema", [True, False])
def test_networks_are_in_evaluation_mode_and_code_vectors_may_be_a_buffer(ema):
    model = model_of("VQVAE", num_embeddings=8, use_ema=ema)
    sampler = PixelCNNSampler(model)
    sampler.is_fitted = True
    sampler.pixelcnn_model.train()
    batches = draw_samples(sampler, 3)
    assert next(batches).shape == (3, *SHAPE)
    assert not sampler.pixelcnn_model.training
    assert sampler.model is model  # while the rest is still to be drawn


def test_what_cannot_be_encoded_is_one_line():
    fif = model_of("FIF", condition_dim=3)
    labels = np.arange(len(IMAGES)) % 3
    with pytest.raises(ConfigError, match="needs labels"):
        embed(fif, IMAGES)
    codes = embed(fif, IMAGES, labels=labels)
    assert torch.equal(embed(fif, IMAGES, labels=torch.from_numpy(labels)), codes)
    assert not torch.equal(embed(fif, IMAGES, labels=labels * 0 + 1), codes)
    model = model_of("AE")
    torch.nn.init.constant_(model.encoder.embedding.bias, math.nan)
    with pytest.raises(NonFiniteError, match="codes of 40 of 40 training images"):
        embed(model, IMAGES)


@pytest.mark.parametrize(
    ("sampler", "model", "error"),
    [
        ("nrmal", "AE", "'nrmal' is unknown: did you mean 'normal'"),
        ("vamp", "AE", "'vamp' cannot sample from AE: VAMP's own prior"),
        ("own_prior", "AE", "'own_prior' cannot sample from AE: the prior that an injective flow"),
        ("pixelcnn", "VAE", "'pixelcnn' cannot sample from VAE: PixelCNN"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(sampler, model, error):
    with pytest.raises(ConfigError, match=error):
        generate(sampler, model_of(model), torch.zeros(9, 4), num_samples=3, seed=0)


def test_a_fit_that_diverges_is_one_line():
    codes = torch.randn(40, 4)
    codes[0] = 1e30
    with pytest.raises(NonFiniteError, match="two_stage sampler gave samples that are not finite"):
        generate("two_stage", model_of("VAE"), codes, num_samples=20, seed=0, fit_steps=9)
