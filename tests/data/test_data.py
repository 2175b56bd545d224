"""Data sets by name: what each layout gives, what every bad input is told, and the torch views."""

import logging
import os
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pythae.data.datasets import collate_dataset_output
from torch.utils.data import DataLoader

from pythae_fif.data import DATASETS, ImageDataset, Splits, load_images, to_float
from pythae_fif.data.arrays import to_uint8
from pythae_fif.data.images import decode_files, find_images
from pythae_fif.data.locations import cache_home, data_home
from pythae_fif.data.splits import hold_out, shuffled_split
from pythae_fif.errors import ConfigError, DataError, FIFError

FACE = (178, 218)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    """A cache of each test's own, and no data root from the environment."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    return tmp_path / "cache" / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download of torchvision fails as it does without a network."""

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    for name in ("MNIST", "CIFAR10", "CelebA"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fail)


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def fail_line(error: type[FIFError], *parts: str | Path, **call: object) -> None:
    """Loading fails with the error, whose message is one line that holds every part."""
    with pytest.raises(error) as caught:
        load_images(**call)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture of the unit square's coordinates, the same one at any resolution."""
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    red, green = np.meshgrid(255 * x, 255 * y)
    blue = 127.5 + 127.5 * np.sin(6 * red / 255) * np.sin(6 * green / 255)
    return Image.fromarray(np.rint(np.stack([red, green, blue], -1)).astype(np.uint8))


def fill_folder(folder: Path, count: int, suffix: str = ".png", size: tuple = (20, 14)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = np.full((size[1], size[0], 3), 5 * index % 256, np.uint8)
        Image.fromarray(image).save(folder / f"{index:04d}{suffix}")


def fill_celeba(root: Path, counts: tuple[int, ...] = (20, 12, 11), size: tuple = FACE) -> Path:
    """A tiny CelebA whose images are uniformly 5 * (number in the list)."""
    fill_folder(root / "celeba" / "img_align_celeba", sum(counts), ".jpg", size)
    codes = np.repeat(np.arange(len(counts)), counts)
    lines = [f"{index:04d}.jpg {code}\n" for index, code in enumerate(codes)]
    (root / "celeba" / "list_eval_partition.txt").write_text("".join(lines))
    return root


def fill_npz_layout(root: Path, name: str, train: np.ndarray, test: np.ndarray, **more) -> Path:
    (root / name).mkdir()
    np.savez(root / name / "train_data.npz", data=train, **more)
    np.savez(root / name / "eval_data.npz", data=test)
    return root / name


def write_mnist(root: Path, counts: tuple[int, int]) -> None:
    """MNIST's own four files, with random images and labels."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        images, labels = noise(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        head = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = np.array([0x801, count], ">i4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


# ------------------------------------------------------------------------------------- splits


def make_splits(counts: tuple[int, ...] = (30, 20, 10), labelled: bool = True) -> Splits:
    arrays = [noise(count, 1, 3, 4, seed=seed) for seed, count in enumerate(counts)]
    names = ("train", "val", "test")
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
    flipped = Splits("toy", *(splits[s][:, :, ::-1] for s in ("train", "val", "test")), None, "")
    copied = Splits("toy", *(flipped[s].copy() for s in ("train", "val", "test")), None, "")
    wide = Splits(
        "toy", *(splits[s].reshape(-1, 1, 4, 3) for s in ("train", "val", "test")), None, ""
    )
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
        ({"labels": dict.fromkeys(("train", "val", "test"), np.arange(9))}, "(9,), needs (10,)"),
    ],
)
def test_splits_refuse_what_does_not_fit(change, part):
    arrays = {name: noise(10, 1, 3, 4) for name in ("train", "val", "test")}
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
    ("count", "held"), [(60_000, 10_000), (50_000, 10_000), (20_000, 10_000), (19_999, 3333)]
)
def test_hold_out(count, held):
    assert hold_out(count) == held


# --------------------------------------------------------------------------- names and arguments


def test_every_name_is_described_in_one_line():
    assert set(DATASETS) == {"digits", "mnist", "cifar10", "celeba", "folder", "npz"}
    assert all(text and "\n" not in text for text in DATASETS.values())


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ({"name": "minst"}, ["'minst'", "did you mean 'mnist'", "celeba"]),
        ({"name": "folder"}, ["'folder'", "--data"]),
        ({"name": "npz"}, ["'npz'", "--data"]),
        ({"name": "mnist", "data": "x.npz"}, ["x.npz", "folder and npz", "'mnist'"]),
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


@pytest.mark.parametrize("name", ["mnist", "cifar10", "celeba"])
def test_missing_data_root_is_named(name, tmp_path, monkeypatch):
    lost = tmp_path / "lost"
    parts = (lost, "does not exist", "--data-root")
    fail_line(DataError, *parts, name=name, data_root=lost)
    monkeypatch.setenv("PYTHAE_FIF_DATA", str(lost))
    fail_line(DataError, lost, "does not exist", "PYTHAE_FIF_DATA", name=name)


LOOKED_FOR = {
    "mnist": "MNIST/raw/",
    "cifar10": "cifar-10-batches-py/",
    "celeba": "celeba/img_align_celeba/*.jpg with celeba/list_eval_partition.txt",
}


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_offline_says_what_was_looked_for_and_how_to_get_it(name, root):
    parts = (f"{name}/train_data.npz", LOOKED_FOR[name], root, "--offline", "--data-root")
    fail_line(DataError, *parts, "PYTHAE_FIF_DATA", name=name, data_root=root, download=False)
    assert not list(root.rglob("*"))


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_a_failed_download_says_so(name, root, no_network):
    parts = (LOOKED_FOR[name], root, "the download failed", "no route to host", "--data-root")
    fail_line(DataError, *parts, name=name, data_root=root)


def test_a_missing_default_root_is_only_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fail_line(DataError, tmp_path / ".cache", "--offline", name="mnist", download=False)


# ----------------------------------------------------------------------------- published data sets


def test_digits():
    splits = load_images("digits", seed=0)
    assert splits.input_dim == (1, 8, 8)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [1197, 300, 300]
    assert splits.train.min() == 0 and splits.train.max() == 255
    assert len(np.unique(splits.train)) == 17
    from sklearn.datasets import load_digits

    # Every image is there once, with its label.
    def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
        pairs = zip(images.astype(np.uint8), labels, strict=True)
        return sorted(image.tobytes() + bytes([label]) for image, label in pairs)

    ours = np.concatenate([splits[s] for s in ("train", "val", "test")])
    labels = np.concatenate([splits.labels[s] for s in ("train", "val", "test")])
    original = load_digits()
    assert rows(np.rint(ours / 255 * 16), labels) == rows(original.images, original.target)
    assert labels.dtype == np.int64
    # One test set for everyone, whatever the seed.
    assert load_images("digits", seed=7).content_hash == splits.content_hash
    assert not splits.partial


def test_mnist_in_torchvision_layout(root):
    write_mnist(root, (120, 30))
    splits = load_images("mnist", root, download=False)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [100, 20, 30]
    assert np.array_equal(np.concatenate([splits.train, splits.val])[:, 0], noise(120, 28, 28))
    assert np.array_equal(splits.labels["val"], np.arange(100, 120) % 10)
    assert splits.labels["val"].dtype == np.int64
    assert splits.partial
    assert "partial (published: 50000/10000/10000)" in splits.source
    assert "val is the last 20 of 120 training images" in splits.source


def test_mnist_is_downloaded_where_nothing_is_there(root, monkeypatch):
    def download(self) -> None:
        if not self._check_exists():
            write_mnist(root, (120, 30))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert len(load_images("mnist", root).train) == 100


def test_celeba_is_downloaded_where_nothing_is_there(root, monkeypatch):
    def download(self) -> None:
        fill_celeba(root)

    monkeypatch.setattr(torchvision.datasets.CelebA, "download", download)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_load_csv", _partition_alone)
    assert len(load_images("celeba", root).train) == 20


def _partition_alone(self, filename: str, header: int | None = None):
    from torchvision.datasets.celeba import CSV

    return CSV([], [], torch.zeros(0, 1, dtype=torch.long))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_mnist_is_told_apart_from_none(damage, root, no_network):
    write_mnist(root, (120, 30))
    file = root / "MNIST/raw/t10k-images-idx3-ubyte"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:500])
    else:
        file.unlink()
    parts = ("MNIST/raw is there, but incomplete or damaged", root)
    fail_line(DataError, *parts, name="mnist", data_root=root, download=False)
    fail_line(DataError, *parts, name="mnist", data_root=root)


def test_cifar10_in_torchvision_layout(root, monkeypatch):
    class CIFAR10:
        def __init__(self, folder: str, train: bool, download: bool) -> None:
            assert folder == str(root) and not download
            self.data = noise(60 if train else 20, 32, 32, 3, seed=train)
            self.targets = list(range(len(self.data)))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CIFAR10)
    splits = load_images("cifar10", root)
    assert splits.input_dim == (3, 32, 32)
    assert np.array_equal(splits.val, noise(60, 32, 32, 3, seed=1)[50:].transpose(0, 3, 1, 2))
    assert splits.labels["val"].tolist() == list(range(50, 60))
    assert splits.labels["test"].tolist() == list(range(20))
    assert splits.source.startswith("CIFAR-10, torchvision layout, 50/10/20")


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32)), ("celeba", (3, 64, 64))]
)
@pytest.mark.parametrize("kind", ["uint8", "float255"])
def test_pythae_npz_layout_comes_first(name, shape, kind, root):
    train, test = noise(60, *shape), noise(20, *shape, seed=1)
    dtype = np.uint8 if kind == "uint8" else np.float64
    fill_npz_layout(root, name, train.astype(dtype), test.astype(dtype))
    if name == "mnist":
        write_mnist(root, (120, 30))
    splits = load_images(name, root, download=False)
    assert np.array_equal(splits.train, train[:50])
    assert np.array_equal(splits.val, train[50:])
    assert np.array_equal(splits.test, test)
    assert splits.labels is None
    assert splits.partial and "Pythae npz layout, 50/10/20" in splits.source
    assert "val is the last 10 of 60 training images" in splits.source


def test_pythae_npz_layout_with_labels(root):
    folder = fill_npz_layout(
        root, "mnist", noise(60, 1, 28, 28), noise(20, 1, 28, 28), labels=np.arange(60)
    )
    assert load_images("mnist", root).labels is None, "labels of one part alone are no labels"
    np.savez(folder / "eval_data.npz", data=noise(20, 1, 28, 28), labels=np.arange(20))
    labels = load_images("mnist", root).labels
    assert labels["val"].tolist() == list(range(50, 60))
    assert labels["test"].tolist() == list(range(20))


def test_holding_out_ten_thousand_where_there_are_enough(root):
    train = np.zeros((20_000, 1, 28, 28), np.uint8)
    train[9_999:10_001, 0, 0, 0] = 7, 9
    fill_npz_layout(root, "mnist", train, train[:10])
    splits = load_images("mnist", root)
    assert (len(splits.train), len(splits.val)) == (10_000, 10_000)
    assert splits.train[-1, 0, 0, 0] == 7 and splits.val[0, 0, 0, 0] == 9


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        ("lone", ["train_data.npz is there", "eval_data.npz is not"]),
        ("key", ["eval_data.npz: has keys images; needs 'data'"]),
        ("shape", ["eval_data.npz: images are 3x28x28, mnist needs 1x28x28"]),
        ("garbage", ["eval_data.npz: not a readable .npz file"]),
        ("truncated", ["eval_data.npz: not a readable .npz file"]),
        ("pickle", ["eval_data.npz: not a readable .npz file"]),
        ("few", ["the test split has 9 images, needs at least 10"]),
        ("labels", ["eval_data.npz, key 'labels'", "(3,)", "(20,)"]),
    ],
)
def test_damaged_pythae_npz_layout(damage, parts, root):
    good = noise(20, 1, 28, 28)
    folder = fill_npz_layout(root, "mnist", noise(60, 1, 28, 28), good, labels=np.arange(60))
    file = folder / "eval_data.npz"
    if damage == "lone":
        file.unlink()
    elif damage == "key":
        np.savez(file, images=good)
    elif damage == "shape":
        np.savez(file, data=noise(20, 3, 28, 28))
    elif damage == "garbage":
        file.write_bytes(b"not at all an archive")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "pickle":
        np.savez(file, data=np.array([{}], object))
    elif damage == "few":
        np.savez(file, data=good[:9])
    else:
        np.savez(file, data=good, labels=np.arange(3))
    fail_line(DataError, *parts, name="mnist", data_root=root)


def test_celeba_follows_the_partition(root):
    fill_celeba(root)
    splits = load_images("celeba", root, download=False)
    assert splits.input_dim == (3, 64, 64)
    expected = 5 * np.arange(43)
    for split, grey in zip(("train", "val", "test"), np.split(expected, [20, 32]), strict=True):
        assert np.abs(splits[split].mean(axis=(1, 2, 3)) - grey).max() < 1.5
    assert splits.partial and splits.labels is None
    assert "image folder, 20/12/11; partial (published: 162770/19867/19962)" in splits.source
    assert "resolution" not in splits.source
    assert load_images("celeba", root, image_size=32).input_dim == (3, 32, 32)


def test_celeba_partition_may_be_scattered_and_may_not_match_the_folder(root):
    fill_celeba(root)
    partition = root / "celeba/list_eval_partition.txt"
    # Interleaved, two files unlisted, and three listed that are not there.
    codes = np.arange(41) % 3
    lines = [f"{index:04d}.jpg {code}" for index, code in enumerate(codes)]
    partition.write_text("\n".join([*lines, "9997.jpg 0", "9998.jpg 1", "9999.jpg 2", ""]))
    splits = load_images("celeba", root, download=False)
    for code, split in enumerate(("train", "val", "test")):
        grey = 5 * np.flatnonzero(codes == code)
        assert np.abs(splits[split].mean(axis=(1, 2, 3)) - grey).max() < 1.5
    assert "2 files that the partition lacks left out" in splits.source
    assert "3 files of the partition are absent" in splits.source


@pytest.mark.parametrize("lost", ["list_eval_partition.txt", "img_align_celeba"])
def test_half_of_celeba_is_named(lost, root, no_network):
    fill_celeba(root)
    lost_path = root / "celeba" / lost
    lost_path.rename(root / "elsewhere")
    fail_line(DataError, f"{lost_path} is not; both are needed", name="celeba", data_root=root)


@pytest.mark.parametrize("line", ["0003.jpg", "0003.jpg 3", "0003.jpg 1 2"])
def test_bad_partition_line_is_named(line, root):
    fill_celeba(root)
    partition = root / "celeba/list_eval_partition.txt"
    partition.write_text(f"0001.jpg 0\n\n{line}\n")
    fail_line(DataError, f"{partition}, line 3", repr(line), name="celeba", data_root=root)


def test_celeba_that_was_cropped_before_is_refused(root):
    fill_celeba(root, size=(64, 64))
    parts = ("0000.jpg is 64x64 pixels", "178x218", "'folder'")
    fail_line(DataError, *parts, name="celeba", data_root=root)


def test_celeba_at_another_resolution_is_partial_and_says_so(root):
    fill_celeba(root, size=(89, 109))
    source = load_images("celeba", root).source
    assert "43 files at another resolution than 178x218 (first 89x109)" in source


# ------------------------------------------------------------------------------------- the crop


def decode(folder: Path, crop: float = 1.0, size: int = 64) -> np.ndarray:
    return decode_files(folder, find_images(folder), image_size=size, crop=crop).images.astype(int)


@pytest.mark.parametrize("size", [(89, 109), (356, 436), (534, 654)])
@pytest.mark.parametrize("image_size", [32, 64])
def test_crop_is_the_same_region_at_any_resolution(size, image_size, tmp_path):
    (tmp_path / "faces").mkdir()
    picture(*FACE).save(tmp_path / "faces/0.png")
    picture(*size).save(tmp_path / "faces/1.png")
    original, other = decode(tmp_path / "faces", 148 / 178, image_size)
    # 109 is not quite half of 218 / 178 * 89; a crop one source pixel off would differ by 1.4.
    assert np.abs(original - other).max() <= 2
    assert np.abs(original - other).mean() < 0.5
    assert abs((original - other)[:2].mean()) < 0.3


def test_crop_is_the_usual_centre_crop_of_148(tmp_path):
    (tmp_path / "faces").mkdir()
    image = Image.fromarray(noise(1, 218, 178, 3)[0])
    image.save(tmp_path / "faces/0.png")
    usual = torchvision.transforms.Compose(
        [torchvision.transforms.CenterCrop(148), torchvision.transforms.Resize(64)]
    )(image)
    (ours,) = decode(tmp_path / "faces", 148 / 178)
    assert np.array_equal(ours, np.asarray(usual).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_folder_crop_is_the_centred_square(size, tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    middle = slice(10, 30)
    pixels[(slice(None), middle) if size[0] == 40 else (middle, slice(None))] = 200
    Image.fromarray(pixels).save(tmp_path / "a/0.png")
    (image,) = decode(tmp_path / "a", size=16)
    assert (image == 200).all()


def test_every_mode_becomes_rgb_and_rotation_is_honoured(tmp_path):
    (tmp_path / "a").mkdir()
    for index, mode in enumerate(["L", "RGBA", "P", "1", "RGB"]):
        Image.new(mode, (8, 8), 1 if mode in "1P" else "white").save(tmp_path / f"a/{index}.png")
    turned = Image.new("RGB", (16, 16))
    turned.paste((255, 255, 255), (0, 0, 16, 8))  # white above; orientation 6 turns it clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a/9.jpg", exif=exif, quality=100)
    images = decode(tmp_path / "a", size=8)
    assert images.shape == (6, 3, 8, 8)
    assert (images[[0, 1, 3, 4]] == 255).all()
    assert images[5, :, :, 5:].min() > 240 and images[5, :, :, :3].max() < 15


# ------------------------------------------------------------------------------------- folder


def test_folder_finds_every_kind_of_image_and_splits_by_the_seed(tmp_path):
    for index, suffix in enumerate([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".JPG"]):
        fill_folder(tmp_path / f"mine/sub {index}", 20, suffix)
    (tmp_path / "mine/notes.txt").write_text("no image")
    (tmp_path / "mine/._0000.jpg").write_bytes(b"a resource fork")
    (tmp_path / "mine/.thumbnails").mkdir()
    (tmp_path / "mine/.thumbnails/0.png").write_bytes(b"no image either")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [96, 12, 12]
    assert splits.input_dim == (3, 8, 8)
    assert splits.source == "folder mine, 8x8, shuffled 80/10/10 with seed 0, 96/12/12"
    assert splits.labels is None and not splits.partial
    again = load_images("folder", data=str(tmp_path / "mine"), image_size=8)
    other = load_images("folder", data=tmp_path / "mine", image_size=8, seed=1)
    assert again.content_hash == splits.content_hash != other.content_hash

    def greys(which: Splits) -> np.ndarray:
        images = np.concatenate([which[s] for s in ("train", "val", "test")])
        return np.sort(np.rint(images.mean(axis=(1, 2, 3)) / 5))

    assert np.array_equal(greys(splits), greys(other))
    assert np.array_equal(greys(splits), np.repeat(np.arange(20), 6))


def test_folder_default_size_is_64(tmp_path):
    fill_folder(tmp_path / "mine", 100)
    assert load_images("folder", data=tmp_path / "mine").input_dim == (3, 64, 64)


def test_folder_with_subfolders_even_linked_ones(tmp_path):
    fill_folder(tmp_path / "mine/train/cats", 15)
    fill_folder(tmp_path / "mine/val", 10)
    fill_folder(tmp_path / "elsewhere", 12)
    (tmp_path / "mine/test").symlink_to(tmp_path / "elsewhere")
    fill_folder(tmp_path / "mine/extra", 3)
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [15, 10, 12]
    assert np.array_equal(splits.test[:, 0, 0, 0], 5 * np.arange(12))
    assert "split by subfolder" in splits.source
    assert "3 images outside train, val and test left out" in splits.source


def test_folder_errors(tmp_path):
    mine = tmp_path / "mine"
    fail_line(DataError, mine, "not a folder", "--data", name="folder", data=mine)
    mine.mkdir()
    fail_line(DataError, mine, "no jpg, jpeg, png", name="folder", data=mine)
    fill_folder(mine, 99)
    parts = ("the val split has 9 images", "at least 10")
    fail_line(DataError, *parts, name="folder", data=mine, image_size=8)
    (mine / "train").mkdir()
    parts = (mine, "a subfolder train only", "needs train, val and test")
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
        counts = [len(splits[s]) for s in ("train", "val", "test")]
        assert counts == ([95, 11, 11] if name == "folder" else [39, 39, 39])
    everything = np.concatenate([splits[s] for s in ("train", "val", "test")])
    # None of the black images that stand for failed ones has come through: only 5 * 0 is black.
    assert (everything.max(axis=(1, 2, 3)) < 2).sum() == np.sum(
        np.concatenate([whole[s] for s in ("train", "val", "test")]).max(axis=(1, 2, 3)) < 2
    )


# ------------------------------------------------------------------------------------- the cache


def test_decoding_happens_once_and_reports_progress(tmp_path, fresh_cache):
    fill_folder(tmp_path / "mine", 150)
    calls: list[tuple[int, int]] = []

    def load(**more: object) -> Splits:
        calls.clear()
        return load_images(
            "folder",
            data=tmp_path / "mine",
            progress=lambda done, total: calls.append((done, total)),
            **{"image_size": 8, **more},  # type: ignore[arg-type]
        )

    first = load()
    assert calls[-1] == (150, 150)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    files = list(fresh_cache.iterdir())
    assert len(files) == 1 and files[0].suffix == ".npz"
    second = load()
    assert not calls and second.content_hash == first.content_hash
    load(seed=3)
    assert not calls, "another shuffle needs no decoding"
    load(image_size=9)
    assert calls, "another size does"
    load()
    os.utime(tmp_path / "mine/0003.png", ns=(1, 1))
    load()
    assert calls, "a file changed"
    (tmp_path / "mine/0003.png").unlink()
    load()
    assert calls[-1] == (149, 149)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_corrupt_cache_file_is_set_aside_and_rebuilt(damage, tmp_path, fresh_cache, caplog):
    fill_folder(tmp_path / "mine", 100)
    call = {"name": "folder", "data": tmp_path / "mine", "image_size": 8}
    before = load_images(**call).content_hash
    (file,) = fresh_cache.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[:-200]
    elif damage == "flipped":
        content[5000] ^= 1
    elif damage == "empty":
        content = bytearray()
    file.write_bytes(content)
    if damage == "other":
        np.savez(file, images=noise(3, 3, 8, 8), sizes=np.zeros((3, 2)), failed=np.zeros(0, int))
    with caplog.at_level(logging.WARNING):
        assert load_images(**call).content_hash == before
    assert {path.name for path in fresh_cache.iterdir()} == {file.name, file.name + ".corrupt"}
    assert "damaged" in caplog.text and str(file) in caplog.text
    caplog.clear()
    assert load_images(**call).content_hash == before
    assert not caplog.text


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, fresh_cache, caplog):
    fill_folder(tmp_path / "mine", 100)
    fresh_cache.parent.write_text("a file where the folder should be")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert len(splits.train) == 80
    assert "not cached" in caplog.text


def test_an_interrupted_decoding_leaves_no_cache(tmp_path, fresh_cache):
    fill_folder(tmp_path / "mine", 200)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_images("folder", data=tmp_path / "mine", image_size=8, progress=stop)
    assert not fresh_cache.exists()


def test_an_unfinished_cache_file_is_removed(tmp_path, fresh_cache, monkeypatch):
    fill_folder(tmp_path / "mine", 100)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pythae_fif.data.images.np.savez", full)
    assert len(load_images("folder", data=tmp_path / "mine", image_size=8).train) == 80
    assert not list(fresh_cache.iterdir())


# --------------------------------------------------------------------------------------- arrays

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
        (np.ones((20, 1, 4, 4), np.uint8), ["integer values from 1 to 1"]),
        (np.zeros((20, 2, 4, 4)), ["(20, 2, 4, 4)", "1 or 3 channels"]),
        (np.zeros((20, 16)), ["(20, 16)", "N x H x W"]),
        (np.zeros((0, 1, 4, 4)), ["(0, 1, 4, 4)"]),
        (np.zeros((20, 1, 4, 4), complex), ["complex128", "needs uint8 or floats"]),
        (np.zeros((20, 1, 4, 4), bool), ["bool", "needs uint8 or floats"]),
    ],
)
@pytest.mark.parametrize("key", ["data", "val"])
def test_bad_values_in_an_npz_are_named(array, parts, key, tmp_path):
    path = tmp_path / "mine.npz"
    content = {"data": array}
    if key == "val":
        # Beside a split that is right, and that leaves the range as it is.
        right = np.full((20, 1, 4, 4), 0.5 if array.dtype.kind == "f" else 2, np.float32)
        right = right if array.dtype.kind != "u" else np.ones_like(right)
        content = {"train": right, "val": array, "test": right}
    np.savez(path, **content)
    fail_line(DataError, path, *parts, name="npz", data=path)


def test_several_bad_images_are_counted(tmp_path):
    images = with_value(np.nan, 40)
    images[[41, 1200, 2500]] = np.nan
    np.savez(tmp_path / "a.npz", train=images, val=images, test=images)
    part = "key 'train': NaN or infinite values in 4 of 3000 images, the first at index 40"
    fail_line(DataError, part, name="npz", data=tmp_path / "a.npz")


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
    assert [len(splits[s]) for s in ("train", "val", "test")] == [160, 20, 20]
    for split in ("train", "val", "test"):
        assert np.array_equal(splits[split], data[splits.labels[split]])
    assert np.array_equal(np.sort(np.concatenate(list(splits.labels.values()))), labels)
    other = load_images("npz", data=tmp_path / "b.npz", seed=5)
    assert other.content_hash != splits.content_hash
    assert "seed 5" in other.source


def test_npz_errors(tmp_path):
    path = tmp_path / "a.npz"
    fail_line(DataError, path, "no such file", name="npz", data=path)
    np.savez(path, train=noise(20, 1, 4, 4), test=noise(20, 1, 4, 4))
    parts = (path, "has keys train, test", "train, val and test, or data")
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


# ------------------------------------------------------------------------------------ torch views


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


# ------------------------------------------------------------------------------------- real data


@pytest.mark.shared
def test_real_mnist(shared_data, monkeypatch):
    splits = load_images("mnist", shared_data, download=False)
    assert splits.source == "MNIST, torchvision layout, 50000/10000/10000"
    assert not splits.partial and splits.input_dim == (1, 28, 28)
    assert splits.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]
    assert splits.labels["val"][-1] == 8
    assert abs(splits.train.mean() / 255 - 0.1307) < 0.001
    monkeypatch.setenv("PYTHAE_FIF_DATA", str(shared_data))
    part = load_images("mnist", download=False).subset(train=1000, val=500)
    assert part.source.endswith("; cut to the first 1000/500/10000") and part.partial


@pytest.mark.shared
def test_real_cifar10(shared_data):
    splits = load_images("cifar10", shared_data, download=False)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [10_000, 2000, 2000]
    assert splits.partial and "val is the last 2000 of 12000" in splits.source
    assert np.abs(splits.train.mean((0, 2, 3)) / 255 - [0.491, 0.482, 0.447]).max() < 0.02


@pytest.mark.shared
def test_real_celeba(shared_data, root):
    folder = root / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    lines = (shared_data / "celeba/list_eval_partition.txt").read_text().splitlines()
    chosen = [
        [line for line in lines if line.endswith(f" {code}")][:20] for code in ("0", "1", "2")
    ]
    listed = [line for part in chosen for line in part]
    for line in listed:
        name = line.split()[0]
        (folder / name).symlink_to(shared_data / "celeba/img_align_celeba" / name)
    (root / "celeba/list_eval_partition.txt").write_text("\n".join(listed))
    splits = load_images("celeba", root, download=False)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [20, 20, 20]
    assert splits.input_dim == (3, 64, 64)
    assert "60 files at another resolution than 178x218 (first 89x109)" in splits.source
    # Faces: alike when averaged left to right, and brighter in red than in blue.
    mean = splits.train.mean(0)
    assert np.corrcoef(mean.ravel(), mean[:, :, ::-1].ravel())[0, 1] > 0.8
    assert mean[0].mean() > mean[2].mean()
    # The same faces at the original resolution give the same crop.
    twice = root / "twice"
    shutil.copytree(root / "celeba", twice / "celeba", ignore=shutil.ignore_patterns("*.jpg"))
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            image.resize(FACE, Image.Resampling.BICUBIC).save(
                twice / "celeba/img_align_celeba" / file.name, quality=98
            )
    difference = load_images("celeba", twice).train.astype(int) - splits.train
    assert np.abs(difference).mean() < 6 and abs(difference.mean()) < 0.5
