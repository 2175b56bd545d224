"""Compares the order of the models with the paper's table 8, and tests whether FIF is ahead.

    python results/reference/order.py [results/reference]

Writes `tables/order.md` and `figures/steps-*.png` below the folder of results.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator
from scipy.stats import spearmanr, ttest_ind, ttest_ind_from_stats

from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import list_configs
from pythae_fif.benchmark.results import Result, read_all
from pythae_fif.evaluation.score_types import DASH, number
from pythae_fif.files import write_bytes
from pythae_fif.pictures import figure_bytes, new_figure
from pythae_fif.reports.compared import read_published_table
from pythae_fif.reports.frame import chosen_frame, score_frame
from pythae_fif.reports.tables import Table
from pythae_fif.runs.store import Store
from pythae_fif.sampling.catalog import find_sampler, sampler_position

MODEL_STORES = ("", "best_of_ten/seeds")
"""Folders of packed runs of several models; the first is the main store."""

BETA_STORE = "beta"
"""Folder of packed runs of FIF with several weights beta."""

MIN_MODELS = 6
"""Fewer models have no order to compare."""

RANDOM_ORDERS = 20_000


class Setting(NamedTuple):
    """What the runs of a comparison have in common."""

    dataset: str
    arch: str
    title: str


class LengthFreeSetting(NamedTuple):
    """What runs have in common that may differ in their number of steps."""

    dataset: str
    arch: str
    precision: str
    extractor: str
    data_hash: str


def read_results(root: Path) -> Iterator[tuple[str, Result]]:
    """Yields the store and the result of each run whose model the package has."""
    known_models = list_configs("models")
    for part in (*MODEL_STORES, BETA_STORE):
        for result in read_all(Store(root / part)):
            if result.job.training.model in known_models:
                yield part, result


def group_by_setting(root: Path, parts: Collection[str]) -> dict[Setting, list[Result]]:
    """Groups the runs that one table compares, of some folders of packed runs."""
    groups: dict[Setting, list[Result]] = defaultdict(list)
    for part, result in read_results(root):
        training = result.job.training
        extractor = result.job.scorings[0].extractor
        if part in parts:
            epochs = training.epochs
            length = f"{epochs} epochs" if epochs else f"{training.wall_clock:.0f} s"
            details = filter(None, [length, training.precision, extractor, part])
            title = f"{training.dataset} {training.arch}, {', '.join(details)}"
            groups[Setting(training.dataset, training.arch, title)].append(result)
    return groups


def group_by_length_free_setting(
    root: Path,
) -> dict[LengthFreeSetting, dict[str, Result]]:
    """Groups the runs of FIF's configurations and of the main store by all but their length.

    Returns:
        Run id -> result for each setting, so that a run that two stores hold counts once.
    """
    groups: dict[LengthFreeSetting, dict[str, Result]] = defaultdict(dict)
    for part, result in read_results(root):
        training = result.job.training
        extractor = result.job.scorings[0].extractor
        if training.epochs and part in ("", BETA_STORE):
            key = LengthFreeSetting(
                training.dataset, training.arch, training.precision, extractor, training.data_hash
            )
            groups[key].setdefault(training.run_id, result)
    return groups


def compare_order(table: pd.DataFrame, published: pd.DataFrame) -> dict[str, str]:
    """Computes Spearman's correlation of distances with published FIDs; ties share a rank.

    Args:
        table: One row for each model, of one kind of codes.
        published: Cells of table 8, with the columns `model`, `sampler` and `text`.

    Returns:
        The cells of a row, by heading.
    """
    published = published.assign(fid=published["text"].astype(float))
    rows = table.merge(published, on=["model", "sampler"])
    measured_ranks = rows["frechet_test"].rank()
    published_ranks = rows["fid"].rank()

    copies = np.tile(published_ranks, (RANDOM_ORDERS, 1))
    random_ranks = np.random.default_rng(0).permuted(copies, axis=1)
    centred_ranks = measured_ranks - measured_ranks.mean()
    deviations = measured_ranks.std(ddof=0) * published_ranks.std(ddof=0)
    random_correlations = random_ranks @ (centred_ranks / (len(rows) * deviations))

    displaced = (measured_ranks - published_ranks).abs().nlargest(5).index
    places = [
        f"{rows['label'][row]} {measured_ranks[row]:g} ({published_ranks[row]:g})"
        for row in displaced
    ]
    return {
        "models": str(len(rows)),
        "correlation": f"{spearmanr(measured_ranks, published_ranks).statistic:.2f}",
        "by chance (95 %)": f"±{np.quantile(abs(random_correlations), 0.95):.2f}",
        "farthest from their places (published)": ", ".join(places),
    }


def compare_orders(setting: Setting, table: pd.DataFrame) -> list[dict[str, str]]:
    """Compares the order of a setting's models, from their usual prior and from the mixture."""
    cells = read_published_table(8).query("metric == 'FID' and compared == ''")
    in_setting = (cells["dataset"] == setting.dataset) & (cells["arch"] == setting.arch)
    published = cells[in_setting]
    rows_of_codes = {
        "prior": table[table["sampler"] == table["usual_sampler"]],
        "GMM": table[table["sampler"] == "gmm"],
    }

    lines = []
    for codes, rows in rows_of_codes.items():
        if rows["model"].isin(published["model"]).sum() >= MIN_MODELS:
            line = {"data": setting.title, "codes": codes}
            lines.append(line | compare_order(rows, published))
    return lines


def welch_tests(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Tests FIF's distance against each other model's, if both have two seeds or more."""
    repeated = table[table["seeds"] > 1]
    rivals = repeated[repeated["model"] != "fif"]
    columns = ["frechet_test", "frechet_test_spread", "seeds"]
    for _, fif in repeated[repeated["model"] == "fif"].iterrows():
        for _, rival in rivals[rivals["sampler"] == fif["sampler"]].iterrows():
            test = ttest_ind_from_stats(*fif[columns], *rival[columns], equal_var=False)
            yield {
                "codes": find_sampler(fif["sampler"]).label,
                "FIF (seeds)": _distance_and_seeds(fif),
                "model": rival["label"],
                "its distance (seeds)": _distance_and_seeds(rival),
                "p": f"{test.pvalue:.2g}",
            }


def compare_betas(frame: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Compares FIF's distances with several betas, at K = 1.

    Args:
        frame: One row for each run of FIF and each sampler.

    Yields:
        The cells of a row, by heading, for each sampler, if there are two betas or more. p is for
        the smallest and the largest beta.
    """
    single_vector = frame[frame["vectors"] == 1]
    if single_vector["beta"].nunique() < 2:
        return

    for sampler, rows in single_vector.groupby("sampler", sort=False):
        distances = [group for _, group in rows.groupby("beta")["frechet_test"]]
        cells = {
            f"beta {beta:g}": _mean_and_seeds(group)
            for beta, group in rows.groupby("beta")["frechet_test"]
        }
        has_spread = min(len(distances[0]), len(distances[-1])) > 1
        test = ttest_ind(distances[0], distances[-1], equal_var=False) if has_spread else None
        p = DASH if test is None else f"{test.pvalue:.2g}"
        yield {"codes": find_sampler(sampler).label, **cells, "p": p}


def _mean_and_seeds(distances: pd.Series) -> str:
    return f"{number(distances.mean(), distances.std())} ({len(distances)})"


def _distance_and_seeds(row: pd.Series) -> str:
    return f"{number(row['frechet_test'], row['frechet_test_spread'])} ({row['seeds']})"


def distances_by_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Computes mean distances of configurations that were trained for several numbers of steps.

    Returns:
        One column for each number of steps, one row for each sampler, model and configuration.
    """
    keys = ["sampler", "label", "configuration", "steps"]
    means = frame.groupby(keys)["frechet_test"].mean().unstack("steps")
    has_several_lengths = means.notna().sum(axis=1) > 1
    means = means[has_several_lengths].dropna(axis=1, how="all")
    sampler_order = sampler_position
    return means.sort_index(
        level="sampler", key=lambda names: names.map(sampler_order), sort_remaining=False
    )


def steps_table(key: LengthFreeSetting, means: pd.DataFrame) -> Table:
    """Formats the distances of :func:`distances_by_steps`."""
    cells = means.map(lambda value: DASH if pd.isna(value) else number(value))
    cells.columns = [f"{steps:,.0f} steps" for steps in cells]
    cells = cells.rename(lambda name: find_sampler(name).label, level="sampler")
    cells = cells.reset_index().rename(columns={"sampler": "codes", "label": "model"})
    setting = f"{key.dataset} {key.arch}, {key.precision}, {key.extractor}"
    return Table(
        f"Distance after so many steps: {setting}",
        cells,
        notes=["Means over seeds; many models have one."],
    )


def draw_steps(means: pd.DataFrame) -> bytes:
    """Draws distances against steps, a panel for each sampler and a line for each configuration."""
    samplers = list(means.index.unique("sampler"))
    figure = new_figure(4 * len(samplers), 3.5)
    for sampler, axis in zip(samplers, figure.subplots(1, len(samplers)), strict=True):
        for (label, configuration), line in means.loc[sampler].iterrows():
            name = f"{label}, {configuration}" if label == "FIF" else label
            axis.loglog(line.dropna(), "o-", markersize=4, label=name)
        axis.set(title=find_sampler(sampler).label, xlabel="steps", xticks=means.columns)
        axis.xaxis.set(major_formatter="{x:,.0f}", minor_formatter="")

        low, high = axis.get_ylim()
        axis.yaxis.set(minor_locator=LogLocator(subs=(2, 3, 5) if high > 10 * low else "auto"))
        axis.yaxis.set(major_formatter="{x:.3g}", minor_formatter="{x:.3g}")

    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure_bytes(figure)


def page(root: Path) -> tuple[str, dict[str, bytes]]:
    """Makes the tables and figures of a folder of packed runs.

    Returns:
        The tables in Markdown, and file name -> figure.
    """
    order_rows: list[dict[str, str]] = []
    test_rows: list[dict[str, str]] = []
    for setting, results in group_by_setting(root, MODEL_STORES).items():
        experiment = load_experiment(setting.dataset, {"models": ["all"]})
        table = chosen_frame(score_frame(experiment, results))
        order_rows += compare_orders(setting, table)
        test_rows += [{"data": setting.title} | line for line in welch_tests(table)]

    beta_rows: list[dict[str, str]] = []
    for setting, results in group_by_setting(root, [BETA_STORE]).items():
        frame = score_frame(load_experiment(setting.dataset, {"models": ["fif"]}), results)
        beta_rows += [{"data": setting.title} | line for line in compare_betas(frame)]

    step_tables: list[Table] = []
    figures: dict[str, bytes] = {}
    for key, results_by_id in group_by_length_free_setting(root).items():
        experiment = load_experiment(key.dataset, {"models": ["all"]})
        means = distances_by_steps(score_frame(experiment, results_by_id.values()))
        if len(means):
            step_tables.append(steps_table(key, means))
        if len(means.columns) > 2:
            name = f"figures/steps-{key.dataset}-{key.arch}-{key.extractor}.png"
            figures[name] = draw_steps(means)

    beta_cells = pd.DataFrame(beta_rows).fillna(DASH)
    betas = sorted(beta_cells.filter(like="beta "), key=lambda name: float(name.split()[1]))
    headings = ["data", "codes", *betas, "p"]
    beta_note = "K = 1. p: Welch's test of the smallest and the largest beta, each by itself."

    note = "Made by `python results/reference/order.py`. p: Welch's test, each by itself."
    tables = [
        Table("Order of the models, and table 8's", pd.DataFrame(order_rows)),
        *step_tables,
        Table("FIF's distance and others'", pd.DataFrame(test_rows), notes=[note]),
        Table("FIF's distance by beta", beta_cells[headings], notes=[beta_note]),
    ]
    return "\n".join(table.to_markdown() for table in tables), figures


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "results/reference")
    text, figures = page(root)
    write_bytes(root / "tables/order.md", text.encode())
    for name, content in figures.items():
        write_bytes(root / name, content)


if __name__ == "__main__":
    main()
