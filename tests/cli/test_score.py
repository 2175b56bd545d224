"""`score` takes folders, files, saved models and runs, and runs no code that is not trusted."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.models import AE, AEConfig
from support.experiments import make_tiny_plan
from support.networks import Opened

from pythae_fif import FIF, FIFConfig, cli
from pythae_fif.benchmark.training import Training
from pythae_fif.files import read_json
from pythae_fif.nn import build_networks
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run

pytestmark = pytest.mark.filterwarnings("ignore:scores of")
PIXELS = ("--extractor", "pixels")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with 30 grey images of 9 x 8 pixels; the images in `a` are darker."""
    generator = np.random.default_rng(0)
    for name, shift in (("a", 0), ("b", 40)):
        (tmp_path / name).mkdir()
        for index in range(30):
            pixels = generator.integers(0, 200, (9, 8), dtype=np.uint8) + np.uint8(shift)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def score(capsys, folders):
    """Runs the command: score(*words) -> the scores as JSON, or the error line."""

    def run(*words) -> dict | str:
        file = folders / "scores.json"
        file.unlink(missing_ok=True)
        code = cli.main(["score", *map(str, words), "--to-json", str(file)])
        out, err = capsys.readouterr()
        if code == 0:
            assert out
            return read_json(file)
        assert code == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


def test_folders_files_and_models(score, folders):
    scores = score("a", "b", *PIXELS)
    assert scores["num_samples"] == 30
    assert scores["frechet"]["reference"] > 0

    paths = sorted(Path("b").iterdir())
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    np.savez("b.npz", data=np.stack(images)[:, :8])
    assert abs(score("b.npz", "b.npz", *PIXELS)["frechet"]["reference"]) < 1e-4

    FIF(FIFConfig(input_dim=(3, 8, 8), latent_dim=2)).save("model")
    assert score("model", "b", *PIXELS, "--num-samples", 25)["num_samples"] == 25


@pytest.mark.parametrize("order", [("a", "b.npz"), ("b.npz", "a")])
def test_grey_folders_with_grey_files(score, order):
    pixels = np.stack([np.asarray(Image.open(path)) for path in Path("b").iterdir()])
    np.savez("b.npz", data=pixels[:, :8])
    assert score(*order, *PIXELS, "--training", "a")["memorisation"]


def test_a_model_samples_from_its_fitted_prior(score, capsys):
    model = FIF(FIFConfig(input_dim=(3, 8, 8), latent_dim=2))
    model.fit_prior(5 + torch.rand(60, 3, 8, 8), "gaussian")
    model.save("model")
    assert cli.main(["score", "model", "b", *PIXELS, "--num-samples", "300"]) == 0
    assert "samples of the model, from the fitted prior (gaussian)" in capsys.readouterr().out

    torch.manual_seed(0)
    pixels = (model.sample(300).clip(0, 1) * 255).round().byte().movedim(1, -1).numpy()
    np.savez("samples.npz", data=pixels)
    distances = [
        score(samples, "b", *PIXELS, "--num-samples", 300)["frechet"]["reference"]
        for samples in ("model", "samples.npz")
    ]
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)


def test_the_distance_is_printed_first(score, folders, capsys):
    assert cli.main(["score", "a", "b", *PIXELS, "--to-json", "scores.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = read_json(folders / "scores.json")
    distance = scores["frechet"]["reference"]
    error = scores["extra"]["frechet_error"]["reference"]
    assert 10 > distance > error > 0
    name = scores["distance_name"]
    assert lines[0] == f"{name} {distance:.2f} ± {error:.2f} (lower is better)"
    assert lines[2].startswith("num_samples")


def test_an_own_score(score):
    Path("sizes.py").write_text("def ratio(samples, reference):\n    return len(samples) / 8\n")
    extra = score("a", "b", *PIXELS, "--scores", "sizes:ratio")["extra"]
    assert extra["sizes:ratio"] == {"reference": 30 / 8}
    assert extra["frechet_error"].keys() == {"reference"}


def test_own_network_training_images_and_seed(score):
    Path("pooled.py").write_text("import torch\ndef network():\n    return torch.nn.AvgPool2d(4)\n")
    scores = score("a", "b", "--extractor", "pooled:network", "--training", "a", "--seed", 7)
    assert scores["extractor"] == "pooled:network"
    assert scores["seed"] == 7
    assert scores["memorisation"]["nearer"] == {"reference": 1.0}
    assert scores["memorisation"]["authenticity"] == 0.0

    train, test = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8), dtype=np.uint8)
    np.savez("samples.npz", data=train)
    np.savez("data.npz", train=train, test=test)
    scores = score("samples.npz", "data.npz", *PIXELS, "--training", "data.npz")
    assert scores["memorisation"]["nearer"] == {"reference": 1.0}, "the training split is used"


@pytest.mark.parametrize("model", ["fif", "ae"])
def test_the_model_of_a_run_is_rebuilt_without_pickles(score, tmp_path, model):
    job = make_tiny_plan(tmp_path, {"models": [model]})[0]
    store = Store(tmp_path / "results")
    execute_run(job, store)
    for file in store.folder(job.training).glob("model/*.pkl"):
        file.unlink()
    scores = score(store.folder(job.training), "a", *PIXELS, "--num-samples", 20)
    assert scores["num_samples"] == 20


@pytest.mark.parametrize("place", ["encoder.pkl", "model.pt", "spec.json"])
def test_no_file_of_a_model_runs_code_that_is_not_trusted(score, folders, place):
    shape = (3, 8, 8)
    networks = () if place == "model.pt" else build_networks("convnet", shape, 2)
    AE(AEConfig(input_dim=shape, latent_dim=2), *networks).save("run/model")

    if place == "spec.json":  # the specification names a function of the user
        training = Training(
            dataset="d", arch="echo", model="m", model_class="pythae.models.AE",
            config_class="pythae.models.AEConfig", networks="trap.call", latent_dim=2,
            batch_size=1, learning_rate=0.1, data_hash="0",
        )  # fmt: skip
        Path("trap.py").write_text("def call(*_):\n    open('opened', 'w')\n")
        Path("run/spec.json").write_text(json.dumps(training.to_dict()))
    else:
        Path("run/model", place).write_bytes(pickle.dumps(Opened(), protocol=2))

    error = score("run", "b", *PIXELS, "--num-samples", 20)
    message = (
        "cannot load a model from" if place == "model.pt" else "coder.pkl can run any code when"
    )
    assert message in error
    assert not Path("opened").exists()


def test_a_trusted_pickle_is_opened(score):
    encoder, decoder = build_networks("convnet", (3, 8, 8), 2)
    AE(AEConfig(input_dim=(3, 8, 8), latent_dim=2), encoder, decoder).save("model")
    words = ("model", "b", *PIXELS, "--num-samples", 20)
    assert score(*words).endswith("; in this command: --trust\n")
    assert score(*words, "--trust")["num_samples"] == 20


def test_trust_is_advised_only_where_it_helps(score):
    FIF(FIFConfig(input_dim=(3, 8, 8), latent_dim=2)).save("model")
    file = Path("model/model_config.json")
    file.write_text(json.dumps({**read_json(file), "betta": 1}))
    error = score("model", "b", *PIXELS)
    assert "betta" in error
    assert "--trust" not in error


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("name", ["model.pt", "environment.json", "networks.json", "encoder.pkl"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("model_class", [AE, FIF])
def test_a_file_without_an_end_is_not_read(score, model_class, kind, name, trust):
    shape = (3, 8, 8)
    config = (AEConfig if model_class is AE else FIFConfig)(input_dim=shape, latent_dim=2)
    model_class(config, *build_networks("convnet", shape, 2)).save("model")
    path = Path("model", name)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    error = score("model", "b", *PIXELS, *trust)
    assert f"not a regular file: 'model/{name}'" in error
    assert "trust" not in error


def test_trust_is_advised_only_for_pickles(score):
    shape = (3, 8, 8)
    FIF(FIFConfig(input_dim=shape, latent_dim=2), *build_networks("convnet", shape, 2)).save("fif")
    Path("fif/networks.json").write_text("{")
    error = score("fif", "b", *PIXELS)
    assert "Missing encoder pkl file" in error
    assert "trust" not in error
