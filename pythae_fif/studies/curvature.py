"""Figures 2, 12 and 13: what on- and off-manifold training do to the manifold's curvature."""

__all__ = ["Curves", "build", "circles", "curve_curvature", "projected", "run"]

import math
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
from pythae_fif.studies.spec import Finding, StudySpec, Tell, results_of
from pythae_fif.studies.study import StudyOptions
from pythae_fif.volume_change.loss import JacobianAt

NOISE, BETA, RADIUS = 0.1, 0.5, 2.0
VARIANTS: dict[JacobianAt, str] = {"data": "off-manifold", "reconstruction": "on-manifold"}
"""Where the Jacobian is taken -> name of that training."""
COLOURS = {"on-manifold": "tab:orange", "off-manifold": "tab:green"}
EPOCHS = {"quick": 150, "paper": 1500}
POINTS, BATCH = 2000, 500
SHOWN = (0, 5, 12)  # epochs whose manifolds are drawn
RADII = np.geomspace(1e-4, 20, 300)
BETAS = (0.1, 1.0, 3.0, 10.0)


def line_data() -> Tensor:
    """`POINTS` (N, 2) of a standard normal distribution on the first axis, with noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(POINTS, 2, generator=generator) * torch.tensor([1.0, NOISE])


def build(jacobian_at: JacobianAt, seed: int) -> FIF:
    """A FIF whose decoder has been fitted to an arc, by least squares, and its encoder to project.

    The arc is of the circle of radius `RADIUS` that touches the axis at the code 0.
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
            angle = u / RADIUS
            point = RADIUS * torch.cat([angle.sin(), 1 - angle.cos()], 1)
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


def _curves(ensemble: Ensemble, data: Tensor) -> Tensor:
    """Every member's manifold over the middle 90 % of the codes, (M, 201, 2)."""
    z = ensemble.encode(data)[..., 0]
    low, high = (torch.quantile(z, q, 1, keepdim=True) for q in (0.05, 0.95))
    codes = low + (high - low) * torch.linspace(0, 1, 201, dtype=z.dtype)
    return ensemble.decode(codes[..., None])


class Curves(StudySpec):
    """The models of one variant, one a seed."""

    kind: ClassVar[str] = "curvature"

    jacobian_at: JacobianAt
    epochs: int
    seeds: tuple[int, ...]

    def compute(self, tell: Tell) -> dict[str, Any]:
        """Trains one variant, and measures it every ten epochs and after those of `SHOWN`.

        Returns:
            `rows` of all models: the median curvature of the manifold, and the mean squared error.
            `curves`: the first model's manifold after each epoch of `SHOWN`, (201, 2).
        """
        ensemble = Ensemble([build(self.jacobian_at, seed) for seed in self.seeds], self.seeds)
        data, rows, shown = line_data(), [], []

        def look(epoch: int) -> None:
            tell(epoch / self.epochs)
            if epoch % 10 and epoch not in SHOWN:
                return
            curves = _curves(ensemble, data)
            if epoch in SHOWN:
                shown.append(curves[0].tolist())
            at = {"variant": VARIANTS[self.jacobian_at], "step": epoch * (len(data) // BATCH)}
            curvatures = curve_curvature(curves).median(1).values
            errors = ensemble.reconstruction_error(data).mean(1)
            for seed, *of in zip(self.seeds, curvatures, errors, strict=True):
                found = {"curvature": float(of[0]), "reconstruction": float(of[1])}
                rows.append({**at, "seed": seed, **found})

        look(0)
        ensemble.train(
            data, epochs=self.epochs, batch_size=BATCH, learning_rate=1e-3, on_epoch=look
        )
        return {"rows": rows, "curves": shown}


def projected(radius: float) -> tuple[float, float]:
    r"""Entropy in nats of N(0, 1) on a line, projected on a circle that touches it at 0.

    A point x goes to the arc length :math:`R \arctan(x / R)`, so that the entropy is that of the
    normal distribution plus :math:`E \log(R^2 / (R^2 + x^2))`.

    Returns:
        The entropy, and the mean squared distance to the circle.

    Example:
        >>> round(projected(1e6)[0], 4)  # of N(0, 1) itself
        1.4189
    """
    x = np.linspace(-8, 8, 40_001)
    weight = np.exp(-0.5 * x**2)
    weight /= weight.sum()
    lost = weight @ np.log1p((x / radius) ** 2)
    error = weight @ (np.hypot(radius, x) - radius) ** 2
    return 0.5 * math.log(2 * math.pi * math.e) - float(lost), float(error)


def circles() -> pd.DataFrame:
    """Of each radius of `RADII` the lowest on-manifold loss: entropy (eq. 14) plus beta x error."""
    found = [(radius, *projected(radius)) for radius in RADII]
    rows = pd.DataFrame(found, columns=["radius", "entropy", "reconstruction"])
    losses = {f"loss_{beta:g}": rows.entropy + beta * rows.reconstruction for beta in BETAS}
    return rows.assign(**losses)


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains both variants, and computes the losses of circles; two figures."""
    epochs, seeds = EPOCHS[options.profile], tuple(options.seeds)
    specs = [Curves(jacobian_at=at, epochs=epochs, seeds=seeds) for at in VARIANTS]
    found = dict(zip(VARIANTS.values(), results_of(specs, options, on_change), strict=True))
    rows = pd.DataFrame([row for trained in found.values() for row in trained["rows"]])
    ends = rows[rows.step.isin([0, rows.step.max()])].groupby(["variant", "step"], sort=False)
    medians = ends[["curvature", "reconstruction"]].median().add_prefix("median_")
    spread = ends.curvature.agg(["min", "max"]).add_suffix("_curvature")
    training = Finding(
        f"curvature-{options.profile}",
        "Figure 2: what training does to the curvature of the manifold",
        f"Networks are fitted to an arc of radius {RADIUS:g}, and then trained on a normal "
        f"distribution on a line with noise {NOISE:g} across it, at beta {BETA:g}. Left and middle:"
        f" manifolds of one model; right: median curvature over {len(seeds)} models, from the "
        f"lowest to the highest. The noise alone costs {NOISE**2:g}; the paper has a sketch, so "
        "that steps do not correspond.",
        medians.join(spread).reset_index(),
        rows,
        _training_figure(rows, found),
    )
    frame = circles()
    figure = new_figure(6, 4)
    axis = figure.subplots()
    losses = frame.set_index("radius").filter(like="loss_")
    axis.plot(losses, label=[f"beta = {beta:g}" for beta in BETAS])
    axis.set(xscale="log", xlabel="radius R", ylabel="lowest on-manifold loss (nats)")
    axis.legend()
    radius = Finding(
        "curvature-radius",
        "Figures 12 and 13: the lowest on-manifold loss against the radius of the manifold",
        "Computed, not trained: a normal distribution on a line is projected on a circle that "
        "touches the line at its mean (the paper does not say where its circles lie). The lowest "
        "on-manifold loss is the entropy plus beta times the squared error (eq. 14), in nats.",
        frame.iloc[:: len(frame) // 10],
        frame,
        figure,
    )
    return [training, radius]


def _training_figure(rows: pd.DataFrame, found: dict[str, Any]) -> Any:
    figure, data = new_figure(13, 4.2), line_data()
    axes: Any = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    for axis, (name, colour) in zip(axes, COLOURS.items(), strict=False):
        axis.scatter(*data[:400].T, s=3, color="0.6")
        for epoch, curve, shade in zip(SHOWN, found[name]["curves"], (1, 0.5, 1), strict=False):
            style = {"color": colour if epoch else "k", "alpha": shade, "lw": 2.2}
            axis.plot(*np.array(curve).T, label=f"step {epoch * (POINTS // BATCH)}", **style)
        axis.set(xlim=(-2.6, 2.6), ylim=(-1.2, 1.9), aspect="equal", title=f"{name} training")
        axis.legend(fontsize=8)
        curvature = rows[rows.variant == name].groupby("step").curvature
        axes[2].plot(curvature.median(), color=colour, label=name)
        low, high = curvature.min(), curvature.max()
        axes[2].fill_between(low.index, low, high, color=colour, alpha=0.2)
    axes[2].axhline(1 / RADIUS, color="k", lw=0.8, ls=":")
    axes[2].set(yscale="log", xlabel="step", ylabel="median curvature of the manifold")
    axes[2].legend()
    return figure
