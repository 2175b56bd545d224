"""Is the order of the models that of the paper's table 8, and is FIF ahead beyond noise?

python benchmarks/order.py [results/reference]      writes tables/order.md below it
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr, ttest_ind_from_stats

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import names_in
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.names import SAMPLERS
from pythae_fif.reports.compared import published
from pythae_fif.reports.frame import chosen_frame, score_frame
from pythae_fif.reports.tables import Table, number
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


def page(store: Store) -> str:
    """Both tables, of all runs of models that the package has."""
    groups, known = defaultdict(list), names_in("models")
    for spec in store.specs(ImageSpec):
        of, result = spec.settings, ImageResult.read(store, spec)
        length = f"{of.epochs} epochs" if of.epochs else f"{of.wall_clock:.0f} s"
        if result is not None and spec.model in known:
            groups[spec.dataset, spec.arch, f"{length}, {of.precision}"].append(result)
    orders, tests = [], []
    for (dataset, arch, length), results in groups.items():
        experiment = load_experiment(dataset, {"models": ["all"]})
        table = chosen_frame(score_frame(experiment, results))
        cells = published(8).query("metric == 'FID' and compared == ''")
        cells = cells[(cells["dataset"] == dataset) & (cells["arch"] == arch)]
        name, own = {"data": f"{dataset} {arch}, {length}"}, table["sampler"] == table["prior"]
        for codes, of in {"prior": own, "GMM": table["sampler"] == "gmm"}.items():
            if table.loc[of, "model"].isin(cells["model"]).sum() > 5:  # fewer have no order
                orders.append({**name, "codes": codes, **order(table[of], cells)})
        tests += [{**name, **line} for line in leads(table)]
    note = "Made by `python benchmarks/order.py`. p: Welch's test, each by itself."
    tables = [
        Table("Order of the models, and table 8's", pd.DataFrame(orders)),
        Table("FIF's distance and others'", pd.DataFrame(tests), notes=[note]),
    ]
    return "\n".join(table.to_markdown() for table in tables)


if __name__ == "__main__":
    root = Path(*sys.argv[1:] or ["results/reference"])
    (root / "tables/order.md").write_text(page(Store(root)), "utf-8")
