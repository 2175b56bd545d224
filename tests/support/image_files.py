"""Writes images in the layouts of data sets, and checks the errors for damaged ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pythae_fif.data import Splits, load_images
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import FIFError

FACE = (178, 218)


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Returns random uint8 images."""
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def fail_line(error: type[FIFError], *parts: str | Path, **call: object) -> None:
    """Checks that loading raises the error, with every part in its message."""
    with pytest.raises(error) as caught:
        load_images(**call)  # type: ignore[arg-type]

    message = str(caught.value)
    assert all(str(part) in message for part in parts)


def fill_folder(folder: Path, count: int, suffix: str = ".png", size: tuple = (20, 14)) -> None:
    """Writes images that are uniformly 5 * (number of the file)."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = np.full((size[1], size[0], 3), 5 * index % 256, np.uint8)
        Image.fromarray(image).save(folder / f"{index:04d}{suffix}")


def fill_celeba(root: Path, counts: tuple[int, ...] = (20, 12, 11), size: tuple = FACE) -> Path:
    """Writes a tiny CelebA of images that are uniformly 5 * (number in the list)."""
    fill_folder(root / "celeba" / "img_align_celeba", sum(counts), ".jpg", size)
    codes = np.repeat(np.arange(len(counts)), counts)
    lines = [f"{index:04d}.jpg {code}\n" for index, code in enumerate(codes)]
    (root / "celeba" / "list_eval_partition.txt").write_text("".join(lines))
    return root


def fill_npz_layout(
    root: Path, name: str, train: np.ndarray, test: np.ndarray, **train_arrays: np.ndarray
) -> Path:
    """Writes a data set in Pythae's layout, with further arrays in the training file."""
    folder = root / name
    folder.mkdir()
    np.savez(folder / "train_data.npz", data=train, **train_arrays)
    np.savez(folder / "eval_data.npz", data=test)
    return folder


def write_mnist(root: Path, counts: tuple[int, int]) -> None:
    """Writes MNIST's four files, with random images and labels."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        images = noise(count, 28, 28)
        image_header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(image_header + images.tobytes())

        labels = np.arange(count, dtype=np.uint8) % 10
        label_header = np.array([0x801, count], ">i4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(label_header + labels.tobytes())


def counts(splits: Splits) -> list[int]:
    """Returns the number of images of each split."""
    return [len(splits[split]) for split in SPLIT_NAMES]
