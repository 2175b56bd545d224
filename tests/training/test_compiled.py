"""Compiled training steps: the same gradient, the same resume, and a line where it cannot be."""

import re

import pytest
import torch
import torch._inductor.config as inductor
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.trainings import Killed, assert_same_weights, kill_at
from torch import nn

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.training import compiled
from pythae_fif.training.compiled import compiled_loss

SHAPE, D = (1, 4, 4), 3


class Encoder(BaseEncoder):
    """The operations of Pythae's: convolution, BatchNorm, ReLU, a skip, a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.skip = nn.Conv2d(4, 4, 1)
        self.embedding = nn.Linear(16, D)

    def forward(self, x):
        h = self.conv(x)
        h = h + self.skip(h)
        return ModelOutput(embedding=self.embedding(h.reshape(len(x), -1)))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(D, 16),
            nn.Unflatten(1, (4, 2, 2)),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 3, 2, 1, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


def fif(**options):
    torch.manual_seed(0)
    return FIF(FIFConfig(input_dim=SHAPE, latent_dim=D, **options), Encoder(), Decoder())


class LinearEncoder(BaseEncoder):
    """Compiles in a moment."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return ModelOutput(embedding=self.layer(x.flatten(1)))


class LinearDecoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 4)

    def forward(self, z):
        return ModelOutput(reconstruction=self.layer(z).tanh().reshape(-1, 1, 2, 2))


def linear_fif(**options):
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(1, 2, 2), latent_dim=2, **options)
    return FIF(config, LinearEncoder(), LinearDecoder())


def linear_ae():
    torch.manual_seed(0)
    return AE(AEConfig(input_dim=(1, 2, 2), latent_dim=2), LinearEncoder(), LinearDecoder())


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled, by the compiler that changes no operation."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    return found


K2 = {"hutchinson_samples": 2, "surrogate_precision": "bfloat16"}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_gradients_are_equal_bit_for_bit(half, graphs, one_thread):
    options: dict = {} if half else K2
    x = torch.rand(6, *SHAPE)

    def step(model):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model.train()(DatasetOutput(data=x)).loss
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()]

    expected = step(fif(**options))
    model = fif(**options)
    with compiled_loss(model, "cpu"):
        found = step(model)
    assert len(graphs) == 1
    assert all(map(torch.equal, found, expected))
    assert "training_loss" not in vars(model)


def train(model, folder, *, epochs=2, **options):
    own = {"on_epoch": options.pop("on_epoch", None), "checkpoint_every_seconds": 0}
    config = FIFTrainerConfig(
        num_epochs=epochs, per_device_train_batch_size=8, no_cuda=True, **options
    )
    shape = tuple(model.model_config.input_dim)
    generator = torch.Generator().manual_seed(0)
    images = ImageDataset(torch.randint(256, (20, *shape), dtype=torch.uint8, generator=generator))
    FIFTrainer(model, images, images, config, run_dir=folder, **own).train()
    return model


def told(caplog):
    return [r.getMessage() for r in caplog.records if r.name == compiled.__name__]


def test_killed_and_resumed_equals_what_was_not_compiled(tmp_path, graphs, one_thread):
    options = {"beta": 2.0, "beta_final": 1.0}
    expected = train(linear_fif(**options), tmp_path / "whole")
    with pytest.raises(Killed):
        train(linear_fif(**options), tmp_path / "cut", compile=True, on_epoch=kill_at(1))
    model = train(linear_fif(**options), tmp_path / "cut", compile=True)
    assert len(graphs) == 4  # for the last, smaller batch another, in each of the trainings
    assert_same_weights(model, expected)


def test_without_a_compiler_it_trains_as_ever(tmp_path, caplog, one_thread):
    expected = train(linear_fif(), tmp_path / "eager")
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}):
        model = train(linear_fif(), tmp_path / "compiled", compile=True)
    (line,) = told(caplog)
    assert line.startswith("compile: FIF trains uncompiled (InvalidCxxCompiler: No working C++")
    assert "\n" not in line
    assert_same_weights(model, expected)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: linear_fif(mode="backward"), r"compile: FIF trains uncompiled \("),
        (linear_ae, r"compile: AE trains uncompiled \(only FIF can be\)"),
    ],
    ids=["differentiates twice", "another model"],
)
def test_what_cannot_be_compiled_is_told_once(build, line, tmp_path, caplog, graphs):
    expected = train(build(), tmp_path / "eager", epochs=1)
    model = train(build(), tmp_path / "compiled", epochs=1, compile=True)
    (found,) = told(caplog)
    assert re.match(line, found)
    assert not graphs
    assert_same_weights(model, expected)
