"""Tests of what a pretended GPU does not show. On the CPU they only show that they run."""

import numpy as np
import pytest
import torch
from pythae.trainers.training_callbacks import TrainingCallback
from support.devices import DEVICES

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.nn import build_networks
from pythae_fif.volume_change import autograd_surrogate, sample_hutchinson, volume_surrogate

SHAPE = (1, 8, 8)
LATENT_DIM = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)

on_devices = pytest.mark.parametrize("device", DEVICES)


def _build_fif(arch="convnet", **options):
    torch.manual_seed(0)
    config = FIFConfig(input_dim=SHAPE, latent_dim=LATENT_DIM, **options)
    return FIF(config, *build_networks(arch, SHAPE, LATENT_DIM))


def _gradient(device, arch, samples, surrogate=volume_surrogate):
    """Computes the gradient of surrogate and reconstruction, in training mode, with fixed draws.

    The networks have convolutions, transposed convolutions, and BatchNorm.
    """
    model = _build_fif(arch).to(device, torch.float64).train()
    x = to_float(IMAGES).to(device, torch.float64)
    generator = torch.Generator().manual_seed(1)
    eps = sample_hutchinson(len(x), LATENT_DIM, samples, generator=generator)

    output = surrogate(
        lambda x: model.encoder(x)["embedding"],
        lambda z: model.decoder(z)["reconstruction"],
        x,
        eps.to(device, torch.float64),
    )
    loss = output.surrogate.sum() + (output.x_hat - x).square().sum()
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters()]
    return torch.cat(gradients).double().cpu()


@on_devices
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("arch", ["convnet", "resnet"])
def test_gradient_equals_double_backward_on_the_cpu(device, arch, samples):
    expected = _gradient("cpu", arch, samples, autograd_surrogate)
    torch.testing.assert_close(_gradient(device, arch, samples), expected, rtol=1e-7, atol=1e-9)


def _train(device, folder, model=None, callbacks=None, **options):
    """Trains a model, and returns its trainer and the result."""
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    config = FIFTrainerConfig(num_epochs=2, no_cuda=device == "cpu", **sizes, **options)
    data = ImageDataset(IMAGES)
    trainer = FIFTrainer(model or _build_fif(), data, data, config, callbacks, run_dir=folder)
    return trainer, trainer.train()


@on_devices
def test_training_in_bfloat16_ends_near_float32(device, tmp_path):
    _, float32_result = _train(device, tmp_path / "float32")
    trainer, result = _train(device, tmp_path / "bfloat16", precision="bfloat16")
    assert {weight.device.type for weight in trainer.model.parameters()} == {device}
    assert trainer.train_loader.dataset.images.device.type == device
    assert result.best_eval_loss == pytest.approx(float32_result.best_eval_loss, rel=0.05)


class _ForbidWaits(TrainingCallback):
    """Lets CUDA raise if the host waits between the end of an epoch's first step and its last."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        self.steps = 0

    def on_train_step_end(self, *_, **__):
        self.steps += 1
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("error" if self.steps % 3 else "default")


@on_devices
@pytest.mark.parametrize("samples", [1, 2])
def test_steps_do_not_wait(device, samples, tmp_path):
    callback = _ForbidWaits(device)
    model = _build_fif(hutchinson_samples=samples)
    try:
        _train(device, tmp_path, model, [callback])
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert callback.steps == 6


@pytest.fixture
def tf32():
    """Allows TF32 in products and convolutions, as a user may do."""
    backends = [torch.backends.cuda.matmul, torch.backends.cudnn]
    original_values = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, value in zip(backends, original_values, strict=True):
        backend.allow_tf32 = value


@on_devices
@pytest.mark.parametrize("arch", ["convnet", "resnet"])
@pytest.mark.usefixtures("tf32")
def test_exact_numbers_do_not_depend_on_tf32_which_is_restored(device, arch):
    model = _build_fif(arch).eval()
    x = to_float(IMAGES)
    expected = model.double().log_prob(x.double())
    log_prob = model.float().to(device).log_prob(x.to(device))
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    torch.testing.assert_close(log_prob.cpu().double(), expected, rtol=1e-5, atol=1e-3)
