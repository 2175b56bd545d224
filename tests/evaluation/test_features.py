"""Features of images: their moments, and the file in which they are kept."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import noise_images, normal

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import Extractor, Features, load_extractor

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


def test_computed_once():
    extractor, changed = counting(), IMAGES.clone()
    changed[3, 0, 7, 7] += 1
    for images, seen in ((IMAGES, 30), (IMAGES.clone(), 30), (changed, 60), (IMAGES[:20], 80)):
        found = Features.of(images, extractor)
        assert torch.equal(found.values, images.flatten(1) / 255)
        assert found.extractor == extractor.hash and extractor.network.seen == seen
    other = counting("of other weights")
    Features.of(IMAGES, other)
    assert other.network.seen == 30


def test_floating_point_images_are_rounded():
    nearby = (IMAGES / 255 + 0.001).clamp(0, 1)
    assert torch.equal(Features.of(nearby, counting()).values, IMAGES.flatten(1) / 255)
    with pytest.raises(DataError, match="divide by 255"):
        Features.of(torch.full((3, 1, 8, 8), 7.0), counting())
    rows = torch.randn(9, 4)
    assert torch.equal(Features.of(rows, load_extractor("columns", (4,))).values, rows)
