"""Image files and .npz files: decoding, cropping, splits and labels, and errors of one line."""

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
        ({"name": "folder"}, ["'folder'", "give its path as `data`"]),
        ({"name": "mnist", "data": "x.npz"}, ["--data: it applies to csv, folder, npz", "'mnist'"]),
        (
            {"name": "digits", "image_size": 16},
            ["image_size=16: it applies to celeba, folder", "digits"],
        ),
        ({"name": "digits", "crop": 4}, ["crop=4: it applies to celeba"]),
        (
            {"name": "digits", "label": "x"},
            ["'digits'", "columns, drop, label, categories, quantiles, missing: it applies to csv"],
        ),
        ({"name": "digits", "ofline": True}, ["'ofline'", "did you mean 'offline'"]),
    ],
)
def test_arguments_that_do_not_fit(call, parts):
    fail_line(ConfigError, *parts, **call)


def test_data_home_is_the_argument_or_the_variable_or_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_home() == tmp_path / ".cache/pythae-fif/data"

    monkeypatch.setenv("PYTHAE_FIF_DATA", str(tmp_path / "a"))
    with pytest.raises(DataError, match=r"data folder .*a \(--data-root or .*\) does not exist"):
        data_home()

    (tmp_path / "a").mkdir()
    assert data_home() == data_home("~/a") == tmp_path / "a" and data_home(tmp_path) == tmp_path


def decode(folder: Path, crop: float = 1.0, size: int = 64) -> np.ndarray:
    """Decodes all images of a folder."""
    return decode_files(folder, find_images(folder), size, crop=crop).images.astype(int)


def test_every_mode_becomes_rgb_and_rotation_is_honoured(tmp_path):
    for index, mode in enumerate(["L", "RGBA", "P", "1", "RGB"]):
        Image.new(mode, (8, 8), 1 if mode in "1P" else "white").save(tmp_path / f"{index}.png")

    rotated = Image.new("RGB", (16, 16))
    rotated.paste((255, 255, 255), (0, 0, 16, 8))  # white above; orientation 6 turns it clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "9.jpg", exif=exif, quality=100)

    images = decode(tmp_path, size=8)
    assert images.shape == (6, 3, 8, 8)
    assert (images[[0, 1, 3, 4]] == 255).all()
    assert images[5, :, :, 5:].min() > 240 and images[5, :, :, :3].max() < 15


def test_transparent_pixels_are_white_and_16_bits_become_8(tmp_path):
    fill_folder(tmp_path / "mine", 100)
    hidden_colour = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    hidden_colour.save(tmp_path / "mine/a.png")
    deep = np.full((8, 8), 65_535, np.uint16)
    Image.fromarray(deep).save(tmp_path / "mine/b.png")

    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    for name in ("a.png", "b.png"):
        (image,) = [
            splits[split][index]
            for split in SPLIT_NAMES
            for index in np.flatnonzero(splits.example_ids[split] == name)
        ]
        assert (image == 255).all()
    assert "1 image with transparent pixels shown on white" in splits.notes
    assert "1 image of 16 bits reduced to 8 bits" in splits.notes


def break_files(folder: Path) -> list[str]:
    """Breaks three files in different ways, and returns their names."""
    (folder / "0200.png").unlink()
    (folder / "0200.png").symlink_to("gone.png")
    (folder / "0100.png").write_text("no image")
    Image.new("F", (8, 8)).save(folder / "0300.tif")
    return ["0100.png (", "0200.png (FileNotFoundError", "0300.tif (ValueError: mode F"]


def test_all_files_that_cannot_be_decoded_are_named_or_left_out(tmp_path):
    fill_folder(tmp_path / "mine", 400)
    parts = break_files(tmp_path / "mine")
    call = {"name": "folder", "data": tmp_path / "mine", "image_size": 8}
    fail_line(DataError, "3 files cannot be decoded", "--skip-broken", *parts, **call)

    splits = load_images(**call, skip_broken=True)
    assert sum(counts(splits)) == 398
    names = {name for split in SPLIT_NAMES for name in splits.example_ids[split]}
    assert not names & {"0100.png", "0200.png", "0300.tif"}
    (note,) = [text for text in splits.notes if "left out" in text]
    assert all(part in note for part in parts)


def test_folder_finds_every_kind_of_image(tmp_path):
    for index, suffix in enumerate([".jpg", ".gif", ".png", ".webp", ".bmp", ".TIF"]):
        fill_folder(tmp_path / f"mine/sub {index}{suffix}", 20, suffix)
    (tmp_path / "mine/notes.txt").write_text("no image")
    (tmp_path / "mine/._0000.jpg").write_bytes(b"a resource fork")
    (tmp_path / "mine/.thumbnails").mkdir()
    (tmp_path / "mine/.thumbnails/0.png").write_bytes(b"no image either")

    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [96, 12, 12]
    assert splits.input_dim == (1, 8, 8)
    assert splits.source == "folder mine, 8x8, 96/12/12"
    assert not splits.partial
    assert set(splits.labels["train"]) == set(range(6))

    images = np.concatenate([splits[split] for split in SPLIT_NAMES])
    greys = np.sort(np.rint(images.mean(axis=(1, 2, 3)) / 5))
    assert np.array_equal(greys, np.repeat(np.arange(20), 6))


def fill_train_and_test_of_two_classes(folder: Path) -> None:
    """Writes subfolders Train and TEST with classes of grey values from 0 and from 200."""
    for split, count in (("Train", 30), ("TEST", 10)):
        for kind, grey in (("cats", 0), ("dogs", 200)):
            class_folder = folder / split / kind
            class_folder.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(np.full((8, 8), grey + index, np.uint8))
                image.save(class_folder / f"{index}.png")


def test_train_and_test_with_classes_are_enough_and_may_be_in_capitals(tmp_path):
    fill_train_and_test_of_two_classes(tmp_path / "mine")
    from_folder = load_images("folder", data=tmp_path / "mine", image_size=8)
    train_greys = np.concatenate([from_folder.train, from_folder.val])[:, 0, 0, 0]
    assert sorted(train_greys) == [*range(30), *range(200, 230)]

    cached = load_images("folder", data=tmp_path / "mine", image_size=8)
    for splits in (from_folder, cached):
        assert splits.class_names == ("cats", "dogs")
        for split in SPLIT_NAMES:
            for name, label, image in zip(
                splits.example_ids[split], splits.labels[split], splits[split], strict=True
            ):
                assert Path(name).parts[1] == splits.class_names[label]
                with Image.open(tmp_path / "mine" / name) as file:
                    assert np.asarray(file)[0, 0] == image[0, 0, 0]

    arrays = {}
    for part, greys in (("train", train_greys), ("test", from_folder.test[:, 0, 0, 0])):
        arrays[part] = np.tile(greys[:, None, None], (1, 9, 7))
        arrays[f"{part}_labels"] = (greys >= 200).astype(np.uint8)
    np.savez(tmp_path / "a.npz", **arrays)
    from_npz = load_images("npz", data=tmp_path / "a.npz")

    for splits in (from_folder, from_npz):
        assert counts(splits) == [50, 10, 20]
        assert splits.val.max() < 230
        for split in SPLIT_NAMES:
            assert np.array_equal(splits[split][:, 0, 0, 0] >= 200, splits.labels[split])
        for labels in splits.subset(train=10).labels.values():
            assert set(labels) == {0, 1}, "a profile may cut to the first images"

    del arrays["test_labels"]
    np.savez(tmp_path / "a.npz", **arrays)
    splits = load_images("npz", data=tmp_path / "a.npz")
    assert splits.labels is None
    assert splits.notes[0] == "no labels: only train has some"


@pytest.mark.parametrize("folder_without_class", ["train", "test/birds"])
def test_there_are_labels_only_if_every_image_has_one(folder_without_class, tmp_path):
    for kind in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        fill_folder(tmp_path / "mine" / kind, 40)
    assert load_images("folder", data=tmp_path / "mine", image_size=8).classes == 2

    fill_folder(tmp_path / "mine" / folder_without_class, 3)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert splits.labels is None
    assert splits.notes[0].startswith("no labels: not every image is in")


def test_split_folders_may_be_links(tmp_path):
    fill_folder(tmp_path / "mine/train/cats", 15)
    fill_folder(tmp_path / "mine/val", 10)
    fill_folder(tmp_path / "elsewhere", 12)
    (tmp_path / "mine/test").symlink_to(tmp_path / "elsewhere")
    fill_folder(tmp_path / "mine/extra", 3)

    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [15, 10, 12]
    assert "not read: extra" in splits.notes
    assert np.array_equal(np.sort(splits.test[:, 0, 0, 0]), 5 * np.arange(12))


def test_folder_errors(tmp_path):
    mine = tmp_path / "mine"
    fail_line(DataError, mine, "is not a folder with images (.jpg", name="folder", data=mine)

    fill_folder(mine, 99)
    parts = ("the val split has 9 examples", "at least 10")
    fail_line(DataError, *parts, name="folder", data=mine, image_size=8)

    (mine / "train").mkdir()
    parts = (mine, "has ['train'], needs train and test, or none")
    fail_line(DataError, *parts, name="folder", data=mine)


@pytest.mark.parametrize(
    ("repeated", "expected"),
    [(0, ()), (50, ("50 of 100 test examples are in training, too",))],
)
def test_a_note_counts_test_images_that_are_also_in_training(repeated, expected, tmp_path):
    train = noise(200, 1, 8, 8)
    test = np.concatenate([train[:repeated], noise(100 - repeated, 1, 8, 8, seed=1)])
    np.savez(tmp_path / "a.npz", train=train, test=test, val=train)
    assert load_images("npz", data=tmp_path / "a.npz").notes == expected


def test_a_note_warns_of_masks_of_0_and_1(tmp_path):
    masks = noise(99, 1, 8, 8) // 128
    np.savez(tmp_path / "masks.npz", train=masks, test=~masks)
    (note,) = load_images("npz", data=tmp_path / "masks.npz").notes
    assert note == "no pixel is above 1 of 255: images of 0 and 1 need 0 and 255"


@given(
    images=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), *[st.integers(4, 7)] * 2)
    )
)
def test_every_accepted_form_gives_the_same_images(images):
    channels_last = images.transpose(0, 2, 3, 1)
    forms = [images, images.astype(np.float32) / 255, images / 255]
    forms += [channels_last, channels_last / 255]
    if images.shape[1] == 1:
        forms.append(images[:, 0])

    for array in forms:
        result = to_uint8(array, "a.npz")
        assert result.dtype == np.uint8 and np.array_equal(result, images)


def with_value(value: float) -> np.ndarray:
    """Returns images of 0.5 with one pixel of another value."""
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
def test_an_array_that_is_not_images_is_refused_in_one_line(array, part, tmp_path):
    np.savez(tmp_path / "mine.npz", data=array)
    fail_line(DataError, part, name="npz", data=tmp_path / "mine.npz")


@pytest.mark.parametrize(
    "labels", [np.arange(-1, 99), np.full(100, 0.5), np.arange(99), np.full(100, 10**9)]
)
def test_labels_that_are_not_class_indices_are_refused(labels, tmp_path):
    np.savez(tmp_path / "a.npz", data=noise(100, 1, 4, 4), labels=labels)
    message = "a.npz: labels of 'data': each image needs one class, 0 or higher"
    fail_line(DataError, message, name="npz", data=tmp_path / "a.npz")


def test_npz_with_the_three_splits(tmp_path):
    sizes = {"train": 30, "val": 20, "test": 10}
    arrays = {split: noise(size, 3, 9, 7, seed=size) for split, size in sizes.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    splits = load_images("npz", data=tmp_path / "a.npz")
    for split in SPLIT_NAMES:
        assert np.array_equal(splits[split], arrays[split])
    assert splits.source == "npz a.npz, 30/20/10"


def test_npz_of_one_array_is_shuffled_with_its_labels(tmp_path):
    data = noise(200, 1, 5, 5)
    labels = np.arange(200)
    np.savez(tmp_path / "b.npz", data=data, labels=labels)
    splits = load_images("npz", data=tmp_path / "b.npz")
    assert counts(splits) == [160, 20, 20]
    for split in SPLIT_NAMES:
        assert np.array_equal(splits[split], data[splits.labels[split]])
    assert np.array_equal(np.sort(np.concatenate(list(splits.labels.values()))), labels)


def test_a_wrong_npz_file_is_refused_in_one_line(tmp_path):
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**10, 1, 32, 32)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("data.npy", header.getvalue() + bytes(1000))

    np.savez(tmp_path / "keys.npz", train=noise(20, 1, 4, 4), tset=noise(20, 1, 4, 4))
    np.savez(tmp_path / "pickle.npz", data=np.array([{}], object))
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")

    for name, message in (
        ("gone", "cannot be read (No such file"),
        ("text", "not a readable .npz file"),
        ("claims", "not a readable .npz file"),
        ("pickle", "not a readable .npz file"),
        ("keys", "has keys train, tset; needs data, or train and test"),
    ):
        path = tmp_path / f"{name}.npz"
        fail_line(DataError, path, message, name="npz", data=path)
