"""How many dimensions has a manifold? From the singular values of FIF's decoder, where it is known.

    OMP_NUM_THREADS=1 python benchmarks/intrinsic_dimension.py [--seeds 0 1 2] [--results DIR]

Manifolds of one to three dimensions, turned in a space of five, with noise in all directions. FIF
has a latent dimension for each of the five, so that nothing is said of the manifold's. Codes are
standard normal: a singular value of the decoder is how far the data reach in a direction, along the
manifold or, as far as the noise reaches, across it. The estimate at a point is the number of
singular values before the largest gap, that is, the largest ratio of one to the next; values below
the noise, of directions that no code uses yet, count as the noise's. (That was added after a trial
run in which some models had such directions.) Beside it stands the estimate from distances to the
20 nearest neighbours (Levina and Bickel 2004), of points with the same noise and without.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import publish
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.ensemble import Ensemble, one_cycle
from pythae_fif.nn import WideDecoder, WideEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid, spread
from pythae_fif.runs.provenance import processor
from pythae_fif.studies.output import Drawing
from pythae_fif.training import keep_freed_memory

DIM, POINTS, TEST, NEIGHBOURS = 5, 4000, 300, 20
NOISE, BETA, BLOCKS, WIDTH = 0.05, 100.0, 2, 32
BATCH, LEARNING_RATE, EPOCHS = 100, 4e-3, (25, 50, 100)
STEPS = POINTS // BATCH  # of an epoch

CAPTION = (
    f"Median singular values of the decoder over {TEST} test points, a line a seed, after "
    f"{STEPS * max(EPOCHS):,} steps of {BATCH} points (nets of width {WIDTH}, beta {BETA:g}, one "
    f"core); dotted the noise, {NOISE:g}; the grey line stands behind the true dimension. FIF has "
    f"{DIM} latent dimensions, as many as the space. Where the density is learnt, the values "
    "across the manifold are as small as the noise, and the largest gap stands at the grey line; "
    "values across that stand above the noise belong to manifolds whose density has not come yet. "
    "A manifold that reaches no further than the noise in a direction cannot be told from noise."
)


@dataclass(frozen=True)
class Manifold:
    """A manifold of dimension d: `sample` draws points (N, D), D at most `DIM`, without noise."""

    dimension: int
    sample: Callable[[int, torch.Generator], Tensor]


def sphere_of_three(count: int, generator: torch.Generator) -> Tensor:
    points = torch.randn(count, 4, generator=generator)
    return points / points.norm(dim=1, keepdim=True)


def toy(name: str) -> Manifold:
    return Manifold(TOY_DATA[name].latent_dim, lambda n, of: TOY_DATA[name].sample(n, of).points)


MANIFOLDS = {
    "circle": toy("circle"),
    "spiral": toy("spiral"),
    "sphere": toy("sphere"),
    "torus": toy("torus"),
    "Swiss roll": toy("swiss_roll"),
    "sphere in four dimensions": Manifold(3, sphere_of_three),
}


@dataclass(frozen=True)
class Found:
    """A model after some epochs: means over the test points.

    Attributes:
        manifold, seed, epoch: Which it is.
        estimate: The dimension.
        right: Share of the points whose estimate is the true one.
        values: Median singular values, in descending order.
    """

    manifold: str
    seed: int
    epoch: int
    estimate: float
    right: float
    values: tuple[float, ...]


def before_largest_gap(values: Tensor) -> Tensor:
    """Number of singular values (..., d), in descending order, before the largest ratio of two."""
    logs = values.clamp(min=NOISE).log()
    return (logs[..., :-1] - logs[..., 1:]).argmax(-1) + 1


def by_neighbours(points: Tensor) -> float:
    """The estimate of Levina and Bickel, averaged as MacKay and Ghahramani (2005) say."""
    points = points.double().unique(dim=0)  # of two that are one, a logarithm has no value
    distances, _ = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(points).kneighbors(points)
    logs = torch.from_numpy(distances[:, 1:]).log()  # without the point itself
    inverse = (logs[:, -1:] - logs[:, :-1]).sum(1) / (NEIGHBOURS - 1)
    return float(1 / inverse.mean())


def points_of(manifold: Manifold, count: int, generator: torch.Generator) -> Tensor:
    """(N, DIM), by an isometry drawn by chance."""
    points = manifold.sample(count, generator)
    turn, _ = torch.linalg.qr(torch.randn(DIM, points.shape[1], generator=generator))
    return points @ turn.T


def build(beta: float) -> FIF:
    config = FIFConfig(input_dim=(DIM,), latent_dim=DIM, beta=beta, noise=NOISE)
    return FIF(config, WideEncoder(DIM, DIM, BLOCKS, WIDTH), WideDecoder(DIM, DIM, BLOCKS, WIDTH))


def train(seeds: list[int], train: Tensor, test: Tensor) -> list[Found]:
    """Trains a model for every manifold and seed, all as one; points are (manifolds, N, DIM)."""
    names = [(name, seed) for name in MANIFOLDS for seed in seeds]
    ensemble = Ensemble.build(build, [BETA] * len(names), [seed for _, seed in names])
    train, test = (points.repeat_interleave(len(seeds), 0) for points in (train, test))
    found = []

    def measure(epoch: int) -> None:
        if epoch not in EPOCHS:
            return
        for (name, seed), model, x in zip(names, ensemble.members(), test, strict=True):
            values = model.singular_values(x)
            estimate = before_largest_gap(values)
            right = (estimate == MANIFOLDS[name].dimension).float().mean()
            numbers = (float(of) for of in (estimate.float().mean(), right))
            found.append(Found(name, seed, epoch, *numbers, tuple(values.median(0)[0].tolist())))
            print(found[-1], flush=True)

    ensemble.train(
        train,
        epochs=max(EPOCHS),
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        schedule=one_cycle,
        on_epoch=measure,
    )
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    points = torch.stack(
        [points_of(of, POINTS + TEST, generator) for of in MANIFOLDS.values()]
    )  # (manifolds, N, DIM)
    noisy = points + NOISE * torch.randn(points.shape, generator=generator)
    start = time.process_time()
    found = train(flags.seeds, points[:, :POINTS], points[:, POINTS:])
    minutes = (time.process_time() - start) / 60
    neighbours = {
        name: [by_neighbours(of[:POINTS]) for of in both]
        for name, *both in zip(MANIFOLDS, noisy, points, strict=True)
    }
    seeds = " ".join(map(str, flags.seeds))
    command = f"python benchmarks/intrinsic_dimension.py --seeds {seeds}"
    rows = []
    for name, of in MANIFOLDS.items():
        mine = {
            epoch: [f for f in found if (f.manifold, f.epoch) == (name, epoch)] for epoch in EPOCHS
        }
        last = mine[max(EPOCHS)]
        estimates = [spread([f.estimate for f in mine[epoch]]) for epoch in EPOCHS]
        right = spread([f.right for f in last])
        known = [Cell(f"{value:.2f}", value) for value in neighbours[name]]
        rows.append([Cell(name), Cell(str(of.dimension)), *estimates, right, *known])
    notes = [
        f"Estimates are means over {TEST} test points without noise; mean ± standard deviation "
        f"over seeds {seeds}. Right: share of the points at the end.",
        f"{POINTS:,} points a manifold in {DIM} dimensions, noise {NOISE:g} in each; FIF with d = "
        f"{DIM}, beta {BETA:g}, {BLOCKS} residual blocks of width {WIDTH} on each side, batch "
        f"{BATCH}, Adam at a rate of {LEARNING_RATE:g} on a one-cycle schedule.",
        f"Neighbours: Levina and Bickel's estimate from {NEIGHBOURS} nearest neighbours, of the "
        "training points with noise and without.",
        f"{minutes:.1f} minutes of one core, without the compiler's ({processor()}).",
        f"Made by `{command}`.",
    ]
    headings = ["manifold", "d", *(f"{STEPS * epoch:,} steps" for epoch in EPOCHS)]
    headings += ["right", "neighbours", "without noise"]
    grid = Grid("The dimension of known manifolds", headings, "l" + 7 * "r", rows, notes)
    last = [f for f in found if f.epoch == max(EPOCHS)]
    title = "The dimension of known manifolds, from FIF's singular values"
    drawing = Drawing("intrinsic-dimension", figure(last), title, CAPTION)
    publish(flags.results, command, grid, drawing)


def figure(found: list[Found]) -> Any:
    """The median singular values of each manifold, a line a seed."""
    picture = new_figure(13, 3)
    axes: Any = picture.subplots(1, len(MANIFOLDS), sharey=True)
    places = range(1, DIM + 1)
    for axis, (name, manifold) in zip(axes, MANIFOLDS.items(), strict=True):
        for f in (f for f in found if f.manifold == name):
            axis.plot(places, f.values, "o-", ms=3, lw=1)
        axis.axhline(NOISE, color="k", lw=0.8, ls=":")
        axis.axvline(manifold.dimension + 0.5, color="0.6", lw=0.8)
        axis.set_title(f"{name}, d = {manifold.dimension}", fontsize=9)
        axis.set_xticks(places)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("singular value")
    axes[0].set_xlabel("its number")
    return picture


if __name__ == "__main__":
    main()
