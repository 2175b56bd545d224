"""Published data sets: each layout that they come in, and what is said of missing or bad files."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torchvision
from PIL import Image
from support.image_files import (
    FACE,
    counts,
    fail_line,
    fill_celeba,
    fill_npz_layout,
    noise,
    picture,
    together,
    write_mnist,
)

from pythae_fif.data import load_images
from pythae_fif.data.published import missing
from pythae_fif.data.source import Request
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError


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
    failed = "cannot download" if name == "celeba" else f"{LOOKED_FOR[name]} could be read"
    parts = (failed, root, "no route to host", "by hand", "--data-root")
    fail_line(DataError, *parts, name=name, data_root=root)


def test_a_missing_default_root_is_only_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fail_line(DataError, tmp_path / ".cache", "--offline", name="mnist", download=False)


def test_digits():
    splits = load_images("digits", seed=0)
    assert splits.input_dim == (1, 8, 8)
    assert counts(splits) == [1197, 300, 300]
    assert splits.train.min() == 0 and splits.train.max() == 255
    assert len(np.unique(splits.train)) == 17
    from sklearn.datasets import load_digits

    # Every image is there once, with its label.
    def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
        pairs = zip(images.astype(np.uint8), labels, strict=True)
        return sorted(image.tobytes() + bytes([label]) for image, label in pairs)

    ours = together(splits)
    labels = np.concatenate([splits.labels[s] for s in SPLIT_NAMES])
    original = load_digits()
    assert rows(np.rint(ours / 255 * 16), labels) == rows(original.images, original.target)
    assert labels.dtype == np.int64
    # One test set for everyone, whatever the seed.
    assert load_images("digits", seed=7).content_hash == splits.content_hash
    assert not splits.partial


def test_mnist_in_torchvision_layout(root):
    write_mnist(root, (120, 30))
    splits = load_images("mnist", root, download=False)
    assert counts(splits) == [100, 20, 30]
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


def test_two_commands_at_once_download_mnist_once(tmp_path, root, monkeypatch):
    """The second finds the folder of the first, which still downloads into it."""
    begun, second = threading.Event(), threading.Event()

    def download(self) -> None:
        if self._check_exists():
            return
        if begun.is_set():
            second.set()
        else:
            (root / "MNIST/raw").mkdir(parents=True)
            begun.set()
            assert not second.wait(0.5), "two downloads into one folder"
            for file in (tmp_path / "made/MNIST/raw").iterdir():
                file.rename(root / "MNIST/raw" / file.name)

    write_mnist(tmp_path / "made", (120, 30))
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(load_images, "mnist", root)
        assert begun.wait(60)
        for found in (pool.submit(load_images, "mnist", root), first):
            assert counts(found.result()) == [100, 20, 30]


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


def test_what_a_failed_download_leaves_is_no_data(root, monkeypatch):
    def download(self):
        (root / "MNIST/raw").mkdir(parents=True)
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    for offline in (False, True):
        with pytest.raises(DataError, match="mnist: neither") as caught:
            load_images("mnist", root, download=not offline)
        assert ("download failed: no network" in str(caught.value)) is not offline
        assert "damaged" not in str(caught.value)
    assert missing(Request("mnist", root)) is not None


def test_cifar10_in_torchvision_layout(root, monkeypatch):
    class CIFAR10:
        def __init__(self, folder: str, train: bool, download: bool) -> None:
            assert folder == str(root) and not download
            self.data = noise(60 if train else 20, 32, 32, 3, seed=train)
            self.targets = list(range(len(self.data)))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CIFAR10)
    (root / "cifar-10-batches-py").mkdir()
    (root / "cifar-10-batches-py/batches.meta").touch()
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
    train = np.zeros((50_000, 1, 28, 28), np.uint8)
    train[39_999:40_001, 0, 0, 0] = 70, 90
    fill_npz_layout(root, "mnist", train, train[:10])
    splits = load_images("mnist", root)
    assert (len(splits.train), len(splits.val)) == (40_000, 10_000)
    assert splits.train[-1, 0, 0, 0] == 70 and splits.val[0, 0, 0, 0] == 90


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
    for split, grey in zip(SPLIT_NAMES, np.split(expected, [20, 32]), strict=True):
        assert np.abs(splits[split].mean(axis=(1, 2, 3)) - grey).max() < 1.5
    assert splits.partial and splits.labels is None
    assert "image folder, 20/12/11; partial (published: 162770/19867/19962)" in splits.source
    assert "resolution" not in splits.source
    assert load_images("celeba", root, image_size=32).input_dim == (3, 32, 32)


def test_celeba_partition_may_be_scattered_and_list_a_part_of_the_folder(root):
    fill_celeba(root)
    partition = root / "celeba/list_eval_partition.txt"
    # Interleaved, and two files unlisted.
    codes = np.arange(41) % 3
    lines = [f"{index:04d}.jpg {code}" for index, code in enumerate(codes)]
    partition.write_text("\n".join([*lines, ""]))
    splits = load_images("celeba", root, download=False)
    for code, split in enumerate(SPLIT_NAMES):
        grey = 5 * np.flatnonzero(codes == code)
        assert np.abs(splits[split].mean(axis=(1, 2, 3)) - grey).max() < 1.5
    assert "2 files that the partition lacks left out" in splits.source


@pytest.mark.parametrize("lost", ["list_eval_partition.txt", "img_align_celeba"])
def test_half_of_celeba_is_named(lost, root):
    fill_celeba(root)
    (root / "celeba" / lost).rename(root / "elsewhere")
    parts = (f"{root / 'celeba' / lost.replace('align_celeba', 'align_celeba.zip')} is missing",)
    fail_line(DataError, *parts, "--offline", name="celeba", data_root=root, download=False)


def test_a_half_unpacked_folder_is_named_and_not_used(root):
    fill_celeba(root)
    for index in range(20, 43):
        (root / f"celeba/img_align_celeba/{index:04d}.jpg").unlink()
    parts = (root / "celeba/img_align_celeba", "20 of the 43 images", "in part", "Remove it")
    fail_line(DataError, *parts, name="celeba", data_root=root)


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


def test_the_crop_of_celeba_is_in_its_pixels_name_and_cache(root):
    fill_celeba(root)
    file = root / "celeba/img_align_celeba/0000.jpg"
    picture(*FACE).save(file, quality=95)
    usual, small = (load_images("celeba", root, crop=crop) for crop in (None, 140))
    assert load_images("celeba", root, crop=148).content_hash == usual.content_hash
    assert small.content_hash != usual.content_hash  # not what the cache has of the same files
    for splits, crop in ((usual, 148), (small, 140)):
        assert splits.source.startswith(f"CelebA 64x64 of the central {crop}x{crop}, image folder")
        with Image.open(file) as image:
            cut = torchvision.transforms.CenterCrop(crop)(image)
        expected = np.asarray(cut.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(splits.train[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("name", "crop"), [("mnist", 20), ("celeba", 0), ("celeba", 179)])
def test_a_crop_that_cannot_be(name, crop, root):
    parts = (f"crop={crop} of {name}", "1 to 178")
    fail_line(ConfigError, *parts, name=name, data_root=root, crop=crop)


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
    assert counts(splits) == [10_000, 2000, 2000]
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
    assert counts(splits) == [20, 20, 20]
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
