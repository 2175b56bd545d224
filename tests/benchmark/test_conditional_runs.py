"""A model that takes labels: it is trained, sampled class by class, and drawn."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.experiments import load_splits, tiny_experiment
from support.networks import Map

from pythae_fif.benchmark.build import build_trainer
from pythae_fif.benchmark.pictures import samples_picture
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read
from pythae_fif.errors import DataError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.sampling.samplers import embed, generate_by_class

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of"),
    pytest.mark.usefixtures("one_thread", "short_likelihoods"),
]
FLAGS = {"models": ["fif_conditional"], "beta": [5.0], "hutchinson_samples": [1]}


def test_trains_samples_and_draws_class_by_class(tmp_path):
    flags = FLAGS | {"samplers": ["normal", "gmm"]}
    experiment = tiny_experiment(tmp_path, flags, num_samples=100, epochs=2)
    splits = load_splits(experiment)
    store = Store(tmp_path / "results")
    (job,) = plan(experiment, splits)
    execute_run(job, store)

    result = read(store, job)
    assert set(result.scores) == {"normal", "gmm"}
    assert job.is_done(store)
    picture = Image.open(
        io.BytesIO(store.read_file(job.spec.run_path, "samples-gmm-pixels-100.png"))
    )
    assert picture.size == (16 * 8, 10 * 8)
    training = job.training.model_copy(update={"labels_hash": "0" * 16})
    relabelled = dataclasses.replace(job, training=training)
    with pytest.raises(DataError, match="data of digits changed since the plan"):
        execute_run(relabelled, store)

    trainer = build_trainer(job.training, splits, splits.labels, store.folder(job.spec))
    trainer.train()  # reads the trained model
    model = trainer.model
    labels = splits.labels["test"]
    images = torch.tensor(splits.test / 255, dtype=torch.float32)
    inputs = (images, torch.from_numpy(labels))
    torch.testing.assert_close(embed(model, splits.test, labels=labels), model.embed(*inputs))
    error = (model.reconstruct(*inputs) - images).square().mean().item()
    recorded = result.evaluation.result.reconstruction_mse["test"]
    assert recorded == pytest.approx(error, rel=1e-4)


def test_each_class_has_a_row_that_is_black_where_samples_are_missing():
    classes = np.array([*range(9)] * 11 + [9])
    picture = samples_picture(torch.ones(100, 1, 8, 8), classes)
    rows = np.asarray(Image.open(io.BytesIO(picture)).convert("L")).reshape(10, 8, 16, 8)
    white = rows.min(axis=(1, 3)) == 255
    assert white.sum(axis=1).tolist() == [11] * 9 + [1]


def decode_label_and_code(z):
    """One pixel's grey value is the label, the others' is the code."""
    label = z[:, 2:].argmax(1, keepdim=True).to(z.dtype)
    return torch.cat([label, z[:, :2], z[:, :1]], 1).view(-1, 1, 2, 2)


@pytest.mark.parametrize("sampler", ["normal", "gaussian"])
def test_each_class_has_its_share_of_the_samples_and_its_own_codes(sampler):
    config = FIFConfig(input_dim=(1, 2, 2), latent_dim=2, condition_dim=4)
    model = FIF(config, decoder=Map("reconstruction", decode_label_and_code)).eval()
    labels = np.array([0] * 10 + [1] * 30 + [3] * 50)
    codes = torch.randn(90, 2, generator=torch.Generator().manual_seed(0)) / 100
    codes += torch.from_numpy(labels)[:, None]

    def sample(num_samples, seed=1):
        return generate_by_class(sampler, model, codes, labels, num_samples=num_samples, seed=seed)

    samples, classes = sample(45)
    np.testing.assert_array_equal(samples[:, 0, 0, 0], classes)
    assert np.unique(classes, return_counts=True)[1].tolist() == [5, 15, 25]
    assert not (np.diff(classes) >= 0).all()  # shuffled

    code_pixels = samples[:, 0, 0, 1]
    means = [code_pixels[classes == label].mean().item() for label in (0, 1, 3)]
    if sampler == "normal":
        assert means == pytest.approx((0, 0, 0), abs=1.0)
    else:
        assert means == pytest.approx((0, 1, 3), abs=0.1)
    assert len(code_pixels.unique()) == 45  # no two classes share their draws

    _, few_classes = sample(4)
    assert sorted(few_classes) == [1, 1, 3, 3]  # class 0 has a ninth of the images
    repeated_samples, _ = sample(45)
    assert torch.equal(repeated_samples, samples)
    sample(45, seed=2**32 - 1)
