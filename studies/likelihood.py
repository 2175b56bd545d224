"""What likelihood training is worth: FIF against autoencoders, from runs of the benchmark.

    python run_benchmark.py study likelihood --results STORE

It trains nothing. STORE has runs of the benchmark, and may have `tables/likelihood.csv` with the
numbers of earlier runs, such as the committed one. Their commands are in
results/reference/likelihood.md. The runs of tables have `--data FILE.csv`, a file of

    python -m studies.likelihood power FILE.csv
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.stats import ttest_ind_from_stats

from pythae_fif.benchmark.results import Result, read_all
from pythae_fif.data.sets.papamakarios import load_tabular
from pythae_fif.evaluation.score_types import number
from pythae_fif.pictures import new_figure
from pythae_fif.reports.tables import Table
from pythae_fif.runs.store import Store
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.study import Study, StudyOptions, StudyPage
from studies.paired.comparison import format_p

RIVALS = {"ae": "AE", "rae_l2": "RAE-L2", "wae_imq": "WAE-IMQ"}
RIVAL_MARKERS = {"ae": "s", "rae_l2": "D", "wae_imq": "^"}
SCHEDULES = {"fif_rising": "FIF, beta from 10 up", "fif_falling": "FIF, beta down to 10"}
PRIORS = ["normal", "gaussian", "gmm", "flow"]
MEASURES = {"tube": "likelihood, nats ↑", "distance": "distance ↓"}
EQUAL_TIME = ", equal time"


def write_csv(name: str, path: Path) -> None:
    """Writes all rows of a table, standardised and with noise, as the study trains on them."""
    splits = load_tabular(name)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    columns = [f"c{index}" for index in range(rows.shape[1])]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def read_runs(store: Store) -> pd.DataFrame:
    """Reads likelihoods and distances of a store's runs, one row for each run and prior."""
    rows = []
    for result in read_all(store):
        rows += _rows_of_run(result)
    return pd.DataFrame(rows)


def _rows_of_run(result: Result) -> list[dict[str, Any]]:
    training = result.job.training
    evaluation = result.evaluation.result
    source_name = evaluation.data.source.split(",")[0]
    rows = []

    for sampler, record in result.scores.items():
        scores = record.result.scores
        likelihood = scores.marginal_likelihood
        if not likelihood:
            continue
        rows.append({
            "data": source_name if training.dataset == "csv" else training.dataset,
            "run": training.run_id,
            "revision": result.training.provenance.git_revision,
            "epochs": training.epochs,
            "model": training.model,
            "seed": training.seed,
            "configuration": result.job.configuration,
            "beta": str(training.parameters.get("beta", "")),
            "prior": sampler,
            "asked": 1 / (2 * likelihood["val"].scale ** 2),
            "mse": evaluation.reconstruction_mse["test"],
            "seconds": result.training.result.train_seconds,
            "tube_val": likelihood["val"].nats,
            "tube_test": likelihood["test"].nats,
            "distance_val": scores.frechet["val"],
            "distance_test": scores.frechet["test"],
        })  # fmt: skip
    return rows


def choose_best(rows: pd.DataFrame, measure: str) -> pd.Series:
    """Chooses the configuration and prior of the best validation mean over seeds.

    Args:
        rows: Runs of :func:`read_runs`.
        measure: A key of `MEASURES`.

    Returns:
        Model, configuration and prior, with mean, standard deviation and number of the test values.
        Only configurations with the most finished seeds compete.
    """
    groups = rows.groupby(["model", "configuration", "prior"])
    means = groups[[f"{measure}_val", f"{measure}_test"]].mean()
    means = means[groups.size() == groups.size().max()]

    validation_means = means[f"{measure}_val"]
    is_likelihood = measure == "tube"
    best = validation_means.idxmax() if is_likelihood else validation_means.idxmin()
    test_values = groups.get_group(best)[f"{measure}_test"]
    model, configuration, prior = best
    return pd.Series({
        "model": model,
        "configuration": configuration,
        "prior": prior,
        "mean": test_values.mean(),
        "std": test_values.std(),
        "seeds": len(test_values),
    })  # fmt: skip


def beta_as_number(beta: str) -> float:
    """Sorts 'auto' after all numbers."""
    return math.inf if beta == "auto" else float(beta)


def table_of_priors(rows: pd.DataFrame) -> Table:
    """Makes the table of a data set: one row for each beta of FIF and each rival.

    The configuration of a rival is chosen for each cell. A further column has the beta that 'auto'
    would take next, from the model's validation error.
    """
    labelled_rows = []
    fif = rows[rows["model"] == "fif"]
    for beta in sorted(fif["beta"].unique(), key=beta_as_number):
        labelled_rows.append((f"FIF, beta {beta}", fif[fif["beta"] == beta]))
    for name, label in {**SCHEDULES, **RIVALS}.items():
        labelled_rows.append((label, rows[rows["model"] == name]))

    lines = [_line_of_priors(label, part) for label, part in labelled_rows if len(part)]
    return Table(rows["data"].iloc[0], pd.DataFrame(lines))


def _line_of_priors(label: str, rows: pd.DataFrame) -> dict[str, str]:
    cells = {
        "Model": label,
        "recon. MSE ↓": f"{rows['mse'].mean():.4f}",
        "beta that it asks for": f"{rows['asked'].mean():.3g}",
    }
    for measure, heading in MEASURES.items():
        for prior in PRIORS:
            rows_of_prior = rows[rows["prior"] == prior]
            cell = "–"
            if len(rows_of_prior):
                best = choose_best(rows_of_prior, measure)
                cell = number(best["mean"], best["std"])
            cells[f"{find_sampler(prior).label}: {heading}"] = cell
    return cells


def verdict_table(frame: pd.DataFrame) -> Table:
    """Compares FIF with the best rival on every data set, by the criterion of the page."""
    lines = []
    for data, rows in frame.groupby("data", sort=False):
        fif_rows = rows[rows["model"] == "fif"]
        rival_rows = rows[rows["model"].isin(RIVALS)]
        for measure, heading in MEASURES.items():
            fif = choose_best(fif_rows, measure)
            rival = choose_best(rival_rows, measure)
            lines.append({"Data": data, "measure": heading, **_verdict(fif, rival, measure)})
    return Table("FIF against the best rival", pd.DataFrame(lines))


def _verdict(fif: pd.Series, rival: pd.Series, measure: str) -> dict[str, str]:
    sign = 1 if measure == "tube" else -1
    gain = sign * (fif["mean"] - rival["mean"])
    noise = np.hypot(fif["std"] / np.sqrt(fif["seeds"]), rival["std"] / np.sqrt(rival["seeds"]))
    verdict = "yes" if gain > 0 else "no"
    if abs(gain) <= 2 * noise:
        verdict = "level"

    columns = ["mean", "std", "seeds"]
    test = ttest_ind_from_stats(
        *fif[columns].astype(float), *rival[columns].astype(float), equal_var=False
    )
    has_one_seed = math.isnan(noise)
    return {
        "FIF": number(fif["mean"], fif["std"]),
        "chosen": _describe(fif),
        "best rival": number(rival["mean"], rival["std"]),
        "which": _describe(rival),
        "gain": f"{gain:.2f}",
        "noise": "–" if has_one_seed else f"{noise:.2f}",
        "verdict": "one seed" if has_one_seed else verdict,
        "p (Welch)": "–" if has_one_seed else format_p(test.pvalue),
    }


def _describe(choice: pd.Series) -> str:
    label = {"fif": "FIF", **RIVALS}[choice["model"]]
    return f"{label} ({choice['configuration']}), {find_sampler(choice['prior']).label}"


def draw_figure(frame: pd.DataFrame) -> Figure:
    """Draws sample distance against likelihood, FIF as a curve over beta and rivals as points."""
    frame = frame[~frame["data"].str.endswith(EQUAL_TIME)]
    groups = list(frame.groupby("data", sort=False))
    row_count = math.ceil(len(groups) / 2)
    figure = new_figure(9, 3.5 * row_count)
    axes: list[Axes] = list(figure.subplots(row_count, 2).flat)
    for axis in axes[len(groups) :]:
        axis.set_axis_off()

    for axis, (data, rows) in zip(axes, groups, strict=False):
        for color_index, prior in enumerate(PRIORS):
            rows_of_prior = rows[rows["prior"] == prior]
            keys = ["model", "configuration", "beta"]
            values = ["tube_test", "distance_test", "distance_val"]
            means = rows_of_prior.groupby(keys, dropna=False)[values].mean().reset_index()
            color = f"C{color_index}"
            _draw_fif(axis, means[means["model"] == "fif"], prior, color)
            _draw_rivals(axis, means, color)
        _set_limits(axis, rows)
        _format_axis(axis, data)

    _add_legend(figure, axes[0])
    return figure


def _draw_fif(axis: Axes, means: pd.DataFrame, prior: str, color: str) -> None:
    fixed = means[means["beta"] != "auto"]
    curve = fixed.sort_values("beta", key=lambda beta: beta.astype(float))
    label = find_sampler(prior).label
    axis.plot(
        curve["tube_test"], curve["distance_test"], "o-", markersize=4, color=color, label=label
    )

    auto = means[means["beta"] == "auto"]
    axis.plot(auto["tube_test"], auto["distance_test"], "*", markersize=11, color=color)

    if prior == "normal" and len(curve):
        for _, end in curve.iloc[[0, -1]].iterrows():
            point = (end["tube_test"], end["distance_test"])
            text = f"β {end['beta']}"
            axis.annotate(text, point, (4, 4), textcoords="offset points", size=8)


def _draw_rivals(axis: Axes, means: pd.DataFrame, color: str) -> None:
    best = means.sort_values("distance_val").drop_duplicates("model").set_index("model")
    for name, marker in RIVAL_MARKERS.items():
        if name in best.index:
            point = best.loc[name, ["tube_test", "distance_test"]]
            axis.plot(*point, marker, markersize=6, markerfacecolor="none", color=color)


def _set_limits(axis: Axes, rows: pd.DataFrame) -> None:
    # An AE with the standard normal is so far off that the other points would be one.
    near = rows[(rows["model"] == "fif") | (rows["prior"] != "normal")]
    left, right = near["tube_test"].agg(["min", "max"])
    margin = 0.06 * (right - left)
    axis.set_xlim(left - margin, right + margin)
    axis.set_ylim(near["distance_test"].min() / 1.2, near["distance_test"].max() * 1.2)


def _format_axis(axis: Axes, data: str) -> None:
    axis.set(yscale="log", title=data, xlabel="marginal log-likelihood, nats ↑")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter("{x:.3g}")
    axis.yaxis.set_minor_formatter("")
    axis.set_ylabel("distance of samples to test data ↓")


def _add_legend(figure: Figure, axis: Axes) -> None:
    lines, labels = axis.get_legend_handles_labels()
    markers = {"FIF, auto": "*"}
    for name, marker in RIVAL_MARKERS.items():
        markers[RIVALS[name]] = marker

    for label, marker in markers.items():
        lines += axis.plot([], [], marker, color="grey", markerfacecolor="none")
        labels.append(label)
    figure.legend(lines, labels, loc="outside upper center", ncols=8, fontsize=8)


def add_equal_time(frame: pd.DataFrame) -> pd.DataFrame:
    """Moves rivals that train longer than FIF to further data sets, which repeat FIF's runs."""
    fif = frame[frame["model"] == "fif"]
    fif_epochs = fif.groupby("data")["epochs"].max()
    is_longer = frame["epochs"] > frame["data"].map(fif_epochs)
    longer = frame[is_longer]
    fif_of_longer = fif[fif["data"].isin(longer["data"])]

    equal_time = pd.concat([longer, fif_of_longer])
    equal_time = equal_time.assign(data=equal_time["data"] + EQUAL_TIME)
    return pd.concat([frame[~is_longer], equal_time])


def has_fif_and_rivals(rows: pd.DataFrame) -> bool:
    """Returns whether a data set has runs of FIF and of a rival."""
    return {"fif"} < set(rows["model"])


def run_likelihood(options: StudyOptions) -> list[StudyPage]:
    """Adds a store's runs to the numbers of earlier runs, and draws the tables and the figure."""
    frame = read_runs(Store(options.results))
    numbers = options.results / "tables/likelihood.csv"
    if numbers.exists():
        earlier = pd.read_csv(numbers, dtype={"beta": str}).fillna({"beta": ""})
        earlier["data"] = earlier["data"].str.removesuffix(EQUAL_TIME)
        frame = pd.concat([earlier, frame]).drop_duplicates(["run", "prior"])
    frame = add_equal_time(frame).groupby("data").filter(has_fif_and_rivals)

    tables = [verdict_table(frame)]
    tables += [table_of_priors(rows) for _, rows in frame.groupby("data", sort=False)]
    text = "\n".join(table.to_markdown() for table in tables)
    return [StudyPage("likelihood", text, frame, draw_figure(frame))]


STUDY = Study(run_likelihood, seeds=(1, 1))


if __name__ == "__main__":
    write_csv(sys.argv[1], Path(sys.argv[2]))
