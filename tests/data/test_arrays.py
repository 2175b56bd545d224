"""Arrays of images in any form, and their torch views."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pythae.data.datasets import collate_dataset_output
from support.image_files import fail_line, fill_folder, noise
from torch.utils.data import DataLoader

from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.data.arrays import to_labels, to_uint8
from pythae_fif.data.tables import read_table
from pythae_fif.errors import ConfigError, DataError

images_uint8 = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(4, 7), st.integers(4, 7)),
)


@given(images=images_uint8)
def test_every_accepted_form_gives_the_same_images(images):
    images = images.copy()
    images[0, 0, 0, :2] = 0, 255  # so that the range is known
    forms = {
        "uint8": images,
        "int64": images.astype(np.int64),
        "float 0..255": images.astype(np.float32),
        "float 0..1": images.astype(np.float32) / 255,
        "double 0..1": images / 255,
        "channels last": images.transpose(0, 2, 3, 1),
        "channels last, 0..1": images.transpose(0, 2, 3, 1) / 255,
    }
    if images.shape[1] == 1:
        forms["no channels"] = images[:, 0]
    for form, array in forms.items():
        result = to_uint8({"data": array}, "a.npz")["data"]
        assert result.dtype == np.uint8 and np.array_equal(result, images), form


def test_the_scale_is_the_same_for_all_splits():
    dark, bright = np.full((10, 1, 4, 4), 1.0), np.full((10, 1, 4, 4), 200.0)
    result = to_uint8({"train": bright, "val": dark}, "a.npz")
    assert (result["val"] == 1).all() and (result["train"] == 200).all()


@pytest.mark.parametrize(
    ("bright", "dark"),
    [
        (np.uint8, [0.0, 0.5]),
        (np.float32, [0.0, 0.5]),
        (np.float32, [1.0, 1.0 + 5e-4]),
        (np.uint8, [0.0, 1.0]),
    ],
)
def test_two_scales_are_refused(bright, dark):
    images = {
        "train": np.array(dark).reshape(2, 1, 1, 1) * np.ones((2, 1, 4, 4)),
        "test": np.full((5, 1, 4, 4), 200, bright),
    }
    line = r"a.npz, key 'train': floats in 0\.\.1 beside values up to 200, needs one scale"
    with pytest.raises(DataError, match=line):
        to_uint8(images, "a.npz")


@pytest.mark.parametrize("labels", [np.array([0, -1]), np.array([0.0, 1.0]), np.array([0])])
def test_labels_that_are_no_class_indices(labels):
    with pytest.raises(DataError, match=r"needs integers from 0 up of shape \(2,\)"):
        to_labels(labels, 2, "a.npz")


@pytest.mark.parametrize("rounding", [1e-7, 9e-4])
def test_floats_may_leave_their_range_by_rounding(rounding):
    """As a resize leaves them: still 0..1, and not images that are all but black."""
    images = np.array([0.0, 0.5, 1.0, 1.0 + rounding, -rounding]).reshape(1, 1, 1, 5)
    found = to_uint8({"data": images}, "a.npz")["data"]
    assert found.flatten().tolist() == [0, 128, 255, 255, 0]


def with_value(value: float, at: int = 0, dtype: type = np.float64) -> np.ndarray:
    images = np.full((3000, 1, 4, 4), 0.5 if dtype is np.float64 else 2, dtype)
    images[at, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (with_value(np.nan, 17), ["in 1 of 3000 images, the first at index 17"]),
        (with_value(np.nan, 2999), ["in 1 of 3000 images, the first at index 2999"]),
        (with_value(np.inf, 1500), ["NaN or infinite", "index 1500"]),
        (with_value(-0.5), ["values from -0.5 to 0.5", "0..1 or 0..255"]),
        (with_value(256.0), ["to 256", "0..255"]),
        (with_value(1.01), ["values from 0.5 to 1.01", "0..1 or 0..255"]),
        (with_value(1.99), ["values from 0.5 to 1.99"]),
        (with_value(-1, dtype=np.int16), ["values from -1 to 2"]),
        (with_value(300, dtype=np.int16), ["values from 2 to 300"]),
        (with_value(16, dtype=np.uint8), ["no value above 16", "almost black"]),
        (with_value(16.0), ["no value above 16", "almost black"]),
        (np.ones((20, 1, 4, 4), np.uint8), ["integer values from 1 to 1"]),
        (np.zeros((20, 2, 4, 4)), ["(20, 2, 4, 4)", "1 or 3 channels"]),
        (np.zeros((20, 16)), ["(20, 16)", "N x H x W"]),
        (np.zeros((0, 1, 4, 4)), ["(0, 1, 4, 4)"]),
        (np.zeros((20, 1, 4, 4), complex), ["complex128", "needs uint8 or floats"]),
        (np.zeros((20, 1, 4, 4), bool), ["bool", "needs uint8 or floats"]),
    ],
)
def test_bad_values_in_an_npz_are_named(array, parts, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, data=array)
    fail_line(DataError, path, *parts, name="npz", data=path)


def test_several_bad_images_of_one_split_are_counted(tmp_path):
    right, images = with_value(0.5), with_value(np.nan, 40)
    images[[41, 1200, 2500]] = np.nan
    np.savez(tmp_path / "a.npz", train=right, val=images, test=right)
    part = "key 'val': NaN or infinite values in 4 of 3000 images, the first at index 40"
    fail_line(DataError, part, name="npz", data=tmp_path / "a.npz")


@given(images=images_uint8, data=st.data())
@settings(max_examples=50)
def test_dataset_items_and_batches_agree(images, data):
    dataset = ImageDataset(images, np.arange(len(images)))
    rows = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=1, max_size=8))
    batch = dataset.batch(torch.tensor(rows))
    assert batch.data.dtype == torch.float32 and batch.labels.dtype == torch.float32
    assert torch.equal(batch.data, torch.from_numpy(images[rows]).float() / 255)
    assert batch.labels.tolist() == rows
    assert len(dataset) == len(images)
    assert dataset.images.dtype == torch.uint8
    loader = DataLoader(dataset, len(rows), sampler=rows, collate_fn=collate_dataset_output)
    (loaded,) = loader
    assert torch.equal(loaded["data"], batch["data"])
    assert torch.equal(loaded["labels"], batch["labels"])


def test_dataset_shares_memory_and_labels_default_to_ones():
    images = noise(20, 1, 4, 4)
    dataset = ImageDataset(images)
    assert dataset.images.data_ptr() == images.ctypes.data
    assert dataset.labels.tolist() == [1.0] * 20
    assert dataset.batch(torch.tensor([0]), device="meta").data.device.type == "meta"
    dataset.batch(torch.arange(20)).data.mul_(0)
    dataset[0].data.mul_(0)
    assert np.array_equal(dataset.images.numpy(), noise(20, 1, 4, 4)), "batches are copies"


def test_dataset_trains_a_pythae_model(tmp_path):
    from pythae.models import AE, AEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    dataset = ImageDataset(load_images("digits").subset(train=40).train)
    config = BaseTrainerConfig(
        output_dir=str(tmp_path), num_epochs=1, per_device_train_batch_size=20, no_cuda=True
    )
    model = AE(AEConfig(input_dim=(1, 8, 8), latent_dim=2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    BaseTrainer(model, dataset, training_config=config).train()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (np.zeros((10, 1, 4, 4)), None, "float64"),
        ([1, 2], None, "images are a list"),
        (noise(10, 4, 4), None, "(10, 4, 4), needs uint8"),
        (noise(10, 1, 4, 4), np.arange(9), "(9,), needs (10,)"),
    ],
)
def test_dataset_refuses_what_does_not_fit(images, labels, part):
    with pytest.raises(DataError) as caught:
        ImageDataset(images, labels)
    assert part in str(caught.value)


def test_read_only_images_are_copied():
    images = noise(10, 1, 4, 4)
    images.flags.writeable = False
    assert np.array_equal(ImageDataset(images[::-1]).images.numpy(), images[::-1])


@given(images=images_uint8, limit=st.one_of(st.none(), st.integers(1, 10)))
def test_to_float(images, limit):
    images = images.copy()
    images[0, 0, 0, 0] = 255
    for given_as in (images, torch.from_numpy(images)):
        result = to_float(given_as, limit)
        assert result.dtype == torch.float32
        assert result.shape == images[:limit].shape
        # What Pythae's GMM and MAF samplers insist on.
        assert result.max() == 1 and result.min() >= 0
        assert np.array_equal(np.rint(result.numpy() * 255), images[:limit])


def npz_of(path, header: bytes, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", header + content)


def test_a_header_that_claims_more_than_there_is_and_a_bomb(tmp_path, monkeypatch):
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**10, 1, 32, 32)}
    np.lib.format.write_array_header_1_0(header, claim)
    npz_of(tmp_path / "claims.npz", header.getvalue(), bytes(1000))
    (tmp_path / "claims.npy").write_bytes(header.getvalue() + bytes(1000))
    where = tmp_path / "claims.npz"
    fail_line(DataError, where, "not a readable .npz file", name="npz", data=where)
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")
    fail_line(DataError, "it is no whole zip archive", name="npz", data=tmp_path / "text.npz")
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", lambda *of, **how: (_ for _ in ()).throw(PermissionError("no")))
        fail_line(
            DataError, "not a readable .npz file (no)", name="npz", data=tmp_path / "text.npz"
        )
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    fail_line(DataError, "choose --dataset csv", name="npz", data=tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"claims\.npy: not a readable \.npy"):
        read_table(tmp_path / "claims.npy")

    monkeypatch.setenv("PYTHAE_FIF_MAX_GB", "0.001")
    images = noise(200, 1, 8, 8)
    np.savez_compressed(tmp_path / "bomb.npz", data=images, more=np.zeros(2_000_000, np.uint8))
    parts = (tmp_path / "bomb.npz", "unpacks to 0.0 GB more", "PYTHAE_FIF_MAX_GB")
    fail_line(DataError, *parts, name="npz", data=tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", data=images, more=np.zeros(2_000_000, np.uint8))
    assert len(load_images("npz", data=tmp_path / "large.npz").train) == 160, "as large as it is"
    monkeypatch.setenv("PYTHAE_FIF_MAX_GB", "much")
    fail_line(ConfigError, "PYTHAE_FIF_MAX_GB='much'", name="npz", data=tmp_path / "bomb.npz")
    monkeypatch.setenv("PYTHAE_FIF_MAX_GB", "1")
    assert len(load_images("npz", data=tmp_path / "bomb.npz").train) == 160


def test_an_image_of_too_many_pixels_is_named_and_not_decoded(tmp_path, monkeypatch):
    fill_folder(tmp_path / "mine", 100)
    Image.new("1", (150, 140)).save(tmp_path / "mine/0007.png")
    monkeypatch.setenv("PYTHAE_FIF_MAX_GB", "0.001")
    call = {"name": "folder", "data": tmp_path / "mine", "image_size": 8}
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "convert", None)  # which decodes
        parts = (tmp_path / "mine/0007.png", "150 x 140 pixels", "limit of 20,833")
        fail_line(DataError, *parts, "PYTHAE_FIF_MAX_GB", **call, skip_undecodable=True)
    monkeypatch.delenv("PYTHAE_FIF_MAX_GB")
    limit = Image.MAX_IMAGE_PIXELS
    assert len(load_images(**call).train) == 80 and limit == Image.MAX_IMAGE_PIXELS


def test_rows_of_a_table_come_in_memory_of_their_own():
    rows = torch.ones(4, 3)
    to_float(rows).mul_(2)
    ImageDataset(rows)[0].data.mul_(2)
    ImageDataset(rows).batch(torch.arange(2)).data.mul_(2)
    assert torch.equal(rows, torch.ones(4, 3))
