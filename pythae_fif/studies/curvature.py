"""Figures 2, 12 and 13: what on- and off-manifold training do to the manifold's curvature."""

__all__ = ["Circle", "Curves", "build", "curve_curvature", "projected_entropy", "run"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.device import fork_rng
from pythae_fif.ensemble import Ensemble
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import StudySpec, Tell, results_of
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.volume_change.surrogates import JacobianAt

NOISE, BETA, RADIUS = 0.1, 0.5, 2.0
VARIANTS: dict[JacobianAt, str] = {"data": "off-manifold", "reconstruction": "on-manifold"}
"""Where the Jacobian is taken -> name of that training."""
COLOURS: dict[JacobianAt, str] = {"reconstruction": "tab:orange", "data": "tab:green"}
EPOCHS = {"quick": 150, "paper": 1500}
POINTS, BATCH = 2000, 500
SHOWN = (0, 5, 12)  # epochs whose manifolds are drawn
GRID = torch.linspace(-3, 3, 101)
RADII = np.geomspace(1e-4, 20, 300)
BETAS = (0.1, 1.0, 3.0, 10.0)


def line_data() -> Tensor:
    """`POINTS` (N, 2) of a standard normal distribution on the first axis, with noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(POINTS, 2, generator=generator) * torch.tensor([1.0, NOISE])


def arc(u: Tensor) -> Tensor:
    """The circle of radius `RADIUS` that touches the axis at u = 0, by arc length, (N, 2)."""
    angle = u / RADIUS
    return RADIUS * torch.cat([angle.sin(), 1 - angle.cos()], 1)


def build(jacobian_at: JacobianAt, seed: int) -> FIF:
    """A FIF whose encoder and decoder have been fitted to the arc, by least squares.

    The encoder is the projection on the arc, so that both are consistent where training starts.
    """
    config = FIFConfig(input_dim=(2,), latent_dim=1, beta=BETA, noise=0.0, jacobian_at=jacobian_at)
    with fork_rng():
        torch.manual_seed(seed)
        networks = ResidualEncoder(2, 1, 2, 64), ResidualDecoder(2, 1, 2, 64)
        model = FIF(config, *networks)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            u = 1.5 * torch.randn(256, 1)
            point = arc(u)
            normal = (point - torch.tensor([0.0, RADIUS])) / RADIUS
            beside = point + 0.4 * torch.randn(256, 1) * normal
            error = (model.embed(beside) - u).square() + (
                model.decoder(u)["reconstruction"] - point
            ).square()
            optimizer.zero_grad()
            error.mean().backward()
            optimizer.step()
            schedule.step()
    return model


def curve_curvature(curve: Tensor) -> Tensor:
    """Curvature of plane curves by finite differences, (M, n - 2), of points (M, n, 2)."""
    first = (curve[:, 2:] - curve[:, :-2]) / 2
    second = curve[:, 2:] - 2 * curve[:, 1:-1] + curve[:, :-2]
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    speed: Tensor = torch.linalg.vector_norm(first, dim=-1)
    return cross.abs() / speed.pow(3)


def median_curvature(ensemble: Ensemble, data: Tensor) -> Tensor:
    """Median curvature of every decoded curve over the middle 90 % of the codes, (M,)."""
    return curve_curvature(ensemble.decode(_codes(ensemble, data))).median(1).values


def _codes(ensemble: Ensemble, data: Tensor) -> Tensor:
    """Evenly spaced codes over the middle 90 % of the data's, of every member, (M, 201, 1)."""
    z = ensemble.encode(data)[..., 0]
    low, high = (torch.quantile(z[:, :10_000], q, 1, keepdim=True) for q in (0.05, 0.95))
    return (low + (high - low) * torch.linspace(0, 1, 201, dtype=z.dtype))[..., None]


@dataclass(frozen=True)
class Row:
    """A model after a training step: `nll` in nats, `reconstruction` squared, means over data."""

    variant: str
    seed: int
    step: int
    curvature: float
    reconstruction: float
    nll: float


@dataclass(frozen=True)
class Trained:
    """What one variant went through.

    Attributes:
        rows: The numbers of all models.
        curves: The first model's manifold after each epoch of `SHOWN`, (201, 2).
        codes: Its codes on the grid of `GRID` after the last of them, (101, 101).
    """

    rows: list[Row]
    curves: list[list[list[float]]]
    codes: list[list[float]]


class Curves(StudySpec):
    """The models of one variant, one a seed."""

    kind: ClassVar[str] = "curvature"
    result: ClassVar[Any] = Trained

    jacobian_at: JacobianAt
    epochs: int
    seeds: list[int]

    @property
    def title(self) -> str:
        """The variant."""
        return f"{VARIANTS[self.jacobian_at]} training"

    def compute(self, tell: Tell) -> Trained:
        """Trains one variant, and measures it every ten epochs and after those of `SHOWN`."""
        ensemble = Ensemble([build(self.jacobian_at, seed) for seed in self.seeds], self.seeds)
        data, trained = line_data(), Trained([], [], [])
        grid = torch.stack(torch.meshgrid(GRID, GRID, indexing="xy"), -1).flatten(0, 1)

        def look(epoch: int) -> None:
            tell(epoch / self.epochs)
            if epoch in SHOWN:
                trained.curves.append(ensemble.decode(_codes(ensemble, data))[0].tolist())
                trained.codes[:] = ensemble.encode(grid)[0, :, 0].view(101, 101).tolist()
            if epoch % 10 and epoch not in SHOWN:
                return
            curvature = median_curvature(ensemble, data)
            errors = ensemble.reconstruction_error(data).mean(1)
            nll = -ensemble.log_prob(data).mean(1)
            step = epoch * (len(data) // BATCH)
            for seed, *of in zip(self.seeds, curvature, errors, nll, strict=True):
                trained.rows.append(Row(VARIANTS[self.jacobian_at], seed, step, *map(float, of)))

        look(0)
        ensemble.train(
            data, epochs=self.epochs, batch_size=BATCH, learning_rate=1e-3, on_epoch=look
        )
        return trained


def projected_entropy(radius: float) -> float:
    r"""Entropy in nats of N(0, 1) on a line, projected on a circle that touches it at 0.

    A point x goes to the arc length :math:`R \arctan(x / R)`, so that the entropy is that of the
    normal distribution plus :math:`E \log(R^2 / (R^2 + x^2))`.

    Example:
        >>> round(projected_entropy(1e6), 4)  # of N(0, 1) itself
        1.4189
    """
    x, weight = _normal_quadrature()
    return 0.5 * math.log(2 * math.pi * math.e) - float(weight @ np.log1p((x / radius) ** 2))


def projected_error(radius: float) -> float:
    """Mean squared distance of N(0, 1) on a line to a circle that touches it at 0."""
    x, weight = _normal_quadrature()
    return float(weight @ (np.hypot(radius, x) - radius) ** 2)


@dataclass(frozen=True)
class Circle:
    """What is computed for a radius.

    Attributes:
        radius: R.
        entropy, reconstruction: Of the projected data, in nats, and the squared error.
        loss_beta: Beta -> the lowest on-manifold loss, entropy (eq. 14) plus beta times the error.
    """

    radius: float
    entropy: float
    reconstruction: float
    loss_beta: dict[float, float]

    @classmethod
    def of(cls, radius: float) -> "Circle":
        """The circle of a radius."""
        entropy, error = projected_entropy(radius), projected_error(radius)
        return cls(radius, entropy, error, {beta: entropy + beta * error for beta in BETAS})


@cache
def _normal_quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the standard normal distribution on a fine grid."""
    x = np.linspace(-8, 8, 40_001)
    weight = np.exp(-0.5 * x**2)
    return x, weight / weight.sum()


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains both variants, and computes the losses of circles; two figures."""
    epochs, seeds = EPOCHS[options.profile], list(options.seeds)
    specs = [Curves(jacobian_at=at, epochs=epochs, seeds=seeds) for at in VARIANTS]
    found = dict(zip(VARIANTS, results_of(specs, options, on_change), strict=True))
    rows = pd.DataFrame([vars(row) for trained in found.values() for row in trained.rows])
    ends = rows[rows.step.isin([0, rows.step.max()])].groupby(["variant", "step"], sort=False)
    medians = ends[["curvature", "reconstruction", "nll"]].median().add_prefix("median_")
    spread = ends.curvature.agg(["min", "max"]).add_suffix("_curvature")
    training = Finding(
        f"curvature-{options.profile}",
        "Figure 2: what training does to the curvature of the manifold",
        f"Networks are fitted to an arc of radius {RADIUS:g}, and then trained on a normal "
        f"distribution on a line with noise {NOISE:g} across it, at beta {BETA:g}. Left and middle:"
        f" manifolds of one model and level lines of its code; right: median curvature over "
        f"{len(seeds)} models, from the lowest to the highest.",
        medians.join(spread).reset_index(),
        rows,
        _training_figure(rows, found),
        [f"The noise alone costs {NOISE**2:g}; the paper has a sketch, so that steps do not "
         "correspond."],
    )  # fmt: skip
    circles = [Circle.of(float(radius)) for radius in RADII]
    frame = pd.DataFrame(
        [
            {"radius": c.radius, "entropy": c.entropy, "reconstruction": c.reconstruction}
            | {f"loss_{beta:g}": loss for beta, loss in c.loss_beta.items()}
            for c in circles
        ]
    )
    radius = Finding(
        "curvature-radius",
        "Figures 12 and 13: the lowest on-manifold loss against the radius of the manifold",
        "Computed, not trained: a normal distribution on a line is projected on a circle that "
        "touches the line at its mean (the paper does not say where its circles lie). The lowest "
        "on-manifold loss is the entropy plus beta times the squared error (eq. 14), in nats.",
        frame.iloc[:: len(frame) // 10],
        frame,
        _radius_figure(circles),
    )
    return [training, radius]


def _training_figure(rows: pd.DataFrame, found: Mapping[JacobianAt, Trained]) -> Any:
    figure, data = new_figure(13, 4.2), line_data()
    axes: Any = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    for axis, (at, colour) in zip(axes, COLOURS.items(), strict=False):
        axis.scatter(*data[:400].T, s=3, color="0.6")
        for order, (epoch, curve) in enumerate(zip(SHOWN, found[at].curves, strict=False)):
            shade = 1.0 if epoch == 0 else 0.3 + 0.35 * order
            axis.plot(
                *np.array(curve).T,
                color="k" if epoch == 0 else colour,
                alpha=shade,
                lw=2.2,
                label=f"step {epoch * (POINTS // BATCH)}",
            )
        grid, codes = GRID.numpy(), found[at].codes
        axis.contour(grid, grid, codes, 40, colors=colour, alpha=0.35, linewidths=0.7)
        axis.set_xlim(-2.6, 2.6)
        axis.set_ylim(-1.2, 1.9)
        axis.set(aspect="equal", title=f"{VARIANTS[at]} training")
        axis.legend(fontsize=8)
    for at, colour in COLOURS.items():
        of_steps = rows[rows.variant == VARIANTS[at]].groupby("step").curvature
        axes[2].plot(of_steps.median(), color=colour, label=VARIANTS[at])
        low, high = of_steps.min(), of_steps.max()
        axes[2].fill_between(low.index, low, high, color=colour, alpha=0.2)
    axes[2].axhline(1 / RADIUS, color="k", lw=0.8, ls=":")
    axes[2].set(yscale="log", xlabel="step", ylabel="median curvature of the manifold")
    axes[2].legend()
    return figure


def _radius_figure(circles: Sequence[Circle]) -> Any:
    figure = new_figure(13, 4.0)
    axes: Any = figure.subplots(1, 3)
    points = np.sort(np.random.default_rng(0).standard_normal(40))
    axes[0].plot(points, 0 * points, ".", color="0.3")
    for radius, colour in zip((2.0, 1.0, 0.4), ("tab:blue", "tab:purple", "tab:red"), strict=True):
        for angle, style in (
            (np.linspace(-np.pi / 2, np.pi / 2, 200), {"label": f"R = {radius}"}),
            (np.arctan(points / radius), {"marker": ".", "ms": 4, "ls": ""}),
        ):
            x, y = radius * np.sin(angle), radius * (1 - np.cos(angle))
            axes[0].plot(x, y, color=colour, **style)
    axes[0].set_aspect("equal")
    axes[0].legend(fontsize=8)
    axes[0].set_title("projections of data on a line")
    radii = [circle.radius for circle in circles]
    axes[1].plot(radii, [circle.entropy for circle in circles])
    axes[1].set_title("entropy of the projected data (nats)")
    for beta in BETAS:
        axes[2].plot(radii, [circle.loss_beta[beta] for circle in circles], label=f"{beta:g}")
    axes[2].legend(title="beta", fontsize=8)
    axes[2].set_title("lowest on-manifold loss (nats)")
    for axis in axes[1:]:
        axis.set(xscale="log", xlabel="radius R")
    return figure
