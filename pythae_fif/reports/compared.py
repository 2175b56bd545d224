"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading, and no difference is formed.
"""

from collections.abc import Mapping, Sequence

import pandas

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.names import SAMPLERS
from pythae_fif.reports.frame import first_scores, ranks
from pythae_fif.reports.tables import DASH, Table, formatted, number

PUBLISHED_SOURCES = {
    8: "table 8, all rows but FIF's of Chadebec et al. 2022; VAEGAN is not compared there",
    3: "table 3 (CelebA) or 8; of the variants in brackets the one of lowest test distance, as in "
    "the paper, with its score",
    2: "table 2: CelebA, five hours on an NVIDIA A40, d = 512, 192, 64, parameters in M. DNF and "
    "Trumpet are our programs, not their authors'",
}


def read_published_table(number: int) -> pandas.DataFrame:
    """The printed cells of one of the paper's tables of results, a row each.

    They have `row`, the heading; coordinates, such as dataset, model and sampler, empty where the
    table has none; `text`, as printed. Table 3 is table 8 with fewer rows: it has their models.
    """
    path = configs_dir() / "published" / f"table{number}.csv"
    return pandas.read_csv(path, dtype=str, keep_default_na=False, comment="#")


def compared_tables(
    experiment: Experiment, results: Sequence[ImageResult], table: pandas.DataFrame
) -> dict[str, Table]:
    """Those of tables 2, 3 and 8 that a table of `chosen_frame` has numbers for."""
    eight, two = (
        of[of["dataset"] == experiment.dataset]
        for of in (read_published_table(8), read_published_table(2))
    )
    eight = eight[eight["arch"] == experiment.arch]
    found = {}
    for of, variants in ((8, eight), (3, read_published_table(3))) if len(eight) else ():
        rows = _merge_with_published(variants, table, eight)
        found[f"table{of}"] = _comparison_table(experiment, of, rows, results, {})
    if set(table["model"]) & {"dnf", "trumpet"}:
        rows = _merge_with_published(read_published_table(2), table, two)
        parameters = two[two["metric"] == "parameters"].set_index("row")["text"]
        sizes = {
            "d": formatted(rows["latent_dim"], ".0f"),
            "# parameters": formatted(rows["parameters"] / 1e6, ".2f"),
            "# parameters published": rows["row"].map(parameters),
            "images seen": formatted(rows["images"], ",.0f"),
        }
        found["table2"] = _comparison_table(experiment, 2, rows, results, sizes)
    return found


def _merge_with_published(
    variants: pandas.DataFrame, measured: pandas.DataFrame, cells: pandas.DataFrame
) -> pandas.DataFrame:
    """What is measured or printed by sampler and row: of a row's models that of least distance."""
    at, models = ["sampler", "row"], variants[["row", "model"]].drop_duplicates()
    printed = cells.pivot(index=["model", "sampler"], columns="metric", values="text")
    printed = printed.reindex(columns=["FID", "IS"]).dropna().astype(str).reset_index()
    printed["value"] = printed["FID"].str.split(" ").str[0].astype(float)
    lowest = [
        of.merge(models).sort_values(by, kind="stable").drop_duplicates(at).drop(columns="model")
        for of, by in ((measured, "frechet_test"), (printed, "value"))
    ]
    order = {"sampler": list(SAMPLERS), "row": list(models["row"].unique())}
    rows = lowest[0].merge(lowest[1], "outer", at)
    return rows.sort_values(at, key=lambda of: of.map(order[of.name].index), ignore_index=True)


def _comparison_table(
    experiment: Experiment,
    of: int,
    rows: pandas.DataFrame,
    results: Sequence[ImageResult],
    more: Mapping[str, Sequence[str]],
) -> Table:
    """Measured columns and, where there are some, printed ones, of rows that have both."""
    scores, samplers = first_scores(results), rows["sampler"].map(lambda of: SAMPLERS[of].label)
    failed = rows["learned"].map({False: " †"}).fillna("")
    count = f"{scores.num_samples:,} samples"
    distance = f"{scores.distance_name}, {count} ↓"
    score = f"{scores.score_name or 'score'}, {count} ↑"
    cells = {"Model": rows["row"] + failed, "Sampler": samplers, **more}
    cells[distance] = list(map(number, rows["frechet_test"], rows["spread"]))
    cells["FID published ↓"] = rows["FID"]
    cells[score] = list(map(number, rows["score"], rows["score_spread"]))
    cells["IS published ↑"] = rows["IS"]
    data = results[0].evaluation.result.data
    latent_dims = ", ".join(f"{of:.0f}" for of in sorted(rows["latent_dim"].dropna().unique()))
    notes = [
        f"Published: Sorrenson et al., ICLR 2024, {PUBLISHED_SOURCES[of]}. FID and IS are of "
        "Inception and 10,000 samples.",
        f"Measured: {data.source}, profile {experiment.profile_summary}, "
        f"extractor `{scores.extractor}`, "
        f"{count}, latent dimension {latent_dims}, on {results[0].training.provenance.device}. "
        "Unless all of that is as in the paper, only the order of the models of a sampler can be "
        "compared.",
    ]
    marks = {distance: ranks(rows["frechet_test"], rows["noise"], samplers)}
    frame = pandas.DataFrame(cells).dropna(axis="columns", how="all").fillna(DASH)
    how = describe_length(experiment.active_profile) if of == 2 else experiment.arch
    return Table(f"Table {of}: {experiment.dataset}, {how}", frame, marks, notes)
