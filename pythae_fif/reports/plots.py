"""Curves and points of an experiment: figure 10 of the paper, cost, learning curves."""

__all__ = ["beta_figure", "cost_figure", "learning_figure"]

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.selection import Choice, Result
from pythae_fif.files import write_whole
from pythae_fif.reports.table import SAMPLER_LABELS

DPI = 110


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # here, for the rest of a command should not wait for it

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save(figure: Any, path: Path) -> Path:
    """Writes a figure whole, as PNG, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: figure.savefig(file, format="png"))
    return path


def _bare(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def beta_figure(results: list[Result], title: str, path: Path) -> Path | None:
    """Figure 10: FIF's validation distance against beta, a line a sampler and number K of vectors.

    Means over the seeds; K = 1 solid, K = 2 dashed, as in the paper.

    Args:
        results: Specification and record of all finished runs; those of FIF are used.
        title: Above it.
        path: The PNG to write.

    Returns:
        The path, or None if there are not two values of beta.
    """
    values: dict[tuple[str, int], dict[float, list[float]]] = {}
    distance = ""
    for spec, record in results:
        if spec.model != "fif" or "beta" not in spec.parameters:
            continue
        vectors = spec.parameters.get("hutchinson_samples", 1)
        for sampler in spec.samplers:
            if sampler not in record["scores"]:  # it failed in this run
                continue
            scores = record["scores"][sampler]
            line = values.setdefault((sampler, vectors), {})
            line.setdefault(spec.parameters["beta"], []).append(scores["frechet"]["val"])
            distance = scores["distance_name"]
    if len({beta for line in values.values() for beta in line}) < 2:
        return None
    figure = _figure(6, 4)
    axis = figure.subplots()
    samplers = list(dict.fromkeys(sampler for sampler, _ in values))
    styles = {1: "-", 2: "--"}
    order = sorted(values, key=lambda key: (samplers.index(key[0]), key[1]))
    for sampler, vectors in order:
        line = values[sampler, vectors]
        betas = sorted(line)
        axis.plot(
            betas,
            [statistics.fmean(line[beta]) for beta in betas],
            linestyle=styles.get(vectors, ":"),
            marker="o",
            markersize=4,
            color=f"C{samplers.index(sampler)}",
            label=f"{SAMPLER_LABELS[sampler]}, K = {vectors}",
        )
    means = [statistics.fmean(v) for line in values.values() for v in line.values()]
    if max(means) > 10 * min(means) > 0:  # one bad value must not flatten all others
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(sorted({beta for line in values.values() for beta in line}))
    axis.set_xlabel("reconstruction weight β", fontsize=9)
    axis.set_ylabel(f"{distance}, validation", fontsize=9)
    axis.set_title(f"FIF: {title}", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    _bare(axis)
    return save(figure, path)


def cost_figure(choices: list[Choice], title: str, path: Path) -> Path:
    """Test distance against seconds of training: one panel a sampler, one point a model.

    Only samplers that at least two models have get a panel, unless there is no such sampler.
    """
    panels: dict[str, list[tuple[str, float, float]]] = {}
    for choice in choices:
        distance = choice.mean("frechet", "test")
        seconds = statistics.fmean(r["training"]["seconds"] for _, r in choice.results)
        if distance is not None:
            point = (load_model_entry(choice.model).label, seconds, distance)
            panels.setdefault(choice.sampler, []).append(point)
    shared = {name: points for name, points in panels.items() if len(points) > 1} or panels
    name = choices[0].results[0][1]["scores"][choices[0].sampler]["distance_name"]
    tallest = max(map(len, shared.values()))
    figure = _figure(4.6 * len(shared) + 0.6, max(3.6, 0.19 * tallest + 1.2))
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, len(shared), squeeze=False)[0]
    for axis, (sampler, points) in zip(axes, shared.items(), strict=True):
        _points(axis, points)
        axis.set_title(f"{SAMPLER_LABELS[sampler]} sampler", fontsize=9)
        axis.set_xlabel("seconds of training", fontsize=9)
        axis.set_ylabel(f"{name}, test", fontsize=9)
    return save(figure, path)


def _points(axis: Any, points: list[tuple[str, float, float]]) -> None:
    """Points with their names in a column on the right, in the points' order, joined by lines."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    seconds = np.array([max(s, 1e-3) for _, s, _ in points])
    distances = np.array([max(d, 1e-6) for _, _, d in points])
    axis.set_xlim(seconds.min() / 1.3, seconds.max() * 1.3)
    axis.set_ylim(distances.min() / 1.3, distances.max() * 1.3)
    low, high = np.log(axis.get_ylim())
    places = _spread((np.log(distances) - low) / (high - low), 1 / 22)
    axis.scatter(seconds, distances, s=18, color="tab:blue", zorder=3)
    for (name, x, y), place in zip(points, places, strict=True):
        emphasis = {"weight": "bold", "color": "tab:red"} if name == "FIF" else {}
        axis.annotate(
            name,
            xy=(x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkB": 3},
            **emphasis,
        )
        if emphasis:
            axis.scatter([x], [y], s=26, color="tab:red", zorder=4)
    _plain_ticks(axis.xaxis)
    _plain_ticks(axis.yaxis)
    _bare(axis)


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Heights in [0, 1] moved as little as needed for neighbours to be a gap apart."""
    gap = min(gap, 1 / max(1, len(heights) - 1))
    order = np.argsort(heights, kind="stable")
    placed = heights[order].copy()
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    # What the upward pass pushed above the top is pushed down again.
    placed[-1] = min(placed[-1], 1.0)
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = min(placed[i], placed[i + 1] - gap)
    moved = np.empty_like(placed)
    moved[order] = placed
    return moved


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())


def learning_figure(logs: dict[str, Path], title: str, path: Path) -> Path | None:
    """Training and evaluation loss against seconds, a panel a model.

    The losses of two models are not the same quantity, so that each panel has its own axis.

    Args:
        logs: Label -> `train_log.jsonl` of a run.
        title: Above it.
        path: The PNG to write.

    Returns:
        The path, or None if no log has two epochs.
    """
    curves = {label: read_log(log) for label, log in logs.items()}
    curves = {label: lines for label, lines in curves.items() if len(lines) > 1}
    if not curves:
        return None
    columns = min(len(curves), 3 if len(curves) <= 6 else 5)
    rows = math.ceil(len(curves) / columns)
    figure = _figure(max(5, 2.3 * columns), 1.75 * rows + 0.7)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for index, (label, lines) in enumerate(curves.items()):
        axis = axes.flat[index]
        seconds = np.cumsum([line["seconds"] for line in lines])
        for key, style in (("train_loss", "-"), ("eval_loss", "--")):
            losses = [line.get(key) for line in lines]
            known = [(s, x) for s, x in zip(seconds, losses, strict=True) if _finite(x)]
            if known:
                axis.plot(*zip(*known, strict=True), style, linewidth=1.2, label=key[:-5])
        axis.set_title(label, fontsize=8)
        _bare(axis)
        axis.tick_params(labelsize=6)
        if index == 0:
            axis.legend(fontsize=6, frameon=False)
        if index >= len(curves) - columns:
            axis.set_xlabel("seconds", fontsize=7)
    return save(figure, path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a training log; none if there is no such file."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the line that a killed run left half written
            continue
        if "seconds" in line:
            lines.append(line)
    return lines


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
