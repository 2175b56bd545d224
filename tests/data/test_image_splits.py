"""Splits: what they refuse, their cuts and their hash."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.image_files import noise

from pythae_fif.data import Splits
from pythae_fif.data.splits import SPLIT_NAMES, hold_out, shuffled_split
from pythae_fif.errors import ConfigError, DataError


def make_splits(counts: tuple[int, ...] = (30, 20, 10), labelled: bool = True) -> Splits:
    arrays = [noise(count, 1, 3, 4, seed=seed) for seed, count in enumerate(counts)]
    names = SPLIT_NAMES
    labels = {name: np.arange(count) for name, count in zip(names, counts, strict=True)}
    return Splits("toy", *arrays, labels=labels if labelled else None, source="toy, 30/20/10")


sizes = st.one_of(st.none(), st.integers(10, 60))


@given(train=sizes, val=sizes, test=sizes, labelled=st.booleans())
def test_subset_takes_the_first_and_says_so(train, val, test, labelled):
    whole = make_splits(labelled=labelled)
    part = whole.subset(train, val, test)
    cut = False
    for name, asked in (("train", train), ("val", val), ("test", test)):
        expected = min(len(whole[name]), asked or 60)
        cut |= expected < len(whole[name])
        assert np.array_equal(part[name], whole[name][:expected])
        if labelled:
            assert np.array_equal(part.labels[name], np.arange(expected))
    counts = f"{len(part.train)}/{len(part.val)}/{len(part.test)}"
    assert part.input_dim == (1, 3, 4)
    assert (part.content_hash != whole.content_hash) == cut
    assert part.partial == cut
    assert part.source == whole.source + (f"; cut to the first {counts}" if cut else "")


@given(
    split=st.sampled_from(["train", "val", "test"]),
    index=st.integers(0, 9),
    pixel=st.integers(0, 11),
    change=st.integers(1, 255),
)
def test_hash_depends_on_every_pixel(split, index, pixel, change):
    splits = make_splits()
    before = splits.content_hash
    other = make_splits()
    place = other[split][index].reshape(-1)
    place[pixel] = (int(place[pixel]) + change) % 256
    assert make_splits(labelled=False).content_hash == before
    assert len(before) == 16 and int(before, 16) >= 0
    assert other.content_hash != before


def test_hash_depends_on_shape_and_cut_but_not_on_memory_layout():
    splits = make_splits()
    flipped = Splits("toy", *(splits[s][:, :, ::-1] for s in SPLIT_NAMES), None, "")
    copied = Splits("toy", *(flipped[s].copy() for s in SPLIT_NAMES), None, "")
    wide = Splits("toy", *(splits[s].reshape(-1, 1, 4, 3) for s in SPLIT_NAMES), None, "")
    moved = Splits("toy", splits.train[:20], splits.train[20:], splits.test, None, "")
    joined = Splits("toy", splits.train[:10], splits.train[10:], splits.test, None, "")
    assert flipped.content_hash == copied.content_hash
    hashes = {item.content_hash for item in (splits, flipped, wide, moved, joined)}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"val": noise(9, 1, 3, 4)}, "val split has 9 images, needs at least 10"),
        ({"test": noise(10, 1, 4, 4)}, "test images are 1x4x4, train images are 1x3x4"),
        ({"train": np.zeros((10, 1, 3, 4))}, "train is float64"),
        ({"train": noise(10, 3, 4)}, "(10, 3, 4), needs uint8 of shape (N, C, H, W)"),
        ({"labels": {"train": np.arange(10), "val": np.arange(10)}}, "labels of test are missing"),
        ({"labels": dict.fromkeys(SPLIT_NAMES, np.arange(9))}, "(9,), needs (10,)"),
    ],
)
def test_splits_refuse_what_does_not_fit(change, part):
    arrays = {name: noise(10, 1, 3, 4) for name in SPLIT_NAMES}
    with pytest.raises(DataError) as caught:
        Splits(**{"name": "toy", "source": "", "labels": None, **arrays, **change})
    assert part in str(caught.value)


def test_subset_below_ten_is_refused():
    with pytest.raises(ConfigError, match="subset val=9 of toy: needs at least 10"):
        make_splits().subset(val=9)


@given(count=st.integers(0, 5000), seed=st.integers(0, 2**32 - 1))
def test_shuffled_split_is_a_partition(count, seed):
    index = shuffled_split(count, seed)
    assert np.array_equal(np.sort(np.concatenate(list(index.values()))), np.arange(count))
    assert len(index["val"]) == len(index["test"]) == count // 10
    again = shuffled_split(count, seed)
    assert all(np.array_equal(index[name], again[name]) for name in index)


def test_shuffled_split_depends_on_the_seed_and_stays_the_same_for_ever():
    assert shuffled_split(20, 0)["test"].tolist() == [15, 12]
    assert not np.array_equal(shuffled_split(50, 0)["train"], shuffled_split(50, 1)["train"])


@pytest.mark.parametrize(
    ("count", "held"), [(60_000, 10_000), (50_000, 10_000), (49_999, 8333), (20_000, 3333)]
)
def test_hold_out(count, held):
    assert hold_out(count) == held
