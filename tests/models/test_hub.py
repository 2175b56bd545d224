"""Models on the Hugging Face hub, of which a server of its form stands in."""

import pickle
import sys

import pytest
import torch
from pythae.models import AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.networks import Opened

from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig, ModelCard
from pythae_fif.nn import ResidualDecoder, ResidualEncoder, build_networks

SHAPE = (1, 8, 8)


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 3)

    def forward(self, x):
        return ModelOutput(embedding=self.linear(x.flatten(1)))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 64)

    def forward(self, z):
        return ModelOutput(reconstruction=self.linear(z).view(-1, *SHAPE))


def test_pushed_and_loaded(hub):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, beta=7.0, hutchinson_samples=2)).eval()
    card = ModelCard("noise", "apache-2.0", "Frechet distance 7")
    model.push_to_hf_hub("someone/fif", card)
    files = hub.files["someone/fif"]
    files["encoder.pkl"] = files["decoder.pkl"] = pickle.dumps(Opened())
    x = torch.rand(4, *SHAPE)
    for loader in (FIF, AutoModel):
        loaded = loader.load_from_hf_hub("someone/fif").eval()
        assert isinstance(loaded, FIF) and torch.equal(loaded.log_prob(x), model.log_prob(x))
    assert "model.pt" in hub.downloaded
    assert not [name for name in hub.downloaded if name.endswith(".pkl")]

    text = files["README.md"].decode()
    assert text.startswith("---\nlibrary_name: pythae\n") and "license: apache-2.0\n---" in text
    for part in (
        "| Data | noise; 1 x 8 x 8, of 64 numbers |", "beta | 7.0 |", "K | 2 |",
        "Frechet distance 7",
    ):  # fmt: skip
        assert part in text
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(code, names)
    assert names["samples"].shape == (64, *SHAPE)


def test_a_card_of_networks_of_any_size():
    encoder, decoder = ResidualEncoder(3, 2), ResidualDecoder(3, 2)
    text = ModelCard("points").text(FIF(FIFConfig(latent_dim=2), encoder, decoder), "a/b")
    assert "| Data | points |" in text and "allow_pickle=True" in text
    networks = build_networks("convnet", SHAPE, 3)
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3), *networks)
    assert "allow_pickle" not in ModelCard("points").text(model, "a/b")


def test_the_code_of_a_conditional_model_s_card(hub):
    FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, condition_dim=2)).push_to_hf_hub("someone/fif")
    text = hub.files["someone/fif"]["README.md"].decode()
    names: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["samples"].shape == (64, *SHAPE)


def test_networks_that_are_pickles_are_opened_if_asked(hub):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3), Encoder(), Decoder()).eval()
    model.push_to_hf_hub("someone/own")
    text = hub.files["someone/own"]["README.md"].decode()
    assert "It was not scored." in text
    names: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["samples"].shape == (64, *SHAPE)
    hub.downloaded.clear()
    with pytest.raises(ConfigError, match=r"can run any code .*allow_pickle=True"):
        AutoModel.load_from_hf_hub("someone/own")
    assert "encoder.pkl" not in hub.downloaded
    loaded = AutoModel.load_from_hf_hub("someone/own", allow_pickle=True).eval()
    x = torch.rand(2, *SHAPE)
    assert torch.equal(loaded.embed(x), model.embed(x))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[hub\]'"):
        FIF.load_from_hf_hub("someone/fif")
