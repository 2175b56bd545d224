"""Toy manifolds: figures 3 and 7 on a noisy sinusoid, and learnt densities beside the true ones."""

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
from pythae_fif.nn.tabular import ResidualDecoder, ResidualEncoder, wide_networks
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import ProgressCallback, StudyReport, StudySpec, collect_results
from pythae_fif.studies.study import StudyOptions

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 4000, "epochs": 300, "blocks": 2, "width": 64},
    "paper": {"points": 100_000, "epochs": 50, "blocks": 2, "width": 256},
}
SINUSOID_SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 10_000, "epochs": 20, "blocks": 4, "width": 128},
    "paper": {"points": 100_000, "epochs": 50, "blocks": 4, "width": 256},  # appendix E.1.1
}
NOISE, BETA = 0.02, 100.0
NOISES = (0.1, 0.2, 0.3)  # of sinusoids
BETAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0)
MIN_RANK_CORRELATION = (
    0.9  # rank correlation of the code with x from which a model spans the sinusoid
)
TEST_POINTS = 2000


def noisy_test_points(dataset: str, noise: float) -> tuple[Tensor, ToySample]:
    """Noisy points (N, D), and the clean ones with their true density."""
    generator = torch.Generator().manual_seed(1)
    clean = TOY_DATA[dataset].sample(TEST_POINTS, generator)
    return clean.points + noise * torch.randn(clean.points.shape, generator=generator), clean


@dataclass(frozen=True)
class ToyResult:
    """What models, of each beta all seeds, have on held-out points.

    Attributes:
        reconstruction, nll: Mean squared error, mean exact negative log-likelihood in nats.
        along: Absolute rank correlation of the (first) code with the (first) coordinate.
        codes: The (first) codes of the first seed's models, (betas, N).
        samples, density: Of the model of lowest loss, (N, D) and (N,).
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
        noise, test_noise: Of training, as FIF adds it, and of the held-out points.
        points, epochs: Training points, and passes over them.
        blocks, width, residual: Of encoder and decoder each; they are residual nets, or wide ones.
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
        """Trains them, and measures them on held-out points."""
        manifold, (x, clean) = (
            TOY_DATA[self.dataset],
            noisy_test_points(self.dataset, self.test_noise),
        )
        dim, d = manifold.dim, manifold.latent_dim

        def build(beta: float, seed: int) -> FIF:
            torch.manual_seed(seed)
            config = FIFConfig(input_dim=(dim,), latent_dim=d, beta=beta, noise=self.noise)
            sizes = dim, d, self.blocks, self.width
            if self.residual:
                return FIF(config, ResidualEncoder(*sizes), ResidualDecoder(*sizes))
            return FIF(config, *wide_networks(*sizes))

        pairs = [(beta, seed) for beta in self.betas for seed in self.seeds]
        ensemble = Ensemble([build(*pair) for pair in pairs], [seed for _, seed in pairs])
        ensemble.train(
            manifold.sample(self.points, torch.Generator().manual_seed(0)).points,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            one_cycle=True,
            on_epoch=lambda epoch: report_progress(epoch / self.epochs),
        )
        codes, position = ensemble.encode(x)[..., 0], clean.points[:, 0].numpy()
        along = [abs(float(spearmanr(of.numpy(), position)[0])) for of in codes]
        errors, nll = ensemble.reconstruction_error(x).mean(1), -ensemble.log_prob(x).mean(1)
        losses = torch.tensor([beta for beta, _ in pairs]) * errors + nll  # eq. 7, but exact
        best = int(losses.where(losses.isfinite(), torch.inf).argmin())
        generator = torch.Generator().manual_seed(2)
        samples = ensemble.decode(torch.randn(TEST_POINTS, d, generator=generator))
        density = ensemble.log_prob(samples[best])[best].exp()
        of_first, drawn = codes[:: len(self.seeds)].tolist(), samples[best].tolist()
        return ToyResult(errors.tolist(), nll.tolist(), along, of_first, drawn, density.tolist())


def run_toy(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains on one toy data set; densities beside each other, and the numbers of every model."""
    name, seeds, size = str(options.dataset), tuple(options.seeds), SIZES[options.profile]
    if (name, options.profile) == ("circle", "quick"):  # newcomers start here
        size = size | {"epochs": 140}
    how: Any = {"test_noise": 0.0, "batch_size": 200, "learning_rate": 2e-3, "residual": False}
    spec = ToyModels(dataset=name, noise=NOISE, betas=(BETA,), seeds=seeds, **how, **size)
    (found,) = collect_results([spec], options, on_change)
    clean = noisy_test_points(name, 0.0)[1]
    scores = {"seed": seeds, "nll": found.nll, "reconstruction": found.reconstruction}
    rows = pd.DataFrame(scores).assign(entropy_of_data=-float(clean.log_density.mean()))
    finding = StudyReport(
        f"toy-{name}-{options.profile}",
        f"The density on {name.replace('_', ' ')}: {TOY_DATA[name].description}",
        f"True density, and density and samples of the one of {len(seeds)} models of the lowest "
        "loss. The learnt manifold has the topology of the plane or the line: it cuts closed "
        f"manifolds open, and joins pieces. Beta {BETA:g}, noise {NOISE:g}; measured on "
        f"{TEST_POINTS:,} held-out points without noise.",
        rows,
        rows,
        _densities(found, clean),
    )
    return [finding]


def _densities(found: ToyResult, test: ToySample) -> Any:
    """True and learnt, in the same colours and about the same part of the space."""
    figure: Any = new_figure(9, 4.2)
    points, truth = test.points.numpy(), test.log_density.exp().numpy()
    samples, density = np.array(found.samples), np.array(found.density)
    margin, top = 0.2 * np.ptp(points), 1.5 * float(np.quantile(truth, 0.99))
    near = np.all((samples > points.min(0) - margin) & (samples < points.max(0) + margin), axis=1)
    projection = "3d" if points.shape[1] == 3 else None
    axes = figure.subplots(1, 2, sharex=True, sharey=True, subplot_kw={"projection": projection})
    axes[0].scatter(*points.T, c=truth, s=4, vmin=0, vmax=top)
    dots = axes[1].scatter(*samples[near].T, c=density[near], s=4, vmin=0, vmax=top)
    for axis, title in zip(axes, ("true", "learnt"), strict=True):
        axis.set(aspect="equal", title=f"{title} density")
    figure.colorbar(dots, ax=axes, label="density on the manifold", shrink=0.8)
    return figure


def run_sinusoid(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains all models of three noise levels; their codes and numbers in one figure."""
    size, seeds = SINUSOID_SIZES[options.profile], tuple(options.seeds)
    how: Any = {"dataset": "sinusoid", "betas": BETAS, "seeds": seeds, **size, "residual": True}
    how |= {"batch_size": 128, "learning_rate": 1e-3}
    specs = [ToyModels(noise=noise, test_noise=noise, **how) for noise in NOISES]
    found = collect_results(specs, options, on_change)
    models = pd.MultiIndex.from_product([NOISES, BETAS, seeds], names=["noise", "beta", "seed"])
    keys = ["reconstruction", "nll", "along"]
    scores = {key: [value for of in found for value in getattr(of, key)] for key in keys}
    rows = pd.DataFrame(scores, models).reset_index()
    groups = rows.assign(share_that_spans=rows.along >= MIN_RANK_CORRELATION).groupby(
        ["noise", "beta"]
    )
    low, middle, high = (groups[keys].quantile(of) for of in (0.25, 0.5, 0.75))
    figure = new_figure(15, 8)
    panels: Any = figure.subfigures(2, 1)
    points = noisy_test_points("sinusoid", NOISES[0])[0]
    for axis, index in zip(panels[0].subplots(1, 4, sharey=True), (0, 1, -2, -1), strict=True):
        axis.scatter(*points.T, c=found[0].codes[index], s=5)
        axis.set_title(f"codes at beta = {BETAS[index]:g}")
    for axis, noise in zip(panels[1].subplots(1, len(NOISES)), NOISES, strict=True):
        for side, key, colour in ((axis, "reconstruction", "C0"), (axis.twinx(), "nll", "C1")):
            side.plot(middle[key][noise], color=colour)
            side.fill_between(BETAS, low[key][noise], high[key][noise], color=colour, alpha=0.3)
            side.set_ylabel(key, color=colour)
        axis.set(xscale="log", yscale="log", xlabel="beta", title=f"noise {noise:g}")
    finding = StudyReport(
        f"sinusoid-{options.profile}",
        "Figures 3 and 7: the noise or the sinusoid, by reconstruction weight",
        f"Above: codes of noisy points of the first of {len(seeds)} seeds, at noise {NOISES[0]:g} "
        "and the smallest and largest betas. Below: squared error and exact negative log-likelihood"
        f" (nll), medians and quartiles over models. A model spans the sinusoid from a rank "
        f"correlation of {MIN_RANK_CORRELATION:g} of code and position on; in the paper the "
        "beta from which half of them do falls as the noise grows.",
        middle.add_prefix("median_").join(groups.share_that_spans.mean()).reset_index(),
        rows,
        figure,
    )
    return [finding]
