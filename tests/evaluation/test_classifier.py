"""The classifier of a data set's labels: what it learns, what is shipped, what is cached."""

import dataclasses

import numpy as np
import pytest
import torch
from support.features import names_in, noise_images

from pythae_fif.data import load_images
from pythae_fif.errors import DataError
from pythae_fif.evaluation import Features, load_extractor, score_samples, train_classifier
from pythae_fif.evaluation import classifier as classifier_module

pytestmark = pytest.mark.filterwarnings("ignore:scores of")


@pytest.mark.parametrize(
    ("name", "shape", "of_records"),
    [("digits", (1, 8, 8), "4408520ef671dcdd"), ("mnist", (1, 28, 28), "e5edf2fcf9bb7643")],
)
def test_the_shipped_one_is_that_of_the_committed_records(blobs, name, shape, of_records):
    images = {split: noise_images(64, *shape).numpy() for split in ("train", "val", "test")}
    labels = dict.fromkeys(images, np.arange(64) % 2)
    data = dataclasses.replace(blobs, name=name, **images, labels=labels)
    classifier = load_extractor("classifier", shape, data)
    assert classifier(torch.from_numpy(data.test))[1].shape == (64, 10)
    assert classifier.hash == of_records


@pytest.mark.parametrize("name", ["mnist", "x"])
def test_the_shipped_one_is_for_no_other_images(blobs, name, fresh_cache):
    load_extractor("classifier", (1, 8, 8), dataclasses.replace(blobs, name=name))
    assert len(names_in(fresh_cache)) == 1  # one was trained


def test_learns_digits_once(monkeypatch):
    digits = dataclasses.replace(load_images("digits"), name="")  # not the shipped one
    before = torch.get_rng_state()
    trained = train_classifier(digits)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(classifier_module, "_train", None)  # no second training
    loaded = train_classifier(digits)
    images = torch.from_numpy(digits.test)
    features, logits = loaded(images)
    assert (logits.argmax(1).numpy() == digits.labels["test"]).mean() > 0.95
    assert loaded.hash == trained.hash and torch.equal(features, trained(images)[0])
    references = {"test": Features.of(images, trained)}
    real = score_samples(torch.from_numpy(digits.train[:150]), trained, references)
    noise = score_samples(noise_images(150, 1, 8, 8), trained, references)
    assert real.frechet["test"] < 0.1 * noise.frechet["test"]
    assert real.score.mean > noise.score.mean


def test_is_deterministic(blobs, classifier):
    torch.manual_seed(123)
    assert train_classifier(blobs).hash == classifier.hash


@pytest.mark.parametrize("labels", [np.ones(64, int), np.arange(64) - 1, 10**9 * np.arange(64)])
def test_wrong_labels(blobs, labels):
    data = dataclasses.replace(blobs, labels={**blobs.labels, "train": labels})
    with pytest.raises(DataError, match=r"labels of blobs must be integers from 0 up"):
        load_extractor("classifier", (1, 8, 8), data)


def test_one_of_other_data_is_not_used(blobs, fresh_cache):
    labels = {**blobs.labels, "train": 1 - blobs.labels["train"]}
    for change in ({}, {"labels": labels}, {"train": 255 - blobs.train}):
        train_classifier(dataclasses.replace(blobs, **change))
    assert len(names_in(fresh_cache)) == 3
