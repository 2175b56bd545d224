"""Splits: their cuts, hashes and errors; and data sets and batches for Pythae."""

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

SIZES = {"train": 30, "val": 20, "test": 10}


def make_splits(labelled: bool = True) -> Splits:
    """Returns splits of random images with a note."""
    arrays = {split: noise(size, 1, 3, 4, seed=size) for split, size in SIZES.items()}
    labels = {split: np.arange(size) for split, size in SIZES.items()} if labelled else None
    return Splits("toy", **arrays, labels=labels, source="toy, 30/20/10", notes=("odd",))


limits = st.one_of(st.none(), st.integers(10, 60))


@given(train=limits, val=limits, test=limits, labelled=st.booleans())
def test_subset_takes_the_first_images_and_names_the_cut(train, val, test, labelled):
    splits = make_splits(labelled)
    part = splits.subset(train, val, test)
    limit_by_split = {"train": train, "val": val, "test": test}
    expected_sizes = {
        split: min(size, limit_by_split[split] or size) for split, size in SIZES.items()
    }
    for split, size in expected_sizes.items():
        assert np.array_equal(part[split], splits[split][:size])
        if labelled:
            assert part.labels[split].tolist() == [*range(size)]

    is_cut = expected_sizes != SIZES
    assert part.partial == is_cut
    assert (part.content_hash != splits.content_hash) == is_cut
    sizes = "/".join(map(str, expected_sizes.values()))
    assert part.source == splits.source + (f"; cut to the first {sizes}" if is_cut else "")
    assert part.notes == ("odd",)
    assert part.input_dim == (1, 3, 4)


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_hash_depends_on_every_pixel_and_not_on_labels(split):
    unlabelled = make_splits(labelled=False)
    content_hash = make_splits().content_hash
    assert unlabelled.content_hash == content_hash
    assert len(content_hash) == 16

    unlabelled[split][-1, 0, 2, 3] ^= 1
    assert dataclasses.replace(unlabelled).content_hash != content_hash


def test_rows_of_splits_never_change():
    assert shuffled_split(20)["test"].tolist() == [15, 12]
    for count, val_count in ((60_000, 10_000), (49_999, 8333), (20_000, 3333)):
        parts = {"train": np.arange(count), "test": np.zeros(1)}
        last_rows = np.arange(count)[-val_count:]
        assert np.array_equal(split_train_val_test(parts, shuffle=False)["val"], last_rows)
        assert len(split_train_val_test(parts)["val"]) == val_count


@given(rows=st.lists(st.integers(0, 19), min_size=1, max_size=8))
def test_dataset_items_and_batches_agree(rows):
    images = noise(20, 3, 4, 5)
    dataset = ImageDataset(images, np.arange(20))
    batch = dataset.batch(torch.tensor(rows))
    assert torch.equal(batch.data, torch.from_numpy(images[rows]).float() / 255)
    assert batch.labels.tolist() == rows
    assert dataset.images.dtype == torch.uint8

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


def test_dataset_refuses_images_of_another_type_or_shape():
    for images in (np.zeros((10, 1, 4, 4)), noise(10, 4, 4)):
        with pytest.raises(DataError, match=r"images are torch\..* of shape .*, needs uint8"):
            ImageDataset(images)
