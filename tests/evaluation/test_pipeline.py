"""The evaluation pipeline: every Pythae model and sampler, seeds, caches, JSON."""

import inspect
import json
from dataclasses import asdict

import pytest
import torch
from pythae import models, samplers
from pythae.trainers import BaseTrainerConfig
from support.features import noise_images

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import EvaluationPipeline, Features, frechet_distance

pytestmark = pytest.mark.filterwarnings("ignore:scores of", "ignore::UserWarning:pythae.*")
SHAPE = (1, 8, 8)


def full_range(rows: int, seed: int) -> torch.Tensor:
    """Images that reach 0 and 1, as samplers of Pythae 0.1.2 want them."""
    images = noise_images(rows, *SHAPE, seed=seed)
    images[0], images[1] = 0, 255
    return images


def build(name: str, **options):
    torch.manual_seed(0)
    joint = "_" if hasattr(models, f"{name}_Config") else ""
    config = getattr(models, f"{name}{joint}Config")(input_dim=SHAPE, latent_dim=2, **options)
    return getattr(models, name)(config)


@pytest.fixture(scope="module")
def train() -> torch.Tensor:
    return full_range(64, seed=1)


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    return full_range(40, seed=2)


def pipeline(model, sampler=None, **options):
    usual = {"extractor": "pixels", "num_samples": 30, "batch_size": 12}
    return EvaluationPipeline(model, sampler, **(usual | options))


OPTIONS = {"VAMP": {"number_components": 5}, "VQVAE": {"num_embeddings": 4}, "RHVAE": {"n_lf": 1}}
SAMPLERS = {
    "NormalSampler": ("VAE", samplers.NormalSamplerConfig()),
    "GaussianMixtureSampler": ("VAE", samplers.GaussianMixtureSamplerConfig(n_components=3)),
    "VAMPSampler": ("VAMP", samplers.VAMPSamplerConfig()),
    "MAFSampler": ("VAE", samplers.MAFSamplerConfig(n_made_blocks=1, hidden_size=4)),
    "IAFSampler": ("VAE", samplers.IAFSamplerConfig(n_made_blocks=1, hidden_size=4)),
    "TwoStageVAESampler": ("VAE", samplers.TwoStageVAESamplerConfig(second_layers_dim=4)),
    "HypersphereUniformSampler": ("SVAE", samplers.HypersphereUniformSamplerConfig()),
    "PoincareDiskSampler": ("PoincareVAE", samplers.PoincareDiskSamplerConfig()),
    "PixelCNNSampler": ("VQVAE", samplers.PixelCNNSamplerConfig(n_embeddings=4, n_layers=2)),
    "RHVAESampler": ("RHVAE", samplers.RHVAESamplerConfig(mcmc_steps_nbr=2, n_lf=1)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler(name, train, held_out, tmp_path):
    """A second call has the same scores."""
    model_name, config = SAMPLERS[name]
    model = build(model_name, **OPTIONS.get(model_name, {}))
    if model_name == "RHVAE":
        model.M_tens, model.centroids_tens = torch.zeros(4, 2, 2), torch.zeros(4, 2)
    run = pipeline(model, config)
    if "training_config" in inspect.signature(run.sampler.fit).parameters:  # a network
        training = BaseTrainerConfig(output_dir=str(tmp_path), num_epochs=1)
        run.sampler.fit(train / 255, training_config=training)
    scores = run(train, held_out)
    assert type(run.sampler).__name__ == name
    assert scores.num_samples == 30 and run(train, held_out) == scores


def test_scores_are_those_of_the_samples(train, held_out, pixels):
    """One batch of the same seed, scored by hand."""
    model = build("VAE")
    scores = pipeline(model, batch_size=30, seed=3)(train, held_out)
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = samplers.NormalSampler(model).sample(30, batch_size=30)
    sets = [Features.from_images(images, pixels) for images in (drawn, held_out)]
    assert scores.frechet["eval"] == pytest.approx(frechet_distance(*sets), rel=1e-9)
    assert scores.rounded and scores.seed == 3
    torch.manual_seed(10)
    assert pipeline(model, batch_size=30, seed=3)(train, held_out) == scores
    assert pipeline(model, seed=2)(train, held_out).frechet != scores.frechet


def test_forms_of_data(held_out):
    model = build("VAE")
    expected = pipeline(model)(None, held_out)
    model.model_config.input_dim = None  # as of networks of one's own
    for form in (held_out.numpy(), held_out.double() / 255):
        assert pipeline(model)(None, form).frechet == expected.frechet


def test_json_and_memorisation(train, held_out, tmp_path):
    scores = pipeline(build("VAE"))(train, held_out)
    path = scores.save_json(tmp_path / "new")
    assert [*path.parent.iterdir()] == [path] and path.name == "evaluation.json"
    held = json.loads(path.read_text())
    assert held == asdict(scores) and held["extractor_hash"]
    assert 0 < held["frechet_error"]["eval"] < held["frechet"]["eval"]
    assert 0 <= held["memorisation"]["nearer"]["eval"] <= 1
    left_out = pipeline(build("VAE"))(None, held_out)
    assert left_out.memorisation is None and left_out.frechet == scores.frechet


def test_what_does_not_do(held_out):
    with pytest.raises(ConfigError, match=r"does not take a table"):
        pipeline(FIF(FIFConfig(input_dim=(8, 8), latent_dim=2)))(None, held_out[:, 0])
    run = pipeline(build("VAE"), samplers.GaussianMixtureSamplerConfig())
    with pytest.raises(ConfigError, match="GaussianMixtureSampler must be fitted"):
        run(None, held_out)
    with pytest.raises(DataError, match="largest value is 1"):
        run(held_out // 2, held_out)
    with pytest.raises(DataError, match=r"eval_data: samples of .*8, 5.*, needs .*8, 8"):
        run(None, held_out[..., :5])
