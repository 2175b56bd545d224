"""References and `score_samples`: what is computed once, what does not matter, what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import names_in, noise_images

from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.evaluation import (
    Extracted,
    PixelExtractor,
    Reference,
    SampleCountWarning,
    build_extractor,
    frechet_error,
    inception_score,
    kernel_distance,
    neighbour_scores,
    score_samples,
)
from pythae_fif.evaluation import reference as reference_module
from pythae_fif.evaluation import scoring as scoring_module
from pythae_fif.evaluation.reference import tensor_hash

pytestmark = pytest.mark.filterwarnings("ignore::pythae_fif.evaluation.SampleCountWarning")


class CountingPixels(PixelExtractor):
    """Pixels, counting the images it was asked about."""

    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)


class TestReference:
    def test_computed_once(self, tmp_path):
        images, extractor = noise_images(30, 1, 8, 8), CountingPixels((1, 8, 8))
        first, again = (Reference.of(images, extractor, cache_dir=tmp_path) for _ in range(2))
        assert extractor.seen == 30
        assert again.statistics.count == 30
        assert torch.equal(again.features, first.features)
        assert torch.equal(again.statistics.mean, first.statistics.mean)
        assert torch.equal(again.statistics.covariance, first.statistics.covariance)

    @pytest.mark.parametrize("rank", [64, 20])
    def test_what_is_of_the_reference_alone_is_computed_once(self, tmp_path, monkeypatch, rank):
        """Also by another process, and for any number of sets of samples of one size and seed."""
        built = []

        def counting(name):
            function = getattr(reference_module, name)
            monkeypatch.setattr(
                reference_module, name, lambda *given: built.append(name) or function(*given)
            )

        counting("own_pairs")
        counting("factor")
        images, extractor = noise_images(90, 1, 8, 8), PixelExtractor((1, 8, 8))
        samples = noise_images(80, 1, 8, 8, seed=1)
        samples.view(80, 64)[:, rank:] = 0
        plain = score_samples(samples, extractor, {"a": Reference.of(images, extractor)})
        assert sorted(built) == ["factor", "own_pairs"]
        for _ in range(2):
            held = Reference.of(images, extractor, cache_dir=tmp_path)
            for _ in range(2):
                assert score_samples(samples, extractor, {"a": held}) == plain
        assert sorted(built) == 2 * ["factor"] + 2 * ["own_pairs"]
        score_samples(samples, extractor, {"a": held}, seed=1)
        score_samples(samples[:70], extractor, {"a": held})
        assert built.count("own_pairs") == 4
        assert len(names_in(tmp_path)) == 1 + 3 + 1

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_batch_size_does_not_matter(self, batch_size, monkeypatch):
        monkeypatch.setattr(reference_module, "BATCH_SIZE", batch_size)
        images = noise_images(30, 1, 8, 8)
        held = Reference.of(images, PixelExtractor((1, 8, 8)))
        features = (images.flatten(1).double() / 255).numpy()
        expected = np.cov(features, rowvar=False)
        np.testing.assert_allclose(held.features.numpy(), features, rtol=1e-6)
        np.testing.assert_allclose(held.statistics.covariance, expected, rtol=1e-5, atol=1e-7)

    def test_key(self, tmp_path):
        images, extractor = noise_images(30, 1, 16, 16), PixelExtractor((1, 16, 16))
        changed = images.clone()
        changed[3, 0, 7, 7] += 1
        for held in (images, images.clone(), changed, images[:20]):
            Reference.of(held, extractor, cache_dir=tmp_path)
        Reference.of(images[:, :, :8, :8], PixelExtractor((1, 8, 8)), cache_dir=tmp_path)
        assert len(names_in(tmp_path)) == 4

    @pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"no", lambda raw: raw[:99]])
    def test_a_corrupt_file_is_set_aside(self, tmp_path, damage):
        images, extractor = noise_images(30, 1, 8, 8), CountingPixels((1, 8, 8))
        first = Reference.of(images, extractor, cache_dir=tmp_path)
        (name,) = names_in(tmp_path)
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        again = Reference.of(images, extractor, cache_dir=tmp_path)
        assert extractor.seen == 60
        assert torch.equal(again.features, first.features)
        assert names_in(tmp_path) == [name, f"{name}.corrupt"]

    def test_a_device_that_fails_damages_no_file(self, tmp_path, monkeypatch):
        """As a GPU whose memory is full, of which torch tells by a RuntimeError."""
        images, extractor = noise_images(30, 1, 8, 8), PixelExtractor((1, 8, 8))
        Reference.of(images, extractor, cache_dir=tmp_path).root()
        before = names_in(tmp_path)

        def full(tensor, *_):
            raise torch.cuda.OutOfMemoryError

        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "to", full)
            with pytest.raises(torch.cuda.OutOfMemoryError):
                Reference.of(images, extractor, cache_dir=tmp_path)
        held = Reference.of(images, extractor, cache_dir=tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "to", full)
            with pytest.raises(torch.cuda.OutOfMemoryError):
                held.root()
        assert names_in(tmp_path) == before

    @pytest.mark.parametrize("rounded", [True, False])
    def test_floating_point_images(self, tmp_path, rounded):
        images, extractor = noise_images(30, 1, 8, 8), PixelExtractor((1, 8, 8))
        expected = Reference.of(images, extractor, cache_dir=tmp_path)
        nearby = (images / 255 + 0.001).clamp(0, 1)
        for round_to_uint8 in (True, False):  # floats have a key of their own for each
            held = Reference.of(
                nearby, extractor, cache_dir=tmp_path, round_to_uint8=round_to_uint8
            )
            assert torch.equal(held.features, expected.features) == round_to_uint8
        Reference.of(images, extractor, cache_dir=tmp_path, round_to_uint8=rounded)
        assert len(names_in(tmp_path)) == 3

    def test_out_of_range(self):
        with pytest.raises(DataError, match="divide by 255"):
            Reference.of(torch.full((3, 1, 8, 8), 7.0), PixelExtractor((1, 8, 8)))

    def test_tensor_hash(self):
        images = noise_images(4, 1, 8, 8)
        changed = images.clone()
        changed[3, 0, 7, 7] += 1
        kinds = [images, changed, images[:3], images.reshape(4, 1, 4, 16), images.float()]
        assert len({tensor_hash(kind) for kind in kinds}) == len(kinds)
        assert tensor_hash(images.clone()) == tensor_hash(images)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return noise_images(40, 1, 8, 8)


@pytest.fixture(scope="module")
def references(images, blob_classifier) -> dict[str, Reference]:
    return {
        split: Reference.of(part, blob_classifier)
        for split, part in {"val": images[:20], "test": images}.items()
    }


class TestScoreSamples:
    def test_the_reference_itself(self, images, references, blob_classifier):
        scores = score_samples(images, blob_classifier, references)
        assert scores.frechet["test"] == pytest.approx(0, abs=1e-8)
        assert scores.frechet["val"] > 1e-6
        assert scores.score.mean >= 1
        plain = scores.to_dict()
        by_reference = ("frechet", "frechet_error", "kernel", "neighbours")
        assert all(plain.pop(name).keys() == {"val", "test"} for name in by_reference)
        assert {key: plain[key] for key in plain if key != "score"} == {
            "num_samples": 40,
            "extractor": "classifier",
            "extractor_hash": blob_classifier.hash,
            "distance_name": "FD-classifier",
            "score_name": "classifier score",
            "rounded": True,
            "seed": 0,
            "score_with_bias": None,
        }

    def test_floats_are_clamped_and_rounded(self, images, references, blob_classifier):
        expected = score_samples(images, blob_classifier, references)
        nearby = images / 255 + 0.001 * torch.where(images < 128, -1, 1)
        assert score_samples(nearby, blob_classifier, references) == expected
        unrounded = score_samples(nearby, blob_classifier, references, round_to_uint8=False)
        assert unrounded.rounded is False
        assert unrounded.frechet != expected.frechet

    def test_far_outside_counts_as_the_border(self, references, blob_classifier):
        wild = 3 * torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        assert score_samples(wild, blob_classifier, references) == score_samples(
            wild.clamp(0, 1), blob_classifier, references
        )

    @settings(max_examples=15, deadline=None)
    @given(batch_size=st.integers(1, 50), chunk=st.integers(1, 50))
    def test_batches_do_not_matter(self, images, references, blob_classifier, batch_size, chunk):
        expected = score_samples(images, blob_classifier, references)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scoring_module, "BATCH_SIZE", batch_size)
            scores = score_samples(iter(images.split(chunk)), blob_classifier, references)
        assert scores.num_samples == 40
        for split in references:
            assert scores.frechet[split] == pytest.approx(
                expected.frechet[split], rel=1e-4, abs=1e-8
            )
        assert scores.score.mean == pytest.approx(expected.score.mean, rel=1e-5)
        assert scores.score.std == pytest.approx(expected.score.std, rel=1e-5, abs=1e-6)

    def test_no_score_without_logits(self, images):
        extractor = PixelExtractor((1, 8, 8))
        scores = score_samples(images, extractor, {"val": Reference.of(images, extractor)})
        assert scores.score is None
        assert scores.score_name is None

    @pytest.mark.parametrize("in_chunks", [False, True])
    def test_non_finite_samples_are_counted(
        self, images, references, blob_classifier, in_chunks, monkeypatch
    ):
        monkeypatch.setattr(scoring_module, "BATCH_SIZE", 4)
        samples = images / 255
        samples[3, 0, 0, 0] = math.nan
        samples[4, 0, 0, :2] = math.inf
        samples[37, 0, 7, 7] = -math.inf
        with pytest.raises(NonFiniteError, match="3 of 40 samples") as caught:
            score_samples(
                samples.split(9) if in_chunks else samples,
                blob_classifier,
                references,
            )
        assert "\n" not in str(caught.value)

    def test_too_few_samples(self, images, references, blob_classifier):
        with pytest.raises(DataError, match="N = 9"):
            score_samples(images[:9], blob_classifier, references)
        with pytest.raises(DataError, match="no samples to score"):
            score_samples([], blob_classifier, references)

    def test_no_reference_is_known_before_any_feature(self, images):
        extractor = CountingPixels((1, 8, 8))
        with pytest.raises(DataError, match="references is empty"):
            score_samples(images, extractor, {})
        assert extractor.seen == 0

    def test_references_of_another_extractor(self, images, references):
        with pytest.raises(DataError, match="features of another extractor, not of pixels"):
            score_samples(images, PixelExtractor((1, 8, 8)), references)


class Classified(PixelExtractor):
    """Pixels, and logits that leave a bias out."""

    logit_bias = torch.tensor([2.0, 0.0, 0.0])
    score_name = "score"

    def extract(self, images):
        features, _ = super().extract(images)
        return Extracted(features, 20 * features[:, :3])


class TestAllScores:
    def test_all_scores_of_one_pass(self, monkeypatch):
        monkeypatch.setattr(scoring_module, "BATCH_SIZE", 16)
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (90, 1, 4, 4), generator=draw, dtype=torch.uint8)
        samples, held = images[:50], images[50:]
        extractor = Classified((1, 4, 4))
        references = {"test": Reference.of(held, extractor)}
        features, logits = extractor(samples)
        held_features = extractor(held)[0]
        with pytest.warns(SampleCountWarning, match="of 50 samples and 40 references, fewer"):
            scores = score_samples(samples, extractor, references, seed=3)
        assert scores.seed == 3
        assert scores.kernel == {"test": kernel_distance(features, held_features, seed=3)}
        assert scores.neighbours == {"test": neighbour_scores(features, held_features)}
        assert scores.score.mean == inception_score(logits, seed=3).mean
        biased = inception_score(logits + extractor.logit_bias, seed=3).mean
        assert scores.score_with_bias.mean == biased != scores.score.mean
        assert scores.frechet_error == {
            "test": pytest.approx(frechet_error(features, references["test"].statistics))
        }


def test_a_reference_of_another_extractor_is_refused():
    images, extractor = noise_images(30, 1, 8, 8), PixelExtractor((1, 8, 8))
    other = PixelExtractor([1, 8, 8])
    assert other.hash == extractor.hash and other.image_shape == (1, 8, 8)
    reference = Reference.of(images, extractor)
    score_samples(images, other, {"val": reference})
    other.hash = "of other weights"
    with pytest.raises(DataError, match="features of another extractor, not of pixels"):
        score_samples(images, other, {"val": reference})


def test_a_shape_that_is_no_image_s_is_told():
    with pytest.raises(ConfigError, match=r"image_shape \(8, 8\): \(C, H, W\), or \(D,\)"):
        build_extractor("pixels", (8, 8))
