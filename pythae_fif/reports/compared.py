"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading, and no difference is formed.
"""

__all__ = ["compared_tables", "published"]

from collections.abc import Sequence

import pandas

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.reports.frame import first_scores, ranks
from pythae_fif.reports.tables import DASH, Table, formatted, number
from pythae_fif.sampling import SAMPLERS

SIZES = ("d", "# parameters", "# parameters published", "images seen")


def published(number: int) -> pandas.DataFrame:
    """The printed cells of one of the paper's tables of results, a row each.

    They have `row`, the heading; coordinates, such as dataset, model and sampler, empty where the
    table has none; `text`, as printed; `value`, without what follows its ±.
    """
    cells = _cells(number)
    return cells.assign(value=cells.text.str.split(" ").str[0].astype(float))


def _cells(number: int) -> pandas.DataFrame:
    path = configs_dir() / "published" / f"table{number}.csv"
    return pandas.read_csv(path, dtype=str, keep_default_na=False, comment="#")


def compared_tables(
    experiment: Experiment, results: Sequence[ImageResult], table: pandas.DataFrame
) -> dict[str, Table]:
    """Those of tables 2, 3 and 8 that the experiment has numbers for.

    Args:
        experiment, results: What was asked, and its runs.
        table: Of :func:`~pythae_fif.reports.frame.chosen_frame`.
    """
    found, where = {}, f"{experiment.dataset}, {experiment.arch}"
    cells = published(8)
    cells = cells[(cells["dataset"] == experiment.dataset) & (cells["arch"] == experiment.arch)]
    if len(cells):
        printed = _wide(cells)
        known = pandas.MultiIndex.from_frame(printed[["model", "sampler"]])
        others = table[~table.set_index(["model", "sampler"]).index.isin(known)]
        rows = printed.merge(table, on=["model", "sampler"], how="left")
        rows = pandas.concat([rows, others.assign(row=others["label"])], ignore_index=True)
        rows["row"] += rows["compared"].map({"no": " (not compared)"}).fillna("")
        source = "table 8, all rows but FIF's of Chadebec et al. 2022"
        found["table8"] = _beside(f"Table 8: {where}", rows, experiment, results, source)
        source = (
            f"table {3 if experiment.dataset == 'celeba' else 8}; of the variants in brackets the "
            "one of lowest test distance, as in the paper, with its score"
        )
        rows = _best_variants(_cells(3), table, printed)
        found["table3"] = _beside(f"Table 3: {where}", rows, experiment, results, source)
    if set(table["model"]) & {"dnf", "trumpet"}:
        cells, here = published(2), experiment.dataset == "celeba"
        variants = cells[["row", "model"]].drop_duplicates()
        rows = _best_variants(variants, table, _wide(cells) if here else None)
        rows["d"] = formatted(rows["latent_dim"], ".0f")
        rows["# parameters"] = formatted(rows["parameters"] / 1e6, ".2f")
        if here:
            sizes = cells[cells["metric"] == "parameters"].set_index("row")["text"]
            rows["# parameters published"] = rows["row"].map(sizes)
        rows["images seen"] = formatted(rows["images"], ",.0f")
        source = (
            "table 2: CelebA, five hours on an NVIDIA A40, d = 512, 192, 64, parameters in M. DNF "
            "and Trumpet are our programs, not their authors'"
        )
        title = f"Table 2: {experiment.dataset}, {length_of(experiment.in_use)}"
        found["table2"] = _beside(title, rows, experiment, results, source)
    return found


def _wide(cells: pandas.DataFrame) -> pandas.DataFrame:
    """FID and inception score, printed and as numbers, in one row a model and sampler."""
    keys = ["row", "model", "sampler"]
    fid, score = (cells[cells["metric"] == metric] for metric in ("FID", "IS"))
    found = fid.merge(score[[*keys, "text", "value"]], on=keys, suffixes=("_FID", "_IS"))
    return found.drop(columns={"dataset", "arch", "metric", "latent_dim"} & set(found))


def _best_variants(
    variants: pandas.DataFrame, table: pandas.DataFrame, printed: pandas.DataFrame | None
) -> pandas.DataFrame:
    """Row and sampler -> of the row's models that of lowest distance, measured and printed."""

    def best(rows: pandas.DataFrame, by: str) -> pandas.DataFrame:
        named = rows.drop(columns="row", errors="ignore").merge(variants, on="model")
        lowest = named.sort_values(by, kind="stable").drop_duplicates(["sampler", "row"])
        return lowest.set_index(["sampler", "row"]).drop(columns="model")

    samplers = ["normal", *({"gaussian"} & set(table["sampler"])), "gmm"]
    names = variants["row"].unique()
    index = pandas.MultiIndex.from_product([samplers, names], names=["sampler", "row"])
    rows = pandas.DataFrame(index=index).join(best(table, "frechet_test"))
    if printed is not None:
        rows = rows.join(best(printed, "value_FID"))
    return rows.reset_index()


def _beside(
    title: str,
    rows: pandas.DataFrame,
    experiment: Experiment,
    results: Sequence[ImageResult],
    source: str,
) -> Table:
    """Measured columns and, where there are some, printed ones, of rows that have both."""
    scores, samplers = first_scores(results), rows["sampler"].map(lambda of: SAMPLERS[of].label)
    failed = rows["learned"].map({False: " †"}).fillna("")
    cells = {"Model": rows["row"] + failed, "Sampler": samplers}
    cells |= {name: rows[name] for name in SIZES if name in rows}
    count = f"{scores.num_samples:,} samples"
    distance, score = f"{scores.distance_name}, {count} ↓", f"{scores.score_name}, {count} ↑"
    for metric, heading, value, spread in (
        ("FID", distance, "frechet_test", "spread"),
        ("IS", score, "score", "score_spread"),
    ):
        cells[heading] = list(map(number, rows[value], rows[spread]))
        if f"text_{metric}" in rows:
            printed = f"{metric} published {heading[-1]}"
            cells[printed] = rows[f"text_{metric}"].fillna(DASH)
    data, device = results[0].evaluation.result.data, results[0].training.provenance.device
    notes = [
        f"Published: Sorrenson et al., ICLR 2024, {source}. FID and IS are of Inception and 10,000 "
        "samples.",
        f"Measured: {data.source}, profile `{experiment.profile}`, extractor `{scores.extractor}`, "
        f"{count}, latent dimension {experiment.latent_dim}, on {device}. Unless all of that is as "
        "in the paper, only the order of the models of a sampler can be compared.",
    ]
    marks = {distance: ranks(rows["frechet_test"], samplers, rows["noise"])}
    return Table(title, pandas.DataFrame(cells), marks, notes)
