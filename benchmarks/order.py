"""The order of the models against the paper's table 8 and after more steps; tests of FIF's lead.

python benchmarks/order.py [results/reference]      writes tables/order.md and figures/steps-*.png
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator
from scipy.stats import spearmanr, ttest_ind_from_stats

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import list_configs
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.files import write_bytes
from pythae_fif.names import SAMPLERS
from pythae_fif.pictures import figure_bytes, new_figure
from pythae_fif.reports.compared import read_published_table
from pythae_fif.reports.frame import chosen_frame, score_frame
from pythae_fif.reports.tables import DASH, Table, number
from pythae_fif.runs.store import Store


def order(table: pd.DataFrame, cells: pd.DataFrame) -> dict[str, str]:
    """Spearman's correlation of distances with table 8's FIDs, where ties share a rank."""
    rows = table.merge(cells.assign(fid=cells["text"].astype(float)), on=["model", "sampler"])
    ours, theirs = rows["frechet_test"].rank(), rows["fid"].rank()
    random = np.random.default_rng(0).permuted(np.tile(theirs, (20_000, 1)), axis=1)
    scaled = (ours - ours.mean()) / (len(rows) * ours.std(ddof=0) * theirs.std(ddof=0))
    farthest = (ours - theirs).abs().nlargest(5).index
    places = (f"{rows['label'][i]} {ours[i]:g} ({theirs[i]:g})" for i in farthest)
    return {
        "models": str(len(rows)), "correlation": f"{spearmanr(ours, theirs).statistic:.2f}",
        "by chance (95 %)": f"±{np.quantile(abs(random @ scaled), 0.95):.2f}",
        "farthest from their places (published)": ", ".join(places),
    }  # fmt: skip


def leads(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Welch's test of FIF's distance against that of each other model with two seeds or more."""
    some = table[table["seeds"] > 1]
    for fif, other in product(some[some["model"] == "fif"].iloc, some[some["model"] != "fif"].iloc):
        if fif["sampler"] == other["sampler"]:
            both = [of[["frechet_test", "spread", "seeds"]] for of in (fif, other)]
            p = ttest_ind_from_stats(*both[0], *both[1], equal_var=False).pvalue
            shown = [f"{number(mean, std)} ({seeds})" for mean, std, seeds in both]
            yield {
                "codes": SAMPLERS[fif["sampler"]].label, "FIF (seeds)": shown[0],
                "model": other["label"], "its distance (seeds)": shown[1], "p": f"{p:.2g}",
            }  # fmt: skip


def by_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean distance of each configuration that was trained for several numbers of steps."""
    of = ["sampler", "label", "configuration", "steps"]
    means = frame.groupby(of)["frechet_test"].mean().unstack("steps")
    means = means[means.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
    place = list(SAMPLERS).index
    return means.sort_index(level="sampler", key=lambda of: of.map(place), sort_remaining=False)


def drawn(means: pd.DataFrame) -> bytes:
    """Distance against steps, a panel a sampler and a line a configuration."""
    samplers = list(means.index.unique("sampler"))
    figure = new_figure(4 * len(samplers), 3.5)
    for sampler, axis in zip(samplers, figure.subplots(1, len(samplers)), strict=True):
        for (label, configuration), line in means.loc[sampler].iterrows():
            told = f"{label}, {configuration}" if label == "FIF" else label
            axis.loglog(line.dropna(), "o-", markersize=4, label=told)
        axis.set(title=SAMPLERS[sampler].label, xlabel="steps", xticks=means.columns)
        axis.xaxis.set(major_formatter="{x:,.0f}", minor_formatter="")
        low, high = axis.get_ylim()
        axis.yaxis.set(minor_locator=LogLocator(subs=(2, 3, 5) if high > 10 * low else "auto"))
        axis.yaxis.set(major_formatter="{x:.3g}", minor_formatter="{x:.3g}")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure_bytes(figure)


def page(root: Path) -> tuple[str, dict[str, bytes]]:
    """The tables, of all runs of models that the package has, and file -> figure."""
    groups, alike, known = defaultdict(list), defaultdict(list), list_configs("models")
    for part in ("", "beta", "best_of_ten/seeds"):
        for spec in (store := Store(root / part)).specs(ImageSpec):
            of, result = spec.settings, ImageResult.read(store, spec)
            if result is None or spec.model not in known:
                continue
            if of.epochs and part in ("", "beta"):
                key = spec.dataset, spec.arch, of.precision, spec.extractor, spec.data_hash
                alike[key].append(result)
            if part != "beta":
                length = f"{of.epochs} epochs" if of.epochs else f"{of.wall_clock:.0f} s"
                how = ", ".join(filter(None, (length, of.precision, spec.extractor, part)))
                groups[spec.dataset, spec.arch, how].append(result)
    orders, tests, tables, figures = [], [], [], {}
    for (dataset, arch, how), results in groups.items():
        experiment = load_experiment(dataset, {"models": ["all"]})
        table = chosen_frame(score_frame(experiment, results))
        cells = read_published_table(8).query("metric == 'FID' and compared == ''")
        cells = cells[(cells["dataset"] == dataset) & (cells["arch"] == arch)]
        name, own = {"data": f"{dataset} {arch}, {how}"}, table["sampler"] == table["prior"]
        for codes, of in {"prior": own, "GMM": table["sampler"] == "gmm"}.items():
            if table.loc[of, "model"].isin(cells["model"]).sum() > 5:  # fewer have no order
                orders.append({**name, "codes": codes, **order(table[of], cells)})
        tests += [{**name, **line} for line in leads(table)]
    for (dataset, arch, precision, extractor, _), results in alike.items():
        experiment = load_experiment(dataset, {"models": ["all"]})
        means = by_steps(score_frame(experiment, results))
        if len(means):
            cells = means.map(lambda value: DASH if pd.isna(value) else number(value))
            cells.columns = [f"{steps:,.0f} steps" for steps in cells]
            title = f"Distance after so many steps: {dataset} {arch}, {precision}, {extractor}"
            cells = cells.rename(lambda name: SAMPLERS[name].label, level="sampler")
            cells = cells.reset_index().rename(columns={"sampler": "codes", "label": "model"})
            tables.append(Table(title, cells, notes=["Means over seeds; many models have one."]))
        if len(means.columns) > 2:
            figures[f"figures/steps-{dataset}-{arch}-{extractor}.png"] = drawn(means)
    note = "Made by `python benchmarks/order.py`. p: Welch's test, each by itself."
    tables = [
        Table("Order of the models, and table 8's", pd.DataFrame(orders)),
        *tables,
        Table("FIF's distance and others'", pd.DataFrame(tests), notes=[note]),
    ]
    return "\n".join(table.to_markdown() for table in tables), figures


if __name__ == "__main__":
    root = Path(*sys.argv[1:] or ["results/reference"])
    text, figures = page(root)
    for name, content in {"tables/order.md": text.encode(), **figures}.items():
        write_bytes(root / name, content)
