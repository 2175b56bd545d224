"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = ["compared_tables"]

from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of, load_experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.reports.frame import ranks
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
COMPARED = ("normal", "gmm")
"""Samplers of tables 2 and 3; between the two stands `gaussian` where it was measured."""
FEWEST_MODELS = 5  # that have an order
PERMUTATIONS = 10_000

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
        rows["row"] += rows["compared"].map({"no": " (not compared)"}).fillna("")
        source = f"{SOURCE}, table 8. {title_of(8)}"
        order = _order_notes(rows)
        found["table8"] = _beside(f"Table 8: {where}", rows, results, reasons, source, order)
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
        sizes = cells[cells["metric"] == "parameters"].set_index("row")["text"]
        rows["# parameters published"] = rows["row"].map(sizes) if here else DASH
        rows["images seen"] = formatted(rows["images"], ",.0f")
        title = f"Table 2: {experiment.dataset}, {length_of(experiment.in_use)}"
        source = f"{SOURCE}, table 2. {title_of(2)}; d = 512, 192, 64; parameters in M"
        reasons = _not_table2(experiment, results)
        found["table2"] = _beside(title, rows, results, reasons, source)
    return found


def _wide(cells: pandas.DataFrame) -> pandas.DataFrame:
    """FID and inception score, printed and as numbers, in one row a model and sampler."""
    keys = ["row", "model", "sampler"]
    fid, score = (cells[cells["metric"] == metric] for metric in ("FID", "IS"))
    found = fid.merge(score[[*keys, "text", "value"]], on=keys, suffixes=("_fid", "_is"))
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

    measured = [name for name in ("gaussian",) if name in set(table["sampler"])]
    samplers = [COMPARED[0], *measured, COMPARED[1]]
    index = pandas.MultiIndex.from_product([samplers, list(variants)], names=["sampler", "row"])
    rows = pandas.DataFrame(index=index).join(best(table, "frechet_test"))
    if printed is not None:
        rows = rows.join(best(printed, "value_fid"))
    return rows.reset_index()


def _beside(
    title: str,
    rows: pandas.DataFrame,
    results: Sequence[ImageResult],
    reasons: Sequence[str],
    source: str,
    notes: Sequence[str] = (),
) -> Table:
    """Measured columns and, where there are some, printed ones.

    Args:
        title: Of the table.
        rows: A row each, with columns of both and those that begin with a small letter or `#`.
        results: The runs.
        reasons: Why the measured are not the published quantity; empty if they are.
        source: Of the printed numbers.
        notes: Further ones.
    """
    scores = [record.result for result in results for record in result.scores.values()]
    names = ["FID measured", "IS measured"]
    if reasons:
        count = ", ".join(f"{n:,} samples" for n in sorted({of.num_samples for of in scores}))
        names = [f"{scores[0].distance_name}, {count}", f"{scores[0].score_name or ''}, {count}"]
    samplers = rows["sampler"].map(lambda name: SAMPLERS[name].label)
    failed = rows["learned"].map({False: " †"}).fillna("")
    sizes = [name for name in ("d", "# parameters", "# parameters published", "images seen")
             if name in rows and (rows[name] != DASH).any()]  # fmt: skip
    cells = {"Model": rows["row"] + failed, "Sampler": samplers, **{n: rows[n] for n in sizes}}
    distance = f"{names[0]} ↓"
    cells[distance] = numbers(rows["frechet_test"], rows["spread"])
    found = {distance: ranks(rows["frechet_test"], samplers, rows["noise"])}
    measured = {"fid": "frechet_test", "is": "score"}
    for metric, arrow in (("fid", "↓"), ("is", "↑")):
        if metric == "is":
            cells[f"{names[1]} ↑"] = numbers(rows["score"], rows["score_spread"])
        if f"text_{metric}" not in rows:
            continue
        heading = f"{metric.upper()} published {arrow}"
        cells[heading] = rows[f"text_{metric}"].fillna(DASH)
        if metric == "fid":
            outside = rows["compared"] == "no" if "compared" in rows else rows["row"].isna()
            found[heading] = ranks(rows["value_fid"].mask(outside), samplers)
        if not reasons:
            difference = rows[measured[metric]] - rows[f"value_{metric}"]
            kept = difference.where(~rows["sampler"].isin(FITTED))
            cells[f"{metric.upper()} difference"] = formatted(kept, "+.1f")
    note = (
        f"No difference is formed, for the measured numbers are not the published quantity: "
        f"{', '.join(reasons)}. Only the order of the models of a sampler can be compared."
        if reasons
        else "Differences are measured minus published; none for 2-stage and MAF, whose fit to the "
        "codes is not the published one."
    )
    return Table(title, pandas.DataFrame(cells), found,
                 [f"Published: {source}.", note, *notes, MARKS])  # fmt: skip


def _order_notes(rows: pandas.DataFrame) -> list[str]:
    """How far the order of the models is the published one, by Spearman's correlation."""
    found = []
    for sampler in COMPARED:
        of = rows[(rows["sampler"] == sampler) & (rows["compared"] == "")]
        order = of[["frechet_test", "value_fid"]].dropna().rank().to_numpy()
        if (count := len(order)) < FEWEST_MODELS:
            continue
        order = (order - order.mean(0)) / order.std(0)
        shuffled = np.tile(order[:, 0], (PERMUTATIONS, 1))
        shuffled = np.random.default_rng(0).permuted(shuffled, axis=1)
        low, high = np.quantile(shuffled @ order[:, 1], [0.025, 0.975], method="nearest")
        found.append(
            f"{SAMPLERS[sampler].label} {order[:, 0] @ order[:, 1] / count:.2f}, random "
            f"{low / count:.2f} to {high / count:.2f} ({count} models)"
        )
    start = "Order of the models, measured against published, as Spearman's correlation, with the"
    return [f"{start} range of 95% of random orders: {'; '.join(found)}."] if found else []


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
    shipped, reasons = load_experiment(experiment.dataset, {}), _of_scores(results)
    tried = table.groupby("model")["candidates"].min()
    known = tried.index.intersection(list(experiment.entries))
    if experiment.profile != "paper":
        reasons.append(f"profile `{experiment.profile}`")
    elif experiment.in_use != shipped.profiles.get("paper"):
        reasons.append("a profile `paper` of your own")
    elif any(tried[m] < len(experiment.configurations_of(m)) for m in known):
        reasons.append("not all configurations")
    if experiment.image_size not in (None, shipped.image_size):
        reasons.append(f"image size {experiment.image_size}")
    if str(experiment.latent_dim) != latent_dim:
        reasons.append(f"latent dimension {experiment.latent_dim}")
    return reasons


def _of_scores(results: Sequence[ImageResult]) -> list[str]:
    """Extractors, numbers of samples and partial data that are not the paper's."""
    reasons = []
    for scores in (record.result for result in results for record in result.scores.values()):
        if scores.extractor not in INCEPTION:
            reasons.append(f"extractor `{scores.extractor}`")
        if scores.num_samples != PUBLISHED_SAMPLES:
            reasons.append(f"{scores.num_samples:,} samples")
    if any(result.evaluation.result.data.partial for result in results):
        reasons.append("partial data")
    return list(dict.fromkeys(reasons))


def _not_table2(experiment: Experiment, results: Sequence[ImageResult]) -> list[str]:
    """Why the measured numbers are another quantity than table 2's: always the programs."""
    reasons = ["DNF and Trumpet are our programs, not their authors'", *_of_scores(results)]
    devices = dict.fromkeys(result.training.provenance.device for result in results)
    reasons += [f"{device} instead of an NVIDIA A40" for device in devices]
    if experiment.dataset != "celeba":
        reasons.append(f"data set {experiment.dataset}")
    if experiment.in_use.wall_clock != 5 * 3600:
        reasons.append(f"{length_of(experiment.in_use)} instead of five hours")
    if experiment.image_size not in (None, 64):
        reasons.append(f"image size {experiment.image_size}")
    return reasons
