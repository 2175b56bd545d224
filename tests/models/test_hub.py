"""Models on the Hugging Face hub, with a folder in place of the hub."""

import pickle
import sys

import pytest
import torch
from pythae.models import AutoModel
from support.networks import Opened

from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.nn import ResidualDecoder, ResidualEncoder, build_networks

SHAPE = (1, 8, 8)


@pytest.mark.parametrize(
    "networks", [(), build_networks("convnet", SHAPE, 3)], ids=["default", "built"]
)
def test_pushed_by_pythae_and_pulled_without_pickles(hub, networks):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, beta=7.0), *networks).eval()
    model.push_to_hf_hub("someone/fif")
    files = hub.files["someone/fif"]
    assert {"README.md", "model.pt", "model_config.json", "networks.json"} <= {*files}

    for name in ("encoder.pkl", "decoder.pkl"):
        files[name] = pickle.dumps(Opened())
    x = torch.rand(4, *SHAPE)
    for loader in (FIF, AutoModel):
        loaded = loader.load_from_hf_hub("someone/fif").eval()
        assert isinstance(loaded, FIF)
        assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    assert "model.pt" in hub.downloaded
    assert not [name for name in hub.downloaded if name.endswith(".pkl")]


def test_pickled_networks_are_opened_if_allowed(hub):
    networks = ResidualEncoder(3, 2), ResidualDecoder(3, 2)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2), *networks).eval()
    model.push_to_hf_hub("someone/own")
    with pytest.raises(ConfigError, match=r"can run any code .*allow_pickle=True"):
        AutoModel.load_from_hf_hub("someone/own")
    assert "encoder.pkl" not in hub.downloaded
    loaded = AutoModel.load_from_hf_hub("someone/own", allow_pickle=True).eval()
    x = torch.rand(2, 3)
    assert torch.equal(loaded.embed(x), model.embed(x))


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[hub\]'"):
        FIF.load_from_hf_hub("someone/fif")
