"""The inception score, `score_samples`, and scores of codes."""

import math
from dataclasses import asdict, astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from support.features import correlated, noise_images, normal
from torch.distributions import MultivariateNormal, kl_divergence

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import (
    Extractor,
    Features,
    Scores,
    frechet_distance,
    load_extractor,
    score_codes,
    score_samples,
)
from pythae_fif.evaluation.distances import (
    frechet_error,
    kernel_distance,
    memorisation,
    neighbour_scores,
)
from pythae_fif.evaluation.scoring import inception_score

pytestmark = pytest.mark.filterwarnings("ignore:scores of")


class TestInceptionScore:
    def test_against_torch_fidelity(self):
        metric_isc = pytest.importorskip("torch_fidelity.metric_isc", reason="needs torch-fidelity")
        logits = 3 * normal(503, 20, seed=0)
        scores = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
        expected = (scores["inception_score_mean"], scores["inception_score_std"])
        assert astuple(inception_score(logits, seed=None)) == pytest.approx(expected, rel=1e-9)

    def test_known_mixtures(self):
        """p(y|x) = (0.9, 0.1) or (0.1, 0.9), half each: exp(log 2 - H(0.9)); a constant: 1."""
        p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
        entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
        mean = inception_score(p.log().repeat(20, 1), seed=None).mean
        assert mean == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-12)

        constant = inception_score(torch.tensor([[3.0, -1.0, 0.5]]).repeat(50, 1))
        assert astuple(constant) == pytest.approx((1, 0), abs=1e-12)

    def test_grouped_samples_are_shuffled(self):
        grouped = 200 * torch.eye(10).repeat_interleave(100, dim=0)
        assert inception_score(grouped).mean > 9
        assert inception_score(grouped, seed=1) != inception_score(grouped, seed=2)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return noise_images(40, 1, 8, 8)


@pytest.fixture
def references(images, classifier) -> dict[str, Features]:
    splits = {"val": images[:20], "test": images}
    return {split: Features.from_images(part, classifier) for split, part in splits.items()}


class TestScoreSamples:
    def test_each_score_equals_its_function(self):
        """The features are pixels, and the logits three of them."""

        class PixelClassifier(torch.nn.Module):
            def forward(self, images):
                features = images.flatten(1)
                return features, 20 * features[:, :3]

        extractor = Extractor("a", "FD-a", PixelClassifier(), "0", score_name="s")
        reference_images, samples = noise_images(90, 1, 4, 4).split([40, 50])
        reference = Features.from_images(reference_images, extractor)
        training = Features.from_images(samples[:9], extractor)
        with pytest.warns(UserWarning, match="of 50 samples and 40 references, fewer"):
            scores = score_samples(
                samples, extractor, {"test": reference}, seed=3, training=training
            )

        values, logits = extractor(samples)
        features = Features(values, extractor.hash)
        assert scores.score == inception_score(logits, seed=3)
        assert scores.frechet["test"] == frechet_distance(features, reference)
        assert scores.extra.keys() == {"frechet_error"}  # the energy distance is for tables
        assert scores.extra["frechet_error"]["test"] == frechet_error(features, reference)
        assert scores.kernel["test"] == kernel_distance(features, reference, seed=3)
        assert scores.neighbours["test"] == neighbour_scores(features, reference)
        assert scores.memorisation == memorisation(features, training, {"test": reference})

    def test_floats_are_clamped_and_rounded(self, images, references, classifier):
        expected = score_samples(images, classifier, references)
        nearby = images / 255 + 0.001 * torch.where(images < 128, -1, 1)
        assert score_samples(nearby, classifier, references) == expected

        out_of_range = 3 * torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        expected = score_samples(out_of_range.clamp(0, 1), classifier, references)
        assert score_samples(out_of_range, classifier, references) == expected

    def test_rows_of_a_table_are_not_clamped(self):
        extractor = load_extractor("columns", (3,))
        reference = {"test": Features.from_images(normal(20, 3, seed=0), extractor)}
        scores = score_samples(normal(20, 3, seed=0) + 5, extractor, reference)
        assert scores.frechet["test"] == pytest.approx(75, rel=1e-5)
        assert (scores.rounded, scores.score, scores.score_name) == (False, None, None)

    def test_non_finite_samples_are_counted(self, images, references, classifier):
        samples = images / 255
        samples[3, 0, 0, 0] = math.nan
        samples[4, 0, 0, :2] = math.inf
        samples[37, 0, 7, 7] = -math.inf
        with pytest.raises(NonFiniteError, match="3 of 40 samples"):
            score_samples(samples, classifier, references)

    def test_unsuitable_samples_and_references_are_refused(
        self, images, references, classifier, pixels
    ):
        with pytest.raises(DataError, match="10 samples and references, not 9 and 20"):
            score_samples(images[:9], classifier, references)
        with pytest.raises(DataError, match="are not from extractor 'pixels'"):
            score_samples(images, pixels, references)

        training = Features.from_images(images, pixels)
        with pytest.raises(DataError, match="are not from extractor 'classifier'"):
            score_samples(images, classifier, references, training=training)


def test_scores_are_printed(images, references, classifier):
    scores = score_samples(images, classifier, references, training=references["val"])
    printed = str(scores)
    for part in ("frechet.val", "FD-classifier", "memorisation.authenticity", "score.mean"):
        assert part in printed
    assert "..." not in printed


def test_scores_are_written_and_read(images, references, classifier):
    scores = score_samples(images, classifier, references, training=references["val"])
    read_scores = TypeAdapter(Scores).validate_python
    assert read_scores(asdict(scores)) == scores


@given(seed=st.integers(0, 1000), dim=st.integers(1, 6))
def test_score_of_codes_is_the_divergence_of_the_fitted_gaussian(seed, dim):
    z = correlated(400, dim, seed=seed)
    covariance = torch.cov(z.T, correction=0).reshape(dim, dim)
    fitted = MultivariateNormal(z.mean(0), covariance)
    prior = MultivariateNormal(torch.zeros_like(z[0]), torch.eye(dim, dtype=z.dtype))
    expected = kl_divergence(fitted, prior).item()
    assert score_codes(z).divergence == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_that_do_not_span_their_space_have_no_score(dtype):
    z = correlated(400, 3, seed=1).to(dtype)
    assert score_codes(torch.cat((z, z[:, :1] - 2 * z[:, 1:2]), 1)) is None
    assert score_codes(torch.cat((z, torch.zeros_like(z[:, :1])), 1)) is None
    assert score_codes(z.reshape(-1, 3, 1, 1)) is None
    assert score_codes(torch.cat((z, 5e-4 * correlated(400, 1, seed=2).to(dtype)), 1)) is not None
