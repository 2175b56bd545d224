"""Models on the Hugging Face hub, with a folder in place of the hub."""

import json
import pickle
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pythae.models import AE, AEConfig, AutoModel
from support.networks import Opened

from pythae_fif.baselines import DNF
from pythae_fif.data import load_table
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.nn import ResidualDecoder, ResidualEncoder, build_networks

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 8, 8)


@pytest.mark.parametrize(
    "networks", [(), build_networks("convnet", SHAPE, 3)], ids=["default", "built"]
)
def test_pushed_and_pulled_without_pickles(hub, networks):
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
    _, card = read_card(hub, "someone/own")
    assert "they can run any code" in card
    assert 'load_from_hf_hub("someone/own", allow_pickle=True)' in card
    assert "encoder.pkl" not in hub.downloaded
    loaded = AutoModel.load_from_hf_hub("someone/own", allow_pickle=True).eval()
    x = torch.rand(2, 3)
    assert torch.equal(loaded.embed(x), model.embed(x))


@pytest.mark.parametrize("model_class", [FIF, DNF])
def test_the_card_loads_the_model(model_class, hub):
    model = model_class(model_class.config_class(input_dim=SHAPE, latent_dim=3))
    model.push_to_hf_hub("someone/model")
    card = hub.files["someone/model"]["README.md"].decode()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert example.startswith("import pythae_fif")

    names = {}
    exec(example, names)
    assert type(names["model"]) is model_class
    assert names["samples"].shape == (16, *SHAPE)


def read_card(hub, repository: str) -> tuple[dict, str]:
    """Returns the metadata of a card and its text."""
    _, metadata, text = hub.files[repository]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_of_a_model_of_images(hub):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, beta="auto"))
    model.fit_prior(torch.rand(40, *SHAPE), "gaussian")
    model.push_to_hf_hub("someone/fif", license="mit")
    metadata, text = read_card(hub, "someone/fif")
    assert metadata == {
        "library_name": "pythae-fif",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["pythae", "pythae-fif", "image"],
    }
    for line in (
        "| input_dim | (1, 8, 8) |",
        "| range of the data | [0, 1] |",
        "| latent_dim | 3 |",
        "| beta | auto, 10 in the saved model |",
        "| prior of the codes | gaussian, fitted to the training codes |",
    ):
        assert line in text
    (citation,) = re.findall(r"```bibtex\n(.*?)```", text, re.S)
    assert citation in (ROOT / "README.md").read_text()


def test_the_card_of_a_conditional_model_of_a_table(hub):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 2)), columns=["a|b", "c"])
    frame["kind"] = ["x", "y"] * 100
    splits = load_table(frame, label="kind")
    config = FIFConfig(input_dim=(2,), latent_dim=1, condition_dim=2, beta=3.0)
    model = FIF(config, *build_networks("tabular_small", (2,), 1, condition_dim=2))
    model.columns, model.class_names = splits.columns, ["x", "y"]
    model.push_to_hf_hub("someone/table")

    metadata, text = read_card(hub, "someone/table")
    assert metadata["license"] == "unknown"
    assert metadata["tags"] == ["pythae", "pythae-fif", "tabular"]
    assert "pipeline_tag" not in metadata
    for line in (
        "| range of the data | a DataFrame in original units, or an array of standardised rows |",
        "| beta | 3.0 |",
        "| classes | x, y |",
        r"| columns | a\|b, c |",
    ):
        assert line in text
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    exec(example, names)
    assert [*names["samples"]] == ["a|b", "c", "kind"]
    assert {*names["samples"]["kind"]} == {"x"}


def test_pythae_s_models_are_loaded_as_pythae_loads_them(hub):
    files = hub.files["someone/ae"]
    model = AE(AEConfig(input_dim=SHAPE, latent_dim=2))
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        files.update({path.name: path.read_bytes() for path in Path(folder).iterdir()})
    assert type(AutoModel.load_from_hf_hub("someone/ae")) is AE
    assert type(AutoModel.load_from_hf_hub(hf_hub_path="someone/ae", allow_pickle=True)) is AE

    config = json.loads(files["model_config.json"])
    files["model_config.json"] = json.dumps({**config, "uses_default_encoder": False}).encode()
    with pytest.warns(UserWarning, match="may have been created by a third party"):
        assert AutoModel.load_from_hf_hub("someone/ae") is None


def test_a_missing_package_is_one_line(monkeypatch):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (FIF.load_from_hf_hub, model.push_to_hf_hub):
        with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[hub\]'"):
            call("someone/fif")
