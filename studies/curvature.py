"""Figures 2, 12 and 13: what on- and off-manifold training do to the manifold's curvature."""

import math
from collections.abc import Mapping
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
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.volume_change.loss import JacobianAt

NOISE = 0.1
BETA = 0.5
RADIUS = 2.0
VARIANTS: dict[JacobianAt, str] = {"data": "off-manifold", "reconstruction": "on-manifold"}
EPOCHS = {"quick": 150, "paper": 1500}
POINTS = 2000
BATCH_SIZE = 500
STEPS_PER_EPOCH = POINTS // BATCH_SIZE
FIT_STEPS = 400  # to fit a model to the arc before training
CURVES_IN_FIGURE = (0, 5, 12)  # epochs after which the manifold is drawn
CURVE_POINTS = 201
RADII = np.geomspace(1e-4, 20, 300)
BETAS = (0.1, 1.0, 3.0, 10.0)


def line_data() -> Tensor:
    """Draws `POINTS` points of N(0, 1) on the first axis, with noise on the second, (N, 2)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(POINTS, 2, generator=generator) * torch.tensor([1.0, NOISE])


def build_model(jacobian_at: JacobianAt, seed: int) -> FIF:
    """Builds a FIF with its decoder fitted to an arc and its encoder fitted to project onto it.

    The arc belongs to the circle of radius `RADIUS` that touches the first axis at code 0. The fit
    is by least squares.

    Args:
        jacobian_at: Where the model takes the Jacobian in its training afterwards.
        seed: Seed of the weights and of the fit.
    """
    config = FIFConfig(input_dim=(2,), latent_dim=1, beta=BETA, noise=0.0, jacobian_at=jacobian_at)
    torch.manual_seed(seed)
    model = FIF(config, ResidualEncoder(2, 1, 2, 64), ResidualDecoder(2, 1, 2, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)

    for _ in range(FIT_STEPS):
        code = 1.5 * torch.randn(256, 1)
        angle = code / RADIUS
        arc_point = RADIUS * torch.cat([torch.sin(angle), 1 - torch.cos(angle)], 1)
        normal = (arc_point - torch.tensor([0.0, RADIUS])) / RADIUS
        off_arc_point = arc_point + 0.4 * torch.randn(256, 1) * normal

        code_error = model.embed(off_arc_point) - code
        point_error = model.decoder(code)["reconstruction"] - arc_point
        optimizer.zero_grad()
        (code_error.square() + point_error.square()).mean().backward()
        optimizer.step()
        schedule.step()

    return model


def manifold_curves(ensemble: Ensemble, data: Tensor) -> Tensor:
    """Samples the manifold of every model between the 5 % and 95 % quantiles of its codes.

    Args:
        ensemble: M models of one latent dimension.
        data: Points (N, 2), encoded for the range of the codes.

    Returns:
        Points on the curves, (M, `CURVE_POINTS`, 2).
    """
    codes = ensemble.encode(data)[..., 0]
    low = codes.quantile(0.05, 1, True)
    high = codes.quantile(0.95, 1, True)
    grid = low + (high - low) * torch.linspace(0, 1, CURVE_POINTS, dtype=codes.dtype)
    return ensemble.decode(grid[..., None])


def curve_curvature(curve: Tensor) -> Tensor:
    """Computes the curvature of plane curves (M, n, 2) by finite differences, (M, n - 2)."""
    first = (curve[:, 2:] - curve[:, :-2]) / 2
    second = curve[:, 2:] - 2 * curve[:, 1:-1] + curve[:, :-2]
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    speed: Tensor = torch.linalg.vector_norm(first, dim=-1)
    return cross.abs() / speed.pow(3)


@dataclass(frozen=True)
class CurvatureMeasurement:
    """Measurement of one model after some training steps.

    Attributes:
        step: Number of training steps.
        seed: The model's seed.
        curvature: Median curvature of its manifold.
        reconstruction: Its mean squared error.
    """

    step: int
    seed: int
    curvature: float
    reconstruction: float


@dataclass(frozen=True)
class CurvatureResult:
    """Result of one variant.

    Attributes:
        measurements: The measurements of all models.
        curves: The first model's manifold after each epoch in `CURVES_IN_FIGURE`, each as points
            (`CURVE_POINTS`, 2).
    """

    measurements: list[CurvatureMeasurement]
    curves: list[list[list[float]]]


class CurvatureSpec(StudySpec):
    """The models of one variant, one for each seed."""

    kind: ClassVar[str] = "curvature"
    result: ClassVar[Any] = CurvatureResult

    jacobian_at: JacobianAt
    epochs: int
    seeds: tuple[int, ...]

    def compute(self, report_progress: ProgressCallback) -> CurvatureResult:
        """Trains one variant and measures it every ten epochs and for every drawn curve."""
        models = [build_model(self.jacobian_at, seed) for seed in self.seeds]
        ensemble = Ensemble(models, self.seeds)
        data = line_data()
        result = CurvatureResult([], [])

        def measure(epoch: int) -> None:
            report_progress(epoch / self.epochs)
            is_drawn = epoch in CURVES_IN_FIGURE
            if epoch % 10 and not is_drawn:
                return

            curves = manifold_curves(ensemble, data)
            if is_drawn:
                result.curves.append(curves[0].tolist())

            curvatures = curve_curvature(curves).median(1).values.tolist()
            errors = ensemble.reconstruction_error(data).mean(1).tolist()
            for seed, curvature, error in zip(self.seeds, curvatures, errors, strict=True):
                result.measurements.append(
                    CurvatureMeasurement(epoch * STEPS_PER_EPOCH, seed, curvature, error)
                )

        measure(0)
        ensemble.train(
            data,
            epochs=self.epochs,
            batch_size=BATCH_SIZE,
            learning_rate=1e-3,
            on_epoch=measure,
        )
        return result


def project_to_circle(radius: float) -> tuple[float, float]:
    r"""Computes what remains of N(0, 1) on a line after projection onto a circle.

    The circle touches the line at 0. A point x goes to the arc length :math:`R \arctan(x / R)`.
    The entropy of the projection is therefore the normal distribution's entropy plus
    :math:`E \log(R^2 / (R^2 + x^2))`.

    Returns:
        The entropy in nats, and the mean squared distance of the points from the circle.
    """
    x = np.linspace(-8, 8, 40_001)
    weight = np.exp(-0.5 * x**2)
    weight /= weight.sum()
    entropy_loss = weight @ np.log1p((x / radius) ** 2)
    error = weight @ (np.hypot(radius, x) - radius) ** 2
    return 0.5 * math.log(2 * math.pi * math.e) - float(entropy_loss), float(error)


def circle_losses() -> pd.DataFrame:
    """Computes the lowest on-manifold loss for each of `RADII`: entropy (eq. 14) + beta x error."""
    projections = [(radius, *project_to_circle(radius)) for radius in RADII]
    frame = pd.DataFrame(projections, columns=["radius", "entropy", "reconstruction"])
    losses = {f"loss_{beta:g}": frame.entropy + beta * frame.reconstruction for beta in BETAS}
    return frame.assign(**losses)


def run_curvature(options: StudyOptions) -> list[StudyPage]:
    """Trains both variants and computes the losses of circles.

    Returns:
        Two reports: the trainings, and the losses of circles.
    """
    specs = [
        CurvatureSpec(
            jacobian_at=jacobian_at, epochs=EPOCHS[options.profile], seeds=tuple(options.seeds)
        )
        for jacobian_at in VARIANTS
    ]
    results = collect_results(specs, options)
    by_variant = dict(zip(VARIANTS.values(), results, strict=True))
    return [_training_report(by_variant, options), _circle_report()]


def _training_report(results: Mapping[str, CurvatureResult], options: StudyOptions) -> StudyPage:
    """Reports the curvature during the training of every variant (figure 2)."""
    frames = {variant: pd.DataFrame(result.measurements) for variant, result in results.items()}
    frame = pd.concat(frames, names=["variant", None]).reset_index("variant")
    steps = frame.groupby(["variant", "step"], sort=False)
    table = steps[["curvature", "reconstruction"]].median().add_prefix("median_")
    table = table.join(steps.curvature.agg(["min", "max"]).add_suffix("_curvature"))

    return StudyPage.of_table(
        f"curvature-{options.profile}",
        "Figure 2: what training does to the curvature of the manifold",
        f"The networks are first fitted to an arc of radius {RADIUS:g}. They are then trained on a "
        f"normal distribution on a line with noise {NOISE:g} across it, at beta {BETA:g}. Left and "
        "middle: manifolds of one model. Right: median curvature over "
        f"{len(options.seeds)} models, with the range from the lowest to the highest. The noise by "
        f"itself costs a squared error of {NOISE**2:g}. The paper's figure is a sketch, so its "
        "steps do not correspond to these.",
        table.reset_index().query("step in (0, step.max())"),
        frame,
        _draw_training(results, table),
    )


def _draw_training(results: Mapping[str, CurvatureResult], table: pd.DataFrame) -> Any:
    """Draws the manifolds of every variant, and their curvature against the step."""
    figure: Any = new_figure(13, 4.2)
    *manifold_axes, curvature_axis = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    data = line_data()
    for axis, (variant, result) in zip(manifold_axes, results.items(), strict=True):
        axis.scatter(*data[:400].T, s=3, color="0.6")
        for epoch, curve in zip(CURVES_IN_FIGURE, result.curves, strict=False):
            axis.plot(*np.array(curve).T, label=f"step {epoch * STEPS_PER_EPOCH}")
        axis.set(xlim=(-2.6, 2.6), ylim=(-1.2, 1.9), aspect="equal", title=f"{variant} training")
        axis.legend()

        spread = table.loc[variant]
        curvature_axis.plot(spread.median_curvature, label=variant)
        curvature_axis.fill_between(
            spread.index, spread.min_curvature, spread.max_curvature, alpha=0.2
        )

    curvature_axis.set(yscale="log", xlabel="step", ylabel="median curvature of the manifold")
    curvature_axis.legend()
    return figure


def _circle_report() -> StudyPage:
    """Reports the lowest on-manifold loss against the radius (figures 12 and 13)."""
    frame = circle_losses()
    figure = new_figure(6, 4)
    losses = [f"loss_{beta:g}" for beta in BETAS]
    frame.plot(
        "radius",
        losses,
        ax=figure.subplots(),
        logx=True,
        xlabel="radius R",
        ylabel="lowest on-manifold loss (nats)",
    )

    return StudyPage.of_table(
        "curvature-radius",
        "Figures 12 and 13: the lowest on-manifold loss against the radius of the manifold",
        "Computed, not trained: a normal distribution on a line is projected onto a circle that "
        "touches the line at the mean (the paper does not say where its circles are). The lowest "
        "on-manifold loss is the entropy plus beta times the squared error (eq. 14), in nats.",
        frame.iloc[:: len(frame) // 10],
        frame,
        figure,
    )


STUDY = Study(run_curvature, seeds=(5, 20))
