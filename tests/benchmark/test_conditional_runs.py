"""A model that is told the labels: planned, trained, sampled class by class, drawn."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder
from support.experiments import ENVIRONMENT, tiny

import pythae_fif.benchmark.run as run_module
from pythae_fif.benchmark.estimate import training_seconds
from pythae_fif.benchmark.plan import Announced, expand, rebuild_model
from pythae_fif.benchmark.run import IMAGES, labels_of
from pythae_fif.benchmark.sheets import write_samples
from pythae_fif.errors import ConfigError, DataError, FIFError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.runs.execute import execute
from pythae_fif.runs.store import Store
from pythae_fif.sampling.models import embed, reconstruct
from pythae_fif.sampling.samplers import generate_by_class

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of"),
    pytest.mark.usefixtures("one_thread"),
]
FLAGS = {"models": ["fif_conditional", "fif"], "beta": [5.0], "hutchinson_samples": [1]}


def test_classes_and_labels_define_the_run(tmp_path):
    experiment, splits = tiny(tmp_path, FLAGS)
    conditional, plain = expand(experiment, splits)
    assert conditional.parameters["condition_dim"] == 10
    assert conditional.configuration == plain.configuration == "beta=5, hutchinson_samples=1"
    assert (conditional.labels_hash, plain.labels_hash) == (splits.labels_hash, None)
    assert type(conditional).from_dict(conditional.to_dict()) == conditional
    others = {split: 9 - of_split for split, of_split in splits.labels.items()}
    relabelled = dataclasses.replace(splits, labels=others)
    other, same = expand(experiment, relabelled)
    assert other.run_id != conditional.run_id and same.run_id == plain.run_id
    assert labels_of(conditional, splits) == splits.labels and labels_of(plain, splits) == {}
    with pytest.raises(FIFError, match="labels of digits changed since the plan"):
        labels_of(conditional, relabelled)


@pytest.mark.parametrize("labelled", [False, None])
def test_needs_labels(tmp_path, labelled):
    experiment, splits = tiny(tmp_path, FLAGS)
    data = Announced((1, 8, 8)) if labelled is None else dataclasses.replace(splits, labels=None)
    with pytest.raises(ConfigError, match="fif_conditional is told class labels, and digits has"):
        expand(experiment, data)


def test_trains_samples_and_draws_class_by_class(tmp_path, monkeypatch):
    experiment, splits = tiny(
        tmp_path, FLAGS | {"samplers": ["normal", "gmm"]}, num_samples=100, epochs=2
    )
    spec = expand(experiment, splits)[0]
    assert training_seconds(spec, splits) > 0
    store = Store(tmp_path / "results", IMAGES)
    run_dir = store.prepare(spec, ENVIRONMENT)
    record = execute(run_dir, IMAGES)
    assert set(record.scores) == {"normal", "gmm"} and store.is_done(spec)
    pictures = {"classes-normal.png", "classes-gmm.png", "reconstructions.png", "latents.png"}
    assert pictures < record.files.keys()
    drawn = (run_dir / "classes-gmm.png").read_bytes()
    assert Image.open(run_dir / "classes-gmm.png").size == (16 * 8, 10 * 8)

    model = rebuild_model(spec, splits.input_dim, run_dir / "model").eval()
    x, labels = splits.test, splits.labels["test"]
    inputs = torch.tensor(x / 255, dtype=torch.float32), torch.from_numpy(labels)
    torch.testing.assert_close(embed(model, x, labels=labels), model.embed(*inputs))
    torch.testing.assert_close(reconstruct(model, x, labels), model.reconstruct(*inputs))
    error = (model.reconstruct(*inputs) - inputs[0]).square().mean().item()
    assert record.reconstruction_mse["test"] == pytest.approx(error, rel=1e-4)

    monkeypatch.setattr(run_module, "trainer_of", None)
    monkeypatch.setattr(run_module, "score_samples", None)
    (run_dir / "classes-gmm.png").unlink()
    assert not store.is_done(spec)
    execute(store.prepare(spec, ENVIRONMENT), IMAGES)
    assert (run_dir / "classes-gmm.png").read_bytes() == drawn


def test_a_class_without_samples_has_a_black_row(tmp_path):
    _, splits = tiny(tmp_path)
    (tmp_path / "run").mkdir()
    labels = np.arange(100) % 9
    write_samples(tmp_path / "run", splits, "normal", torch.ones(100, 1, 8, 8), labels)
    rows = np.asarray(Image.open(tmp_path / "run/classes-normal.png").convert("L"))
    of_class = rows.reshape(10, -1).max(axis=1)
    assert of_class.tolist() == [255] * 9 + [0]


class LabelDecoder(BaseDecoder):
    """Draws the label and the code: grey of one pixel is the label, of the others the code's."""

    def forward(self, z):
        label = z[:, 2:].argmax(1, keepdim=True).to(z.dtype)
        return ModelOutput(
            reconstruction=torch.cat([label, z[:, :2], z[:, :1]], 1).view(-1, 1, 2, 2)
        )


@pytest.mark.parametrize("sampler", ["normal", "gaussian"])
def test_each_class_has_its_part_of_the_samples_and_its_own_codes(sampler):
    config = FIFConfig(input_dim=(1, 2, 2), latent_dim=2, condition_dim=4)
    model = FIF(config, decoder=LabelDecoder()).eval()
    labels = np.array([0] * 10 + [1] * 30 + [3] * 50)
    codes = torch.randn(90, 2, generator=torch.Generator().manual_seed(0)) / 100
    codes += torch.from_numpy(labels)[:, None]
    samples, of = generate_by_class(sampler, model, codes, labels, num_samples=45, seed=1)
    np.testing.assert_array_equal(samples[:, 0, 0, 0], of)
    assert np.unique(of, return_counts=True)[1].tolist() == [5, 15, 25]
    assert not (np.diff(of) >= 0).all()  # shuffled
    means = [samples[of == label][:, 0, 0, 1].mean().item() for label in (0, 1, 3)]
    expected = (0, 0, 0) if sampler == "normal" else (0, 1, 3)
    assert means == pytest.approx(expected, abs=1.0 if sampler == "normal" else 0.1)
    assert len(samples[:, 0, 0, 1].unique()) == 45  # no class has the draws of another
    with pytest.raises(DataError, match="class 0 has one training image, and the gmm sampler"):
        generate_by_class("gmm", model, codes[9:], labels[9:], num_samples=45, seed=1)
    of = generate_by_class(sampler, model, codes, labels, num_samples=4, seed=1)[1]
    assert sorted(of) == [1, 1, 3, 3]  # class 0 has a ninth of the images
    again = generate_by_class(sampler, model, codes, labels, num_samples=45, seed=1)
    assert torch.equal(again[0], samples)
    generate_by_class(sampler, model, codes, labels, num_samples=45, seed=2**32 - 1)
