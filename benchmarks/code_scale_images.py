"""What the code of FIF on MNIST looks like as training goes on: ReLU nets and the same with SiLU.

    python benchmarks/code_scale_images.py [--seeds 0 1]

Where training with eq. 15 rests, the second moments of the code are those of f'(x) g'(z) (a linear
map of the code that the decoder undoes changes no reconstruction and moves no kink). How far the
code is from its prior then decides how good samples of the prior are, beside those of one Gaussian
(which is whitening) and of a Gaussian mixture fitted to the codes. After each number of steps:
|z|^2 and tr f'(x) g'(z) a latent dimension, the variances of the code along its principal axes, the
divergence of a Gaussian of its mean and covariance from the prior, the squared error an image, and
the Frechet distances of samples from the prior, the Gaussian and the mixture to test images.
"""

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from machine import publish
from torch import Tensor
from whitening import trace

from pythae_fif import FIF, FIFConfig
from pythae_fif.benchmark.inputs import load_extractor, reference_of
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.evaluation import Reference, frechet_distance, score_codes
from pythae_fif.nn import build_networks, smooth_networks
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid, spread
from pythae_fif.runs.kind import Environment
from pythae_fif.sampling.samplers import generate
from pythae_fif.studies.output import Drawing
from pythae_fif.training import BatchLoader, keep_freed_memory

NETWORKS = {"ReLU": build_networks, "SiLU": smooth_networks}
LATENT_DIM, BATCH, LEARNING_RATE = 16, 50, 3e-4
CODES, JACOBIANS, SAMPLES, TEST = 8000, 200, 2000, 2000
STEPS = [480, 960, 1920, 3840, 5760]
HEADINGS = [
    "nets", "steps", "|z|² / d", "tr f'(x) g'(z) / d", "variance, least", "greatest", "KL, nats",
    "squared error ↓", "N ↓", "Gaussian ↓", "GMM ↓",
]  # fmt: skip


SAMPLERS = {"normal": "prior", "gaussian": "one Gaussian", "gmm": "mixture of ten"}
Found = dict[tuple[str, int], list[tuple[float, ...]]]
"""Nets and steps -> the numbers of every seed, in the order of the headings."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--steps", nargs="+", type=int, default=STEPS)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    keep_freed_memory()
    splits = load_images("mnist", flags.data_root, download=False)
    scored = splits.subset(train=8000, val=2000, test=TEST)  # as in profile `quick`
    extractor = load_extractor("classifier", scored, Environment(offline=True))
    reference = reference_of(scored, "test", extractor)

    def distance(sampler: str, model: FIF, codes: Tensor, seed: int) -> float:
        images = generate(sampler, model, codes, num_samples=SAMPLES, seed=seed)
        drawn = Reference.of(images.clamp(0, 1), extractor).statistics
        return frechet_distance(drawn, reference.statistics)

    found: Found = {}
    for seed in flags.seeds:
        for nets in NETWORKS:
            torch.manual_seed(seed)
            model = FIF(
                FIFConfig(input_dim=splits.input_dim, latent_dim=LATENT_DIM),
                *NETWORKS[nets]("resnet", splits.input_dim, LATENT_DIM),
            )
            for steps in train(model, torch.from_numpy(splits.train), flags.steps):
                with torch.random.fork_rng(), torch.no_grad():
                    z, *numbers = measure(model.eval(), to_float(splits.train, limit=CODES))
                    numbers += [distance(sampler, model, z, seed) for sampler in SAMPLERS]
                found.setdefault((nets, steps), []).append(tuple(numbers))
                print(nets, steps, *(f"{value:.3f}" for value in numbers), flush=True)
    rows = [
        [Cell(nets), Cell(f"{steps:,}"), *map(spread, zip(*found[nets, steps], strict=True))]
        for nets in NETWORKS
        for steps in flags.steps
    ]
    notes = [
        f"Data: {splits.source}. Pythae's ResNet, d = {LATENT_DIM}, beta 10, Adam at a learning "
        f"rate of {LEARNING_RATE:g}, batch {BATCH}; mean ± standard deviation over seeds "
        f"{', '.join(map(str, flags.seeds))}. The code is that of {CODES:,} training images "
        f"({JACOBIANS} for the trace), the KL divergence that of the Gaussian of its mean and "
        "covariance from the prior.",
        f"N, Gaussian and GMM: {extractor.distance_name} of {SAMPLES:,} samples, from the prior, "
        f"one Gaussian and a mixture of ten fitted to the code, to {TEST:,} test images.",
        f"Made by `python benchmarks/code_scale_images.py --steps "
        f"{' '.join(map(str, flags.steps))} --seeds {' '.join(map(str, flags.seeds))}`.",
    ]
    title = "mnist: the code as training goes on"
    grid = Grid(title, HEADINGS, "l" + 10 * "r", rows, notes)
    about = caption(found, flags.steps)
    drawing = Drawing("code-scale-mnist", figure(found, flags.steps), title, about)
    publish(flags.results, notes[-1].split("`")[1], grid, drawing)


def figure(found: Found, steps: list[int]) -> Any:
    """The distances against the steps, with the lowest and the highest seed."""
    picture = new_figure(5 * len(NETWORKS), 3.6)
    axes: Any = picture.subplots(1, len(NETWORKS), sharey=True)
    for axis, nets in zip(axes, NETWORKS, strict=True):
        for column, sampler in zip((-3, -2, -1), SAMPLERS.values(), strict=True):
            values = [[numbers[column] for numbers in found[nets, step]] for step in steps]
            (line,) = axis.plot(steps, [fmean(of) for of in values], marker="o", label=sampler)
            low, high = zip(*((min(of), max(of)) for of in values), strict=True)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, lw=0)
        axis.set(xscale="log", yscale="log", xlabel="steps", title=nets)
        axis.set_xticks(steps, [f"{step:,}" for step in steps], minor=False)
        axis.minorticks_off()
    axes[0].set_ylabel("distance of samples to test images")
    axes[0].legend()
    return picture


def caption(found: Found, steps: list[int]) -> str:
    """How much of what the mixture gains one Gaussian gains."""
    shares = []
    for nets in NETWORKS:
        for step in (min(steps), max(steps)):
            prior, gaussian, mixture = (
                fmean(numbers[column] for numbers in found[nets, step]) for column in (-3, -2, -1)
            )
            shares.append(
                f"with {nets} after {step:,} steps {prior - gaussian:.1f} of {prior - mixture:.1f}"
            )
    return (
        "Frechet distance of FIF's samples to test images as training goes on, means over seeds "
        "with the lowest and the highest. One Gaussian fitted to the codes, which is whitening, "
        f"closes of the gap between prior and mixture: {'; '.join(shares)}."
    )


def train(model: FIF, images: Tensor, stops: list[int]):
    """Trains, and yields at each number of steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    loader, step = BatchLoader(ImageDataset(images), BATCH, shuffle=True), 0
    while True:
        for batch in loader:
            if step in stops:
                yield step
                if step == max(stops):
                    return
            optimizer.zero_grad()
            model.train()({"data": batch.data}).loss.backward()
            optimizer.step()
            step += 1


def measure(model: FIF, x: Tensor) -> tuple:
    """Codes (N, d) and the numbers of the table that need no samples."""
    z = torch.cat([model.embed(part) for part in x.split(500)])
    codes, variances = score_codes(z), torch.linalg.eigvalsh(torch.cov(z.T))
    error = [(model.reconstruct(part) - part).square().sum((1, 2, 3)) for part in x.split(500)]
    return (
        z, float(z.square().mean()), trace(model, x[:JACOBIANS]) / z.shape[1],
        float(variances[0]), float(variances[-1]), codes.divergence if codes else math.inf,
        float(torch.cat(error).mean()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
