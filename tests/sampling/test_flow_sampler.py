"""Tests of the samplers in Pythae's style that fit flows to codes."""

import numpy as np
import pytest
import torch
from pythae import models
from pythae.samplers import NormalSampler, NormalSamplerConfig
from support.networks import Map

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError
from pythae_fif.models.fitted_priors import FlowPrior
from pythae_fif.models.flow_matching_prior import FlowMatchingPrior
from pythae_fif.nn import spatial_networks
from pythae_fif.sampling import (
    FlowGenerationPipeline,
    FlowSampler,
    FlowSamplerConfig,
)

SHAPE = (1, 8, 8)
IMAGES = np.random.default_rng(0).integers(0, 100, (40, *SHAPE), dtype=np.uint8)

KINDS = ["flow", "flow_matching"]

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name: str, **options) -> models.BaseAE:
    torch.manual_seed(0)
    sizes = {"input_dim": SHAPE, "latent_dim": 4, **options}
    if name == "FIF":
        return FIF(FIFConfig(**sizes))
    return getattr(models, name)(getattr(models, f"{name}Config")(**sizes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["AE", "FIF", "VAE", "HVAE", "VAMP", "FactorVAE"])
def test_it_fits_any_autoencoder_and_samples(name, kind):
    sampler = FlowSampler(model_of(name), FlowSamplerConfig(kind, steps=3))
    random_state = torch.get_rng_state()
    assert sampler.fit(IMAGES) is sampler
    assert torch.equal(torch.get_rng_state(), random_state)

    samples = sampler.sample(num_samples=7, batch_size=3)
    assert samples.shape == (7, *SHAPE)
    assert not samples.requires_grad
    assert len(samples.flatten(1).unique(dim=0)) == 7


def test_the_prior_is_fitted_to_the_codes_and_decoded():
    """Decoded codes are the codes themselves in the first pixels of an image."""
    model = model_of("AE")
    pad = torch.nn.functional.pad
    codes = 3 + 0.5 * torch.randn(1000, 4)
    model.encoder = Map("embedding", lambda x: x.flatten(1)[:, :4])
    model.decoder = Map("reconstruction", lambda z: pad(z, (0, 60)).reshape(-1, *SHAPE))
    images = pad(codes, (0, 60)).reshape(-1, *SHAPE)

    sampler = FlowSampler(model, FlowSamplerConfig(steps=100)).fit(images)
    assert isinstance(sampler.prior, FlowPrior)
    samples = sampler.sample(1000).flatten(1)[:, :4]
    torch.testing.assert_close(samples.mean(0), codes.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), codes.std(0), atol=0.1, rtol=0)


def test_a_model_in_float64_gets_codes_in_float64():
    model = model_of("AE")
    sampler = FlowSampler(model, FlowSamplerConfig(steps=3)).fit(IMAGES)
    model.double()
    assert sampler.sample(2).dtype == torch.float64


def test_fits_are_seeded():
    model = model_of("VAE")
    codes = torch.randn(5, 4)
    densities = []
    for seed in (0, 0, 1):
        sampler = FlowSampler(model, FlowSamplerConfig(steps=3, seed=seed)).fit(IMAGES)
        densities.append(sampler.prior.log_prob(codes))
    assert torch.equal(densities[0], densities[1])
    assert not torch.equal(densities[0], densities[2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_uses_it(kind, tmp_path):
    config = FlowSamplerConfig(kind, steps=3)
    pipeline = FlowGenerationPipeline(model=model_of("AE"), sampler_config=config)
    assert type(pipeline.sampler) is FlowSampler
    samples = pipeline(
        num_samples=4,
        batch_size=3,
        train_data=IMAGES,
        output_dir=str(tmp_path),
        save_sampler_config=True,
    )
    assert samples.shape == (4, *SHAPE)
    assert len(list(tmp_path.glob("*.png"))) == 4
    saved = FlowSamplerConfig.from_json_file(str(tmp_path / "sampler_config.json"))
    assert saved == config


def test_the_pipeline_uses_pythae_s_samplers_too():
    for arguments in ((), (NormalSamplerConfig(),)):
        pipeline = FlowGenerationPipeline(model_of("AE"), *arguments)
        assert type(pipeline.sampler) is NormalSampler


def test_images_are_saved_and_not_returned(tmp_path):
    sampler = FlowSampler(model_of("AE"), FlowSamplerConfig("flow_matching", steps=2)).fit(IMAGES)
    assert isinstance(sampler.prior, FlowMatchingPrior)
    assert sampler.sample(2, output_dir=str(tmp_path), return_gen=False) is None
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ConfigError, match=r"not fitted: call fit\(train_data\)"):
        FlowSampler(model_of("AE")).sample(2)
    with pytest.raises(ConfigError, match="does not take labels: pass model"):
        FlowSampler(model_of("FIF", condition_dim=3))
    with pytest.raises(ConfigError, match="FlowSamplerConfig: steps=0"):
        FlowSamplerConfig(steps=0)

    networks = spatial_networks("convnet", SHAPE, 4)
    config = models.VQVAEConfig(use_ema=True, input_dim=SHAPE, latent_dim=4)
    with pytest.raises(ConfigError, match="VQVAE has codes of shape"):
        FlowSampler(models.VQVAE(config, *networks)).fit(IMAGES)
