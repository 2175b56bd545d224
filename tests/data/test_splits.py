"""Splits, what they refuse, their cuts and their hash; batches for Pythae."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pythae.data.datasets import collate_dataset_output
from support.image_files import noise
from torch.utils.data import DataLoader

from pythae_fif.data import ImageDataset, Splits, to_float
from pythae_fif.data.splits import SPLIT_NAMES, shuffled_split, split_train_val_test
from pythae_fif.errors import DataError


def make_splits(labelled: bool = True) -> Splits:
    arrays = {s: noise(n, 1, 3, 4, seed=n) for s, n in zip(SPLIT_NAMES, (30, 20, 10), strict=True)}
    labels = {split: np.arange(len(of)) for split, of in arrays.items()} if labelled else None
    return Splits("toy", **arrays, labels=labels, source="toy, 30/20/10", notes=("odd",))


keep = st.one_of(st.none(), st.integers(10, 60))


@given(train=keep, val=keep, test=keep, labelled=st.booleans())
def test_subset_takes_the_first_and_says_so(train, val, test, labelled):
    whole = make_splits(labelled)
    part = whole.subset(train, val, test)
    sizes = [
        min(len(whole[s]), n or 60) for s, n in zip(SPLIT_NAMES, (train, val, test), strict=True)
    ]
    cut = sizes != [30, 20, 10]
    for split, count in zip(SPLIT_NAMES, sizes, strict=True):
        assert np.array_equal(part[split], whole[split][:count])
        assert not labelled or part.labels[split].tolist() == [*range(count)]
    assert (part.content_hash != whole.content_hash) == cut == part.partial
    counts = "/".join(map(str, sizes))
    assert part.source == whole.source + (f"; cut to the first {counts}" if cut else "")
    assert part.notes == ("odd",) and part.input_dim == (1, 3, 4)


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_hash_depends_on_every_pixel_and_not_on_labels(split):
    other = make_splits(labelled=False)
    before = make_splits().content_hash
    assert other.content_hash == before and len(before) == 16
    other[split][-1, 0, 2, 3] ^= 1
    assert dataclasses.replace(other).content_hash != before


def test_rows_of_splits_stay_the_same_for_ever():
    assert shuffled_split(20)["test"].tolist() == [15, 12]
    for count, held in ((60_000, 10_000), (49_999, 8333), (20_000, 3333)):
        parts = {"train": np.arange(count), "test": np.zeros(1)}
        assert np.array_equal(
            split_train_val_test(parts, shuffle=False)["val"], np.arange(count)[-held:]
        )
        assert len(split_train_val_test(parts)["val"]) == held


@given(rows=st.lists(st.integers(0, 19), min_size=1, max_size=8))
def test_dataset_items_and_batches_agree(rows):
    images = noise(20, 3, 4, 5)
    dataset = ImageDataset(images, np.arange(20))
    batch = dataset.batch(torch.tensor(rows))
    assert torch.equal(batch.data, torch.from_numpy(images[rows]).float() / 255)
    assert batch.labels.tolist() == rows and dataset.images.dtype == torch.uint8
    (loaded,) = DataLoader(dataset, len(rows), sampler=rows, collate_fn=collate_dataset_output)
    assert torch.equal(loaded["data"], batch["data"])
    assert torch.equal(loaded["labels"], batch["labels"])


def test_dataset_shares_memory_and_batches_are_copies():
    images = noise(20, 1, 4, 4)
    dataset = ImageDataset(images)
    assert dataset.images.data_ptr() == images.ctypes.data
    assert dataset.labels.tolist() == [1.0] * 20 and not dataset.labelled
    assert dataset.batch(torch.tensor([0]), device="meta").data.device.type == "meta"
    dataset.batch(torch.arange(20)).data.zero_()
    dataset[0].data.zero_()
    to_float(images, limit=3).zero_()
    assert np.array_equal(dataset.images.numpy(), noise(20, 1, 4, 4))


def test_dataset_refuses_what_does_not_fit():
    for images in (np.zeros((10, 1, 4, 4)), noise(10, 4, 4)):
        with pytest.raises(DataError, match=r"images are torch\..* of shape .*, needs uint8"):
            ImageDataset(images)
