"""Injective flows on toy manifolds: the density that is learnt beside the true one."""

__all__ = ["ToyModels", "measure", "run", "train"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA, ToyManifold, ToySample
from pythae_fif.ensemble import Ensemble, one_cycle
from pythae_fif.nn import WideDecoder, WideEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import StudySpec, Tell, results_of
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.validation import Checked

NOISE, BETA, LEARNING_RATE, BATCH = 0.02, 100.0, 2e-3, 200
BLOCKS = 2
TEST_POINTS = 2000
EVERY = 5  # epochs from one measurement to the next


class Size(Checked):
    """Training points and epochs, and the width of the networks."""

    points: int
    epochs: int
    width: int


SIZES = {
    "quick": Size(points=4000, epochs=300, width=64),
    "paper": Size(points=100_000, epochs=50, width=256),
}
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


class ToyModels(StudySpec):
    """The models of a data set, one a seed."""

    kind: ClassVar[str] = "toy"
    result: ClassVar[Any] = Learnt

    dataset: str
    size: Size
    seeds: list[int]

    @property
    def title(self) -> str:
        """The data set."""
        return f"{len(self.seeds)} models of {self.dataset}"

    def compute(self, tell: Tell) -> Learnt:
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


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains on one toy data set; densities beside each other, and the numbers of every model."""
    assert options.dataset is not None  # `run_study` has chosen
    name, size = options.dataset, SIZES[options.profile]
    most = min(size.epochs, MOST_EPOCHS.get(name, size.epochs))
    spec = ToyModels(
        dataset=name, size=size.model_copy(update={"epochs": most}), seeds=list(options.seeds)
    )
    (learnt,) = results_of([spec], options, on_change)
    test, frame = _held_out(name), pd.DataFrame(map(vars, learnt.rows))
    last = frame.tail(len(spec.seeds))
    entropy = -float(test.log_density.mean())
    caption = (
        "True density, density and samples of the model of the lowest loss, and the course of all "
        f"{len(last)} models over the epochs. The learnt manifold has the topology of the plane or "
        "the line: it cuts closed manifolds open, and joins pieces."
    )
    return [
        Finding(
            f"toy-{name}-{options.profile}",
            f"The density on {name.replace('_', ' ')}: {TOY_DATA[name].description}",
            caption,
            last.assign(entropy_of_data=entropy, diverged=~np.isfinite(last.nll)),
            frame,
            _figure(learnt, test),
            [f"beta {BETA:g}, noise {NOISE:g}; on {TEST_POINTS:,} held-out points without noise."],
        )
    ]


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
