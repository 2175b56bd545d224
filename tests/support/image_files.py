"""Images in the layouts that data sets come in, and the lines that bad ones are told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pythae_fif.data import Splits, load_images
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import FIFError

FACE = (178, 218)


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def fail_line(error: type[FIFError], *parts: str | Path, **call: object) -> None:
    """Loading fails with the error, whose message holds every part."""
    with pytest.raises(error) as caught:
        load_images(**call)  # type: ignore[arg-type]
    assert all(str(part) in str(caught.value) for part in parts)


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


def counts(splits: Splits) -> list[int]:
    """The number of images of each split."""
    return [len(splits[split]) for split in SPLIT_NAMES]
