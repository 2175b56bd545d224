"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = ["compared_tables"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of, load_experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.reports.frame import ranks
from pythae_fif.reports.published import SOURCE, published, title_of
from pythae_fif.reports.tables import DASH, Table, numbers
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

INCEPTION = ("inception", "tf-inception")
PUBLISHED_SAMPLES = 10_000
COMPARED = ("normal", "gmm")
"""Samplers of tables 2 and 3; between the two stands `gaussian` where it was measured."""
FEWEST_MODELS = 5  # that have an order
PERMUTATIONS = 10_000

MARKS = (
    "Bold is the lowest distance of a column, for a sampler, underlined the second; `=` marks "
    "measured ones that are level, as in the table of scores."
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
    found = {}
    cells = published(8)
    here = (cells["dataset"] == experiment.dataset) & (cells["arch"] == experiment.arch)
    if here.any():
        cells = _wide(cells[here])
        beside = _Beside.of(results, _not_table8(experiment, results, table, cells))
        found["table8"] = _table8(experiment, beside, table, cells)
        found["table3"] = _table3(experiment, beside, table, cells)
    if set(table["model"]) & {"dnf", "trumpet"}:
        found["table2"] = _table2(experiment, results, table)
    return found


def _wide(cells: pandas.DataFrame) -> pandas.DataFrame:
    """FID and inception score, printed and as numbers, in one row a model and sampler."""
    of = {metric: cells[cells["metric"] == metric] for metric in ("FID", "IS")}
    scores = of["IS"][["row", "model", "sampler", "text", "value"]]
    return of["FID"].merge(scores, on=["row", "model", "sampler"], suffixes=("_fid", "_is"))


@dataclass(frozen=True)
class _Beside:
    """How measured numbers stand beside published ones.

    Attributes:
        distance, score: What the measured ones are called.
        reasons: Why they are not the published quantity; empty if they are.
    """

    distance: str
    score: str
    reasons: Sequence[str]

    @classmethod
    def of(cls, results: Sequence[ImageResult], reasons: Sequence[str]) -> "_Beside":
        if not reasons:
            return cls("FID measured", "IS measured", reasons)
        scores = [record.result for result in results for record in result.scores.values()]
        counts = sorted({of.num_samples for of in scores})
        count = ", ".join(f"{samples:,} samples" for samples in counts)
        name = scores[0].score_name
        score = f"{name}, {count}" if name else "score"
        return cls(f"{scores[0].distance_name}, {count}", score, reasons)

    def columns(
        self, rows: pandas.DataFrame, groups: "pandas.Series[str]", prefix: str = ""
    ) -> tuple[dict[str, list[str]], dict[str, "pandas.Series[int]"]]:
        """Columns of rows that have measured and, if the paper has them, printed numbers.

        Args:
            rows: With columns of both, NaN where there are none.
            groups: What each row is ranked in.
            prefix: Of the headings.

        Returns:
            The cells and the ranks, by headings.
        """
        distance, score = f"{prefix}{self.distance} ↓", f"{prefix}{self.score} ↑"
        cells = {distance: numbers(rows["frechet_test"], rows["spread"])}
        found = {distance: ranks(rows["frechet_test"], groups, rows["noise"])}
        if "value_fid" in rows:
            cells |= self._published(rows, "fid", f"{prefix}FID", "↓", "frechet_test")
            fid = rows["value_fid"].where(rows["compared"] != "no")
            found[f"{prefix}FID published ↓"] = ranks(fid, groups)
        cells[score] = numbers(rows["score"], rows["score_spread"])
        if "value_is" in rows:
            cells |= self._published(rows, "is", f"{prefix}IS", "↑", "score")
        return cells, found

    def _published(
        self, rows: pandas.DataFrame, metric: str, name: str, arrow: str, measured: str
    ) -> dict[str, list[str]]:
        found = {f"{name} published {arrow}": rows[f"text_{metric}"].fillna(DASH).tolist()}
        if not self.reasons:
            differences = rows[measured] - rows[f"value_{metric}"]
            known = ~rows["sampler"].isin(FITTED) & differences.notna()
            texts = differences.map("{:+.1f}".format)
            found[f"{name} difference"] = texts.where(known, DASH).tolist()
        return found

    @property
    def note(self) -> str:
        """What a reader may compare."""
        if self.reasons:
            return (
                "No difference is formed, for the measured numbers are not the published quantity: "
                f"{', '.join(self.reasons)}. Only the order of the models within a column can be "
                "compared."
            )
        return (
            "Differences are measured minus published; none for 2-stage and MAF, whose fit to the "
            "codes is not the published one."
        )


def _table8(
    experiment: Experiment, beside: _Beside, table: pandas.DataFrame, cells: pandas.DataFrame
) -> Table:
    """A row for every row of table 8, then one for every other model and sampler measured."""
    keys = ["model", "sampler"]
    rows = cells.merge(table, on=keys, how="left")
    others = table[~table.set_index(keys).index.isin(cells.set_index(keys).index)]
    rows = pandas.concat([rows, others], ignore_index=True)
    outside = rows["compared"].map({"no": " (not compared)"}).fillna("")
    failed = rows["learned"].map({False: " †"}).fillna("")
    labels = rows["sampler"].map(lambda name: SAMPLERS[name].label)
    columns, found = beside.columns(rows, labels)
    model = rows["row"].fillna(rows["label"]) + outside + failed
    notes = [
        f"Published: {SOURCE}, table 8. {title_of(8)}. {PUBLISHED_SAMPLES:,} samples, Inception "
        "features.",
        beside.note,
        *_order_notes(rows),
        MARKS,
    ]
    title = f"Table 8: {experiment.dataset}, {experiment.arch}"
    shown = pandas.DataFrame({"Model": model, "Sampler": labels, **columns})
    return Table(title, shown, found, notes)


def _order_notes(rows: pandas.DataFrame) -> list[str]:
    """How far the order of the models is the published one, by Spearman's correlation."""
    found = []
    for sampler in COMPARED:
        of = rows[(rows["sampler"] == sampler) & (rows["compared"] == "")]
        order = of[["frechet_test", "value_fid"]].dropna().rank().to_numpy()
        if len(order) < FEWEST_MODELS:
            continue
        order = (order - order.mean(0)) / order.std(0)
        shuffled = np.tile(order[:, 0], (PERMUTATIONS, 1))
        shuffled = np.random.default_rng(0).permuted(shuffled, axis=1)
        low, high = np.quantile(shuffled @ order[:, 1], [0.025, 0.975], method="nearest")
        count = len(order)
        found.append(
            f"{SAMPLERS[sampler].label} {order[:, 0] @ order[:, 1] / count:.2f}, random "
            f"{low / count:.2f} to {high / count:.2f} ({count} models)"
        )
    if not found:
        return []
    return [
        "Order of the models, measured against published, as Spearman's correlation, with the "
        f"range of 95% of random orders: {'; '.join(found)}."
    ]


def _of_samplers(
    beside: _Beside,
    table: pandas.DataFrame,
    cells: pandas.DataFrame | None,
    variants: dict[str, list[str]],
) -> tuple[pandas.DataFrame, dict[str, "pandas.Series[int]"]]:
    """Rows of table 2 or 3: with each sampler the variant of lowest distance.

    Args:
        beside: Names.
        table: Of :func:`~pythae_fif.reports.frame.chosen_frame`.
        cells: Published; None for none.
        variants: Row -> models.
    """
    row_of = {model: row for row, models in variants.items() for model in models}
    all_columns: dict[str, list[str]] = {"Model": list(variants)}
    found: dict[str, pandas.Series[int]] = {}
    learned = pandas.Series(True, index=list(variants))
    for sampler in ("normal", "gaussian", "gmm"):
        of_sampler = table[table["sampler"] == sampler]
        if of_sampler.empty and sampler not in COMPARED:
            continue
        rows = _best_of(of_sampler, "frechet_test", row_of).reindex(list(variants))
        learned &= rows["learned"].map({False: False}).fillna(True).astype(bool)
        if cells is not None and sampler in COMPARED:
            printed = _best_of(cells[cells["sampler"] == sampler], "value_fid", row_of)
            rows = rows.join(printed[["value_fid", "text_fid", "value_is", "text_is"]])
            rows["compared"] = ""
        rows = rows.assign(sampler=sampler).reset_index()
        one = pandas.Series("all", index=rows.index)
        columns, of_columns = beside.columns(rows, one, f"{SAMPLERS[sampler].label}: ")
        all_columns |= columns
        found |= of_columns
    marks = learned.map({True: "", False: " †"}).tolist()
    all_columns["Model"] = [name + mark for name, mark in zip(variants, marks, strict=True)]
    return pandas.DataFrame(all_columns), found


def _best_of(rows: pandas.DataFrame, by: str, row_of: dict[str, str]) -> pandas.DataFrame:
    """The row of lowest value of each group of models, by the groups' names."""
    named = rows.assign(shown=rows["model"].map(row_of)).dropna(subset=["shown"])
    return named.sort_values(by).drop_duplicates("shown").set_index("shown")


def _table3(
    experiment: Experiment, beside: _Beside, table: pandas.DataFrame, cells: pandas.DataFrame
) -> Table:
    """Models of several variants merged to their best, two samplers.

    Its published columns are table 8's, merged in the same way; the paper prints it for CelebA.
    """
    variants = {row: models.split() for row, models in TABLE_3.items()}
    shown, found = _of_samplers(beside, table, cells, variants)
    note = (
        f"Published: {SOURCE}, table {3 if experiment.dataset == 'celeba' else 8}. Of the variants "
        "in brackets the one of lowest test distance is shown, as in the paper, with its score; "
        "VAMP, VAEGAN and disentangled β-VAE are in table 8 alone."
    )
    title = f"Table 3: {experiment.dataset}, {experiment.arch}"
    return Table(title, shown, found, [note, beside.note, MARKS])


def _table2(
    experiment: Experiment, results: Sequence[ImageResult], table: pandas.DataFrame
) -> Table:
    """Injective flows under one wall clock, with their sizes; printed numbers for CelebA alone."""
    reasons = _not_table2(experiment, results)
    beside, cells = _Beside.of(results, reasons), published(2)
    here = experiment.dataset == "celeba"
    variants = {row: [model] for row, model in zip(cells["row"], cells["model"], strict=True)}
    shown, found = _of_samplers(beside, table, _wide(cells) if here else None, variants)
    sizes = table.drop_duplicates("model").set_index("model")
    sizes = sizes.reindex([model for (model,) in variants.values()])
    shown.insert(1, "d", [_whole(value) for value in sizes["latent_dim"]])
    millions = sizes["parameters"] / 1e6
    shown.insert(2, "# parameters", [f"{m:.2f}M" if m == m else DASH for m in millions])
    if here:
        printed = cells.loc[cells["metric"] == "parameters", "text"]
        shown.insert(3, "# parameters published", [f"{text}M" for text in printed])
    shown.insert(3 + here, "images seen", [_whole(value) for value in sizes["images"]])
    notes = [
        f"Published: {SOURCE}, table 2. {title_of(2)}; latent dimensions 512, 192 and 64.",
        beside.note,
        MARKS,
    ]
    title = f"Table 2: {experiment.dataset}, {length_of(experiment.in_use)}"
    return Table(title, shown, found, notes)


def _whole(value: float) -> str:
    return DASH if pandas.isna(value) else f"{value:,.0f}"


def _not_table8(
    experiment: Experiment,
    results: Sequence[ImageResult],
    table: pandas.DataFrame,
    cells: pandas.DataFrame,
) -> list[str]:
    """Why the measured numbers are another quantity than table 8's; empty if they are the same.

    The same needs Inception features, 10,000 samples, the data set's own profile `paper` and all
    its configurations, the whole data set, its image size and the published latent dimension.
    """
    shipped, reasons = load_experiment(experiment.dataset, {}), _of_scores(results)
    if experiment.profile != "paper":
        reasons.append(f"profile `{experiment.profile}`")
    elif experiment.in_use != shipped.profiles.get("paper"):
        reasons.append("a profile `paper` of your own")
    else:
        tried = table.groupby("model")["candidates"].min()
        known = tried.index.intersection(list(experiment.entries))
        if any(tried[m] < len(experiment.configurations_of(m)) for m in known):
            reasons.append("not all configurations")
    if experiment.image_size not in (None, shipped.image_size):
        reasons.append(f"image size {experiment.image_size}")
    if str(experiment.latent_dim) != cells["latent_dim"].iloc[0]:
        reasons.append(f"latent dimension {experiment.latent_dim}")
    return reasons


def _of_scores(results: Sequence[ImageResult]) -> list[str]:
    """Extractors, numbers of samples and partial data that are not the paper's."""
    reasons = []
    for result in results:
        for record in result.scores.values():
            scores = record.result
            if scores.extractor not in INCEPTION:
                reasons.append(f"extractor `{scores.extractor}`")
            if scores.num_samples != PUBLISHED_SAMPLES:
                reasons.append(f"{scores.num_samples:,} samples")
        if result.evaluation.result.data.partial:
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
