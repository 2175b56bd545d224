"""A model that is told the labels: trained, sampled class by class, drawn."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.experiments import splits_of, tiny
from support.networks import Map

from pythae_fif.benchmark.image_run import build_trainer
from pythae_fif.benchmark.pictures import samples_picture
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.errors import DataError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.sampling.samplers import embed, generate_by_class

pytestmark = [pytest.mark.filterwarnings("ignore:scores of"), pytest.mark.usefixtures("one_thread")]
FLAGS = {"models": ["fif_conditional"], "beta": [5.0], "hutchinson_samples": [1]}


def test_trains_samples_and_draws_class_by_class(tmp_path):
    flags = FLAGS | {"samplers": ["normal", "gmm"]}
    experiment = tiny(tmp_path, flags, num_samples=100, epochs=2)
    splits, store = splits_of(experiment), Store(tmp_path / "results")
    (spec,) = expand(experiment, splits)
    execute_run(spec, store)
    result = ImageResult.read(store, spec)
    assert set(result.scores) == {"normal", "gmm"} and store.is_done(spec)
    drawn = Image.open(io.BytesIO(store.read(spec, "samples-gmm.png")))
    assert drawn.size == (16 * 8, 10 * 8)
    with pytest.raises(DataError, match="data of digits changed since the plan"):
        execute_run(spec.model_copy(update={"labels_hash": "0" * 16}), store)

    trainer = build_trainer(spec, splits, splits.labels, store.folder(spec))
    trainer.train()  # which finds it trained
    model = trainer.model
    x, labels = splits.test, splits.labels["test"]
    inputs = torch.tensor(x / 255, dtype=torch.float32), torch.from_numpy(labels)
    torch.testing.assert_close(embed(model, x, labels=labels), model.embed(*inputs))
    error = (model.reconstruct(*inputs) - inputs[0]).square().mean().item()
    found = result.evaluation.result.reconstruction_mse["test"]
    assert found == pytest.approx(error, rel=1e-4)


def test_a_row_a_class_black_where_there_are_too_few():
    classes = np.array([*range(9)] * 11 + [9])
    drawn = samples_picture(torch.ones(100, 1, 8, 8), classes)
    rows = np.asarray(Image.open(io.BytesIO(drawn)).convert("L")).reshape(10, 8, 16, 8)
    white = rows.min(axis=(1, 3)) == 255
    assert white.sum(axis=1).tolist() == [11] * 9 + [1]


def of_label_and_code(z):
    """Grey of one pixel is the label, of the others the code's."""
    label = z[:, 2:].argmax(1, keepdim=True).to(z.dtype)
    return torch.cat([label, z[:, :2], z[:, :1]], 1).view(-1, 1, 2, 2)


@pytest.mark.parametrize("sampler", ["normal", "gaussian"])
def test_each_class_has_its_part_of_the_samples_and_its_own_codes(sampler):
    config = FIFConfig(input_dim=(1, 2, 2), latent_dim=2, condition_dim=4)
    model = FIF(config, decoder=Map("reconstruction", of_label_and_code)).eval()
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
    of = generate_by_class(sampler, model, codes, labels, num_samples=4, seed=1)[1]
    assert sorted(of) == [1, 1, 3, 3]  # class 0 has a ninth of the images
    again = generate_by_class(sampler, model, codes, labels, num_samples=45, seed=1)
    assert torch.equal(again[0], samples)
    generate_by_class(sampler, model, codes, labels, num_samples=45, seed=2**32 - 1)
