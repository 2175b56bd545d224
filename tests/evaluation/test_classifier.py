"""The classifier of a data set's labels: what it learns, what is shipped, what is cached."""

import dataclasses

import pytest
import torch
from support.features import names_in, noise_images

from pythae_fif.data import load_images
from pythae_fif.errors import DataError
from pythae_fif.evaluation import (
    Features,
    LabelledImages,
    load_extractor,
    score_samples,
    train_classifier,
)
from pythae_fif.evaluation import classifier as classifier_module

pytestmark = pytest.mark.filterwarnings("ignore::pythae_fif.evaluation.SampleCountWarning")


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return LabelledImages.of(load_images("digits"))


class TestShipped:
    @pytest.mark.parametrize(
        ("name", "shape", "of_records"),
        [("digits", (1, 8, 8), "4408520ef671dcdd"), ("mnist", (1, 28, 28), "e5edf2fcf9bb7643")],
    )
    def test_is_the_one_of_the_committed_records(self, name, shape, of_records):
        images = noise_images(6, *shape)
        data = LabelledImages(images, torch.arange(6) % 2, name=name)
        classifier = load_extractor("classifier", shape, data)
        assert classifier.image_shape == shape and classifier.accuracy > 0.98
        assert classifier(images).logits.shape == (6, 10)
        assert classifier.hash == of_records

    @pytest.mark.parametrize("name, side", [("", 8), ("mnist", 8), ("x", 8)])
    def test_is_for_no_other_images(self, blobs, name, side, tmp_path):
        data = dataclasses.replace(blobs, name=name)
        load_extractor("classifier", (1, side, side), data, cache_dir=tmp_path)
        assert len(names_in(tmp_path)) == 1  # one was trained


class TestTraining:
    def test_learns_digits_once(self, digits, tmp_path, monkeypatch):
        data = dataclasses.replace(digits, name="")
        before = torch.get_rng_state()
        trained = train_classifier(data, cache_dir=tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        assert trained.accuracy > 0.95
        monkeypatch.setattr(classifier_module, "_train", None)  # no second training
        loaded = train_classifier(data, cache_dir=tmp_path)
        assert (loaded.hash, loaded.accuracy) == (trained.hash, trained.accuracy)
        images = digits.holdout.images
        assert torch.equal(loaded(images[:9])[0], trained(images[:9])[0])
        references = {"test": Features.of(images, trained)}
        real = score_samples(digits.images[:150], trained, references)
        noise = score_samples(noise_images(150, 1, 8, 8), trained, references)
        assert real.frechet["test"] < 0.1 * noise.frechet["test"]
        assert real.score.mean > noise.score.mean

    def test_deterministic_and_seeded(self, blobs, classifier):
        torch.manual_seed(123)
        assert train_classifier(blobs, max_steps=3).hash == classifier.hash
        assert train_classifier(blobs, max_steps=3, seed=1).hash != classifier.hash
        torch.set_default_dtype(torch.float64)
        try:
            assert train_classifier(blobs, max_steps=3).hash == classifier.hash
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (torch.zeros(4, 1, 8, 8), torch.arange(4), "must be uint8"),
            (noise_images(4, 1, 7, 8), torch.arange(4), "8 x 8"),
            (noise_images(4, 1, 8, 8), torch.arange(3), r"shape \(4,\)"),
            (noise_images(4, 1, 8, 8), torch.rand(4), "integers"),
            (noise_images(4, 1, 8, 8), torch.ones(4, dtype=torch.int64), "two classes"),
            (noise_images(4, 1, 8, 8), torch.arange(4) - 1, "from 0"),
            (noise_images(4, 1, 8, 8), 10**9 * torch.arange(4), "fewer than the images"),
        ],
    )
    def test_wrong_data(self, images, labels, message):
        with pytest.raises(DataError, match=message):
            load_extractor("classifier", (1, 8, 8), LabelledImages(images, labels))


class TestCache:
    @pytest.mark.parametrize(
        "change", [{"images": 0}, {"labels": 1}, {"seed": 1}, {"max_steps": 1}]
    )
    def test_key(self, blobs, tmp_path, change):
        length = {"seed": 0, "max_steps": 2}
        for _ in range(2):
            train_classifier(blobs, cache_dir=tmp_path, **length)
        assert len(names_in(tmp_path)) == 1
        images, labels = blobs.images.clone(), blobs.labels.clone()
        images[:5] = change.pop("images", images[:5])
        labels[:5] = change.pop("labels", labels[:5])
        data = LabelledImages(images, labels)
        train_classifier(data, cache_dir=tmp_path, **(length | change))
        assert len(names_in(tmp_path)) == 2

    def test_one_of_other_data_is_not_used(self, blobs, tmp_path, caplog):
        """A file under another's name, whose classes are as many."""
        swapped = LabelledImages(blobs.images, 1 - blobs.labels)
        ours = train_classifier(blobs, cache_dir=tmp_path, max_steps=2)
        (mine,) = names_in(tmp_path)
        train_classifier(swapped, cache_dir=tmp_path, max_steps=2)
        (foreign,) = set(names_in(tmp_path)) - {mine}
        (tmp_path / mine).write_bytes((tmp_path / foreign).read_bytes())
        assert train_classifier(blobs, cache_dir=tmp_path, max_steps=2).hash == ours.hash
        assert "not what was written under this name" in caplog.text
        assert f"{mine}.corrupt" in names_in(tmp_path)
