"""Curves and points of an experiment: figure 10 of the paper, cost, learning curves."""

__all__ = ["beta_figure", "cost_figure", "learning_figure"]

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.benchmark.model_entry import GRID_FLAGS
from pythae_fif.pictures import new_figure
from pythae_fif.reports.report import Report, Row
from pythae_fif.sampling import SAMPLERS
from pythae_fif.training import read_log


def _bare(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def beta_figure(report: Report) -> Any:
    """Figure 10: FIF's validation distance against beta, a line a sampler and number K of vectors.

    Means over the seeds; K = 1 solid, K = 2 dashed, as in the paper.

    Returns:
        The Matplotlib figure, or None if there are not two values of beta, or something else
        varies, too.
    """
    values: dict[tuple[str, int], dict[float, list[float]]] = {}
    for spec, record in ((result.spec, result.record) for result in report.results):
        if spec.model != "fif" or "beta" not in spec.parameters:
            continue
        if set(spec.varied) - set(GRID_FLAGS):
            return None  # the table of FIF's configurations has them
        vectors = spec.parameters.get("hutchinson_samples", 1)
        for sampler in spec.samplers:
            if sampler in record.scores:  # else it failed or is to come
                line = values.setdefault((sampler, vectors), {})
                found = record.scores[sampler].frechet["val"]
                line.setdefault(spec.parameters["beta"], []).append(found)
    if len({beta for line in values.values() for beta in line}) < 2:
        return None
    figure = new_figure(6, 4)
    axis: Any = figure.subplots()
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
            label=f"{SAMPLERS[sampler].label}, K = {vectors}",
        )
    means = [statistics.fmean(v) for line in values.values() for v in line.values()]
    if max(means) > 10 * min(means) > 0:  # one bad value must not flatten all others
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(sorted({beta for line in values.values() for beta in line}))
    axis.set_xlabel("reconstruction weight β", fontsize=9)
    axis.set_ylabel(f"{report.distance}, validation", fontsize=9)
    axis.set_title(f"FIF: {report.title}", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _bare(axis)
    return figure


def cost_figure(report: Report) -> Any:
    """Test distance against seconds of training: one panel a sampler, one number a model.

    Only samplers that at least two models have get a panel, unless there is no such sampler.

    Returns:
        The Matplotlib figure.
    """
    panels: dict[str, list[Row]] = {}
    for row in report.rows:
        panels.setdefault(row.sampler, []).append(row)
    shared = {name: rows for name, rows in panels.items() if len(rows) > 1} or panels
    tallest = max(map(len, shared.values()))
    figure = new_figure(4.6 * len(shared) + 0.6, max(3.6, 0.19 * tallest + 1.2))
    figure.suptitle(report.title, fontsize=10)
    axes: Any = figure.subplots(1, len(shared), squeeze=False)[0]
    for axis, (sampler, rows) in zip(axes, shared.items(), strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        for number, row in enumerate(rows, start=1):
            axis.plot(
                [max(row.training_seconds, 1e-3)],
                [max(row.frechet_test, 1e-6)],
                linestyle="",
                marker=f"${number}$",
                markersize=5 if number < 10 else 8,
                color="tab:red" if row.model == "FIF" else "tab:blue",
                label=row.model,
            )
        axis.margins(0.12)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.set_title(f"{sampler} sampler", fontsize=9)
        axis.set_xlabel("seconds of training", fontsize=9)
        axis.set_ylabel(f"{report.distance}, test", fontsize=9)
        _plain_ticks(axis.xaxis)
        _plain_ticks(axis.yaxis)
        _bare(axis)
    return figure


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis, written out: at 1, 2 and 5 times powers of ten, or few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.axes.autoscale_view()
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())


def learning_figure(logs: Mapping[str, Path], title: str) -> Any:
    """Training and evaluation loss against seconds, a panel a model.

    The losses of two models are not the same quantity, so that each panel has its own axis. FIF's
    has a second one, on the right, for |z|^2 / d and tr f'(x) g'(z) / d, where the log has them.

    Args:
        logs: Label -> `train_log.jsonl` of a run.
        title: Above it.

    Returns:
        The Matplotlib figure, or None if no log has two epochs.
    """
    curves = {label: read_log(log) for label, log in logs.items()}
    curves = {label: epochs for label, epochs in curves.items() if len(epochs) > 1}
    if not curves:
        return None
    columns = min(len(curves), 3 if len(curves) <= 6 else 5)
    rows = math.ceil(len(curves) / columns)
    figure = new_figure(max(5, 2.3 * columns), 1.75 * rows + 0.7)
    figure.suptitle(title, fontsize=10)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    lines: dict[str, Any] = {}
    for index, (model, epochs) in enumerate(curves.items()):
        axis = axes.flat[index]
        seconds = np.cumsum([epoch.seconds for epoch in epochs])
        for name, style in (("train", "-"), ("eval", "--")):
            losses = np.array([getattr(epoch, name).get("loss", math.nan) for epoch in epochs])
            known = np.isfinite(losses)
            if known.any():
                (lines[name],) = axis.plot(seconds[known], losses[known], style, linewidth=1.2)
        axis.set_title(model, fontsize=8)
        _bare(axis)
        axis.tick_params(labelsize=6)
        if "code_square" in epochs[0].train:
            right = axis.twinx()
            for color, name, label in (
                ("C2", "code_square", "|z|²/d, right axis"),
                ("C3", "code_trace", "tr f′g′/d, equal to it at rest if the prior is normal"),
            ):
                values = [epoch.train.get(name, math.nan) for epoch in epochs]
                (lines[label],) = right.plot(seconds, values, ":", linewidth=1.2, color=color)
            right.spines["top"].set_visible(False)
            right.tick_params(labelsize=6)
        if index >= len(curves) - columns:
            axis.set_xlabel("seconds", fontsize=7)
    form: dict[str, Any] = {"ncols": 4 if columns > 2 else 2, "fontsize": 7, "frameon": False}
    figure.legend([*lines.values()], [*lines], loc="outside lower center", **form)
    return figure
