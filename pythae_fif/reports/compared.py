"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = ["compared_tables", "published"]

from collections.abc import Sequence

import pandas

from pythae_fif.benchmark.config import Experiment, length_of, load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.reports.frame import first_scores, ranks
from pythae_fif.reports.tables import DASH, Table, formatted, number
from pythae_fif.sampling import FITTED, SAMPLERS

PUBLISHED_SAMPLES = 10_000
SIZES = ("d", "# parameters", "# parameters published", "images seen")
OUTSIDE = " (not compared)"
MARKS = (
    "Bold is the lowest distance of a sampler, underlined the second; `=` marks measured ones that "
    "are level, as in the table of scores."
)


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
        reasons = _reasons(experiment, results)
        if str(experiment.latent_dim) != cells["latent_dim"].iloc[0]:
            reasons.append(f"latent dimension {experiment.latent_dim}")
        known = pandas.MultiIndex.from_frame(printed[["model", "sampler"]])
        others = table[~table.set_index(["model", "sampler"]).index.isin(known)]
        rows = printed.merge(table, on=["model", "sampler"], how="left")
        rows = pandas.concat([rows, others.assign(row=others["label"])], ignore_index=True)
        rows["row"] += rows["compared"].map({"no": OUTSIDE}).fillna("")
        source = "table 8, all rows but FIF's of Chadebec et al. 2022"
        found["table8"] = _beside(f"Table 8: {where}", rows, results, reasons, source)
        source = (
            f"table {3 if experiment.dataset == 'celeba' else 8}. Of the variants in brackets the "
            "one of lowest test distance is shown, as in the paper, with its score"
        )
        rows = _best_variants(_cells(3), table, printed)
        found["table3"] = _beside(f"Table 3: {where}", rows, results, reasons, source)
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
        title = f"{experiment.dataset}, {length_of(experiment.in_use)}"
        source = "table 2; d = 512, 192, 64; parameters in M"
        device = results[0].training.provenance.device
        reasons = [
            "DNF and Trumpet are our programs, not their authors'",
            f"{title} on {device} instead of CelebA, five hours on an NVIDIA A40",
            *_reasons(experiment, results),
        ]
        found["table2"] = _beside(f"Table 2: {title}", rows, results, reasons, source)
    return found


def _reasons(experiment: Experiment, results: Sequence[ImageResult]) -> list[str]:
    """Extractor, samples, data, image size and profile that are not the paper's."""
    scores, shipped = first_scores(results), load_experiment(experiment.dataset, {})
    reasons = {
        f"extractor `{scores.extractor}`": "inception" not in scores.extractor,
        f"{scores.num_samples:,} samples": scores.num_samples != PUBLISHED_SAMPLES,
        "partial data": any(of.evaluation.result.data.partial for of in results),
        f"image size {experiment.image_size}": experiment.image_size != shipped.image_size,
        f"profile `{experiment.profile}`": experiment.in_use != shipped.profiles.get("paper"),
    }
    return [reason for reason, holds in reasons.items() if holds]


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
    results: Sequence[ImageResult],
    reasons: Sequence[str],
    source: str,
) -> Table:
    """Measured columns and, where there are some, printed ones, of rows that have both.

    Without reasons why the measured are not the published quantity, with their differences.
    """
    scores, samplers = first_scores(results), rows["sampler"].map(lambda of: SAMPLERS[of].label)
    failed = rows["learned"].map({False: " †"}).fillna("")
    cells = {"Model": rows["row"] + failed, "Sampler": samplers}
    cells |= {name: rows[name] for name in SIZES if name in rows}
    marks = {}
    for metric, name, value, spread, arrow in (
        ("FID", scores.distance_name, "frechet_test", "spread", "↓"),
        ("IS", scores.score_name, "score", "score_spread", "↑"),
    ):
        measured = f"{name}, {scores.num_samples:,} samples" if reasons else f"{metric} measured"
        heading, printed = f"{measured} {arrow}", f"{metric} published {arrow}"
        cells[heading] = list(map(number, rows[value], rows[spread]))
        if metric == "FID":
            marks[heading] = ranks(rows[value], samplers, rows["noise"])
        if f"text_{metric}" not in rows:
            continue
        cells[printed] = rows[f"text_{metric}"].fillna(DASH)
        if metric == "FID":
            outside = rows["row"].str.endswith(OUTSIDE)
            marks[printed] = ranks(rows["value_FID"].mask(outside), samplers)
        if not reasons:
            difference = rows[value] - rows[f"value_{metric}"]
            kept = difference.where(~rows["sampler"].isin(FITTED))
            cells[f"{metric} difference"] = formatted(kept, "+.1f")
    note = (
        f"No difference is formed, for the measured numbers are not the published quantity: "
        f"{', '.join(reasons)}. Only the order of the models of a sampler can be compared."
        if reasons
        else "Differences are measured minus published; none for 2-stage and MAF, whose fit to the "
        "codes is not the published one."
    )
    notes = [f"Published: Sorrenson et al., ICLR 2024, {source}.", note, MARKS]
    return Table(title, pandas.DataFrame(cells), marks, notes)
