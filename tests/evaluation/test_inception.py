"""`inception` against pytorch-fid and torch-fidelity, `tf-inception` against a graph of our own."""

import dataclasses
import hashlib
import sys
import unittest.mock

import numpy as np
import pytest
import torch
from support.features import noise_images

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import (
    InceptionExtractor,
    TFInceptionExtractor,
    build_extractor,
)
from pythae_fif.evaluation.inception import CONVENTIONS, resize_like_tf1
from pythae_fif.evaluation.weights import DINOV2, INCEPTION


def weights_like(path, content=b"weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestAgainstOthers:
    def test_pytorch_fid_at_299(self, inception, inception_state):
        """At 299 x 299 there is no resize, in which pytorch-fid differs from the graph of 2015."""
        import pytorch_fid.inception as published

        with unittest.mock.patch.object(
            published, "load_state_dict_from_url", return_value=inception_state
        ):
            theirs = published.InceptionV3([3]).eval()
        images = noise_images(2, 3, 299, 299)
        # pytorch-fid scales to [-1, 1] by 2 x - 1; the graph by (255 x - 128) / 128
        theirs.normalize_input = False
        expected = theirs((images.float() - 128) / 128)[0].flatten(1)
        features, _ = inception(images)
        assert float((features - expected).abs().max()) < 1e-4

    @pytest.mark.parametrize("side", [28, 40])
    def test_torch_fidelity(self, inception, inception_state, tmp_path, side):
        published = pytest.importorskip(
            "torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity"
        )
        torch.save(inception_state, tmp_path / "weights.pth")
        theirs = published.FeatureExtractorInceptionV3(
            "theirs",
            ["2048", "logits_unbiased", "logits"],
            feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        )
        images = noise_images(2, 3, side, side)
        expected, unbiased, biased = theirs(images)
        features, logits = inception(images)
        assert float((features - expected).abs().max()) < 1e-4
        assert float((logits - unbiased).abs().max()) < 1e-4
        assert float((logits + inception.logit_bias - biased).abs().max()) < 1e-4

    @pytest.mark.parametrize("side", [28, 400])
    def test_pytorch_fid_at_other_sizes(self, inception_state, side):
        import pytorch_fid.inception as published

        with unittest.mock.patch.object(
            published, "load_state_dict_from_url", return_value=inception_state
        ):
            theirs = published.InceptionV3([3]).eval()
        ours = InceptionExtractor(inception_state, convention="inception-pytorch-fid")
        images = noise_images(2, 3, side, side)
        expected = theirs(images / 255)[0].flatten(1)
        assert float((ours(images)[0] - expected).abs().max()) < 1e-4

    @pytest.mark.parametrize("shape", [(32, 32), (28, 17), (400, 350)])
    @pytest.mark.parametrize("package", ["cleanfid.resize", "PIL.Image"])
    def test_resize_is_that_of_clean_fid(self, package, shape):
        """clean-fid calls Pillow for each channel, as floating-point numbers, and clips."""
        theirs = pytest.importorskip(package, reason="needs clean-fid")
        image = noise_images(1, 3, *shape)[0]
        if package == "cleanfid.resize":
            array = image.permute(1, 2, 0).numpy()
            expected = theirs.build_resizer("clean")(array).transpose(2, 0, 1)
        else:
            channels = [theirs.fromarray(channel.numpy().astype("f4"), "F") for channel in image]
            resized = [c.resize((299, 299), theirs.Resampling.BICUBIC) for c in channels]
            expected = np.stack([np.asarray(channel).clip(0, 255) for channel in resized])
        prepared = CONVENTIONS["inception-clean-fid"].prepare(image[None] / 255)[0]
        np.testing.assert_allclose(128 * prepared + 128, expected, atol=1e-2)

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 17), (299, 299), (400, 350)])
    def test_resize_is_that_of_torch_fidelity(self, height, width):
        published = pytest.importorskip(
            "torch_fidelity.interpolate_compat_tensorflow", reason="needs torch-fidelity"
        )
        images = noise_images(2, 3, height, width).float()
        expected = published.interpolate_bilinear_2d_like_tensorflow1x(
            images, size=(299, 299), align_corners=False
        )
        assert torch.equal(resize_like_tf1(images, 299), expected)


class TestExtractor:
    def test_a_convention_has_its_own_name_and_hash(self, inception, inception_state):
        names = {"inception": ("FID", inception.hash)}
        for name in ("inception-pytorch-fid", "inception-clean-fid"):
            other = InceptionExtractor(inception_state, convention=name)
            assert other.name == name and other.score_name == "IS"
            names[name] = (other.distance_name, other.hash)
        assert len({hash_ for _, hash_ in names.values()}) == 3
        assert [name for name, _ in names.values()] == [
            "FID", "FID (pytorch-fid)", "FID (clean-fid)"
        ]  # fmt: skip

    def test_names_and_sizes(self, inception):
        features, logits = inception(noise_images(2, 3, 32, 32))
        assert features.shape == (2, inception.feature_dim) == (2, 2048)
        assert logits.shape == (2, 1008)
        names = (inception.name, inception.distance_name, inception.score_name)
        assert names == ("inception", "FID", "IS")

    def test_hash_is_of_the_weights(self, inception, inception_state):
        other = {key: value.clone() for key, value in inception_state.items()}
        other["fc.bias"][0] += 1
        assert InceptionExtractor(other).hash != inception.hash
        assert InceptionExtractor(inception_state).hash == inception.hash

    def test_wrong_weights(self, inception_state):
        lacking = {key: value for key, value in inception_state.items() if "Mixed_7c" not in key}
        with pytest.raises(ConfigError, match=f"lack 'Mixed_7c.*{INCEPTION.file}"):
            InceptionExtractor(lacking)


def test_the_hash_is_that_of_the_file_name():
    """torch.hub's convention: the name ends in the first digits of the sha256."""
    digits = INCEPTION.file.removesuffix(".pth").rpartition("-")[2]
    assert INCEPTION.sha256.startswith(digits)


@pytest.mark.parametrize("published", [INCEPTION, DINOV2], ids=lambda of: of.extractor)
class TestWeights:
    """Where the file is looked for; a few bytes stand in for its 96 MB, or 1.2 GB."""

    @pytest.fixture(autouse=True)
    def alone(self, published, tmp_path, monkeypatch):
        self.hub = tmp_path / "hub"
        self.asked: list[str] = []
        self.weights = dataclasses.replace(published, sha256=hashlib.sha256(b"weights").hexdigest())
        self.file, self.variable = published.file, published.variable
        monkeypatch.delenv(self.variable, raising=False)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(self.hub))
        monkeypatch.setattr(torch.hub, "download_url_to_file", self.download)

    def download(self, url, path, **options):
        self.asked.append(url)
        raise OSError("Name or service not known")

    def test_order(self, tmp_path, monkeypatch):
        hub = weights_like(self.hub / "checkpoints" / self.file)
        assert self.weights.find() == hub
        variable = weights_like(tmp_path / "variable.pth")
        monkeypatch.setenv(self.variable, str(variable))
        assert self.weights.find() == variable
        flag = weights_like(tmp_path / "flag.pth")
        assert self.weights.find(flag) == flag
        assert self.asked == []

    def test_the_same_file_of_another_package(self):
        if not self.weights.same:
            pytest.skip("no other package keeps it")
        path = weights_like(self.hub / "checkpoints" / self.weights.same[0])
        assert self.weights.find() == path

    def test_download(self, monkeypatch):
        def download(url, path, *, hash_prefix, progress):
            assert url == self.weights.url and not progress
            assert hash_prefix == hashlib.sha256(b"weights").hexdigest()
            weights_like(self.hub / "checkpoints" / self.file)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        assert self.weights.find() == self.hub / "checkpoints" / self.file

    def test_no_network_and_no_file(self):
        with pytest.raises(ConfigError) as caught:
            build_extractor(self.weights.extractor, (1, 8, 8))
        message = str(caught.value)
        assert "\n" not in message
        assert "Name or service not known" in message
        assert self.weights.url in message
        assert str(self.hub / "checkpoints" / self.file) in message
        assert f"--extractor-weights or {self.variable}" in message
        assert "efficientnet-lite0 works offline" in message
        assert len(self.asked) == 1

    def test_not_asking_the_network(self):
        with pytest.raises(ConfigError, match="downloads are off"):
            self.weights.find(download=False)
        assert self.asked == []

    def test_a_damaged_file(self, tmp_path):
        path = weights_like(tmp_path / "x.pth", b"other")
        with pytest.raises(ConfigError, match=r"x\.pth has sha256 .* not .* another or a damaged"):
            self.weights.find(path)

    @pytest.mark.parametrize("by_flag", [True, False])
    def test_a_missing_file_is_not_passed_over(self, tmp_path, monkeypatch, by_flag):
        weights_like(self.hub / "checkpoints" / self.file)
        missing = tmp_path / "none.pth"
        origin = "--extractor-weights" if by_flag else self.variable
        if not by_flag:
            monkeypatch.setenv(origin, str(missing))
        with pytest.raises(ConfigError, match=rf"{origin}: no file .*none\.pth"):
            self.weights.find(missing if by_flag else None)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A frozen graph with the node names of 2015, for one image: resize, scale, pool, classify."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow (extra `tensorflow`)")
    tf = tensorflow.compat.v1
    draws = np.random.RandomState(0)
    weights = draws.randn(6, 4).astype(np.float32)
    biases = draws.randn(4).astype(np.float32)
    with tf.Graph().as_default() as frozen:
        decoded = tf.placeholder(tf.float32, [None, None, 3], name="DecodeJpeg")
        images = tf.expand_dims(decoded, 0, name="ExpandDims")
        images = tf.image.resize_bilinear(images, [299, 299], name="ResizeBilinear")
        images = tf.multiply(tf.subtract(images, 128.0, name="Sub"), 1 / 128, name="Mul")
        halves = tf.nn.avg_pool2d(images, [299, 149], [299, 149], "VALID")
        pooled = tf.reshape(halves, [-1, 1, 1, 6], name="pool_3")
        flat = tf.reshape(pooled, [-1, 6])
        product = tf.matmul(flat, tf.constant(weights), name="softmax/logits/MatMul")
        tf.nn.bias_add(product, tf.constant(biases), name="softmax/logits")
    path = tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb"
    path.write_bytes(frozen.as_graph_def().SerializeToString())
    return path, torch.from_numpy(weights), torch.from_numpy(biases)


class TestTensorFlow:
    def test_features_and_logits(self, graph):
        path, weights, biases = graph
        extractor = TFInceptionExtractor(path)
        assert extractor.feature_dim == 6
        images = noise_images(5, 3, 24, 31)
        features, logits = extractor(images)
        resized = (resize_like_tf1(images.float(), 299) - 128) / 128
        halves = resized[..., :298].unfold(3, 149, 149).mean(dim=(2, 4))
        torch.testing.assert_close(features, halves.permute(0, 2, 1).flatten(1), atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, features @ weights)
        torch.testing.assert_close(extractor.logit_bias, biases)

    def test_forms_of_input(self, graph):
        extractor = TFInceptionExtractor(graph[0])
        grey = noise_images(4, 1, 28, 28)
        expected = extractor(grey)[0]
        torch.testing.assert_close(extractor(grey / 255)[0], expected)
        torch.testing.assert_close(extractor(grey.expand(-1, 3, -1, -1))[0], expected)
        parts = torch.cat([extractor(image[None])[0] for image in grey])
        torch.testing.assert_close(parts, expected)
        with pytest.raises(DataError, match="grey or RGB"):
            extractor(noise_images(2, 2, 8, 8))

    def test_by_name_and_variable(self, graph, monkeypatch):
        monkeypatch.setenv("PYTHAE_FIF_TF_INCEPTION", str(graph[0]))
        by_variable = build_extractor("tf-inception", (1, 8, 8))
        assert by_variable.distance_name == "FID"
        assert by_variable.hash == TFInceptionExtractor(graph[0]).hash

    def test_another_file(self, graph, tmp_path):
        (tmp_path / "x.pb").write_bytes(b"no graph")
        with pytest.raises(ConfigError, match=r"x\.pb is no such graph") as caught:
            TFInceptionExtractor(tmp_path / "x.pb")
        assert "\n" not in str(caught.value)


class TestTensorFlowErrors:
    def test_no_graph(self, tmp_path, monkeypatch):
        monkeypatch.delenv("PYTHAE_FIF_TF_INCEPTION", raising=False)
        with pytest.raises(ConfigError, match=r"has no graph.*efficientnet-lite0 works offline"):
            TFInceptionExtractor()
        with pytest.raises(ConfigError, match="no file"):
            TFInceptionExtractor(tmp_path / "none.pb")

    def test_no_tensorflow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow", None)
        (tmp_path / "x.pb").write_bytes(b"")
        with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[tensorflow\]'"):
            TFInceptionExtractor(tmp_path / "x.pb")
