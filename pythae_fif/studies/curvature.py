"""Figures 2, 12 and 13: what on- and off-manifold training do to the manifold's curvature."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import ProgressCallback, StudyReport, StudySpec, collect_results
from pythae_fif.studies.study import StudyOptions
from pythae_fif.volume_change.loss import JacobianAt

NOISE, BETA, RADIUS = 0.1, 0.5, 2.0
VARIANTS: dict[JacobianAt, str] = {"data": "off-manifold", "reconstruction": "on-manifold"}
EPOCHS = {"quick": 150, "paper": 1500}
POINTS, BATCH = 2000, 500
FIT_STEPS = 400  # in which a model is fitted to an arc
CURVES_IN_FIGURE = (0, 5, 12)  # epochs whose manifolds are drawn
RADII = np.geomspace(1e-4, 20, 300)
BETAS = (0.1, 1.0, 3.0, 10.0)


def line_data() -> Tensor:
    """`POINTS` (N, 2) of a standard normal distribution on the first axis, with noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(POINTS, 2, generator=generator) * torch.tensor([1.0, NOISE])


def build(jacobian_at: JacobianAt, seed: int) -> FIF:
    """A FIF whose decoder has been fitted to an arc, by least squares, and its encoder to project.
    The arc is of the circle of radius `RADIUS` that touches the axis at the code 0."""
    config = FIFConfig(input_dim=(2,), latent_dim=1, beta=BETA, noise=0.0, jacobian_at=jacobian_at)
    torch.manual_seed(seed)
    model = FIF(config, ResidualEncoder(2, 1, 2, 64), ResidualDecoder(2, 1, 2, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        u = 1.5 * torch.randn(256, 1)
        point = RADIUS * torch.cat([torch.sin(u / RADIUS), 1 - torch.cos(u / RADIUS)], 1)
        normal = (point - torch.tensor([0.0, RADIUS])) / RADIUS
        beside = point + 0.4 * torch.randn(256, 1) * normal
        errors = model.embed(beside) - u, model.decoder(u)["reconstruction"] - point
        optimizer.zero_grad()
        (errors[0].square() + errors[1].square()).mean().backward()
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


@dataclass(frozen=True)
class CurvatureMeasurement:
    """Median curvature of a model's manifold after some steps, and its mean squared error."""

    step: int
    seed: int
    curvature: float
    reconstruction: float


@dataclass(frozen=True)
class CurvatureResult:
    """All of a variant, and its first model's manifold, points (201, 2), after epochs `SHOWN`."""

    looks: list[CurvatureMeasurement]
    curves: list[list[list[float]]]


class CurvatureSpec(StudySpec):
    """The models of one variant, one a seed."""

    kind: ClassVar[str] = "curvature"
    result: ClassVar[Any] = CurvatureResult

    jacobian_at: JacobianAt
    epochs: int
    seeds: tuple[int, ...]

    def compute(self, report_progress: ProgressCallback) -> CurvatureResult:
        """Trains one variant, and measures it every ten epochs and after those of `SHOWN`."""
        ensemble = Ensemble([build(self.jacobian_at, seed) for seed in self.seeds], self.seeds)
        data, found = line_data(), CurvatureResult([], [])

        def look(epoch: int) -> None:
            report_progress(epoch / self.epochs)
            if epoch % 10 and epoch not in CURVES_IN_FIGURE:
                return
            z = ensemble.encode(data)[..., 0]
            low, high = z.quantile(0.05, 1, True), z.quantile(0.95, 1, True)
            codes = low + (high - low) * torch.linspace(0, 1, 201, dtype=z.dtype)
            curves = ensemble.decode(codes[..., None])
            if epoch in CURVES_IN_FIGURE:
                found.curves.append(curves[0].tolist())
            curvatures = curve_curvature(curves).median(1).values.tolist()
            errors = ensemble.reconstruction_error(data).mean(1).tolist()
            for of in zip(self.seeds, curvatures, errors, strict=True):
                found.looks.append(CurvatureMeasurement(epoch * (POINTS // BATCH), *of))

        look(0)
        ensemble.train(
            data, epochs=self.epochs, batch_size=BATCH, learning_rate=1e-3, on_epoch=look
        )
        return found


def project_to_circle(radius: float) -> tuple[float, float]:
    r"""Entropy in nats of N(0, 1) on a line, projected on a circle that touches it at 0.

    A point x goes to the arc length :math:`R \arctan(x / R)`, so that the entropy is that of the
    normal distribution plus :math:`E \log(R^2 / (R^2 + x^2))`. Second, the mean squared distance.
    """
    x = np.linspace(-8, 8, 40_001)
    weight = np.exp(-0.5 * x**2)
    weight /= weight.sum()
    lost = weight @ np.log1p((x / radius) ** 2)
    error = weight @ (np.hypot(radius, x) - radius) ** 2
    return 0.5 * math.log(2 * math.pi * math.e) - float(lost), float(error)


def circles() -> pd.DataFrame:
    """Of each radius of `RADII` the lowest on-manifold loss: entropy (eq. 14) plus beta x error."""
    found = [(radius, *project_to_circle(radius)) for radius in RADII]
    rows = pd.DataFrame(found, columns=["radius", "entropy", "reconstruction"])
    losses = {f"loss_{beta:g}": rows.entropy + beta * rows.reconstruction for beta in BETAS}
    return rows.assign(**losses)


def run_curvature(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains both variants, and computes the losses of circles; two figures."""
    epochs, seeds = EPOCHS[options.profile], tuple(options.seeds)
    specs = [CurvatureSpec(jacobian_at=at, epochs=epochs, seeds=seeds) for at in VARIANTS]
    results = collect_results(specs, options, on_change)
    found = dict(zip(VARIANTS.values(), results, strict=True))
    frames = {name: pd.DataFrame(of.looks) for name, of in found.items()}
    rows = pd.concat(frames, names=["variant", None]).reset_index("variant")
    looks = rows.groupby(["variant", "step"], sort=False)
    table = looks[["curvature", "reconstruction"]].median().add_prefix("median_")
    table = table.join(looks.curvature.agg(["min", "max"]).add_suffix("_curvature"))
    figure, data = new_figure(13, 4.2), line_data()
    axes: Any = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    for axis, (name, of) in zip(axes, found.items(), strict=False):
        axis.scatter(*data[:400].T, s=3, color="0.6")
        for epoch, curve in zip(CURVES_IN_FIGURE, of.curves, strict=False):
            axis.plot(*np.array(curve).T, label=f"step {epoch * (POINTS // BATCH)}")
        axis.set(xlim=(-2.6, 2.6), ylim=(-1.2, 1.9), aspect="equal", title=f"{name} training")
        axis.legend()
        spread = table.loc[name]
        axes[2].plot(spread.median_curvature, label=name)
        axes[2].fill_between(spread.index, spread.min_curvature, spread.max_curvature, alpha=0.2)
    axes[2].set(yscale="log", xlabel="step", ylabel="median curvature of the manifold")
    axes[2].legend()
    training = StudyReport(
        f"curvature-{options.profile}",
        "Figure 2: what training does to the curvature of the manifold",
        f"Networks are fitted to an arc of radius {RADIUS:g}, and then trained on a normal "
        f"distribution on a line with noise {NOISE:g} across it, at beta {BETA:g}. Left and middle:"
        f" manifolds of one model; right: median curvature over {len(seeds)} models, from the "
        f"lowest to the highest. The noise alone costs {NOISE**2:g}; the paper has a sketch, so "
        "that steps do not correspond.",
        table.reset_index().query("step in (0, step.max())"),
        rows,
        figure,
    )
    frame, losses = circles(), new_figure(6, 4)
    axis = frame.plot("radius", [f"loss_{of:g}" for of in BETAS], ax=losses.subplots(), logx=True)
    axis.set(xlabel="radius R", ylabel="lowest on-manifold loss (nats)")
    radius = StudyReport(
        "curvature-radius",
        "Figures 12 and 13: the lowest on-manifold loss against the radius of the manifold",
        "Computed, not trained: a normal distribution on a line is projected on a circle that "
        "touches the line at its mean (the paper does not say where its circles lie). The lowest "
        "on-manifold loss is the entropy plus beta times the squared error (eq. 14), in nats.",
        frame.iloc[:: len(frame) // 10],
        frame,
        losses,
    )
    return [training, radius]
