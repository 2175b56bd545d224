"""Figures 3 and 7: which direction of a noisy sinusoid is learnt, against beta."""

__all__ = ["SinusoidModels", "build", "clean_points", "measure", "run", "transition"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.ensemble import Ensemble, one_cycle
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import StudySpec, Tell, results_of
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.validation import Checked

NOISES = (0.1, 0.2, 0.3)
BETAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0)
BATCH = 128
TEST_POINTS = 1000
STEP = 1e-2  # of the central differences of codes
SINUSOID = 0.9  # rank correlation of the code with x from which a model spans the sinusoid


class Size(Checked):
    """Data, nets and training of all models of the study.

    Attributes:
        points, epochs: Training points, and passes over them.
        blocks, width, hidden: Residual blocks in encoder and decoder each, with so many hidden
            layers of this width.
        standardised: Whether the points without noise are scaled to a variance of 1 in each
            coordinate; the noise stays as it is.
        learning_rate: The highest of one cycle.
    """

    points: int
    epochs: int
    blocks: int
    width: int
    hidden: int = 1
    standardised: bool = False
    learning_rate: float = 1e-3

    @property
    def height(self) -> float:
        """What y is multiplied by."""
        return math.sqrt(2 / (1 - math.exp(-(math.pi**2) / 2))) if self.standardised else 1.0


SIZES = {
    "quick": Size(points=10_000, epochs=20, blocks=4, width=128),
    "paper": Size(points=100_000, epochs=50, blocks=4, width=256),  # appendix E.1.1
    "released": Size(  # configs/fif/toy.yaml
        points=100_000, epochs=50, blocks=4, width=256, hidden=2, standardised=True
    ),
}


@dataclass(frozen=True)
class Row:
    """The numbers of one model on held-out points.

    Attributes:
        noise, beta, seed: Of the model.
        reconstruction: Mean squared error.
        nll: Exact negative log-likelihood on the manifold, in nats.
        along: Absolute rank correlation of the code with the position x.
        across: Share of the encoder's squared gradient that is across the curve, averaged over
            points; 1/2 if it had no preference.
    """

    noise: float
    beta: float
    reconstruction: float
    nll: float
    along: float
    across: float
    seed: int


def clean_points(count: int, generator: torch.Generator, height: float = 1.0) -> Tensor:
    """Points (N, 2) on the sinusoid: x ~ N(0, 1), y = height sin(pi x / 2) (appendix E.1.1)."""
    return TOY_DATA["sinusoid"].sample(count, generator).points * torch.tensor([1.0, height])


def build(beta: float, noise: float, size: Size) -> FIF:
    """A model whose noise of training is that of the data."""
    config = FIFConfig(input_dim=(2,), latent_dim=1, beta=beta, noise=noise)
    nets = size.blocks, size.width, size.hidden
    return FIF(config, ResidualEncoder(2, 1, *nets), ResidualDecoder(2, 1, *nets))


def train(
    noise: float,
    betas: Sequence[float],
    seeds: Sequence[int],
    size: Size,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Ensemble:
    """All models of a noise level in one ensemble, a member for every beta and seed."""
    of_betas = [beta for beta in betas for _ in seeds]
    ensemble = Ensemble.build(
        lambda beta: build(beta, noise, size), of_betas, [*seeds] * len(betas)
    )
    ensemble.train(
        clean_points(size.points, torch.Generator().manual_seed(0), size.height),
        epochs=size.epochs,
        batch_size=BATCH,
        learning_rate=size.learning_rate,
        schedule=one_cycle,
        on_epoch=on_epoch,
    )
    return ensemble


def held_out(noise: float, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy points (N, 2), the x (N,) of their clean ones, and the curve's unit tangents (N, 2)."""
    generator = torch.Generator().manual_seed(1)
    clean = clean_points(TEST_POINTS, generator, size.height)
    slope = size.height * math.pi / 2 * torch.cos(math.pi / 2 * clean[:, 0])
    tangent = torch.stack([torch.ones_like(slope), slope], 1)
    tangent = tangent / torch.linalg.vector_norm(tangent, dim=1, keepdim=True)
    points = clean + noise * torch.randn(TEST_POINTS, 2, generator=generator)
    return points, clean[:, 0], tangent


def measure(ensemble: Ensemble, noise: float, seeds: Sequence[int], size: Size) -> list[Row]:
    """Numbers of every model of :func:`train` on the same test points."""
    x, position, tangent = held_out(noise, size)
    normal = torch.stack([-tangent[:, 1], tangent[:, 0]], 1)
    codes = ensemble.encode(x)[..., 0]
    errors = ensemble.reconstruction_error(x).mean(1)
    nll = -ensemble.log_prob(x).mean(1)
    ends = [
        [ensemble.encode(x + step * direction)[..., 0] for step in (STEP, -STEP)]
        for direction in (tangent, normal)
    ]
    slopes = [(ahead - behind).div(2 * STEP).square() for ahead, behind in ends]
    across = (slopes[1] / (slopes[0] + slopes[1])).mean(1)
    return [
        Row(
            noise=noise,
            beta=model.model_config.beta,
            reconstruction=float(errors[member]),
            nll=float(nll[member]),
            along=abs(float(spearmanr(codes[member].numpy(), position.numpy()).statistic)),
            across=float(across[member]),
            seed=seeds[member % len(seeds)],
        )
        for member, model in enumerate(ensemble.models)
    ]


def transition(shares: Mapping[float, float]) -> float:
    """The beta at which half of the models span the sinusoid.

    Arguments:
        shares: Beta -> share of its models that do. It is interpolated linearly in log beta, where
            it crosses 1/2 for the last time.

    Returns:
        NaN where it does not cross.
    """
    betas = sorted(shares)
    share = [shares[beta] for beta in betas]
    for i in range(len(betas) - 1, 0, -1):
        low, high = share[i - 1], share[i]
        if low < 0.5 <= high:
            ratio = (0.5 - low) / (high - low)
            return float(np.exp(np.interp(ratio, [0, 1], np.log(betas[i - 1 : i + 1]))))
    return math.nan


@dataclass(frozen=True)
class Learnt:
    """What the models of a noise level gave: rows, and codes of the first seed's, (betas, N)."""

    rows: list[Row]
    codes: list[list[float]]


class SinusoidModels(StudySpec):
    """The models of a noise level, one for each of `BETAS` and seeds."""

    kind: ClassVar[str] = "sinusoid"
    result: ClassVar[Any] = Learnt

    noise: float
    size: Size
    seeds: list[int]

    @property
    def title(self) -> str:
        """The noise level."""
        return f"{len(BETAS) * len(self.seeds)} models at noise {self.noise:g}"

    def compute(self, tell: Tell) -> Learnt:
        """Trains and measures them."""
        noise, seeds, size = self.noise, self.seeds, self.size
        ensemble = train(noise, BETAS, seeds, size, lambda epoch: tell(epoch / size.epochs))
        codes = ensemble.encode(held_out(noise, size)[0])[:: len(seeds), :, 0]
        return Learnt(measure(ensemble, noise, seeds, size), codes.tolist())


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains all models; their codes, numbers and transitions."""
    size, seeds = SIZES[options.profile], list(options.seeds)
    specs = [SinusoidModels(noise=noise, size=size, seeds=seeds) for noise in NOISES]
    found: list[Learnt] = results_of(specs, options, on_change)
    rows = pd.DataFrame([vars(row) for of_noise in found for row in of_noise.rows])
    rows["spans"] = rows.along >= SINUSOID
    points, codes = held_out(NOISES[0], size)[0], torch.tensor(found[0].codes)
    groups = rows.groupby(["noise", "beta"], sort=False)
    scores = groups[["reconstruction", "nll", "along", "across"]].median().add_prefix("median_")
    table = scores.join(groups.spans.mean().rename("share_that_spans")).reset_index()
    transitions = pd.DataFrame({"noise": NOISES, "beta_of_transition": _transitions(rows)})
    name = f"sinusoid-{options.profile}"
    notes = [
        f"{size.points:,} points, {size.epochs} epochs, {len(seeds)} models a condition; a model "
        f"spans the sinusoid from a rank correlation of {SINUSOID:g} of code and position on.",
        "One cycle of the learning rate, batches of 128 and new noise in every step are the "
        "released configuration's; the paper's text tells none of them.",
    ]
    return [
        Finding(
            name,
            "Figure 3: the noise or the sinusoid, by reconstruction weight",
            "Left and right: codes of noisy points of the first seed, at the two smallest and the "
            "two largest betas. Middle: squared error and exact negative log-likelihood of all "
            f"models at noise {NOISES[0]:g}, with the beta from which half of them span the "
            "sinusoid (dotted).",
            table,
            rows.drop(columns="spans"),
            _map_figure(rows, points, codes),
            notes,
        ),
        Finding(
            f"{name}-transition",
            "Figure 7: the transition point at three noise levels",
            "Squared error and exact negative log-likelihood against beta; boxes are quartiles "
            "over models, without outliers. In the paper the beta of the transition (dotted) falls "
            "as the noise grows.",
            transitions,
            None,
            _transition_figure(rows),
            notes,
        ),
    ]


def _transitions(rows: pd.DataFrame) -> list[float]:
    """The beta of the transition at each of `NOISES`."""
    return [
        transition(rows[rows.noise == noise].groupby("beta").spans.mean().to_dict())
        for noise in NOISES
    ]


def _map_figure(rows: pd.DataFrame, points: Tensor, codes: Tensor) -> Any:
    """The codes (B, N) of a model a beta at points (N, 2), and the numbers of all models."""
    figure = new_figure(15, 4.2)
    panels: Any = figure.subfigures(1, 3, width_ratios=[1, 1.5, 1])
    left, middle, right = panels
    for panel, shown in ((left, (0, 1)), (right, (-2, -1))):
        axes = panel.subplots(2, 1, sharex=True)
        for axis, index in zip(axes, shown, strict=True):
            z = codes[index]
            limits = {"vmin": z.quantile(0.02), "vmax": z.quantile(0.98)}
            dots = axis.scatter(*points.T, c=z, s=5, cmap="viridis", **limits)
            axis.set_title(f"beta = {BETAS[index]:g}", fontsize=10)
        panel.colorbar(dots, ax=axes, label="code z")
    _boxes(middle.subplots(), rows[rows.noise == NOISES[0]], _transitions(rows)[0])
    return figure


def _transition_figure(rows: pd.DataFrame) -> Any:
    figure = new_figure(15, 4.2)
    axes: Any = figure.subplots(1, len(NOISES))
    for axis, noise, point in zip(axes, NOISES, _transitions(rows), strict=True):
        _boxes(axis, rows[rows.noise == noise], point)
        at = "no transition" if math.isnan(point) else f"transition at beta = {point:.2g}"
        axis.set_title(f"noise {noise:g}, {at}")
    return figure


def _boxes(axis: Any, rows: pd.DataFrame, point: float) -> None:
    """Reconstruction error (left axis) and negative log-likelihood (right) against beta."""
    twin = axis.twinx()
    positions = range(len(BETAS))
    for side, key, colour in ((axis, "reconstruction", "tab:blue"), (twin, "nll", "tab:orange")):
        finite = rows[np.isfinite(rows[key])]
        values = [finite[finite.beta == beta][key] for beta in BETAS]
        boxes = side.boxplot(
            values, positions=positions, widths=0.5, showfliers=False, patch_artist=True
        )
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.5)
        side.plot(positions, [of_beta.median() for of_beta in values], color=colour, lw=1)
        side.tick_params(axis="y", colors=colour)
    axis.set_yscale("log")
    axis.set_ylabel("reconstruction error", color="tab:blue")
    twin.set_ylabel("negative log-likelihood (nats)", color="tab:orange")
    if math.isfinite(point):
        axis.axvline(np.interp(np.log(point), np.log(BETAS), positions), color="k", ls=":")
    axis.set_xticks(positions, [f"{beta:g}" for beta in BETAS])
    axis.set_xlabel("beta")
