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

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig, FIFTrainingPipeline
from pythae_fif.baselines import RectangularFlow, RectangularFlowConfig
from pythae_fif.benchmark.build import build_model, training_config
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.ensemble import Ensemble
from pythae_fif.evaluation import Extractor, Features, score_samples
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.nn import ResidualDecoder, ResidualEncoder, build_networks
from pythae_fif.sampling.samplers import embed, generate

DIGITS = (1, 8, 8)
MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
CELEBA = (3, 64, 64)


def _draw_images(shape, count=4):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    images[0].flat[0] = 255
    return images


def _build_fif(shape=DIGITS, arch="convnet", latent_dim=4, **options):
    torch.manual_seed(0)
    condition_dim = options.get("condition_dim", 0)
    encoder, decoder = build_networks(arch, shape, latent_dim, condition_dim=condition_dim)
    config = FIFConfig(input_dim=shape, latent_dim=latent_dim, **options)
    return FIF(config, encoder, decoder)


def _build_trainer(
    model, folder, *, labels=None, on_epoch=None, callbacks=None, count=4, **options
):
    images = _draw_images(model.model_config.input_dim, count)
    train = ImageDataset(images, labels)
    evaluation = ImageDataset(images, labels)
    defaults = {
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
    }
    config = FIFTrainerConfig(**{**defaults, **options})
    return FIFTrainer(
        model, train, evaluation, config, callbacks, run_dir=folder, on_epoch=on_epoch
    )


class _StepRecorder(TrainingCallback):
    """Records the counted operations and waits at the end of each step."""

    def __init__(self, counts: Counts):
        self.counts = counts
        self.steps: list[tuple[int, int]] = []

    def on_train_step_end(self, *_, **__):
        operations = sum(self.counts.operations.values())
        waits = sum(self.counts.waits.values())
        self.steps.append((operations, waits))


def _count_in_second_step(folder, shape, arch, model, options):
    """Returns the operations and waits of the second step, and the places of all waits."""
    flags = {"models": [model], "arch": arch, "latent_dim": 64 if shape == CELEBA else 16}
    training = make_tiny_plan(folder, flags, batch_size=2)[0].training
    training = training.model_copy(update={"parameters": {**training.parameters, **options}})
    data = ImageDataset(_draw_images(shape))

    with counting() as counts:
        recorder = _StepRecorder(counts)
        built_model = build_model(training, shape)
        config = training_config(training)
        trainer = FIFTrainer(built_model, data, data, config, [recorder], run_dir=folder / "run")
        trainer.train()
    (operations_1, waits_1), (operations_2, waits_2) = recorder.steps[:2]
    return operations_2 - operations_1, waits_2 - waits_1, dict(counts.waits)


@pytest.mark.parametrize(
    ("shape", "arch", "model", "options", "max_operations"),
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
def test_step_waits_for_nothing(gpu, tmp_path, shape, arch, model, options, max_operations):
    operations, waits, places = gpu(_count_in_second_step, tmp_path, shape, arch, model, options)
    assert waits == 0, places
    assert 0.75 * max_operations <= operations <= max_operations


def _evaluate_a_batch(shape, latent_dim):
    model = _build_fif(shape, "resnet", latent_dim).cuda().eval()
    x = to_float(_draw_images(shape, 2)).cuda()
    with counting() as counts:
        loss = model({"data": x}).loss.item()
    return loss, counts


@pytest.mark.parametrize(
    ("shape", "latent_dim", "operations"),
    [(MNIST, 16, 135), (CIFAR, 256, 131), (CELEBA, 64, 139)],
    ids=["mnist", "cifar", "celeba"],
)
def test_operations_of_an_evaluation_batch(gpu, shape, latent_dim, operations):
    """The batch has two images, each with its exact volume."""
    loss, counts = gpu(_evaluate_a_batch, shape, latent_dim)
    assert np.isfinite(loss)
    assert sum(counts.operations.values()) <= 1.05 * operations


def _weights_on_cpu(model):
    return {name: value.cpu() for name, value in model.state_dict().items()}


def _train(folder, options, labels):
    """Trains a FIF, and returns its weights and the type of its device."""
    trainer = _build_trainer(_build_fif(**options), folder, labels=labels)
    trainer.train()
    device = next(trainer.model.parameters()).device
    return _weights_on_cpu(trainer.model), device.type


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
def test_training_ends_as_on_the_cpu(gpu, tmp_path, options, labels):
    weights, device = gpu(_train, tmp_path / "gpu", options, labels)
    assert device == "pretended"
    torch.manual_seed(0)
    expected, _ = _train(tmp_path / "cpu", options, labels)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)


def _train_killed_and_uninterrupted(folder):
    """Returns the weights of a killed and resumed training, and of an uninterrupted one."""
    try:
        _build_trainer(_build_fif(), folder / "killed", on_epoch=kill_at(1)).train()
    except Killed:
        torch.manual_seed(99)
    resumed = _build_trainer(_build_fif(), folder / "killed")
    assert resumed.train().epochs == 2

    uninterrupted = _build_trainer(_build_fif(), folder / "uninterrupted")
    uninterrupted.train()
    return _weights_on_cpu(resumed.model), _weights_on_cpu(uninterrupted.model)


def test_resumes_to_the_same_weights(gpu, tmp_path):
    resumed, uninterrupted = gpu(_train_killed_and_uninterrupted, tmp_path)
    torch.testing.assert_close(resumed, uninterrupted, rtol=0, atol=0)


def _train_in_pipeline(folder, pipeline_class):
    """Trains a FIF in a pipeline; returns its device, and the size of the loaded model."""
    config = BaseTrainerConfig(output_dir=str(folder), num_epochs=1, per_device_train_batch_size=4)
    pipeline = pipeline_class(model=_build_fif(), training_config=config)
    images = to_float(_draw_images(DIGITS))
    pipeline(train_data=images, eval_data=images.clone())

    model = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model", trust=True)
    device = next(pipeline.model.parameters()).device
    return device.type, model.latent_dim


@pytest.mark.parametrize("pipeline_class", [TrainingPipeline, FIFTrainingPipeline])
def test_pipeline(gpu, tmp_path, pipeline_class):
    assert gpu(_train_in_pipeline, tmp_path, pipeline_class) == ("pretended", 4)


def _train_rectangular_flow(folder):
    config = RectangularFlowConfig(input_dim=DIGITS, latent_dim=4, jacobian_at="data")
    model = RectangularFlow(config, *build_networks("convnet", DIGITS, 4))
    return _build_trainer(model, folder, num_epochs=1).train().best_eval_loss


def test_rectangular_flow(gpu, tmp_path):
    assert np.isfinite(gpu(_train_rectangular_flow, tmp_path))


def _score_samples(sampler, count, fit_steps=2):
    """Computes features of 20 images, and scores of samples.

    Returns:
        The bytes copied for the features, those for the samples and scores, and the waits of these.
    """
    model = _build_fif(MNIST).cuda().eval()
    images = torch.from_numpy(_draw_images(MNIST, 20))
    extractor = Extractor("a", "FD-a", torch.nn.AdaptiveAvgPool2d(2), "0" * 16, "cuda")
    with counting() as feature_counts:
        references = {"test": Features.from_images(images, extractor)}

    codes = embed(model, images)
    with counting() as sample_counts:
        samples = generate(
            sampler,
            model,
            codes,
            num_samples=count,
            seed=0,
            fit_steps=fit_steps,
            transform=rounded_images,
        )
        score_samples(samples, extractor, references)
    waits = sum(sample_counts.waits.values())
    return feature_counts.copied_bytes, sample_counts.copied_bytes, waits


def test_fit_of_a_sampler_does_not_wait_in_each_step(gpu):
    _, _, waits_of_9_steps = gpu(_score_samples, "flow", 20, 9)
    _, _, waits_of_3_steps = gpu(_score_samples, "flow", 20, 3)
    assert waits_of_9_steps == waits_of_3_steps


@pytest.mark.parametrize("sampler", ["normal", "gaussian", "maf", "flow"])
def test_samples_stay_on_the_gpu_and_images_come_as_bytes(gpu, sampler):
    image_bytes = math.prod(MNIST)
    feature_bytes, bytes_of_20_samples, _ = gpu(_score_samples, sampler, 20)
    _, bytes_of_30_samples, _ = gpu(_score_samples, sampler, 30)
    assert 0 <= bytes_of_30_samples - bytes_of_20_samples < 10 * image_bytes
    assert feature_bytes < 2 * 20 * image_bytes


def _build_ensemble():
    config = FIFConfig(input_dim=(3,), latent_dim=2, noise=0.1)
    members = []
    for _ in range(2):
        encoder = ResidualEncoder(3, 2, 1, 8)
        decoder = ResidualDecoder(3, 2, 1, 8)
        members.append(FIF(config, encoder, decoder))
    return Ensemble(members, [0, 1])


def _train_ensemble(rows):
    """Returns the waits of a training, and reconstruction errors on the device and the CPU."""
    ensemble = _build_ensemble()
    with counting() as counts:
        ensemble.train(torch.randn(rows, 3), epochs=1, batch_size=10)

    x = torch.randn(4, 3)
    gpu_errors = ensemble.reconstruction_error(x.cuda())
    cpu_errors = ensemble.reconstruction_error(x)
    waits = sum(counts.waits.values())
    return waits, gpu_errors.device.type, gpu_errors.cpu(), cpu_errors


def test_ensemble(gpu):
    """Its steps wait for nothing. The pretended device cannot hold functorch's tensors."""
    waits_of_40_rows, device, gpu_errors, cpu_errors = gpu(_train_ensemble, 40)
    assert device == "pretended"
    assert gpu_errors.isfinite().all()
    torch.testing.assert_close(cpu_errors, gpu_errors)

    waits_of_20_rows = gpu(_train_ensemble, 20)[0]
    assert waits_of_40_rows == waits_of_20_rows


def _train_with_free_memory(folder, free_bytes):
    """Returns the devices of the data, and the weights after a training."""
    with mock.patch.object(torch.cuda, "mem_get_info", lambda *_: (free_bytes, 2**34)):
        trainer = _build_trainer(_build_fif(), folder, count=6, num_epochs=1)
        trainer.train()

    loaders = (trainer.train_loader, trainer.eval_loader)
    devices = [loader.dataset.images.device.type for loader in loaders]
    return devices, _weights_on_cpu(trainer.model)


def test_data_without_room_on_the_gpu_come_in_batches(gpu, tmp_path):
    size = _draw_images(DIGITS, 6).nbytes
    devices, weights = gpu(_train_with_free_memory, tmp_path / "room", 4 * size)
    assert "cpu" not in devices

    devices, batched_weights = gpu(_train_with_free_memory, tmp_path / "no_room", 4 * size - 1)
    assert set(devices) == {"cpu"}
    torch.testing.assert_close(weights, batched_weights, rtol=0, atol=0)
