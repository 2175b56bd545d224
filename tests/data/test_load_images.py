"""Names and arguments, and a user's folder or .npz file."""

import numpy as np
import pytest
from PIL import Image
from support.image_files import counts, fail_line, fill_celeba, fill_folder, noise, together

from pythae_fif.benchmark.yaml_files import config_file, read_yaml
from pythae_fif.data import DATASETS, Splits, load_images
from pythae_fif.data.locations import cache_home, data_home
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError


def test_every_name_is_described_in_one_line():
    assert set(DATASETS) == {"digits", "mnist", "cifar10", "celeba", "folder", "npz", "csv"}
    for name in DATASETS:
        text = read_yaml(config_file(name))["description"]
        assert text and "\n" not in text


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ({"name": "minst"}, ["'minst'", "did you mean 'mnist'", "celeba"]),
        ({"name": "folder"}, ["'folder'", "--data"]),
        ({"name": "npz"}, ["'npz'", "--data"]),
        ({"name": "mnist", "data": "x.npz"}, ["x.npz", "folder, npz and csv", "'mnist'"]),
        ({"name": "digits", "image_size": 16}, ["image_size=16", "8x8", "celeba and folder"]),
        ({"name": "celeba", "image_size": 0}, ["image_size=0", "positive"]),
    ],
)
def test_arguments_that_do_not_fit(call, parts):
    fail_line(ConfigError, *parts, **call)


def test_data_home_is_argument_then_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_home() == tmp_path / ".cache/pythae-fif/data"
    (tmp_path / "a").mkdir()
    monkeypatch.setenv("PYTHAE_FIF_DATA", str(tmp_path / "a"))
    assert data_home() == tmp_path / "a"
    assert data_home(tmp_path) == tmp_path
    assert data_home("~/a") == tmp_path / "a"


def test_cache_home_is_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / "cache"
    monkeypatch.delenv("PYTHAE_FIF_CACHE")
    assert cache_home() == tmp_path / ".cache/pythae-fif"


def test_folder_finds_every_kind_of_image_and_splits_by_the_seed(tmp_path):
    for index, suffix in enumerate([".jpg", ".gif", ".png", ".webp", ".bmp", ".TIF"]):
        fill_folder(tmp_path / f"mine/sub {index}", 20, suffix)
    (tmp_path / "mine/notes.txt").write_text("no image")
    (tmp_path / "mine/._0000.jpg").write_bytes(b"a resource fork")
    (tmp_path / "mine/.thumbnails").mkdir()
    (tmp_path / "mine/.thumbnails/0.png").write_bytes(b"no image either")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [96, 12, 12]
    assert splits.input_dim == (1, 8, 8)
    assert splits.source.startswith("folder mine, 8x8, shuffled 80/10/10 with seed 0, 96/12/12; ")
    for note in ("grey", "of 120 that are not square", "6 classes by subfolder: sub 0, sub 1,"):
        assert note in splits.source
    assert not splits.partial and set(splits.labels["train"]) == set(range(6))
    again = load_images("folder", data=str(tmp_path / "mine"), image_size=8)
    other = load_images("folder", data=tmp_path / "mine", image_size=8, seed=1)
    assert again.content_hash == splits.content_hash != other.content_hash

    def greys(which: Splits) -> np.ndarray:
        images = together(which)
        return np.sort(np.rint(images.mean(axis=(1, 2, 3)) / 5))

    assert np.array_equal(greys(splits), greys(other))
    assert np.array_equal(greys(splits), np.repeat(np.arange(20), 6))


def test_folder_default_size_is_64(tmp_path):
    fill_folder(tmp_path / "mine", 100)
    assert load_images("folder", data=tmp_path / "mine").input_dim == (1, 64, 64)
    red = np.full((9, 9, 3), (200, 0, 0), np.uint8)
    Image.fromarray(red).save(tmp_path / "mine/red.png")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert splits.input_dim == (3, 8, 8) and splits.labels is None


def test_train_and_test_with_classes_are_enough(tmp_path):
    for split, count in (("train", 30), ("test", 10)):
        for kind, grey in (("cats", 0), ("dogs", 200)):
            fill_folder(tmp_path / f"mine/{split}/{kind}", 0)
            for index in range(count):
                image = Image.fromarray(np.full((8, 8), grey + index, np.uint8))
                image.save(tmp_path / f"mine/{split}/{kind}/{index}.png")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [50, 10, 20] and splits.val.max() < 230
    assert "val 10 of the training images by seed 0" in splits.source
    assert "2 classes by subfolder: cats, dogs" in splits.source
    for split in SPLIT_NAMES:
        assert np.array_equal(splits[split][:, 0, 0, 0] >= 200, splits.labels[split])
    seen = np.concatenate([splits.train, splits.val])[:, 0, 0, 0]
    assert sorted(seen) == [*range(30), *range(200, 230)]
    arrays = {"train": seen, "test": splits.test[:, 0, 0, 0]}
    images = {key: np.tile(of[:, None, None], (1, 9, 7)) for key, of in arrays.items()}
    labels = {f"{key}_labels": of >= 200 for key, of in arrays.items()}
    labels = {key: of.astype(np.uint8) for key, of in labels.items()}
    np.savez(tmp_path / "a.npz", **images, **labels)
    splits = load_images("npz", data=tmp_path / "a.npz")
    assert counts(splits) == [50, 10, 20] and splits.input_dim == (1, 9, 7)
    for split in SPLIT_NAMES:
        assert np.array_equal(splits[split][:, 0, 0, 0] >= 200, splits.labels[split])
    del labels["test_labels"]
    np.savez(tmp_path / "a.npz", **images, **labels)
    fail_line(
        DataError, "has train_labels, but no test_labels", name="npz", data=tmp_path / "a.npz"
    )


def test_folder_with_subfolders_even_linked_ones(tmp_path):
    fill_folder(tmp_path / "mine/train/cats", 15)
    fill_folder(tmp_path / "mine/val", 10)
    fill_folder(tmp_path / "elsewhere", 12)
    (tmp_path / "mine/test").symlink_to(tmp_path / "elsewhere")
    fill_folder(tmp_path / "mine/extra", 3)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert counts(splits) == [15, 10, 12]
    assert np.array_equal(np.sort(splits.test[:, 0, 0, 0]), 5 * np.arange(12))
    assert "split by subfolder" in splits.source
    assert "3 images outside train, val and test left out" in splits.source


def test_the_first_images_of_a_folder_are_of_all_classes(tmp_path):
    """For a profile may cut to them."""
    for split in SPLIT_NAMES:
        for name in ("cats", "dogs"):
            fill_folder(tmp_path / f"mine/{split}/{name}", 20)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    for of_split in splits.subset(train=10, val=10, test=10).labels.values():
        assert set(of_split) == {0, 1}


def test_folder_errors(tmp_path):
    mine = tmp_path / "mine"
    fail_line(DataError, mine, "not a folder", "--data", name="folder", data=mine)
    mine.mkdir()
    fail_line(DataError, mine, "no .jpg, .jpeg, .png", name="folder", data=mine)
    fill_folder(mine, 99)
    parts = ("the val split has 9 images", "at least 10")
    fail_line(DataError, *parts, name="folder", data=mine, image_size=8)
    (mine / "train").mkdir()
    parts = (mine, "a subfolder train only", "needs train and test, perhaps val, or none")
    fail_line(DataError, *parts, name="folder", data=mine)


def test_a_dangling_link_is_named(tmp_path):
    fill_folder(tmp_path / "mine", 100)
    (tmp_path / "mine/0200.png").symlink_to(tmp_path / "gone.png")
    parts = (tmp_path / "mine/0200.png", "cannot be read", "No such file")
    fail_line(DataError, *parts, name="folder", data=tmp_path / "mine")


@pytest.mark.parametrize("name", ["folder", "celeba"])
def test_undecodable_images_are_named_or_skipped(name, root):
    fill_celeba(root, (40, 40, 40))
    folder = root / "celeba/img_align_celeba"
    where = {"data": folder} if name == "folder" else {"data_root": root}
    whole = load_images(name, image_size=8, **where)
    (folder / "0007.jpg").write_bytes(b"not an image")
    good = (folder / "0050.jpg").read_bytes()
    (folder / "0050.jpg").write_bytes(good[: len(good) // 2])
    (folder / "0110.jpg").write_bytes(b"")
    for _ in range(2):
        parts = ("3 of 120 images cannot be decoded", folder / "0007.jpg")
        fail_line(DataError, *parts, name=name, image_size=8, **where)
    for _ in range(2):
        splits = load_images(name, image_size=8, skip_undecodable=True, **where)
        assert "3 undecodable images left out" in splits.source
        assert counts(splits) == ([95, 11, 11] if name == "folder" else [39, 39, 39])
    everything = together(splits)
    # None of the black images that stand for failed ones has come through: only 5 * 0 is black.
    assert (everything.max(axis=(1, 2, 3)) < 2).sum() == np.sum(
        together(whole).max(axis=(1, 2, 3)) < 2
    )


def test_npz_by_key_and_shuffled(tmp_path):
    train, val, test = (noise(count, 3, 9, 7, seed=count) for count in (30, 20, 10))
    np.savez(tmp_path / "a.npz", train=train, val=val, test=test)
    splits = load_images("npz", data=tmp_path / "a.npz")
    assert all(
        np.array_equal(splits[s], x) for s, x in {"train": train, "val": val, "test": test}.items()
    )
    assert splits.source == "npz a.npz, split by key, 30/20/10"
    data, labels = noise(200, 1, 5, 5), np.arange(200)
    np.savez(tmp_path / "b.npz", data=data, labels=labels)
    splits = load_images("npz", data=tmp_path / "b.npz", seed=4)
    assert counts(splits) == [160, 20, 20]
    for split in SPLIT_NAMES:
        assert np.array_equal(splits[split], data[splits.labels[split]])
    assert np.array_equal(np.sort(np.concatenate(list(splits.labels.values()))), labels)
    other = load_images("npz", data=tmp_path / "b.npz", seed=5)
    assert other.content_hash != splits.content_hash
    assert "seed 5" in other.source


def test_npz_errors(tmp_path):
    path = tmp_path / "a.npz"
    fail_line(DataError, path, "no such file", name="npz", data=path)
    np.savez(path, train=noise(20, 1, 4, 4), tset=noise(20, 1, 4, 4))
    parts = (path, "has keys train, tset", "needs train and test, or data")
    fail_line(DataError, *parts, name="npz", data=path)
    np.savez(path, data=noise(99, 1, 4, 4))
    fail_line(DataError, "the val split has 9 images", name="npz", data=path)
    np.savez(path, data=noise(100, 1, 4, 4), labels=np.zeros(100))
    fail_line(DataError, path, "'labels'", "float64", name="npz", data=path)
    parts = ("image_size=8", "4x4", "celeba and folder")
    np.savez(path, data=noise(100, 1, 4, 4))
    fail_line(ConfigError, *parts, name="npz", data=path, image_size=8)
    np.save(tmp_path / "b.npy", noise(100, 1, 4, 4))
    parts = (tmp_path / "b.npy", "one bare array")
    fail_line(DataError, *parts, name="npz", data=tmp_path / "b.npy")
