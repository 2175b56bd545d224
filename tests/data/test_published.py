"""Digits, and MNIST, CIFAR-10 and CelebA in all their layouts, and their downloads."""

import gzip
import hashlib

import numpy as np
import pytest
import torchvision
from PIL import Image
from support.image_files import counts, fail_line, fill_celeba, fill_npz_layout, noise, write_mnist
from support.web import serve

from pythae_fif.data import load_images
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import DataError, DownloadError

PARTITION_FILE = "list_eval_partition.txt"


def test_digits():
    splits = load_images("digits")
    assert counts(splits) == [1197, 300, 300]
    assert splits.input_dim == (1, 8, 8)
    assert splits.content_hash == "6b705eb4dbffb746"
    assert splits.labels_hash == "82e0417db125f2d6"
    assert not splits.partial and not splits.notes


def test_mnist_in_torchvision_layout(root):
    write_mnist(root, (120, 30))
    splits = load_images("mnist", root, offline=True)
    assert counts(splits) == [100, 20, 30]
    assert np.array_equal(np.concatenate([splits.train, splits.val])[:, 0], noise(120, 28, 28))
    assert np.array_equal(splits.labels["val"], np.arange(100, 120) % 10)
    assert splits.labels["val"].dtype == np.int64
    assert splits.partial
    assert splits.source.endswith("100/20/30; partial (published: 50000/10000/10000)")


def test_cifar10_in_torchvision_layout(root, monkeypatch):
    class CIFAR10:
        def __init__(self, folder: str, train: bool, download: bool) -> None:
            assert folder == str(root)
            self.data = noise(60 if train else 20, 32, 32, 3, seed=train)
            self.targets = list(range(len(self.data)))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CIFAR10)
    (root / "cifar-10-batches-py").mkdir()
    (root / "cifar-10-batches-py/batches.meta").touch()

    splits = load_images("cifar10", root)
    assert splits.input_dim == (3, 32, 32)
    assert "CIFAR-10, torchvision layout" in splits.source
    assert np.array_equal(splits.val, noise(60, 32, 32, 3, seed=1)[50:].transpose(0, 3, 1, 2))
    assert splits.labels["val"].tolist() == list(range(50, 60))
    assert splits.labels["test"].tolist() == list(range(20))


def test_mnist_is_downloaded_completely_or_not_used(tmp_path, root, monkeypatch):
    write_mnist(tmp_path / "made", (120, 30))
    monkeypatch.setenv("NO_PROXY", "*")
    with serve() as web:
        for file in (tmp_path / "made/MNIST/raw").iterdir():
            web.pages[f"{file.name}.gz"] = gzip.compress(file.read_bytes())
        checksums = [
            (name, hashlib.md5(content).hexdigest()) for name, content in web.pages.items()
        ]
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", checksums)
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [web.address])

        last_file, _ = checksums[-1]
        web.cut[last_file] = 100
        missing = f"mnist: {root / 'MNIST/raw'} is missing or incomplete"
        for _ in range(2):
            parts = (missing, "unpack https://", "--data-root")
            fail_line(DataError, *parts, name="mnist", data_root=root)

        web.cut.clear()
        assert counts(load_images("mnist", root)) == [100, 20, 30]


def test_damaged_mnist_is_refused_in_one_line(root):
    write_mnist(root, (120, 30))
    file = root / "MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    damaged = f"mnist: {root / 'MNIST/raw'} is missing or incomplete"
    fail_line(DataError, damaged, "--offline forbids", name="mnist", data_root=root, offline=True)
    fail_line(DataError, damaged, name="mnist", data_root=root)


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32)), ("celeba", (3, 64, 64))]
)
def test_pythae_npz_layout_comes_first(name, shape, root):
    train = noise(60, *shape)
    test = noise(20, *shape, seed=1)
    fill_npz_layout(root, name, train, test / 255)
    if name == "mnist":
        write_mnist(root, (120, 30))

    splits = load_images(name, root, offline=True)
    assert np.array_equal(splits.train, train[:50])
    assert np.array_equal(splits.val, train[50:])
    assert np.array_equal(splits.test, test)
    assert splits.labels is None
    assert splits.partial
    assert "Pythae npz layout, 50/10/20" in splits.source


def test_faces_in_pythae_npz_layout_need_the_requested_side(root):
    fill_npz_layout(root, "celeba", noise(60, 3, 32, 32), noise(20, 3, 32, 32))
    fail_line(DataError, "side 32: --image-size 32 is needed", name="celeba", data_root=root)
    assert load_images("celeba", root, image_size=32).input_dim == (3, 32, 32)


def test_pythae_npz_layout_with_labels(root):
    train = noise(60, 1, 28, 28)
    test = noise(20, 1, 28, 28, seed=1)
    folder = fill_npz_layout(root, "mnist", train, test, labels=np.arange(60))
    assert load_images("mnist", root).labels is None, "the test images have no labels"

    np.savez(folder / "eval_data.npz", data=test, labels=np.arange(20))
    assert load_images("mnist", root).labels["val"].tolist() == list(range(50, 60))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "eval_data.npz: cannot be read"),
        ({"images": noise(20, 1, 28, 28)}, "eval_data.npz: has keys images; needs data"),
        (
            {"data": noise(20, 3, 28, 28)},
            "test images have shape (3, 28, 28), train images (1, 28, 28)",
        ),
    ],
)
def test_damaged_pythae_npz_layout(content, part, root):
    folder = fill_npz_layout(root, "mnist", noise(60, 1, 28, 28), noise(20, 1, 28, 28))
    (folder / "eval_data.npz").unlink()
    if content is not None:
        np.savez(folder / "eval_data.npz", **content)
    fail_line(DataError, part, name="mnist", data_root=root)


def test_celeba_follows_its_partition_file(root):
    fill_celeba(root)
    codes = np.arange(41) % 3  # interleaved, and two files unlisted
    lines = [f"{index:04d}.jpg {code}" for index, code in enumerate(codes)]
    (root / "celeba" / PARTITION_FILE).write_text("\n".join([*lines, ""]))

    splits = load_images("celeba", root, offline=True)
    assert splits.input_dim == (3, 64, 64)
    assert splits.labels is None
    for code, split in enumerate(SPLIT_NAMES):
        grey = 5 * np.flatnonzero(codes == code)
        assert np.abs(splits[split].mean(axis=(1, 2, 3)) - grey).max() < 1.5
    assert "14/14/13; partial (published: 162770/19867/19962)" in splits.source
    assert load_images("celeba", root, image_size=32).input_dim == (3, 32, 32)

    (root / "celeba" / PARTITION_FILE).write_text("\n".join(lines).replace(" ", ","))
    fail_line(DataError, "the train split has 0 examples", name="celeba", data_root=root)


def test_the_crop_of_celeba_changes_pixels_source_and_cached_file(root):
    fill_celeba(root)
    file = root / "celeba/img_align_celeba/0000.jpg"
    Image.fromarray(noise(1, 218, 178, 3)[0]).save(file)
    default = load_images("celeba", root)
    small = load_images("celeba", root, crop=140)
    assert load_images("celeba", root, crop=148).content_hash == default.content_hash
    assert small.content_hash != default.content_hash  # although the cache has the same files

    for splits, crop in ((default, 148), (small, 140)):
        assert f"CelebA, 64x64 of the central {crop}x{crop}, image folder" in splits.source
        with Image.open(file) as image:
            square = torchvision.transforms.CenterCrop(crop)(image)
        resized = np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR))
        expected = resized.transpose(2, 0, 1)
        assert np.abs(splits.train[0].astype(int) - expected).max() <= 1


def test_celeba_is_downloaded_by_torchvision(root, monkeypatch):
    def download(folder: str, download: bool = False) -> None:
        if not download:
            raise RuntimeError("Dataset not found")
        fill_celeba(root)

    monkeypatch.setattr(torchvision.datasets, "CelebA", download)
    fail_line(DataError, "https://mmlab", name="celeba", data_root=root, offline=True)
    assert counts(load_images("celeba", root, image_size=8)) == [20, 12, 11]

    monkeypatch.delattr(torchvision.datasets, "CelebA")
    assert load_images("celeba", root, image_size=8, offline=True).partial


@pytest.mark.shared
def test_real_mnist(shared_data, monkeypatch):
    splits = load_images("mnist", shared_data, offline=True)
    assert splits.source == "MNIST, torchvision layout, 50000/10000/10000"
    assert splits.content_hash == "affca80560d319e1"
    assert splits.labels_hash == "8d91199e6a578187"
    assert not splits.partial and not splits.notes
    assert splits.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(splits.train.mean() / 255 - 0.1307) < 0.001

    monkeypatch.setenv("PYTHAE_FIF_DATA", str(shared_data))
    part = load_images("mnist", offline=True).subset(train=1000, val=500)
    assert part.source.endswith("; cut to the first 1000/500/10000")
    assert part.partial


@pytest.mark.shared
def test_real_cifar10(shared_data):
    splits = load_images("cifar10", shared_data, offline=True)
    assert counts(splits) == [10_000, 2000, 2000]
    assert splits.content_hash == "84dea227739e78de"
    assert splits.partial


@pytest.mark.shared
def test_real_celeba(shared_data, root):
    folder = root / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    lines = (shared_data / "celeba" / PARTITION_FILE).read_text().splitlines()
    selected = []
    for code in "012":
        selected += [line for line in lines if line.endswith(code)][:20]
    for line in selected:
        name = line.split()[0]
        (folder / name).symlink_to(shared_data / "celeba/img_align_celeba" / name)
    (root / "celeba" / PARTITION_FILE).write_text("\n".join(selected))

    splits = load_images("celeba", root, offline=True)
    assert counts(splits) == [20, 20, 20]
    assert splits.input_dim == (3, 64, 64)
    assert splits.content_hash == "fcedbe4974923d93"


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mnist", (1, 28, 28), 10), ("cifar10", (3, 32, 32), 10), ("celeba", (3, 64, 64), None)],
)
def test_random_images_replace_missing_ones_for_timing(name, shape, classes, root):
    with pytest.raises(DownloadError) as caught:
        load_images(name, root, offline=True)
    splits = load_images(name, **caught.value.substitute)
    assert splits.input_dim == shape
    assert splits.classes == classes
