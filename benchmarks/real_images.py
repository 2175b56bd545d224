"""Do the scores order real images as a person would? FD-EfficientNet of MNIST and of faces.

    python benchmarks/real_images.py --data-root DATA

Held-out images are the reference. Against them: training images, and copies of the same training
images with noise, blur, and their blocks shuffled. Prints one table a data set.
"""

import argparse
import os
import platform
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from pythae_fif.evaluation import (
    EfficientNetExtractor,
    Reference,
    SampleCountWarning,
    score_samples,
)


def mnist(root: Path, count: int) -> tuple[Tensor, Tensor]:
    """Test and training digits, uint8 (N, 1, 28, 28)."""

    def load(part: str) -> Tensor:
        raw = np.fromfile(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", dtype=np.uint8)
        return torch.from_numpy(raw[16:].reshape(-1, 1, 28, 28)[:count].copy())

    return load("t10k"), load("train")


def faces(root: Path, count: int) -> tuple[Tensor, Tensor]:
    """Validation with test, and training faces: centre 70 x 70 resized to 64 x 64, uint8."""
    folder = root / "celeba"
    lines = (folder / "list_eval_partition.txt").read_text().split("\n")
    parts = {line.split()[0]: int(line.split()[1]) for line in lines if line.strip()}

    def load(names: list[str]) -> Tensor:
        images = []
        for name in names[:count]:
            image = Image.open(folder / "img_align_celeba" / name).convert("RGB")
            left, top = (image.width - 70) // 2, (image.height - 70) // 2 + 2
            image = image.crop((left, top, left + 70, top + 70)).resize((64, 64), Image.BILINEAR)
            images.append(np.asarray(image))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    held_out = [name for name, part in parts.items() if part > 0]
    return load(held_out), load([name for name, part in parts.items() if part == 0])


def noised(images: Tensor, std: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator) * std
    return (255 * (images / 255 + noise).clamp(0, 1)).round().to(torch.uint8)


def blurred(images: Tensor, sigma: float) -> Tensor:
    return gaussian_blur(images / 255, 2 * int(3 * sigma) + 1, sigma).mul(255).round().byte()


def shuffled(images: Tensor, side: int) -> Tensor:
    """The blocks of side x side pixels of each image in an order of its own."""
    generator = torch.Generator().manual_seed(0)
    count, _, height, width = images.shape
    blocks = F.unfold(images.float(), side, stride=side)
    orders = torch.rand(count, 1, blocks.shape[2], generator=generator).argsort(dim=2)
    blocks = blocks.gather(2, orders.expand(-1, blocks.shape[1], -1))
    return F.fold(blocks, (height, width), side, stride=side).byte()


def variants(images: Tensor) -> dict[str, Tensor]:
    quarter = images.shape[2] // 4
    return {
        "training images": images,
        "noise of 0.05": noised(images, 0.05),
        "noise of 0.2": noised(images, 0.2),
        "blur of 0.7 pixels": blurred(images, 0.7),
        "blur of 2 pixels": blurred(images, 2.0),
        f"blocks of {quarter} x {quarter} shuffled": shuffled(images, quarter),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2500, help="most images a set")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SampleCountWarning)
    extractor = EfficientNetExtractor()
    print(
        f"{extractor.name} ({extractor.hash}), {torch.get_num_threads()} of {os.cpu_count()} CPU "
        f"cores, torch {torch.__version__}, {platform.machine()}"
    )
    for title, load in {"MNIST": mnist, "faces": faces}.items():
        started = time.perf_counter()
        reference, images = load(arguments.data_root, arguments.count)
        references = {"held out": Reference.of(reference, extractor)}
        rows = []
        for name, copies in variants(images).items():
            scores = score_samples(copies, extractor, references)
            row = {
                "images": name,
                "samples": len(copies),
                "frechet": scores.frechet["held out"],
                "kernel": scores.kernel["held out"].mean,
                **asdict(scores.neighbours["held out"]),
            }
            rows.append(row)
        print(f"\n{title}: {len(reference):,} held-out images as reference, uint8")
        print(
            "| images | samples | FD-EfficientNet | KD x 1000 | precision | recall "
            "| density | coverage |"
        )
        print("|---|" + "---:|" * 7)
        for row in rows:
            print(
                f"| {row['images']} | {row['samples']:,} | {row['frechet']:.2f} "
                f"| {1000 * row['kernel']:.2f} | {row['precision']:.3f} | {row['recall']:.3f} "
                f"| {row['density']:.3f} | {row['coverage']:.3f} |"
            )
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
