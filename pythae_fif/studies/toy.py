"""Injective flows on toy manifolds: the density that is learnt beside the true one."""

__all__ = ["Part", "measure", "run", "train"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA, ToyManifold, ToySample
from pythae_fif.ensemble import Ensemble, one_cycle
from pythae_fif.nn import WideDecoder, WideEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.kind import Environment
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import Drawing, write_study
from pythae_fif.studies.parts import Tell, results_of

NOISE, BETA, LEARNING_RATE, BATCH = 0.02, 100.0, 2e-3, 200
BLOCKS = 2
TEST_POINTS = 2000
EVERY = 5  # epochs from one measurement to the next


@dataclass(frozen=True)
class Size:
    """Training points and epochs, and the width of the networks."""

    points: int
    epochs: int
    width: int


SIZES = {"quick": Size(4000, 300, 64), "paper": Size(100_000, 50, 256)}
MOST_EPOCHS = {"circle": 140}
"""Data set -> its most epochs. Newcomers start with the circle, whose quick training is to end
within a minute on two cores."""


@dataclass(frozen=True)
class Row:
    """A model after an epoch: means over the held-out points, `nll` in nats."""

    seed: int
    epoch: int
    nll: float
    reconstruction: float

    @property
    def loss(self) -> float:
        """Eq. 7 with the exact likelihood."""
        return BETA * self.reconstruction + self.nll


def train(
    manifold: ToyManifold,
    seeds: Sequence[int],
    size: Size,
    on_epoch: Callable[[Ensemble, int], None] = lambda *_: None,
) -> Ensemble:
    """Trains a model for every seed; the noise is added in training, as FIF does."""
    dim, latent_dim = manifold.dim, manifold.latent_dim

    def build(beta: float) -> FIF:
        config = FIFConfig(input_dim=(dim,), latent_dim=latent_dim, beta=beta, noise=NOISE)
        networks = (
            WideEncoder(dim, latent_dim, BLOCKS, size.width),
            WideDecoder(dim, latent_dim, BLOCKS, size.width),
        )
        return FIF(config, *networks)

    ensemble = Ensemble.build(build, [BETA] * len(seeds), seeds)
    ensemble.train(
        manifold.sample(size.points, torch.Generator().manual_seed(0)).points,
        epochs=size.epochs,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        schedule=one_cycle,
        on_epoch=lambda epoch: on_epoch(ensemble, epoch),
    )
    return ensemble


def measure(ensemble: Ensemble, test: ToySample, seeds: Sequence[int], epoch: int) -> list[Row]:
    """The numbers of every member, whose seeds these are."""
    nll = -ensemble.log_prob(test.points).mean(1)
    errors = ensemble.reconstruction_error(test.points).mean(1)
    return [Row(seed, epoch, *map(float, of)) for seed, *of in zip(seeds, nll, errors, strict=True)]


@dataclass(frozen=True)
class Learnt:
    """What the models of a data set gave.

    Attributes:
        rows: Of every seed, after every `EVERY` epochs and the last.
        samples, density: Of the model of lowest loss at the end, (N, D) and (N,).
    """

    rows: list[Row]
    samples: list[list[float]]
    density: list[float]


@dataclass(frozen=True)
class Part:
    """The models of a data set, one a seed."""

    dataset: str
    size: Size
    seeds: tuple[int, ...]

    def compute(self, tell: Tell, where: Environment) -> Learnt:
        """Trains and measures them."""
        manifold, rows = TOY_DATA[self.dataset], list[Row]()
        test = _held_out(self.dataset)

        def watch(ensemble: Ensemble, epoch: int) -> None:
            if epoch % EVERY == 0 or epoch == self.size.epochs:
                rows.extend(measure(ensemble, test, self.seeds, epoch))
            tell(epoch / self.size.epochs)

        ensemble = train(manifold, self.seeds, self.size, watch)
        generator = torch.Generator().manual_seed(2)
        latent = torch.randn(TEST_POINTS, manifold.latent_dim, generator=generator)
        losses = np.array([row.loss for row in rows[-len(self.seeds) :]])
        best = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
        samples = ensemble.decode(latent)[best]
        return Learnt(rows, samples.tolist(), ensemble.log_prob(samples)[best].exp().tolist())


def _held_out(dataset: str) -> ToySample:
    return TOY_DATA[dataset].sample(TEST_POINTS, torch.Generator().manual_seed(1))


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains on one toy data set, and writes its figure, caption and CSV file."""
    assert options.dataset is not None  # `run_study` has chosen
    name, seeds, size = options.dataset, options.seeds, SIZES[options.profile]
    size = replace(size, epochs=min(size.epochs, MOST_EPOCHS.get(name, size.epochs)))
    test = _held_out(name)
    (learnt,) = results_of({name: Part(name, size, tuple(seeds))}, options, on_progress).values()
    last = learnt.rows[-len(seeds) :]
    stem = f"toy-{name}-{options.profile}"
    title = f"The density on {name.replace('_', ' ')}: {TOY_DATA[name].description}"
    drawing = Drawing(stem, _figure(learnt, test), title, _caption(name, last, test, size))
    return write_study(options, [drawing], {stem: learnt.rows})


def _figure(found: Learnt, test: ToySample) -> Any:
    figure: Any = new_figure(13, 4.2)
    space = test.points.shape[1]
    projection = {"projection": "3d"} if space == 3 else {}
    rows, samples, learnt = found.rows, torch.tensor(found.samples), np.array(found.density)
    finite = samples.isfinite().all(1)  # of a model that diverged none is
    samples, learnt = samples[finite], learnt[finite.numpy()]
    truth = test.log_density.exp().numpy()
    top = 1.5 * float(np.quantile(truth, 0.99))
    # The same limits for both, which leave stray samples out.
    ends = test.points.numpy().min(0), test.points.numpy().max(0)
    beyond = (ends[1] - ends[0]).max() / 2
    within = samples if len(samples) else test.points
    first, final = (np.quantile(within.numpy(), q, axis=0) for q in (0.01, 0.99))
    low = np.clip(first, ends[0] - beyond, ends[0])
    high = np.clip(final, ends[1], ends[1] + beyond)
    margin = 0.06 * (high - low).max()
    for column, (title, points, density) in enumerate(
        (("true density", test.points, truth), ("samples and learnt density", samples, learnt))
    ):
        axis = figure.add_subplot(1, 3, column + 1, **projection)
        dots = axis.scatter(*points.T.numpy(), c=density, s=4, cmap="viridis", vmin=0, vmax=top)
        axis.set_title(title)
        for name, a, b in zip("xyz", low - margin, high + margin, strict=False):
            axis.set(**{f"{name}lim": (a, b)})
        axis.locator_params(nbins=4)
        axis.set_aspect("equal")
    figure.colorbar(dots, ax=figure.axes, label="density on the manifold", shrink=0.8)
    axis = figure.add_subplot(1, 3, 3)
    twin = axis.twinx()
    for side, key, colour in ((axis, "nll", "tab:orange"), (twin, "reconstruction", "tab:blue")):
        for seed in sorted({row.seed for row in rows}):
            mine = [row for row in rows if row.seed == seed]
            values = [getattr(row, key) for row in mine]
            side.plot([row.epoch for row in mine], values, color=colour, lw=1)
        side.tick_params(axis="y", colors=colour)
    entropy = -float(test.log_density.mean())
    axis.axhline(entropy, color="k", ls=":", label="entropy of the data")
    lowest = min((row.nll for row in rows if math.isfinite(row.nll)), default=entropy)
    axis.set_ylim(lowest - 0.1, entropy + 2)  # spikes are cut
    axis.set_xlabel("epoch")
    axis.set_ylabel("negative log-likelihood (nats)", color="tab:orange")
    twin.set_yscale("log")
    twin.set_ylabel("squared reconstruction error", color="tab:blue")
    axis.legend(loc="upper right")
    return figure


def _caption(name: str, last: list[Row], test: ToySample, size: Size) -> str:
    good = [row for row in last if math.isfinite(row.loss)]
    nll, error = [row.nll for row in good], [row.reconstruction for row in good]
    lost = len(last) - len(good)
    diverged = f"{lost} of them diverged, whose numbers are left out. " if lost else ""
    found = max(error, default=math.inf) <= 25 * NOISE**2
    missed = "" if found else "The manifold has not been found in this budget. "
    of_paper = "" if name == "sinusoid" else "The paper has no such experiment."
    return f"""
    {len(last)} models ({BLOCKS} residual blocks of width {size.width} in encoder and decoder each,
    beta {BETA:g}, {size.points:,} points, {size.epochs} epochs, noise {NOISE:g} in training) on the
    {name.replace("_", " ")}; the one of the lowest loss is drawn. {diverged}On {TEST_POINTS:,}
    held-out points without noise the negative log-likelihood is {_span(nll, ".3f", " nats")} at the
    end (right), the entropy of the true distribution {-float(test.log_density.mean()):.3f}, and the
    mean squared reconstruction error {_span(error, ".2g")}. The learnt manifold has the topology of
    the plane or the line: it cuts closed manifolds open, and joins pieces. {missed}{of_paper}
    """


def _span(values: Sequence[float], digits: str, unit: str = "") -> str:
    if not values:
        return "finite for no model"
    return f"{min(values):{digits}} to {max(values):{digits}}{unit}"
