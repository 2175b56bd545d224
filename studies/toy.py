"""Densities on curves and surfaces, learnt against true (--dataset circle, ...)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA, ToySample
from pythae_fif.ensemble import Ensemble
from pythae_fif.names import TOY_DATASETS
from pythae_fif.nn.tabular import ResidualDecoder, ResidualEncoder, wide_networks
from pythae_fif.pictures import new_figure
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 4000, "epochs": 300, "blocks": 2, "width": 64},
    "paper": {"points": 100_000, "epochs": 50, "blocks": 2, "width": 256},
}
NOISE = 0.02
BETA = 100.0
TEST_POINTS = 2000


def noisy_test_points(dataset: str, noise: float) -> tuple[Tensor, ToySample]:
    """Draws held-out points of a toy data set.

    Args:
        dataset: A key of `TOY_DATA`.
        noise: Standard deviation of the noise.

    Returns:
        The noisy points (N, D), and the points without noise with their true density.
    """
    generator = torch.Generator().manual_seed(1)
    clean = TOY_DATA[dataset].sample(TEST_POINTS, generator)
    noisy = clean.points + noise * torch.randn(clean.points.shape, generator=generator)
    return noisy, clean


@dataclass(frozen=True)
class ToyResult:
    """Results of all models on held-out points: for each beta, one entry for each seed.

    Attributes:
        reconstruction: Mean squared errors.
        nll: Mean exact negative log-likelihoods, in nats.
        along: Absolute rank correlations of the (first) code and the (first) coordinate.
        codes: The (first) codes of the first seed's models, (betas, N).
        samples: Samples of the model with the lowest loss, (N, D).
        density: Density of this model at its samples, (N,).
    """

    reconstruction: list[float]
    nll: list[float]
    along: list[float]
    codes: list[list[float]]
    samples: list[list[float]]
    density: list[float]


class ToyModels(StudySpec):
    """Models of a data set, one for each beta and seed, in one ensemble.

    Attributes:
        noise: Standard deviation of the noise that FIF adds in training.
        test_noise: Standard deviation of the noise of the held-out points.
        points: Number of training points.
        epochs: Number of passes over them.
        blocks: Residual blocks or layers of encoder and decoder each.
        width: Width of encoder and decoder.
        residual: Whether they are residual networks; otherwise they are wide ones.
    """

    kind: ClassVar[str] = "toy"
    result: ClassVar[Any] = ToyResult

    dataset: str
    noise: float
    test_noise: float
    betas: tuple[float, ...]
    seeds: tuple[int, ...]
    points: int
    epochs: int
    batch_size: int
    learning_rate: float
    blocks: int
    width: int
    residual: bool

    def compute(self, report_progress: ProgressCallback) -> ToyResult:
        """Trains the models and measures them on held-out points."""
        manifold = TOY_DATA[self.dataset]
        x, clean = noisy_test_points(self.dataset, self.test_noise)
        members = [(beta, seed) for beta in self.betas for seed in self.seeds]
        models = [self._build_model(beta, seed) for beta, seed in members]

        ensemble = Ensemble(models, [seed for _, seed in members])
        ensemble.train(
            manifold.sample(self.points, torch.Generator().manual_seed(0)).points,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            one_cycle=True,
            on_epoch=lambda epoch: report_progress(epoch / self.epochs),
        )

        codes = ensemble.encode(x)[..., 0]
        position = clean.points[:, 0].numpy()
        correlations = [spearmanr(code.numpy(), position).statistic for code in codes]
        errors = ensemble.reconstruction_error(x).mean(1)
        nll = -ensemble.log_prob(x).mean(1)

        betas = torch.tensor([beta for beta, _ in members])
        losses = betas * errors + nll  # eq. 7 with the exact volume change
        best = int(losses.where(losses.isfinite(), torch.inf).argmin())
        z = torch.randn(
            TEST_POINTS, manifold.latent_dim, generator=torch.Generator().manual_seed(2)
        )
        samples = ensemble.decode(z)[best]
        return ToyResult(
            reconstruction=errors.tolist(),
            nll=nll.tolist(),
            along=np.abs(correlations).tolist(),
            codes=codes[:: len(self.seeds)].tolist(),
            samples=samples.tolist(),
            density=ensemble.log_prob(samples)[best].exp().tolist(),
        )

    def _build_model(self, beta: float, seed: int) -> FIF:
        """Builds a fresh model."""
        manifold = TOY_DATA[self.dataset]
        config = FIFConfig(
            input_dim=(manifold.dim,),
            latent_dim=manifold.latent_dim,
            beta=beta,
            noise=self.noise,
        )
        sizes = (manifold.dim, manifold.latent_dim, self.blocks, self.width)

        torch.manual_seed(seed)
        if self.residual:
            return FIF(config, ResidualEncoder(*sizes), ResidualDecoder(*sizes))
        return FIF(config, *wide_networks(*sizes))


def run_toy(options: StudyOptions) -> list[StudyPage]:
    """Trains on one toy data set and compares the best model's density with the true one."""
    name = str(options.dataset)
    seeds = tuple(options.seeds)
    size = SIZES[options.profile]
    if (name, options.profile) == ("circle", "quick"):  # newcomers start here
        size = size | {"epochs": 140}

    spec = ToyModels(
        dataset=name,
        noise=NOISE,
        test_noise=0.0,
        betas=(BETA,),
        seeds=seeds,
        batch_size=200,
        learning_rate=2e-3,
        residual=False,
        **size,
    )
    (result,) = collect_results([spec], options)
    _, test = noisy_test_points(name, 0.0)
    frame = pd.DataFrame(
        {
            "seed": seeds,
            "nll": result.nll,
            "reconstruction": result.reconstruction,
            "entropy_of_data": -float(test.log_density.mean()),
        }
    )
    return [
        StudyPage.of_table(
            f"toy-{name}-{options.profile}",
            f"The density on {name.replace('_', ' ')}: {TOY_DATA[name].description}",
            f"The true density, and density and samples of the best of {len(seeds)} models, the "
            "one with the lowest loss. The learnt manifold has the topology of the plane or the "
            f"line: it cuts closed manifolds open and joins pieces. Beta {BETA:g}, noise "
            f"{NOISE:g}. Measured on {TEST_POINTS:,} held-out points without noise.",
            frame,
            frame,
            _draw_densities(result, test),
        )
    ]


def _draw_densities(result: ToyResult, test: ToySample) -> Any:
    """Draws the true and the learnt density, in the same colours and about the same region."""
    points = test.points.numpy()
    true_density = test.log_density.exp().numpy()
    samples = np.array(result.samples)
    learnt_density = np.array(result.density)

    margin = 0.2 * np.ptp(points)
    is_above = samples > points.min(0) - margin
    is_below = samples < points.max(0) + margin
    is_near = np.all(is_above & is_below, axis=1)

    figure: Any = new_figure(9, 4.2)
    projection = "3d" if points.shape[1] == 3 else None
    axes = figure.subplots(1, 2, sharex=True, sharey=True, subplot_kw={"projection": projection})
    colours: Any = {"s": 4, "vmin": 0, "vmax": 1.5 * float(np.quantile(true_density, 0.99))}
    axes[0].scatter(*points.T, c=true_density, **colours)
    dots = axes[1].scatter(*samples[is_near].T, c=learnt_density[is_near], **colours)
    for axis, title in zip(axes, ("true", "learnt"), strict=True):
        axis.set(aspect="equal", title=f"{title} density")
    figure.colorbar(dots, ax=axes, label="density on the manifold", shrink=0.8)
    return figure


STUDY = Study(run_toy, seeds=(3, 20), datasets=TOY_DATASETS)
