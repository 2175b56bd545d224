"""Image files and .npz files: decoded, cropped, split, labelled, or refused in one line."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.image_files import counts, fail_line, fill_folder, noise

from pythae_fif.data import load_images
from pythae_fif.data.images import decode_files, find_images, to_uint8
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.names import data_home


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ({"name": "minst"}, ["'minst'", "did you mean 'mnist'", "celeba"]),
        ({"name": "folder"}, ["'folder'", "--data"]),
        ({"name": "mnist", "data": "x.npz"}, ["folder, npz and csv", "'mnist'"]),
        ({"name": "digits", "image_size": 16}, ["image_size=16", "digits", "a size of its own"]),
        ({"name": "digits", "crop": 4}, ["crop=4", "celeba"]),
        ({"name": "digits", "label": "x"}, ["'digits'", "of csv alone"]),
        ({"name": "digits", "ofline": True}, ["'ofline'", "did you mean 'offline'"]),
    ],
)
def test_arguments_that_do_not_fit(call, parts):
    fail_line(ConfigError, *parts, **call)


def test_homes_are_argument_then_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_home() == tmp_path / ".cache/pythae-fif/data"
    monkeypatch.setenv("PYTHAE_FIF_DATA", str(tmp_path / "a"))
    with pytest.raises(DataError, match=r"data folder .*a \(--data-root or .*\) does not exist"):
        data_home()
    (tmp_path / "a").mkdir()
    assert data_home() == data_home("~/a") == tmp_path / "a" and data_home(tmp_path) == tmp_path


def decode(folder: Path, crop: float = 1.0, size: int = 64) -> np.ndarray:
    return decode_files(folder, find_images(folder), size, crop=crop).astype(int)


def test_every_mode_becomes_rgb_and_rotation_is_honoured(tmp_path):
    for index, mode in enumerate(["L", "RGBA", "P", "1", "RGB"]):
        Image.new(mode, (8, 8), 1 if mode in "1P" else "white").save(tmp_path / f"{index}.png")
    turned = Image.new("RGB", (16, 16))
    turned.paste((255, 255, 255), (0, 0, 16, 8))  # white above; orientation 6 turns it clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "9.jpg", exif=exif, quality=100)
    images = decode(tmp_path, size=8)
    assert images.shape == (6, 3, 8, 8)
    assert (images[[0, 1, 3, 4]] == 255).all()
    assert images[5, :, :, 5:].min() > 240 and images[5, :, :, :3].max() < 15


BAD = {
    "cannot be read (No such file": lambda path: path.symlink_to("gone.png"),
    ": mode I;16, needs 8 bits a channel": lambda path: Image.new("I;16", (8, 8)).save(path),
    ": cannot be decoded (": lambda path: path.write_text("no image"),
}


@pytest.mark.parametrize("said", BAD)
def test_a_file_that_cannot_be_decoded_is_named(said, tmp_path):
    fill_folder(tmp_path / "mine", 100)
    BAD[said](tmp_path / "mine/0200.png")
    fail_line(DataError, tmp_path / "mine/0200.png", said, name="folder", data=tmp_path / "mine")


def test_folder_finds_every_kind_of_image(tmp_path):
    for index, suffix in enumerate([".jpg", ".gif", ".png", ".webp", ".bmp", ".TIF"]):
        fill_folder(tmp_path / f"mine/sub {index}{suffix}", 20, suffix)
    (tmp_path / "mine/notes.txt").write_text("no image")
    (tmp_path / "mine/._0000.jpg").write_bytes(b"a resource fork")
    (tmp_path / "mine/.thumbnails").mkdir()
    (tmp_path / "mine/.thumbnails/0.png").write_bytes(b"no image either")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [96, 12, 12] and splits.input_dim == (1, 8, 8)
    assert splits.source == "folder mine, 8x8, 96/12/12"
    assert not splits.partial and set(splits.labels["train"]) == set(range(6))
    images = np.concatenate([splits[split] for split in SPLIT_NAMES])
    greys = np.sort(np.rint(images.mean(axis=(1, 2, 3)) / 5))
    assert np.array_equal(greys, np.repeat(np.arange(20), 6))


def test_train_and_test_with_classes_are_enough_in_capitals_too(tmp_path):
    for split, count in (("Train", 30), ("TEST", 10)):
        for kind, grey in (("cats", 0), ("dogs", 200)):
            fill_folder(tmp_path / f"mine/{split}/{kind}", 0)
            for index in range(count):
                image = Image.fromarray(np.full((8, 8), grey + index, np.uint8))
                image.save(tmp_path / f"mine/{split}/{kind}/{index}.png")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    seen = np.concatenate([splits.train, splits.val])[:, 0, 0, 0]
    assert sorted(seen) == [*range(30), *range(200, 230)]
    arrays = {"train": seen, "test": splits.test[:, 0, 0, 0]}
    images = {key: np.tile(of[:, None, None], (1, 9, 7)) for key, of in arrays.items()}
    labels = {f"{key}_labels": (of >= 200).astype(np.uint8) for key, of in arrays.items()}
    np.savez(tmp_path / "a.npz", **images, **labels)
    for found in (splits, load_images("npz", data=tmp_path / "a.npz")):
        assert counts(found) == [50, 10, 20] and found.val.max() < 230
        for split in SPLIT_NAMES:
            assert np.array_equal(found[split][:, 0, 0, 0] >= 200, found.labels[split])
        for of_split in found.subset(train=10).labels.values():
            assert set(of_split) == {0, 1}, "a profile may cut to the first images"
    del labels["test_labels"]
    np.savez(tmp_path / "a.npz", **images, **labels)
    part = load_images("npz", data=tmp_path / "a.npz")
    assert part.labels is None and part.notes[0] == "no labels: only train has some"


@pytest.mark.parametrize("more", ["train", "test/birds"])
def test_labels_are_of_all_images_or_none(more, tmp_path):
    for kind in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        fill_folder(tmp_path / "mine" / kind, 40)
    assert load_images("folder", data=tmp_path / "mine", image_size=8).classes == 2
    fill_folder(tmp_path / "mine" / more, 3)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert splits.labels is None and splits.notes[0].startswith("no labels: not every image is in")


def test_folder_with_subfolders_even_linked_ones(tmp_path):
    fill_folder(tmp_path / "mine/train/cats", 15)
    fill_folder(tmp_path / "mine/val", 10)
    fill_folder(tmp_path / "elsewhere", 12)
    (tmp_path / "mine/test").symlink_to(tmp_path / "elsewhere")
    fill_folder(tmp_path / "mine/extra", 3)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [15, 10, 12] and "not read: extra" in splits.notes
    assert np.array_equal(np.sort(splits.test[:, 0, 0, 0]), 5 * np.arange(12))


def test_folder_errors(tmp_path):
    mine = tmp_path / "mine"
    fail_line(DataError, mine, "is no folder with images (.jpg", name="folder", data=mine)
    fill_folder(mine, 99)
    parts = ("the val split has 9 examples", "at least 10")
    fail_line(DataError, *parts, name="folder", data=mine, image_size=8)
    (mine / "train").mkdir()
    parts = (mine, "has ['train'], needs train and test, or none")
    fail_line(DataError, *parts, name="folder", data=mine)


def test_test_images_that_are_also_in_training_are_told(tmp_path):
    images = noise(200, 1, 8, 8)
    for again in (0, 50):
        test = np.concatenate([images[:again], noise(100 - again, 1, 8, 8, seed=1)])
        np.savez(tmp_path / f"{again}.npz", train=images, test=test, val=images)
        notes = load_images("npz", data=tmp_path / f"{again}.npz").notes
        assert notes == (("50 of 100 test examples are in training, too",) if again else ())


def test_masks_of_0_and_1_are_told(tmp_path):
    np.savez(tmp_path / "masks.npz", train=(masks := noise(99, 1, 8, 8) // 128), test=~masks)
    (note,) = load_images("npz", data=tmp_path / "masks.npz").notes
    assert note == "no pixel is above 1 of 255: images of 0 and 1 need 0 and 255"


@given(
    images=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), *[st.integers(4, 7)] * 2)
    )
)
def test_every_accepted_form_gives_the_same_images(images):
    last = images.transpose(0, 2, 3, 1)
    forms = [images, images.astype(np.float32) / 255, images / 255, last, last / 255]
    forms += [images[:, 0]] if images.shape[1] == 1 else []
    for array in forms:
        result = to_uint8(array, "a.npz")
        assert result.dtype == np.uint8 and np.array_equal(result, images)


def with_value(value: float) -> np.ndarray:
    images = np.full((300, 1, 4, 4), 0.5)
    images[299, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (with_value(np.nan), "float64 from nan to nan"),
        (with_value(-0.5), "from -0.5 to 0.5, needs uint8, or floats in [0, 1]"),
        (with_value(255.0), "to 255.0"),
        (np.full((20, 1, 4, 4), 300), "int64 from 300 to 300"),
        (np.zeros((20, 2, 4, 4)), "shape (20, 2, 4, 4), needs N x C x H x W"),
        (np.zeros((0, 1, 4, 4)), "(0, 1, 4, 4)"),
        (np.zeros((20, 1, 4, 4), bool), "bool"),
        (np.full((20, 1, 4, 4), "a"), "<U1 from nan to nan"),
    ],
)
def test_what_cannot_be_an_image_is_one_line(array, part, tmp_path):
    np.savez(tmp_path / "mine.npz", data=array)
    fail_line(DataError, part, name="npz", data=tmp_path / "mine.npz")


@pytest.mark.parametrize(
    "labels", [np.arange(-1, 99), np.full(100, 0.5), np.arange(99), np.full(100, 10**9)]
)
def test_labels_that_are_no_class_indices(labels, tmp_path):
    np.savez(tmp_path / "a.npz", data=noise(100, 1, 4, 4), labels=labels)
    said = "a.npz: labels of 'data', needs a class from 0 on of each image"
    fail_line(DataError, said, name="npz", data=tmp_path / "a.npz")


def test_npz_by_key_and_shuffled(tmp_path):
    parts = {s: noise(n, 3, 9, 7, seed=n) for s, n in zip(SPLIT_NAMES, (30, 20, 10), strict=True)}
    np.savez(tmp_path / "a.npz", **parts)
    splits = load_images("npz", data=tmp_path / "a.npz")
    assert all(np.array_equal(splits[split], of) for split, of in parts.items())
    assert splits.source == "npz a.npz, 30/20/10"
    data, labels = noise(200, 1, 5, 5), np.arange(200)
    np.savez(tmp_path / "b.npz", data=data, labels=labels)
    splits = load_images("npz", data=tmp_path / "b.npz")
    assert counts(splits) == [160, 20, 20]
    assert all(np.array_equal(splits[s], data[splits.labels[s]]) for s in SPLIT_NAMES)
    assert np.array_equal(np.sort(np.concatenate(list(splits.labels.values()))), labels)


def test_an_npz_that_is_none_is_one_line(tmp_path):
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**10, 1, 32, 32)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("data.npy", header.getvalue() + bytes(1000))
    np.savez(tmp_path / "keys.npz", train=noise(20, 1, 4, 4), tset=noise(20, 1, 4, 4))
    np.savez(tmp_path / "pickle.npz", data=np.array([{}], object))
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")
    for name, said in (
        ("gone", "cannot be read (No such file"),
        ("text", "not a readable .npz file"),
        ("claims", "not a readable .npz file"),
        ("pickle", "not a readable .npz file"),
        ("keys", "has keys train, tset; needs data, or train and test"),
    ):
        path = tmp_path / f"{name}.npz"
        fail_line(DataError, path, said, name="npz", data=path)
