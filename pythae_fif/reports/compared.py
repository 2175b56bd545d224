"""Comparison of measured with published numbers: the paper's tables of images and of rows.

Measured and published numbers have separate columns, and no difference is computed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.results import Result
from pythae_fif.evaluation.score_types import DASH, number
from pythae_fif.reports.frame import first_scores, ranks
from pythae_fif.reports.tables import Table, format_column
from pythae_fif.sampling.catalog import find_sampler, sampler_position

PUBLISHED_SOURCES = {
    8: "table 8; all rows except FIF's come from Chadebec et al. 2022; VAEGAN is outside the "
    "comparison",
    3: "table 3 (CelebA) or table 8; of the variants in brackets, the one of lowest test distance "
    "is shown with its score, as in the paper",
    2: "table 2: CelebA, five hours on an NVIDIA A40, d = 512, 192, 64, parameters in millions. "
    "DNF and Trumpet are our programs, not their authors'",
}
"""Number of a table of the paper's images -> where its numbers come from."""

TABLES_OF_ROWS = (6, 7, 1, 5)
"""Numbers of the paper's tables on POWER, GAS, HEPMASS and MINIBOONE; models have the order of the
first one."""


def read_published_table(number: int) -> pd.DataFrame:
    """Reads the printed cells of one of the paper's tables, one row per cell.

    Columns are `row`, the heading of the row; coordinates, such as dataset, model and sampler,
    empty if the table has none; and `text`, as printed. Table 3 has fewer columns: it names the
    models of table 8 in each of its rows.
    """
    return pd.read_csv(
        configs_dir() / "published" / f"table{number}.csv",
        dtype=str,
        keep_default_na=False,
        comment="#",
    )


def comparison_tables(
    experiment: Experiment, results: Sequence[Result], table: pd.DataFrame, data_dim: int
) -> dict[str, Table]:
    """Makes the tables of the paper that have numbers for the data set.

    Args:
        experiment: The experiment.
        results: Results of its runs.
        table: One row per model and sampler, from :func:`~pythae_fif.reports.frame.chosen_frame`.
        data_dim: D.

    Returns:
        Name -> table: `table8` and `table3` if table 8 has the data set and architecture, `table2`
        if one of its injective flows was run, `table6` for a table of numbers, if models were
        sampled from their usual prior.
    """
    published_of_rows = pd.concat(map(read_published_table, TABLES_OF_ROWS))
    published_of_rows = published_of_rows[published_of_rows["dataset"] == experiment.dataset]
    from_prior = table[table["sampler"] == table["usual_sampler"]]
    if len(published_of_rows) and len(from_prior):
        rows = _table_of_rows(experiment, results, from_prior, published_of_rows, data_dim)
        return {"table6": rows}

    table8 = read_published_table(8)
    table8 = table8[(table8["dataset"] == experiment.dataset) & (table8["arch"] == experiment.arch)]
    table2 = read_published_table(2)

    published_and_variants = {}
    if len(table8):
        published_and_variants = {8: (table8, table8), 3: (table8, read_published_table(3))}
    if set(table["model"]) & {"dnf", "trumpet"}:
        published = table2[table2["dataset"] == experiment.dataset]
        published_and_variants[2] = (published, table2)

    return {
        f"table{number}": _comparison_table(
            experiment, number, _merge_with_published(table, *pair), results, pair[0]
        )
        for number, pair in published_and_variants.items()
    }


def _merge_with_published(
    measured: pd.DataFrame, published: pd.DataFrame, variants: pd.DataFrame
) -> pd.DataFrame:
    """Joins measured and published numbers, one row per sampler and row of the paper.

    If `variants` has several models for a row, each number is the one of lowest distance.
    """
    keys = ["sampler", "row"]
    models_of_rows = variants[["row", "model"]].drop_duplicates()
    printed = published.pivot(index=["model", "sampler"], columns="metric", values="text")
    printed = printed.reindex(columns=["FID", "IS"]).dropna().astype(str).reset_index()
    printed["value"] = printed["FID"].str.split(" ").str[0].astype(float)

    def best_of_each_row(frame: pd.DataFrame, distance: str) -> pd.DataFrame:
        candidates = frame.merge(models_of_rows).sort_values(distance, kind="stable")
        return candidates.drop_duplicates(keys).drop(columns="model")

    rows = best_of_each_row(measured, "frechet_test").merge(
        best_of_each_row(printed, "value"), how="outer", on=keys
    )

    order = {"sampler": sampler_position, "row": list(models_of_rows["row"].unique()).index}
    return rows.sort_values(
        keys, key=lambda column: column.map(order[column.name]), ignore_index=True
    )


def _comparison_table(
    experiment: Experiment,
    table_number: int,
    rows: pd.DataFrame,
    results: Sequence[Result],
    published: pd.DataFrame,
) -> Table:
    """Makes a table of measured columns and, if there are any, published ones."""
    sizes = {}
    if table_number == 2:
        parameters = published[published["metric"] == "parameters"].set_index("row")["text"]
        sizes = {
            "d": format_column(rows, "latent_dim", ".0f"),
            "# parameters": format_column(rows, "parameters", ".2f", scale=1e-6),
            "# parameters published": rows["row"].map(parameters),
            "images seen": format_column(rows, "images", ",.0f"),
        }
    scores = first_scores(results)
    count = f"{scores.num_samples:,} samples"
    distance_heading = f"{scores.distance_name}, {count} ↓"
    samplers = rows["sampler"].map(lambda name: find_sampler(name).label)
    cells = {
        "Model": rows["row"] + rows["learned"].map({False: " †"}).fillna(""),
        "Sampler": samplers,
        **sizes,
        distance_heading: format_column(rows, "frechet_test"),
        "FID published ↓": rows["FID"],
        f"{scores.score_name or 'score'}, {count} ↑": format_column(rows, "score"),
        "IS published ↑": rows["IS"],
    }
    frame = pd.DataFrame(cells).dropna(axis="columns", how="all").fillna(DASH)

    source = results[0].evaluation.result.data.source
    device = results[0].training.provenance.device
    latent_dims = sorted(rows["latent_dim"].dropna().unique())
    notes = [
        f"Published: Sorrenson et al., ICLR 2024, {PUBLISHED_SOURCES[table_number]}. FID and IS "
        "use Inception and 10,000 samples.",
        f"Measured: {source}, profile {experiment.profile_summary}, extractor "
        f"`{scores.extractor}`, {count}, latent dimension "
        f"{', '.join(f'{latent_dim:.0f}' for latent_dim in latent_dims)}, on {device}. Unless all "
        "of that is as in the paper, only the order of the models of a sampler can be compared.",
    ]
    marks = {distance_heading: ranks(rows, samplers)}
    subject = experiment.arch if table_number != 2 else describe_length(experiment.active_profile)
    return Table(f"Table {table_number}: {experiment.dataset}, {subject}", frame, marks, notes)


def _table_of_rows(
    experiment: Experiment,
    results: Sequence[Result],
    from_prior: pd.DataFrame,
    published: pd.DataFrame,
    data_dim: int,
) -> Table:
    """Makes a table of models with their usual prior beside the paper's tables 1, 5, 6 and 7.

    The paper's reconstruction loss is summed over the columns of a row, so the mean squared error
    is multiplied by D.
    """
    texts = published.groupby(["model", "metric"], sort=False)["text"].last().unstack()
    order = [*published["model"].unique(), *from_prior["model"]]
    rows = from_prior.sort_values("model", key=lambda models: models.map(order.index))

    scores = first_scores(results)
    distance_heading = f"{scores.distance_name}, {scores.num_samples:,} samples ↓"
    step_seconds = {
        result.job.training.run_id: result.training.result.train_seconds for result in results
    }
    seconds = rows["run_ids"].map(lambda ids: np.mean([step_seconds[name] for name in ids.split()]))
    cells = {
        "Model": rows["label"],
        distance_heading: format_column(rows, "frechet_test"),
        "FID-like published ↓": rows["model"].map(texts["FID-like"]),
        "squared error ↓": format_column(rows, "reconstruction_mse", scale=data_dim),
        "squared error published ↓": rows["model"].map(texts["reconstruction loss"]),
        "train min": list(map(number, seconds / 60)),
        "train min published": rows["model"].map(texts["training time"]),
        "rows seen": format_column(rows, "images", ",.0f"),
        "µs a row": list(map(number, 1e6 * seconds / rows["images"])),
    }
    frame = pd.DataFrame(cells).dropna(axis="columns", how="all").fillna(DASH)

    speedup = published.loc[published["metric"] == "speedup", "text"].iloc[0]
    training = results[0].training
    notes = [
        "Published: Sorrenson et al., ICLR 2024, tables 1, 5, 6 and 7, for the whole data and "
        "training on a GPU; RF (own settings) is from Caterini et al. 2021, and the paper's FIF "
        f"trains {speedup} times as fast.",
        f"Measured: {results[0].evaluation.result.data.source}, profile "
        f"{experiment.profile_summary}, architecture `{experiment.arch}`, from each model's usual "
        f"prior, on {training.provenance.device}. The squared error is that of a row, D times MSE. "
        "The time is that of training steps, without evaluations.",
    ]
    marks = {distance_heading: ranks(rows)}
    title = f"Tables 1, 5, 6 and 7: {experiment.dataset}, "
    return Table(title + describe_length(experiment.active_profile), frame, marks, notes)
