"""`inception` against pytorch-fid and torch-fidelity, `tf-inception` against a graph of ours."""

import hashlib
import sys

import numpy as np
import pytest
import pytorch_fid.inception as published
import torch
from support.features import noise_images

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation import load_extractor
from pythae_fif.evaluation import networks as inception_module
from pythae_fif.evaluation.build import require_extractor
from pythae_fif.evaluation.networks import WEIGHTS_URL, resize_like_tf1, weights_file

FILE = WEIGHTS_URL.rpartition("/")[2]


class TestAgainstOtherPackages:
    def test_pytorch_fid_at_299(self, inception, inception_state, monkeypatch):
        """At 299 x 299 images are not resized, which pytorch-fid does in another way."""
        monkeypatch.setattr(published, "load_state_dict_from_url", lambda *_, **__: inception_state)
        network = published.InceptionV3([3], normalize_input=False).eval()
        images = noise_images(2, 3, 299, 299)
        # pytorch-fid scales to [-1, 1] by 2 x - 1, and the graph of 2015 by (255 x - 128) / 128.
        expected = network((images.float() - 128) / 128)[0].flatten(1)
        assert float((inception(images)[0] - expected).abs().max()) < 1e-4

    @pytest.mark.parametrize("side", [28, 40])
    def test_torch_fidelity(self, inception, inception_state, tmp_path, side):
        module = pytest.importorskip(
            "torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity"
        )
        torch.save(inception_state, tmp_path / "weights.pth")
        network = module.FeatureExtractorInceptionV3(
            "fidelity",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        )

        images = noise_images(2, 3, side, side)
        expected_features, expected_logits = network(images)
        features, logits = inception(images)
        assert logits.shape == (2, 1008)
        assert float((features - expected_features).abs().max()) < 1e-4
        assert float((logits - expected_logits).abs().max()) < 1e-4

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 17), (299, 299), (400, 350)])
    def test_resize_equals_torch_fidelity(self, height, width):
        module = pytest.importorskip(
            "torch_fidelity.interpolate_compat_tensorflow", reason="needs torch-fidelity"
        )
        images = noise_images(2, 3, height, width).float()
        expected = module.interpolate_bilinear_2d_like_tensorflow1x(
            images, size=(299, 299), align_corners=False
        )
        assert torch.equal(resize_like_tf1(images, 299), expected)


class TestWeights:
    """The places of the file; a few bytes replace its 96 MB."""

    @pytest.fixture(autouse=True)
    def empty_hub(self, tmp_path, monkeypatch):
        """An empty folder of torch.hub, and a network that cannot be reached."""
        self.requested_urls: list[str] = []
        self.hub_file = tmp_path / "hub/checkpoints" / FILE
        self.hub_file.parent.mkdir(parents=True)
        sha256 = hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setattr(inception_module, "WEIGHTS_SHA256", sha256)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        monkeypatch.setattr(torch.hub, "download_url_to_file", self.fail_to_download)

    def fail_to_download(self, url, path, **options):
        self.requested_urls.append(url)
        raise OSError("Name or service not known")

    def test_places_of_the_file(self, tmp_path, inception):
        assert (inception.distance_name, inception.score_name) == ("FID", "IS")
        require_extractor("inception")  # It will be downloaded when it is loaded.

        self.hub_file.write_bytes(b"weights")
        assert weights_file() == self.hub_file

        file = tmp_path / "my_weights.pth"
        file.write_bytes(b"weights")
        assert weights_file(file) == file
        assert self.requested_urls == []

    def test_download(self, monkeypatch, inception_state):
        def download(url, path, *, hash_prefix, progress):
            assert (url, path, progress) == (WEIGHTS_URL, str(self.hub_file), False)
            assert hash_prefix == inception_module.WEIGHTS_SHA256
            torch.save(inception_state, path)
            sha256 = hashlib.sha256(self.hub_file.read_bytes()).hexdigest()
            monkeypatch.setattr(inception_module, "WEIGHTS_SHA256", sha256)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        assert load_extractor("inception", (1, 8, 8)).distance_name == "FID"

    def test_no_network_and_no_file(self):
        with pytest.raises(ConfigError, match=r"has no weights .*No such file"):
            require_extractor("inception", offline=True)
        assert self.requested_urls == []

        with pytest.raises(ConfigError) as error_info:
            load_extractor("inception", (1, 8, 8))
        assert len(self.requested_urls) == 1
        message = str(error_info.value)
        for part in (
            "Name or service not known", WEIGHTS_URL, str(self.hub_file), "--extractor-weights",
            "efficientnet-lite0 works offline",
        ):  # fmt: skip
            assert part in message

    @pytest.mark.parametrize("content", [b"other", None])
    def test_a_missing_or_wrong_file_is_refused(self, tmp_path, content):
        self.hub_file.write_bytes(b"weights")
        path = tmp_path / "x.pth"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.pth is damaged or ano|No such file.*x\.pth"):
            weights_file(path)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A frozen graph with the node names of 2015, for one image: resize, scale, pool, classify."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow (extra `tensorflow`)")
    tf = tensorflow.compat.v1
    rng = np.random.RandomState(0)
    weights = rng.randn(6, 4).astype(np.float32)
    biases = rng.randn(4).astype(np.float32)

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
    return path, torch.from_numpy(weights)


class TestTensorFlow:
    def test_features_and_logits(self, graph):
        path, weights = graph
        extractor = load_extractor("tf-inception", (3, 24, 31), weights=path)
        assert (extractor.distance_name, extractor.score_name) == ("FID", "IS")

        images = noise_images(5, 3, 24, 31)
        features, logits = extractor(images)
        resized = (resize_like_tf1(images.float(), 299) - 128) / 128
        halves = resized[..., :298].unfold(3, 149, 149).mean(dim=(2, 4))
        torch.testing.assert_close(features, halves.permute(0, 2, 1).flatten(1), atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, features @ weights)

    def test_grey_images(self, graph):
        path, _ = graph
        extractor = load_extractor("tf-inception", (3, 24, 31), weights=path)
        grey = noise_images(4, 1, 28, 28)
        expected, _ = extractor(grey.expand(-1, 3, -1, -1))
        image_by_image = torch.cat([extractor(image[None])[0] for image in grey])
        torch.testing.assert_close(image_by_image, expected)

    def test_missing_graph_or_package(self, tmp_path, monkeypatch):
        pytest.importorskip("tensorflow", reason="needs TensorFlow (extra `tensorflow`)")
        for graph in (None, tmp_path / "none.pb"):
            with pytest.raises(ConfigError, match=r"needs classify_image.*--extractor-weights"):
                require_extractor("tf-inception", weights=graph)

        monkeypatch.setitem(sys.modules, "tensorflow", None)
        (tmp_path / "x.pb").write_bytes(b"")
        with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[tensorflow\]'"):
            require_extractor("tf-inception", weights=tmp_path / "x.pb")
