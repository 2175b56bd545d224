"""Pythae's samplers: seeded, of every code, as Pythae draws and with what is odd in it mended."""

import math

import numpy as np
import pytest
import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder
from pythae.samplers import (
    GaussianMixtureSampler,
    MAFSampler,
    NormalSampler,
    PixelCNNSampler,
    VAMPSampler,
)

from pythae_fif import FIF, FIFConfig
from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.plan import RunSpec, build_model
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.data import to_float
from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.sampling import FITTED, SAMPLERS
from pythae_fif.sampling import models as models_module
from pythae_fif.sampling import samplers as samplers_module
from pythae_fif.sampling.models import embed, in_batches, reconstruct, reconstruction_mse
from pythae_fif.sampling.samplers import draw, fit, generate, needs_fit

IMAGES = np.random.default_rng(0).integers(0, 100, (40, 1, 8, 8), dtype=np.uint8)
"""Darker than Pythae's own fits allow, which ask for a maximum of at least 1."""


pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name: str, latent_dim: int = 4, **parameters) -> BaseAE:
    torch.manual_seed(0)
    spec = RunSpec(
        dataset="digits", arch="convnet", model=name,
        parameters={**read_model_entry(name).fixed, **parameters}, varied=(),
        latent_dim=latent_dim, image_size=None, seed=0, extractor="pixels", samplers=("normal",),
        profile="tiny", settings={}, data_hash="0",
    )  # fmt: skip
    return build_model(spec, (1, 8, 8))


class Codes(BaseDecoder):
    """Writes codes as they are into the first pixels."""

    def forward(self, z):
        images = torch.nn.functional.pad(z, (0, 64 - z.shape[1]))
        return ModelOutput(reconstruction=images.reshape(-1, 1, 8, 8))


CASES = (
    ("ae", "normal"), ("ae", "gaussian"), ("ae", "gmm"), ("ae", "maf"), ("ae", "iaf"),
    ("vae", "two_stage"), ("vamp", "vamp"), ("svae", "hypersphere"), ("poincare_vae", "poincare"),
    ("vqvae_spatial", "pixelcnn"), ("vqvae", "pixelcnn"), ("rhvae", "rhvae"),
)  # fmt: skip


def test_every_sampler_is_tested():
    assert {sampler for _, sampler in CASES} == set(SAMPLERS)


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_seeded_samples_of_the_data_s_shape(name, sampler, monkeypatch):
    fits, fit_density = [], samplers_module._fit
    monkeypatch.setattr(samplers_module, "_fit", lambda *of: fits.append(of) or fit_density(*of))
    assert sampler in read_model_entry(name).samplers
    model = model_of(name)
    codes = embed(model, IMAGES)
    assert len(codes) == 40
    one, same, other = (
        generate(sampler, model, codes, num_samples=20, seed=seed, fit_steps=3)
        for seed in (1, 1, 2)
    )
    assert len(fits) == (3 if sampler in FITTED else 0)
    assert one.shape == (20, 1, 8, 8)
    assert one.min() >= 0 and one.max() <= 1
    many = generate(sampler, model, codes, num_samples=510, seed=1, fit_steps=3)
    assert len(many) == 510
    if sampler != "pixelcnn":  # whose codes are few
        assert len(many.flatten(1).unique(dim=0)) == 510  # no batch is another's copy
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", names_in("models"))
def test_codes_are_seeded_and_in_the_order_of_the_images(name, monkeypatch):
    monkeypatch.setattr(models_module, "BATCH_SIZE", 15)
    model = model_of(name)
    codes = embed(model, IMAGES, seed=1)
    assert codes.shape[:2] == (40, 4)
    assert torch.equal(codes, embed(model, IMAGES, seed=1))
    assert not codes.requires_grad
    images = to_float(IMAGES)
    means = model.encoder(images).embedding.detach()
    if name in ("ae", "fif", "rae_gp", "rae_l2", "wae_imq", "wae_rbf", "aae"):
        torch.testing.assert_close(codes, means)
    assert reconstruct(model, IMAGES).shape == images.shape


def test_a_model_that_writes_in_place_changes_no_images():
    model = model_of("ae")
    rows = np.full((4, 1, 8, 8), -1, np.float32)
    rows.flags.writeable = False
    for images in (rows, torch.full((4, 1, 8, 8), -1.0)):
        in_batches(model, images, lambda model, x: x.relu_())
        assert (images == -1).all()


def test_reconstruction_error_is_a_mean_per_pixel(monkeypatch):
    monkeypatch.setattr(models_module, "BATCH_SIZE", 15)
    model = model_of("ae")
    expected = float((reconstruct(model, IMAGES) - to_float(IMAGES)).square().mean())
    assert expected > 0
    assert reconstruction_mse(model, IMAGES) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(model, "reconstruct", lambda x: x.mul_(0).add_(math.inf))
    with pytest.raises(NonFiniteError, match="mean squared error of the reconstructions is inf"):
        reconstruction_mse(model, IMAGES)
    monkeypatch.setattr(model, "reconstruct", lambda x: x.zero_())
    assert reconstruction_mse(model, np.full_like(IMAGES, 255)) == 1


def test_vamp_draws_from_every_pseudo_input_as_often(monkeypatch):
    model = model_of("vamp", number_components=7)
    seen = []
    sample = VAMPSampler.sample

    def watched(sampler, num_samples, batch_size):
        seen.append((num_samples, batch_size))
        return sample(sampler, num_samples, batch_size=batch_size)

    monkeypatch.setattr(VAMPSampler, "sample", watched)
    assert len(generate("vamp", model, torch.zeros(1, 4), num_samples=20, seed=0)) == 20
    assert seen == [(21, 21)]


def test_gaussian_has_the_mean_and_the_covariance_of_the_codes():
    model = model_of("ae", latent_dim=2)
    model.decoder = Codes()
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    codes = torch.randn(500, 2, generator=generator) @ mix.T + torch.tensor([3.0, -2])
    drawn = generate("gaussian", model, codes, num_samples=100_000, seed=0)[:, 0, 0, :2]
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(correction=0), atol=0.06, rtol=0)


def test_flow_learns_the_codes():
    model = model_of("ae", latent_dim=2)
    model.decoder = Codes()
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 2, generator=generator) * 0.3 + torch.tensor([3.0, -2])
    for sampler in ("maf", "iaf"):
        samples = generate(sampler, model, codes, num_samples=1000, seed=0, fit_steps=300)
        drawn = samples[:, 0, 0, :2]
        torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.15, rtol=0)
        torch.testing.assert_close(drawn.std(0), codes.std(0), atol=0.15, rtol=0)


@pytest.mark.parametrize("ema", [True, False])
def test_pixelcnn_learns_how_often_each_code_is_used(ema):
    model = model_of("vqvae", num_embeddings=8, use_ema=ema)
    vectors = model.quantizer.embeddings
    vectors = vectors if ema else vectors.weight.detach()
    model.decoder = Codes()
    # Of four coordinates the first is one number or another, the others follow it.
    codes = vectors[torch.tensor([[2, 1, 2, 2]] * 300 + [[5, 5, 5, 6]] * 100)].squeeze(-1)
    samples = generate("pixelcnn", model, codes, num_samples=1000, seed=0, fit_steps=200)
    drawn = samples[:, 0, 0, :4]
    shares = [(drawn == code).all(1).float().mean().item() for code in (codes[0], codes[-1])]
    assert shares == [pytest.approx(0.75, abs=0.12), pytest.approx(0.25, abs=0.12)]


def test_codes_that_are_not_finite():
    model = model_of("ae")
    torch.nn.init.constant_(model.encoder.embedding.bias, math.nan)
    with pytest.raises(NonFiniteError, match="codes of 40 of 40 training images"):
        embed(model, IMAGES)


def test_fit_that_diverges():
    model = model_of("ae")
    with pytest.raises(NonFiniteError, match=r"fit of the MAF diverged by step \d"):
        generate("maf", model, torch.full((40, 4), 1e30), num_samples=20, seed=0)


def test_mixture_samples_are_not_grouped_by_component():
    codes = torch.cat([torch.full((40, 4), -50.0), torch.full((40, 4), 50.0)])
    codes = codes + torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
    samples = generate("gmm", model_of("ae"), codes, num_samples=100, seed=0).flatten(1)
    far = (samples - samples[0]).norm(dim=1) > (samples - samples[0]).norm(dim=1).max() / 2
    assert (far[1:] != far[:-1]).sum() > 20


class TestDraw:
    def test_batches_with_gradients_off_in_the_sampler_alone(self):
        batches = draw(NormalSampler(model_of("ae")), 30, 12)
        assert [(len(b), b.requires_grad, torch.is_grad_enabled()) for b in batches] == [
            (12, False, True), (12, False, True), (6, False, True),
        ]  # fmt: skip

    def test_networks_of_the_sampler_are_in_evaluation_mode(self):
        sampler = PixelCNNSampler(model_of("vqvae", num_embeddings=8))
        sampler.is_fitted = True
        sampler.pixelcnn_model.train()
        next(draw(sampler, 2))
        assert not sampler.pixelcnn_model.training

    @pytest.mark.parametrize("ema", [True, False])
    def test_code_vectors_that_are_a_buffer(self, ema):
        model = model_of("vqvae", num_embeddings=8, use_ema=ema)
        sampler = PixelCNNSampler(model)
        sampler.is_fitted = True
        batches = draw(sampler, 3)
        assert next(batches).shape == (3, 1, 8, 8)
        assert sampler.model is model  # while the rest is still to be drawn


class TestFit:
    def test_where_it_is_needed(self):
        sampler = MAFSampler(model_of("ae"))
        assert needs_fit(sampler)
        sampler.is_fitted = True
        assert not needs_fit(sampler) and not needs_fit(NormalSampler(model_of("ae")))

    def test_says_what_pythae_asserts(self):
        sampler = GaussianMixtureSampler(model_of("ae"))
        with pytest.raises(DataError, match=r"from 0.8 to 0.8, and Pythae fits"):
            fit(sampler, torch.full((8, 1, 8, 8), 0.8))
        fit(sampler, torch.rand(40, 1, 8, 8).round())
        assert sampler.is_fitted

    @pytest.mark.parametrize(("name", "count"), [("ae", 40), ("factor_vae", 101)])
    def test_of_a_model_in_training_mode_and_without_a_batch_of_one(self, name, count):
        sampler = GaussianMixtureSampler(model_of(name))
        sampler.model.encoder.norm = torch.nn.BatchNorm2d(1)
        sampler.model.encoder.register_forward_pre_hook(lambda encoder, x: encoder.norm(x[0]))
        sampler.model.train()
        fit(sampler, torch.rand(count, 1, 8, 8).round())
        assert sampler.model.encoder.norm.num_batches_tracked == 0


def test_a_mixture_that_does_not_converge_is_named(monkeypatch, caplog):
    model = model_of("ae")
    codes = embed(model, IMAGES)
    generate("gmm", model, codes, num_samples=5, seed=0)
    assert not caplog.records
    monkeypatch.setattr(samplers_module, "MIXTURE_STEPS", 1)
    assert len(generate("gmm", model, codes, num_samples=5, seed=0)) == 5
    (record,) = caplog.records
    assert "did not converge in 1 steps" in record.getMessage()


def test_what_cannot_be_encoded_or_drawn_is_told():
    fif = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=3))
    labels = np.arange(len(IMAGES)) % 3
    with pytest.raises(ConfigError, match="needs labels"):
        embed(fif, IMAGES)
    codes = embed(fif, IMAGES, labels=labels)
    assert torch.equal(embed(fif, IMAGES, labels=torch.from_numpy(labels)), codes)
    assert not torch.equal(embed(fif, IMAGES, labels=labels * 0 + 1), codes)
    with pytest.raises(DataError, match=r"images are torch\.int64: uint8, or floating point"):
        embed(fif, IMAGES.astype(np.int64), labels=labels)
    with pytest.raises(DataError, match="no images: one is needed"):
        embed(fif, IMAGES[:0])
    plain = model_of("ae")
    with pytest.raises(ConfigError, match="sampler 'nrmal' is unknown: did you mean 'normal'"):
        generate("nrmal", plain, codes, num_samples=3, seed=0)
    with pytest.raises(ConfigError, match="num_samples=0: at least 1"):
        generate("normal", plain, codes, num_samples=0, seed=0)
    for images in (torch.zeros(0, 1, 8, 8), torch.from_numpy(IMAGES), to_float(IMAGES) * 2 - 1):
        with pytest.raises(DataError, match=r"images: torch.* and Pythae fits a sampler only to"):
            fit(GaussianMixtureSampler(plain), images)
