"""What a pretended GPU says nothing of. On the CPU these tests show that they run."""

import numpy as np
import pytest
import torch
from pythae.trainers.training_callbacks import TrainingCallback
from support.devices import DEVICES

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.nn import build_networks
from pythae_fif.volume_change import autograd_surrogate, sample_hutchinson, volume_surrogate

SHAPE, LATENT = (1, 8, 8), 4
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)

on_devices = pytest.mark.parametrize("device", DEVICES)


def _model(arch="convnet", **options):
    torch.manual_seed(0)
    config = FIFConfig(input_dim=SHAPE, latent_dim=LATENT, **options)
    return FIF(config, *build_networks(arch, SHAPE, LATENT))


def _gradient(device, arch, samples, surrogate=volume_surrogate):
    """Of the surrogate and the reconstruction in training mode, at draws that are always the same.
    The networks have convolutions, transposed ones, and BatchNorm."""
    model = _model(arch).to(device, torch.float64).train()
    x = to_float(IMAGES).to(device, torch.float64)
    eps = sample_hutchinson(len(x), LATENT, samples, generator=torch.Generator().manual_seed(1))
    out = surrogate(
        lambda x: model.encoder(x)["embedding"],
        lambda z: model.decoder(z)["reconstruction"],
        x,
        eps.to(device, torch.float64),
    )
    (out.surrogate.sum() + (out.x_hat - x).square().sum()).backward()
    return torch.cat([p.grad.flatten().double().cpu() for p in model.parameters()])


@on_devices
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("arch", ["convnet", "resnet"])
def test_gradient_is_that_of_double_backward_on_the_cpu(device, arch, samples):
    expected = _gradient("cpu", arch, samples, autograd_surrogate)
    torch.testing.assert_close(_gradient(device, arch, samples), expected, rtol=1e-7, atol=1e-9)


def _trained(device, folder, model=None, callbacks=None, **options):
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    config = FIFTrainerConfig(num_epochs=2, no_cuda=device == "cpu", **sizes, **options)
    data = ImageDataset(IMAGES)
    trainer = FIFTrainer(model or _model(), data, data, config, callbacks, run_dir=folder)
    return trainer, trainer.train()


@on_devices
def test_training_in_bfloat16_ends_near_that_in_float32(device, tmp_path):
    _, full = _trained(device, tmp_path / "full")
    trainer, low = _trained(device, tmp_path / "low", precision="bfloat16")
    assert {p.device.type for p in trainer.model.parameters()} == {device}
    assert trainer.train_loader.dataset.images.device.type == device
    assert low.best_eval_loss == pytest.approx(full.best_eval_loss, rel=0.05)


class _NoWaits(TrainingCallback):
    """From the end of the first step to that of the last CUDA raises where the host waits."""

    def __init__(self, device):
        self.on_gpu, self.steps = device == "cuda", 0

    def on_train_step_end(self, *_, **__):
        self.steps += 1
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("error" if self.steps % 3 else "default")


@on_devices
@pytest.mark.parametrize("samples", [1, 2])
def test_steps_do_not_wait(device, samples, tmp_path):
    callback = _NoWaits(device)
    model = _model(hutchinson_samples=samples)
    try:
        _trained(device, tmp_path, model, [callback])
    finally:
        torch.cuda.set_sync_debug_mode("default") if device == "cuda" else None
    assert callback.steps == 6


@pytest.fixture
def tf32():
    """Products and convolutions by TF32, as a user may want."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = True
    yield
    for setting, value in zip(settings, before, strict=True):
        setting.allow_tf32 = value


@on_devices
@pytest.mark.parametrize("arch", ["convnet", "resnet"])
@pytest.mark.usefixtures("tf32")
def test_exact_numbers_do_not_depend_on_tf32_which_is_restored(device, arch):
    model, x = _model(arch).eval(), to_float(IMAGES)
    expected = model.double().log_prob(x.double())
    found = model.float().to(device).log_prob(x.to(device))
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-3)
