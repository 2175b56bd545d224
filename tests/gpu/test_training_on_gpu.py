"""FIF trains, resumes and is evaluated on a pretended GPU, without waiting for it in a step."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from pythae.models import AutoModel
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from support.experiments import make_tiny_plan
from support.pretended_gpu import Counts, counting
from support.trainings import Killed, kill_at

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.image_run import training_config
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.ensemble import Ensemble
from pythae_fif.evaluation import Extractor, Features, score_samples
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.nn import ResidualDecoder, ResidualEncoder, build_networks
from pythae_fif.sampling.samplers import embed, generate

DIGITS, MNIST, CELEBA = (1, 8, 8), (1, 28, 28), (3, 64, 64)


def _images(shape, count=4):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    images[0].flat[0] = 255
    return images


def _fif(shape=DIGITS, arch="convnet", latent_dim=4, **options):
    torch.manual_seed(0)
    nets = build_networks(arch, shape, latent_dim, condition_dim=options.get("condition_dim", 0))
    return FIF(FIFConfig(input_dim=shape, latent_dim=latent_dim, **options), *nets)


def _trainer(model, folder, *, labels=None, on_epoch=None, callbacks=None, count=4, **options):
    images = _images(model.model_config.input_dim, count)
    sizes = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
    config = FIFTrainerConfig(**{"num_epochs": 2, "learning_rate": 1e-3, **sizes, **options})
    data = ImageDataset(images, labels), ImageDataset(images, labels)
    return FIFTrainer(model, *data, config, callbacks, run_dir=folder, on_epoch=on_epoch)


class _AtEachStep(TrainingCallback):
    """Notes how much was counted when a step ended."""

    def __init__(self, counts: Counts):
        self.counts = counts
        self.steps: list[tuple[int, int]] = []

    def on_train_step_end(self, *_, **__):
        self.steps.append((sum(self.counts.operations.values()), sum(self.counts.waits.values())))


def _second_step(folder, shape, arch, model, options):
    flags = {"models": [model], "arch": arch, "latent_dim": 64 if shape == CELEBA else 16}
    spec = make_tiny_plan(folder, flags, batch_size=2)[0]
    spec = spec.model_copy(update={"parameters": {**spec.parameters, **options}})
    data = ImageDataset(_images(shape))
    with counting() as counts:
        steps = _AtEachStep(counts)
        of, config = spec.build(shape), training_config(spec)
        FIFTrainer(of, data, data, config, [steps], run_dir=folder / "run").train()
    (first, waits_of_first), (second, waits) = steps.steps[:2]
    return second - first, waits - waits_of_first, dict(counts.waits)


@pytest.mark.parametrize(
    ("shape", "arch", "model", "options", "most"),
    [
        (MNIST, "convnet", "fif", {}, 289),
        (MNIST, "resnet", "fif", {"hutchinson_samples": 2}, 269),
        (CELEBA, "resnet", "fif", {}, 200),
        (CELEBA, "resnet", "wae_imq", {}, 180),
        (CELEBA, "resnet", "info_vae_imq", {}, 190),
        (CELEBA, "resnet", "rae_l2", {}, 110),
    ],
    ids=["convnet", "K=2", "fif", "wae_imq", "info_vae_imq", "rae_l2"],
)
def test_step_waits_for_nothing(gpu, tmp_path, shape, arch, model, options, most):
    found, waits, where = gpu(_second_step, tmp_path, shape, arch, model, options)
    assert waits == 0, where
    assert 0.75 * most <= found <= most


def _evaluation_batch(shape, latent_dim):
    model = _fif(shape, "resnet", latent_dim).cuda().eval()
    x = to_float(_images(shape, 2)).cuda()
    with counting() as counts:
        loss = model({"data": x}).loss.item()
    return loss, counts


@pytest.mark.parametrize(
    ("shape", "latent_dim", "operations"),
    [(MNIST, 16, 127), ((3, 32, 32), 256, 131), (CELEBA, 64, 139)],
    ids=["mnist", "cifar", "celeba"],
)
def test_operations_of_an_evaluation_batch(gpu, shape, latent_dim, operations):
    """Two images, each with its exact volume."""
    loss, counts = gpu(_evaluation_batch, shape, latent_dim)
    assert np.isfinite(loss)
    assert sum(counts.operations.values()) <= 1.05 * operations


def _weights(model):
    return {name: value.cpu() for name, value in model.state_dict().items()}


def _trained(folder, options, labels):
    trainer = _trainer(_fif(**options), folder, labels=labels)
    trainer.train()
    return _weights(trainer.model), next(trainer.model.parameters()).device.type


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        pytest.param({"hutchinson_samples": 2}, None, id="K=2"),
        pytest.param({"condition_dim": 10}, np.arange(4), id="conditional"),
        *(
            pytest.param(options, None, id=name, marks=pytest.mark.slow)
            for name, options in {
                "default": {},
                "rademacher": {"hutchinson_kind": "rademacher", "latent_distribution": "student_t"},
                "schedule": {"beta_final": 5.0},
                "half": {"surrogate_fraction": 0.5},
            }.items()
        ),
    ],
)
def test_training_ends_where_that_on_the_cpu_does(gpu, tmp_path, options, labels):
    weights, device = gpu(_trained, tmp_path / "gpu", options, labels)
    assert device == "pretended"
    torch.manual_seed(0)
    expected, _ = _trained(tmp_path / "cpu", options, labels)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)


def _cut_and_resumed(folder):
    try:
        _trainer(_fif(), folder / "cut", on_epoch=kill_at(1)).train()
    except Killed:
        torch.manual_seed(99)
    resumed = _trainer(_fif(), folder / "cut")
    assert resumed.train().epochs == 2
    whole = _trainer(_fif(), folder / "whole")
    whole.train()
    return _weights(resumed.model), _weights(whole.model)


def test_resumes_to_the_same_weights(gpu, tmp_path):
    resumed, whole = gpu(_cut_and_resumed, tmp_path)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def _through_a_pipeline(folder, config_class):
    config = config_class(output_dir=str(folder), num_epochs=1, per_device_train_batch_size=4)
    pipeline = TrainingPipeline(model=_fif(), training_config=config)
    pipeline(train_data=to_float(_images(DIGITS)), eval_data=to_float(_images(DIGITS)))
    model = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model", trust=True)
    return next(pipeline.model.parameters()).device.type, model.latent_dim


@pytest.mark.parametrize("config_class", [BaseTrainerConfig, FIFTrainerConfig])
def test_pythae_pipeline(gpu, tmp_path, config_class):
    assert gpu(_through_a_pipeline, tmp_path, config_class) == ("pretended", 4)


def _rectangular(folder):
    config = RectangularFlowConfig(input_dim=DIGITS, latent_dim=4, jacobian_at="data")
    model = RectangularFlow(config, *build_networks("convnet", DIGITS, 4))
    return _trainer(model, folder, num_epochs=1).train().best_eval_loss


def test_rectangular_flow(gpu, tmp_path):
    assert np.isfinite(gpu(_rectangular, tmp_path))


def _scored(sampler, number, fit_steps=2):
    """Bytes for the features of 20 images, and for samples and their scores, and waits of these."""
    model, images = _fif(MNIST).cuda().eval(), torch.from_numpy(_images(MNIST, 20))
    extractor = Extractor("a", "FD-a", torch.nn.AdaptiveAvgPool2d(2), "0" * 16, "cuda")
    with counting() as of_images:
        held = {"test": Features.from_images(images, extractor)}
    codes = embed(model, images)
    with counting() as of_samples:
        how = {
            "num_samples": number,
            "seed": 0,
            "fit_steps": fit_steps,
            "transform": rounded_images,
        }
        score_samples(generate(sampler, model, codes, **how), extractor, held)
    return of_images.copied, of_samples.copied, sum(of_samples.waits.values())


def test_fit_of_a_sampler_does_not_wait_in_each_step(gpu):
    assert gpu(_scored, "flow", 20, 9)[2] == gpu(_scored, "flow", 20, 3)[2]


@pytest.mark.parametrize("sampler", ["normal", "gaussian", "maf", "flow"])
def test_samples_stay_on_the_gpu_and_images_come_as_bytes(gpu, sampler):
    image = math.prod(MNIST)
    (of_images, few, _), (_, more, _) = (gpu(_scored, sampler, number) for number in (20, 30))
    assert 0 < more - few < 10 * image and of_images < 2 * 20 * image


def _two_members():
    config = FIFConfig(input_dim=(3,), latent_dim=2, noise=0.1)
    nets = [(ResidualEncoder(3, 2, 1, 8), ResidualDecoder(3, 2, 1, 8)) for _ in range(2)]
    return Ensemble([FIF(config, *pair) for pair in nets], [0, 1])


def _ensemble(rows):
    ensemble = _two_members()
    with counting() as counts:
        ensemble.train(torch.randn(rows, 3), epochs=1, batch_size=10)
    x = torch.randn(4, 3)
    there = ensemble.reconstruction_error(x.cuda())
    found = there.device.type, there.cpu(), ensemble.reconstruction_error(x)
    return sum(counts.waits.values()), *found


def test_ensemble(gpu):
    """Its steps wait for nothing. The pretended device cannot hold functorch's tensors."""
    waits, device, there, here = gpu(_ensemble, 40)
    assert device == "pretended" and there.isfinite().all()
    torch.testing.assert_close(here, there)
    assert waits == gpu(_ensemble, 20)[0]


def _places(folder, free):
    """Where the data are, and the weights after a training."""
    with mock.patch.object(torch.cuda, "mem_get_info", lambda *_: (free, 2**34)):
        trainer = _trainer(_fif(), folder, count=6, num_epochs=1)
        trainer.train()
    loaders = (trainer.train_loader, trainer.eval_loader)
    return [loader.dataset.images.device.type for loader in loaders], _weights(trainer.model)


def test_data_without_room_on_the_gpu_come_in_batches(gpu, tmp_path):
    size = _images(DIGITS, 6).nbytes
    inside, weights = gpu(_places, tmp_path / "inside", 4 * size)
    outside, others = gpu(_places, tmp_path / "outside", 4 * size - 1)
    assert ("cpu" in inside, set(outside)) == (False, {"cpu"})
    torch.testing.assert_close(weights, others, rtol=0, atol=0)
