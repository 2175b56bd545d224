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
    """Draws images that reach 0 and 1, as samplers of Pythae 0.1.2 need."""
    images = noise_images(rows, *SHAPE, seed=seed)
    images[0] = 0
    images[1] = 255
    return images


def build_model(name: str, **options):
    torch.manual_seed(0)
    separator = "_" if hasattr(models, f"{name}_Config") else ""
    config_class = getattr(models, f"{name}{separator}Config")
    config = config_class(input_dim=SHAPE, latent_dim=2, **options)
    return getattr(models, name)(config)


@pytest.fixture(scope="module")
def train() -> torch.Tensor:
    return full_range(64, seed=1)


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    return full_range(40, seed=2)


def build_pipeline(model, sampler=None, **options):
    defaults = {"extractor": "pixels", "num_samples": 30, "batch_size": 12}
    return EvaluationPipeline(model, sampler, **(defaults | options))


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
    model = build_model(model_name, **OPTIONS.get(model_name, {}))
    if model_name == "RHVAE":
        model.M_tens = torch.zeros(4, 2, 2)
        model.centroids_tens = torch.zeros(4, 2)
    pipeline = build_pipeline(model, config)
    if "training_config" in inspect.signature(pipeline.sampler.fit).parameters:  # a network
        training = BaseTrainerConfig(output_dir=str(tmp_path), num_epochs=1)
        pipeline.sampler.fit(train / 255, training_config=training)

    scores = pipeline(train, held_out)
    assert type(pipeline.sampler).__name__ == name
    assert scores.num_samples == 30
    assert pipeline(train, held_out) == scores


def test_scores_are_the_scores_of_the_samples(train, held_out, pixels):
    """One batch with the same seed, scored without the pipeline."""
    model = build_model("VAE")
    scores = build_pipeline(model, batch_size=30, seed=3)(train, held_out)
    assert scores.rounded
    assert scores.seed == 3

    torch.manual_seed(3)
    with torch.no_grad():
        samples = samplers.NormalSampler(model).sample(30, batch_size=30)
    sample_features = Features.from_images(samples, pixels)
    reference = Features.from_images(held_out, pixels)
    expected = frechet_distance(sample_features, reference)
    assert scores.frechet["eval"] == pytest.approx(expected, rel=1e-9)


def test_scores_depend_only_on_the_seed(train, held_out):
    model = build_model("VAE")
    scores = build_pipeline(model, batch_size=30, seed=3)(train, held_out)
    torch.manual_seed(10)
    assert build_pipeline(model, batch_size=30, seed=3)(train, held_out) == scores
    assert build_pipeline(model, seed=2)(train, held_out).frechet != scores.frechet


def test_forms_of_data(held_out):
    model = build_model("VAE")
    expected = build_pipeline(model)(None, held_out)
    model.model_config.input_dim = None  # as in a model with a user's networks
    for images in (held_out.numpy(), held_out.double() / 255):
        assert build_pipeline(model)(None, images).frechet == expected.frechet


def test_json(train, held_out, tmp_path):
    scores = build_pipeline(build_model("VAE"))(train, held_out)
    path = scores.save_json(tmp_path / "new")
    assert [*path.parent.iterdir()] == [path]
    assert path.name == "evaluation.json"

    content = json.loads(path.read_text())
    assert content == asdict(scores)
    assert content["extractor_hash"]
    assert 0 < content["extra"]["frechet_error"]["eval"] < content["frechet"]["eval"]


def test_memorisation_needs_training_images(train, held_out):
    scores = build_pipeline(build_model("VAE"))(train, held_out)
    assert 0 <= scores.memorisation.nearer["eval"] <= 1

    without_training = build_pipeline(build_model("VAE"))(None, held_out)
    assert without_training.memorisation is None
    assert without_training.frechet == scores.frechet


def test_unsuitable_data_are_refused(held_out):
    table_model = FIF(FIFConfig(input_dim=(8, 8), latent_dim=2))
    with pytest.raises(ConfigError, match=r"does not take a table"):
        build_pipeline(table_model)(None, held_out[:, 0])

    pipeline = build_pipeline(build_model("VAE"), samplers.GaussianMixtureSamplerConfig())
    with pytest.raises(ConfigError, match="GaussianMixtureSampler must be fitted"):
        pipeline(None, held_out)
    with pytest.raises(DataError, match="largest value 1"):
        pipeline(held_out // 2, held_out)
    with pytest.raises(DataError, match=r"eval_data: images have shape .*8, 5.* model's is .*8, 8"):
        pipeline(None, held_out[..., :5])
