"""Figures 2, 12 and 13: what on- and off-manifold training do to the manifold's curvature."""

__all__ = ["Circle", "Part", "build", "curve_curvature", "projected_entropy", "run"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.device import fork_rng
from pythae_fif.ensemble import Ensemble
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.kind import Environment
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import Drawing, write_study
from pythae_fif.studies.parts import Tell, results_of
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


@dataclass(frozen=True)
class Part:
    """The models of one variant, one a seed."""

    jacobian_at: JacobianAt
    epochs: int
    seeds: tuple[int, ...]

    def compute(self, tell: Tell, where: Environment) -> Trained:
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


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains and computes, and writes two figures, their captions and two CSV files."""
    epochs, seeds = EPOCHS[options.profile], tuple(options.seeds)
    parts = {f"{VARIANTS[at]} training": Part(at, epochs, seeds) for at in VARIANTS}
    found = dict(zip(VARIANTS, results_of(parts, options, on_progress).values(), strict=True))
    rows = [row for trained in found.values() for row in trained.rows]
    name = f"curvature-{options.profile}"
    circles = [Circle.of(float(radius)) for radius in RADII]
    training = Drawing(
        name,
        _training_figure(rows, found),
        "Figure 2: what training does to the curvature of the manifold",
        _training_caption(rows, len(options.seeds)),
    )
    radius = Drawing(
        "curvature-radius",
        _radius_figure(circles),
        "Figures 12 and 13: the lowest on-manifold loss against the radius of the manifold",
        _radius_caption(circles),
    )
    return write_study(options, [training, radius], {name: rows, "curvature-radius": circles})


def _training_figure(rows: Sequence[Row], found: Mapping[JacobianAt, Trained]) -> Any:
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
        axis.set_aspect("equal")
        axis.set_title(f"{VARIANTS[at]} training")
        axis.legend(fontsize=8)
    for at, colour in COLOURS.items():
        mine = [row for row in rows if row.variant == VARIANTS[at]]
        steps = sorted({row.step for row in mine})
        values = [[row.curvature for row in mine if row.step == step] for step in steps]
        axes[2].plot(steps, [np.median(v) for v in values], color=colour, label=VARIANTS[at])
        axes[2].fill_between(
            steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2
        )
    axes[2].axhline(1 / RADIUS, color="k", lw=0.8, ls=":")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("step")
    axes[2].set_ylabel("median curvature of the manifold")
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
        axis.set_xscale("log")
        axis.set_xlabel("radius R")
    return figure


def _training_caption(rows: Sequence[Row], seeds: int) -> str:
    last = max(row.step for row in rows)
    ends = []
    for variant in VARIANTS.values():
        mine = [row for row in rows if (row.variant, row.step) == (variant, last)]
        values = ", ".join(f"{value:.2g}" for value in sorted(row.curvature for row in mine))
        error = float(np.median([row.reconstruction for row in mine]))
        ends.append(f"{variant} {values} (median squared error {error:.3g})")
    start = float(np.median([row.curvature for row in rows if row.step == 0]))
    return f"""
    Manifolds of networks that were fitted to an arc of radius {RADIUS:g}, and then trained on
    {POINTS:,} points of a standard normal distribution on a line with noise {NOISE:g} across it, at
    beta {BETA:g}. Left, of the first seed, light lines join points of equal code at the last step
    shown. Right: curvature on the middle 90 % of the codes, median and range over {seeds} seeds;
    {start:.3g} at the start (dotted: the arc's own, {1 / RADIUS:g}), and after {last} steps
    {"; ".join(ends)}. The noise alone costs {NOISE**2:g}. The paper has a sketch, so that steps do
    not correspond.
    """


def _radius_caption(circles: Sequence[Circle]) -> str:
    losses = {beta: [circle.loss_beta[beta] for circle in circles] for beta in BETAS}
    found = "; ".join(
        f"beta {beta:g}: {of[0]:.2f} and {of[-1]:.2f}, highest {max(of):.2f}"
        for beta, of in losses.items()
    )
    return f"""
    Computed, not trained: data of a standard normal distribution on a line are projected on a
    circle of radius R that touches the line at their mean (the paper does not say where its circles
    lie). Left to right: projections, their entropy, and the lowest on-manifold loss, which is the
    entropy plus beta times the squared error (eq. 14). Loss in nats at R = {circles[0].radius:.2g}
    and R = {circles[-1].radius:.2g}, and the highest on the way: {found}.
    """
