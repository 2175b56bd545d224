"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = ["compared_tables"]

from collections.abc import Mapping, Sequence

import pandas

from pythae_fif.benchmark.config import Experiment, length_of, load_experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.reports.frame import first_scores, ranks
from pythae_fif.reports.published import SOURCE, published, title_of
from pythae_fif.reports.tables import DASH, Table, formatted, numbers
from pythae_fif.sampling import FITTED, SAMPLERS

TABLE_3 = {
    "VAE": "vae",
    "IWAE": "iwae",
    "VAE-lin NF": "vae_lin_nf",
    "VAE-IAF": "vae_iaf",
    "β-(TC) VAE": "beta_vae beta_tc_vae",
    "FactorVAE": "factor_vae",
    "InfoVAE (RBF/IMQ)": "info_vae_rbf info_vae_imq",
    "AAE": "aae",
    "MSSSIM-VAE": "msssim_vae",
    "Vanilla AE": "ae",
    "WAE (RBF/IMQ)": "wae_rbf wae_imq",
    "VQVAE": "vqvae",
    "RAE (L2/GP)": "rae_l2 rae_gp",
    "FIF": "fif",
}
"""Rows of table 3 -> the models of table 8 of which each shows the best."""
TABLE_2 = {"DNF": "dnf", "Trumpet": "trumpet", "FIF": "fif"}

INCEPTION = ("inception", "tf-inception")
PUBLISHED_SAMPLES = 10_000
MEASURED = (("FID", "frechet_test", "spread", "↓"), ("IS", "score", "score_spread", "↑"))
"""Published metrics: the columns of what is measured, and whether lower is better."""
SIZES = ("d", "# parameters", "# parameters published", "images seen")
OUTSIDE = " (not compared)"

MARKS = (
    "Bold is the lowest distance of a sampler, underlined the second; `=` marks measured ones that "
    "are level, as in the table of scores."
)


def compared_tables(
    experiment: Experiment, results: Sequence[ImageResult], table: pandas.DataFrame
) -> dict[str, Table]:
    """Those of tables 2, 3 and 8 that the experiment has numbers for.

    Args:
        experiment: What was asked.
        results: Its runs.
        table: Of :func:`~pythae_fif.reports.frame.chosen_frame`.
    """
    found, where = {}, f"{experiment.dataset}, {experiment.arch}"
    cells = published(8)
    cells = cells[(cells["dataset"] == experiment.dataset) & (cells["arch"] == experiment.arch)]
    if len(cells):
        printed = _wide(cells)
        reasons = _not_table8(experiment, results, table, cells["latent_dim"].iloc[0])
        rows = printed.merge(table, on=["model", "sampler"], how="left")
        known = printed.set_index(["model", "sampler"]).index
        others = table[~table.set_index(["model", "sampler"]).index.isin(known)]
        rows = pandas.concat([rows, others.assign(row=others["label"])], ignore_index=True)
        rows["row"] += rows["compared"].map({"no": OUTSIDE}).fillna("")
        source = f"{SOURCE}, table 8. {title_of(8)}"
        found["table8"] = _beside(f"Table 8: {where}", rows, results, reasons, source)
        best = _best_variants(TABLE_3, table, printed)
        source = (
            f"{SOURCE}, table {3 if experiment.dataset == 'celeba' else 8}. Of the variants in "
            "brackets the one of lowest test distance is shown, as in the paper, with its score"
        )
        found["table3"] = _beside(f"Table 3: {where}", best, results, reasons, source)
    if set(table["model"]) & {"dnf", "trumpet"}:
        cells, here = published(2), experiment.dataset == "celeba"
        rows = _best_variants(TABLE_2, table, _wide(cells) if here else None)
        rows["d"] = formatted(rows["latent_dim"], ".0f")
        rows["# parameters"] = formatted(rows["parameters"] / 1e6, ".2f")
        if here:
            sizes = cells[cells["metric"] == "parameters"].set_index("row")["text"]
            rows["# parameters published"] = rows["row"].map(sizes)
        rows["images seen"] = formatted(rows["images"], ",.0f")
        title = f"{experiment.dataset}, {length_of(experiment.in_use)}"
        source = f"{SOURCE}, table 2. {title_of(2)}; d = 512, 192, 64; parameters in M"
        device = results[0].training.provenance.device
        reasons = [
            "DNF and Trumpet are our programs, not their authors'",
            f"{title} on {device} instead of CelebA, five hours on an NVIDIA A40",
            *_differences(experiment, results),
        ]
        found["table2"] = _beside(f"Table 2: {title}", rows, results, reasons, source)
    return found


def _wide(cells: pandas.DataFrame) -> pandas.DataFrame:
    """FID and inception score, printed and as numbers, in one row a model and sampler."""
    keys = ["row", "model", "sampler"]
    fid, score = (cells[cells["metric"] == metric] for metric in ("FID", "IS"))
    found = fid.merge(score[[*keys, "text", "value"]], on=keys, suffixes=("_FID", "_IS"))
    return found.drop(columns={"dataset", "arch", "metric", "latent_dim"} & set(found))


def _best_variants(
    variants: Mapping[str, str], table: pandas.DataFrame, printed: pandas.DataFrame | None
) -> pandas.DataFrame:
    """Row and sampler -> of the row's models that of lowest distance, measured and printed."""
    row_of = {model: row for row, models in variants.items() for model in models.split()}

    def best(rows: pandas.DataFrame, by: str) -> pandas.DataFrame:
        named = rows.assign(row=rows["model"].map(row_of)).dropna(subset=["row"])
        lowest = named.sort_values(by).drop_duplicates(["sampler", "row"])
        return lowest.set_index(["sampler", "row"]).drop(columns="model")

    also = {"gaussian"} & set(table["sampler"])
    samplers = ["normal", *also, "gmm"]
    index = pandas.MultiIndex.from_product([samplers, list(variants)], names=["sampler", "row"])
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
    """Measured columns and, where there are some, printed ones.

    Args:
        title: Of the table.
        rows: A row each, with columns of both and, ready as texts, those of `SIZES`.
        results: The runs.
        reasons: Why the measured are not the published quantity; empty if they are.
        source: Of the printed numbers.
    """
    scores = first_scores(results)
    called = {"FID": "FID measured", "IS": "IS measured"}
    if reasons:
        count = f"{scores.num_samples:,} samples"
        called = {"FID": f"{scores.distance_name}, {count}", "IS": f"{scores.score_name}, {count}"}
    samplers = rows["sampler"].map(lambda name: SAMPLERS[name].label)
    failed = rows["learned"].map({False: " †"}).fillna("")
    cells = {"Model": rows["row"] + failed, "Sampler": samplers}
    cells |= {name: rows[name] for name in SIZES if name in rows}
    found = {}
    for metric, value, spread, arrow in MEASURED:
        heading, printed = f"{called[metric]} {arrow}", f"{metric} published {arrow}"
        cells[heading] = numbers(rows[value], rows[spread])
        if metric == "FID":
            found[heading] = ranks(rows[value], samplers, rows["noise"])
        if f"text_{metric}" not in rows:
            continue
        cells[printed] = rows[f"text_{metric}"].fillna(DASH)
        if metric == "FID":
            outside = rows["row"].str.endswith(OUTSIDE)
            found[printed] = ranks(rows["value_FID"].mask(outside), samplers)
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
    notes = [f"Published: {source}.", note, MARKS]
    return Table(title, pandas.DataFrame(cells), found, notes)


def _differences(experiment: Experiment, results: Sequence[ImageResult]) -> list[str]:
    """Extractor, samples, data and image size that are not the paper's."""
    scores, shipped = first_scores(results), load_experiment(experiment.dataset, {})
    reasons = {
        f"extractor `{scores.extractor}`": scores.extractor not in INCEPTION,
        f"{scores.num_samples:,} samples": scores.num_samples != PUBLISHED_SAMPLES,
        "partial data": any(of.evaluation.result.data.partial for of in results),
        f"image size {experiment.image_size}": (
            experiment.image_size not in (None, shipped.image_size)
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _not_table8(
    experiment: Experiment,
    results: Sequence[ImageResult],
    table: pandas.DataFrame,
    latent_dim: str,
) -> list[str]:
    """Why the measured numbers are another quantity than table 8's; empty if they are the same.

    The same needs Inception features, 10,000 samples, the data set's own profile `paper` and all
    its configurations, the whole data set, its image size and the published latent dimension.
    """
    reasons, profile = _differences(experiment, results), experiment.profile
    shipped = load_experiment(experiment.dataset, {}).profiles.get("paper")
    tried = table[table["model"].isin(list(experiment.entries))].groupby("model")["candidates"]
    if profile != "paper" or experiment.in_use != shipped:
        reasons.append(f"profile `{profile}`" + (" of your own" if profile == "paper" else ""))
    elif any(count < len(experiment.configurations_of(m)) for m, count in tried.min().items()):
        reasons.append("not all configurations")
    if str(experiment.latent_dim) != latent_dim:
        reasons.append(f"latent dimension {experiment.latent_dim}")
    return reasons
