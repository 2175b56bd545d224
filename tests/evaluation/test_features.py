"""Features of images: their moments, and the file in which they are kept."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import names_in, noise_images, normal

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import Extractor, Features, load_extractor
from pythae_fif.evaluation.cache import tensor_hash

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
        assert len(found) == rows and found.root.dtype == torch.float64
        np.testing.assert_allclose(found.mean, values.double().mean(0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.root @ found.root.T, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_names_the_non_finite(self, bad):
        values = torch.zeros(5, 2)
        values[1, 0] = values[3, 1] = bad
        with pytest.raises(NonFiniteError, match="2 of 5 feature vectors"):
            Features(values)


class TestCache:
    def test_computed_once(self, tmp_path):
        extractor = counting()
        first, again = (Features.of(IMAGES, extractor, cache_dir=tmp_path) for _ in range(2))
        assert extractor.network.seen == 30
        assert torch.equal(again.values, first.values)
        assert again.extractor == first.extractor == extractor.hash

    def test_key(self, tmp_path):
        changed = IMAGES.clone()
        changed[3, 0, 7, 7] += 1
        for held in (IMAGES, IMAGES.clone(), changed, IMAGES[:20]):
            Features.of(held, counting(), cache_dir=tmp_path)
        Features.of(IMAGES, counting("of other weights"), cache_dir=tmp_path)
        assert len(names_in(tmp_path)) == 4

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: b"",
            lambda raw: b"no",
            lambda raw: raw[:99],
            lambda raw: raw.replace((IMAGES[3, 0, 0] / 255).numpy().tobytes(), bytes(32)),
            lambda raw: pickle.dumps(print),
        ],
    )
    def test_a_damaged_file_is_set_aside(self, tmp_path, damage):
        extractor = counting()
        first = Features.of(IMAGES, extractor, cache_dir=tmp_path)
        (name,) = names_in(tmp_path)
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        again = Features.of(IMAGES, extractor, cache_dir=tmp_path)
        assert extractor.network.seen == 60
        assert torch.equal(again.values, first.values)
        assert names_in(tmp_path) == [name, f"{name}.corrupt"]

    def test_features_of_other_images_are_not_used(self, tmp_path, caplog):
        """A whole file under another's name."""
        expected = Features.of(IMAGES, counting(), cache_dir=tmp_path)
        (name,) = names_in(tmp_path)
        Features.of(255 - IMAGES, counting(), cache_dir=tmp_path / "other")
        (other,) = (tmp_path / "other").glob("*.pt")
        (tmp_path / name).write_bytes(other.read_bytes())
        again = Features.of(IMAGES, counting(), cache_dir=tmp_path)
        assert torch.equal(again.values, expected.values)
        assert "not what was written under this name" in caplog.text

    def test_nothing_in_a_file_is_run(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        Features.of(IMAGES, counting(), cache_dir=tmp_path)
        (name,) = names_in(tmp_path)
        torch.save({"digest": Hostile(), "tensors": {}}, tmp_path / name)
        Features.of(IMAGES, counting(), cache_dir=tmp_path)
        assert not (tmp_path / "ran").exists()


def test_floating_point_images_are_rounded():
    nearby = (IMAGES / 255 + 0.001).clamp(0, 1)
    assert torch.equal(Features.of(nearby, counting()).values, IMAGES.flatten(1) / 255)
    with pytest.raises(DataError, match="divide by 255"):
        Features.of(torch.full((3, 1, 8, 8), 7.0), counting())
    rows = torch.randn(9, 4)
    assert torch.equal(Features.of(rows, load_extractor("columns", (4,))).values, rows)


def test_tensor_hash():
    changed = IMAGES + (torch.arange(30) == 3).byte().view(-1, 1, 1, 1)
    kinds = [IMAGES, changed, IMAGES[:3], IMAGES.reshape(30, 1, 4, 16), IMAGES.float()]
    assert len({tensor_hash(kind) for kind in kinds}) == len(kinds)
    assert tensor_hash(IMAGES.clone()) == tensor_hash(IMAGES)
