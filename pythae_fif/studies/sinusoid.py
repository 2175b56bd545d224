"""Figures 3 and 7: which direction of a noisy sinusoid is learnt, against beta."""

__all__ = ["build", "clean_points", "measure", "run", "transition"]

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import write_csv, write_figure

NOISES = (0.1, 0.2, 0.3)
BETAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0)
LEARNING_RATE, BATCH = 1e-3, 128
SIZES = {
    "quick": {"points": 10_000, "epochs": 20, "models": 20, "blocks": 4, "width": 128},
    "paper": {"points": 100_000, "epochs": 50, "models": 20, "blocks": 4, "width": 256},
}
TEST_POINTS = 1000
SINUSOID = 0.9  # rank correlation of the code with x from which a model spans the sinusoid


def clean_points(count: int, generator: torch.Generator) -> Tensor:
    """Points (N, 2) on the sinusoid: x ~ N(0, 1), y = sin(pi x / 2) (appendix E.1.1)."""
    x = torch.randn(count, generator=generator)
    return torch.stack([x, torch.sin(math.pi * x / 2)], 1)


def build(beta: float, noise: float, blocks: int, width: int) -> FIF:
    """A model whose noise of training is that of the data."""
    config = FIFConfig(input_dim=(2,), latent_dim=1, beta=beta, noise=noise)
    encoder = ResidualEncoder(2, 1, blocks, width)
    return FIF(config, encoder, ResidualDecoder(2, 1, blocks, width))


def train(
    noise: float,
    betas: tuple[float, ...],
    seeds: list[int],
    *,
    points: int,
    epochs: int,
    blocks: int,
    width: int,
    on_epoch: Any = None,
) -> Ensemble:
    """All models of a noise level in one ensemble, a member for every beta and seed."""
    pairs = [(beta, seed) for beta in betas for seed in seeds]
    ensemble = Ensemble.build(
        lambda beta: build(beta, noise, blocks, width), *zip(*pairs, strict=True)
    )
    ensemble.train(
        clean_points(points, torch.Generator().manual_seed(0)),
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        schedule=lambda optimizer, steps: OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps),
        on_epoch=on_epoch,
    )
    return ensemble


def held_out(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy points (N, 2), the x (N,) of their clean ones, and the curve's unit tangents (N, 2)."""
    generator = torch.Generator().manual_seed(1)
    clean = clean_points(TEST_POINTS, generator)
    slope = math.pi / 2 * torch.cos(math.pi / 2 * clean[:, 0])
    tangent = torch.stack([torch.ones_like(slope), slope], 1)
    tangent = tangent / torch.linalg.vector_norm(tangent, dim=1, keepdim=True)
    points = clean + noise * torch.randn(TEST_POINTS, 2, generator=generator)
    return points, clean[:, 0], tangent


def measure(ensemble: Ensemble, noise: float) -> list[dict[str, Any]]:
    """Numbers of every model on the same test points.

    Returns:
        Rows with reconstruction error, exact negative log-likelihood (nats), `along`: the
        absolute rank correlation of the code with the position x, and `across`: the share of the
        encoder's squared gradient that is across the curve, averaged over points (1/2 if it had
        no preference).
    """
    x, position, tangent = held_out(noise)
    normal = torch.stack([-tangent[:, 1], tangent[:, 0]], 1)
    codes = ensemble.encode(x)[..., 0]
    errors = ensemble.reconstruction_error(x).mean(1)
    nll = -ensemble.log_prob(x).mean(1)
    slopes = [_slope(ensemble, x, direction).square() for direction in (tangent, normal)]
    across = (slopes[1] / (slopes[0] + slopes[1])).mean(1)
    return [
        {
            "noise": noise,
            "beta": model.model_config.beta,
            "reconstruction": float(errors[member]),
            "nll": float(nll[member]),
            "along": _correlation(codes[member], position),
            "across": float(across[member]),
        }
        for member, model in enumerate(ensemble.models)
    ]


def _slope(ensemble: Ensemble, x: Tensor, direction: Tensor, step: float = 1e-2) -> Tensor:
    """Central differences of the codes in a direction, (M, N)."""
    ends = (ensemble.encode(x + sign * step * direction)[..., 0] for sign in (1, -1))
    return (next(ends) - next(ends)) / (2 * step)


def _correlation(a: Tensor, b: Tensor) -> float:
    return abs(float(spearmanr(a.numpy(), b.numpy()).statistic))


def transition(rows: list[dict[str, Any]]) -> float:
    """The beta at which half of the models span the sinusoid, from the data.

    The share of models whose code has a rank correlation of at least `SINUSOID` with the
    position is interpolated linearly in log beta, up to where it crosses 1/2 for the last time.

    Returns:
        NaN where it does not cross.
    """
    betas = sorted({row["beta"] for row in rows})
    share = [
        float(np.mean([row["along"] >= SINUSOID for row in rows if row["beta"] == beta]))
        for beta in betas
    ]
    for i in range(len(betas) - 1, 0, -1):
        low, high = share[i - 1], share[i]
        if low < 0.5 <= high:
            part = (0.5 - low) / (high - low)
            return float(np.exp(np.interp(part, [0, 1], np.log(betas[i - 1 : i + 1]))))
    return math.nan


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains all models, and writes both figures, their captions and the CSV file."""
    size = dict(SIZES[options.profile])
    seeds = options.seeds or list(range(size.pop("models")))
    size.pop("models", None)
    rows: list[dict[str, Any]] = []
    maps: dict[float, dict[float, Tensor]] = {}
    for part, noise in enumerate(NOISES):

        def tell(epoch: int, part: int = part, noise: float = noise) -> None:
            done = (part + epoch / size["epochs"]) / len(NOISES)
            on_progress(f"{len(BETAS) * len(seeds)} models at noise {noise:g}", done)

        ensemble = train(noise, BETAS, seeds, **size, on_epoch=tell)
        found = measure(ensemble, noise)
        for row, (_, seed) in zip(found, ((b, s) for b in BETAS for s in seeds), strict=True):
            row["seed"] = seed
        rows += found
        codes = ensemble.encode(held_out(noise)[0])[..., 0].view(len(BETAS), len(seeds), -1)
        maps[noise] = {beta: codes[i, 0] for i, beta in enumerate(BETAS)}
    name = f"sinusoid-{options.profile}"
    figures = options.results / "figures"
    budget = (
        f"{size['points']:,} points, {size['epochs']} epochs, {len(seeds)} models a condition, "
        f"four residual blocks of width {size['width']} in each of encoder and decoder"
    )
    return [
        *write_figure(
            figures / f"{name}.png",
            _map_figure(rows, maps),
            "Figure 3: the noise or the sinusoid, by reconstruction weight",
            _map_caption(rows, budget),
            options.command,
        ),
        *write_figure(
            figures / f"{name}-transition.png",
            _transition_figure(rows),
            "Figure 7: the transition point at three noise levels",
            _transition_caption(rows, budget),
            options.command,
        ),
        write_csv(options.results / "tables" / f"{name}.csv", rows),
    ]


def _map_figure(rows: list[dict[str, Any]], maps: dict[float, dict[float, Tensor]]) -> Any:
    from matplotlib.figure import Figure

    noise = NOISES[0]
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    parts: Any = figure.subfigures(1, 3, width_ratios=[1, 1.5, 1])
    left, middle, right = parts
    points = held_out(noise)[0]
    for part, betas in ((left, BETAS[:2]), (right, BETAS[-2:])):
        axes = part.subplots(2, 1, sharex=True)
        for axis, beta in zip(axes, betas, strict=True):
            codes = maps[noise][beta]
            dots = axis.scatter(
                *points.T, c=codes, s=5, cmap="viridis", vmin=codes.quantile(0.02),
                vmax=codes.quantile(0.98),
            )  # fmt: skip
            axis.set_title(f"beta = {beta:g}", fontsize=10)
        part.colorbar(dots, ax=axes, label="code z")
    _boxes(middle.subplots(), [row for row in rows if row["noise"] == noise])
    return figure


def _transition_figure(rows: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    for axis, noise in zip(figure.subplots(1, len(NOISES)), NOISES, strict=True):
        mine = [row for row in rows if row["noise"] == noise]
        _boxes(axis, mine)
        axis.set_title(f"noise {noise:g}, transition at beta = {transition(mine):.2g}")
    return figure


def _boxes(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Reconstruction error (left axis) and negative log-likelihood (right) against beta."""
    twin = axis.twinx()
    positions = range(len(BETAS))
    for side, key, colour in ((axis, "reconstruction", "tab:blue"), (twin, "nll", "tab:orange")):
        values = [
            [row[key] for row in rows if row["beta"] == beta and math.isfinite(row[key])]
            for beta in BETAS
        ]
        boxes = side.boxplot(
            values, positions=positions, widths=0.5, showfliers=False, patch_artist=True
        )
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.5)
        side.plot(positions, [np.median(v) for v in values], color=colour, lw=1)
        side.tick_params(axis="y", colors=colour)
    axis.set_yscale("log")
    axis.set_ylabel("reconstruction error", color="tab:blue")
    twin.set_ylabel("negative log-likelihood (nats)", color="tab:orange")
    point = transition(rows)
    if math.isfinite(point):
        axis.axvline(np.interp(np.log(point), np.log(BETAS), positions), color="k", ls=":")
    axis.set_xticks(positions, [f"{beta:g}" for beta in BETAS])
    axis.set_xlabel("beta")


def _median(rows: list[dict[str, Any]], key: str, **where: float) -> float:
    return float(np.median([r[key] for r in rows if all(r[k] == v for k, v in where.items())]))


def _map_caption(rows: list[dict[str, Any]], budget: str) -> str:
    noise, low, high = NOISES[0], BETAS[0], BETAS[-1]
    mine = [row for row in rows if row["noise"] == noise]
    ends = {
        beta: {
            key: _median(mine, key, beta=beta)
            for key in ("reconstruction", "nll", "along", "across")
        }
        for beta in (low, high)
    }
    spans = sum(row["along"] >= SINUSOID for row in mine if row["beta"] == high)
    total = sum(row["beta"] == high for row in mine)
    return f"""
    The paper's figure 3 shows that with little weight on the reconstruction a one-dimensional
    code keeps the noise across a sinusoid and throws the position along it away, and with enough
    weight the reverse. Here, with noise {noise:g} ({budget}): at beta {low:g} the median share
    of the encoder's squared gradient across the curve is {ends[low]["across"]:.2f} (1/2 would be
    no preference) and the median rank correlation of the code with the position is
    {ends[low]["along"]:.2f}; at beta {high:g} they are {ends[high]["across"]:.2f} and
    {ends[high]["along"]:.2f}, and {spans} of {total} models span the sinusoid (correlation of at
    least {SINUSOID:g}). From the one beta to the other the median reconstruction error goes from
    {ends[low]["reconstruction"]:.3g} to {ends[high]["reconstruction"]:.3g} and the exact negative
    log-likelihood on the manifold from {ends[low]["nll"]:.2f} to {ends[high]["nll"]:.2f} nats.
    The dotted line is the beta at
    which half of the models span the sinusoid, {transition(mine):.2g}. The paper trains 20
    models a condition for 50 epochs; noise is added anew in every step, as the authors'
    published configuration does, which also brings the one-cycle learning rate and batches of
    {BATCH}. At low beta the code follows the noise only piece by piece: which side of the curve
    is positive changes along it, and the models differ much more from seed to seed.
    """


def _transition_caption(rows: list[dict[str, Any]], budget: str) -> str:
    points = {n: transition([row for row in rows if row["noise"] == n]) for n in NOISES}
    listed = ", ".join(f"{point:.2g} at noise {noise:g}" for noise, point in points.items())
    values = list(points.values())
    order = (
        "falls as the noise grows, as in the paper"
        if values == sorted(values, reverse=True) and len(set(values)) == len(values)
        else "does not fall with the noise, unlike in the paper; with this number of models it is "
        "uncertain by about a step of the grid of betas, so that no order can be claimed"
    )
    return f"""
    The paper's figure 7 shows the trade-off of reconstruction error and negative log-likelihood
    for three noise levels, and that the beta at which models turn from the noise to the
    sinusoid falls as the noise grows. Here ({budget}) half of the models span the sinusoid from
    a beta of {listed}: it {order}. The transition is found from the codes (rank correlation
    with the position of at least {SINUSOID:g}), not read off the curves, and is no finer than the
    grid of {len(BETAS)} betas. Boxes are quartiles over the models of a condition.
    """
