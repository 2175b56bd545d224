"""What likelihood training of the autoencoder is worth: results/reference/likelihood.md.

python benchmarks/likelihood.py csv power FILE.csv       the rows of a study's table, for --data
python benchmarks/likelihood.py draw STORE OUT           a store's runs added to tables and figure
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator
from scipy.stats import ttest_ind_from_stats

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data.tables import load_tabular
from pythae_fif.names import SAMPLERS
from pythae_fif.pictures import figure_bytes, new_figure
from pythae_fif.reports.tables import Table, number
from pythae_fif.runs.store import Store

RIVALS = {"ae": "AE", "rae_l2": "RAE-L2", "wae_imq": "WAE-IMQ"}
PRIORS = ["normal", "gaussian", "gmm", "flow"]
MEASURES = {"tube": "likelihood, nats ↑", "distance": "distance ↓"}
EQUAL_TIME = ", equal time"


def write_csv(name: str, path: Path) -> None:
    """Training, validation and test rows of a table, as they are standardised and noised there."""
    splits = load_tabular(name)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    pd.DataFrame(rows, columns=[f"c{i}" for i in range(rows.shape[1])]).to_csv(path, index=False)


def read(store: Store) -> pd.DataFrame:
    """A row a run and prior."""
    rows = []
    for spec in store.specs(ImageSpec):
        result = ImageResult.read(store, spec)
        for sampler, record in result.scores.items() if result else ():
            scores, evaluation = record.result, result.evaluation.result
            data = spec.dataset if spec.dataset != "csv" else evaluation.data.source.split(",")[0]
            if scores.tube is None:
                continue
            rows.append({
                "data": data,
                "run": spec.run_id, "revision": result.training.provenance.git_revision,
                "epochs": spec.settings.epochs, "model": spec.model, "seed": spec.seed,
                "configuration": spec.configuration, "beta": str(spec.parameters.get("beta", "")),
                "prior": sampler, "asked": 1 / (2 * scores.tube["val"].scale ** 2),
                "mse": evaluation.reconstruction_mse["test"],
                "seconds": result.training.result.train_seconds,
                **{f"tube_{of}": scores.tube[of].nats for of in ("val", "test")},
                **{f"distance_{of}": scores.frechet[of] for of in ("val", "test")},
            })  # fmt: skip
    return pd.DataFrame(rows)


def chosen(rows: pd.DataFrame, measure: str) -> pd.Series:
    """The configuration and prior of the best validation mean over seeds, with its test values."""
    groups = rows.groupby(["model", "configuration", "prior"])
    means = groups[[f"{measure}_val", f"{measure}_test"]].mean()
    means = means[groups.size() == groups.size().max()]  # of the most finished seeds
    found = means[f"{measure}_val"]
    best = means.loc[found.idxmax() if measure == "tube" else found.idxmin()]
    test = groups.get_group(best.name)[f"{measure}_test"]
    return pd.Series({
        "model": best.name[0], "configuration": best.name[1], "prior": best.name[2],
        "mean": test.mean(), "std": test.std(), "seeds": len(test),
    })  # fmt: skip


def shown(rows: pd.DataFrame) -> Table:
    """A row a beta of FIF and a rival, whose configuration is chosen for each cell, by prior;
    the beta of its validation error is what 'auto' would take next."""
    lines, data = [], rows["data"].iloc[0]
    fif = rows[rows["model"] == "fif"]
    betas = sorted(fif["beta"].unique(), key=lambda of: math.inf if of == "auto" else float(of))
    kinds = [(f"FIF, beta {beta}", fif[fif["beta"] == beta]) for beta in betas]
    others = {"fif_rising": "FIF, beta from 10 up", "fif_falling": "FIF, beta down to 10", **RIVALS}
    kinds += [(label, rows[rows["model"] == name]) for name, label in others.items()]
    for label, part in (kind for kind in kinds if len(kind[1])):
        cells = {"Model": label, "recon. MSE ↓": f"{part['mse'].mean():.4f}"}
        cells["beta that it asks for"] = f"{part['asked'].mean():.3g}"
        for measure, heading in MEASURES.items():
            for prior in PRIORS:
                column, of_prior = f"{SAMPLERS[prior].label}: {heading}", part["prior"] == prior
                cells[column] = "–"
                if of_prior.any():
                    best = chosen(part[of_prior], measure)
                    cells[column] = number(best["mean"], best["std"])
        lines.append(cells)
    return Table(data, pd.DataFrame(lines))


def verdicts(frame: pd.DataFrame) -> Table:
    """FIF against the best rival, by the criterion of the page."""
    lines = []
    for data, rows in frame.groupby("data", sort=False):
        for measure, heading in MEASURES.items():
            fif = chosen(rows[rows["model"] == "fif"], measure)
            rival = chosen(rows[rows["model"].isin(RIVALS)], measure)
            gain = (fif["mean"] - rival["mean"]) * (1 if measure == "tube" else -1)
            noise = np.hypot(*(of["std"] / np.sqrt(of["seeds"]) for of in (fif, rival)))
            both = [of[["mean", "std", "seeds"]].astype(float) for of in (fif, rival)]
            p = ttest_ind_from_stats(*both[0], *both[1], equal_var=False).pvalue
            verdict = "level" if abs(gain) <= 2 * noise else "yes" if gain > 0 else "no"
            alone = math.isnan(noise)
            names = [
                f"{ {'fif': 'FIF', **RIVALS}[of['model']] } ({of['configuration']}), "
                f"{SAMPLERS[of['prior']].label}"
                for of in (fif, rival)
            ]
            lines.append({
                "Data": data, "measure": heading, "FIF": number(fif["mean"], fif["std"]),
                "chosen": names[0], "best rival": number(rival["mean"], rival["std"]),
                "which": names[1], "gain": f"{gain:.2f}",
                "noise": "–" if alone else f"{noise:.2f}",
                "verdict": "one seed" if alone else verdict,
                "p (Welch)": "–" if alone else f"{p:.2g}",
            })  # fmt: skip
    return Table("FIF against the best rival", pd.DataFrame(lines))


def figure(frame: pd.DataFrame) -> bytes:
    """Sample distance against likelihood: FIF's curve over beta, the rivals as points."""
    frame = frame[~frame["data"].str.endswith(EQUAL_TIME)]
    groups = list(frame.groupby("data", sort=False))
    height = -(-len(groups) // 2)
    drawn = new_figure(9, 3.5 * height)
    axes: Any = drawn.subplots(height, 2).flat
    marks = dict(zip(RIVALS, "sD^", strict=True))
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, (data, rows) in zip(axes[: len(groups)], groups, strict=True):
        for colour, prior in enumerate(PRIORS):
            of = rows[rows["prior"] == prior]
            means = of.groupby(["model", "configuration", "beta"], dropna=False)
            means = means[["tube_test", "distance_test", "distance_val"]].mean().reset_index()
            fif = means[means["model"] == "fif"]
            curve = fif[fif["beta"] != "auto"].sort_values(
                "beta", key=lambda beta: beta.astype(float)
            )
            style = {"color": f"C{colour}", "label": SAMPLERS[prior].label}
            axis.plot(curve["tube_test"], curve["distance_test"], "o-", markersize=4, **style)
            auto = fif[fif["beta"] == "auto"]
            axis.plot(
                auto["tube_test"], auto["distance_test"], "*", markersize=11, color=f"C{colour}"
            )
            if prior == "normal" and len(curve):
                for _, row in curve.iloc[[0, -1]].iterrows():
                    at = row["tube_test"], row["distance_test"]
                    axis.annotate(
                        f"β {row['beta']}", at, (4, 4), textcoords="offset points", size=8
                    )
            best = means.sort_values("distance_val").drop_duplicates("model").set_index("model")
            for name, mark in ((of, mark) for of, mark in marks.items() if of in best.index):
                point = best.loc[name, ["tube_test", "distance_test"]]
                axis.plot(*point, mark, markersize=6, markerfacecolor="none", color=f"C{colour}")
        shown = rows[(rows["model"] == "fif") | (rows["prior"] != "normal")]
        left, right = shown["tube_test"].agg(["min", "max"])
        room = 0.06 * (right - left)
        axis.set_xlim(left - room, right + room)  # an AE's prior alone is far off
        axis.set_ylim(shown["distance_test"].min() / 1.2, shown["distance_test"].max() * 1.2)
        axis.set(yscale="log", title=data, xlabel="likelihood in the tube, nats ↑")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_ylabel("distance of samples to test data ↓")
    lines, labels = axes[0].get_legend_handles_labels()
    for name, mark in {
        "FIF, auto": "*",
        **{RIVALS[of]: mark for of, mark in marks.items()},
    }.items():
        lines += axes[0].plot([], [], mark, color="grey", markerfacecolor="none")
        labels.append(name)
    drawn.legend(lines, labels, loc="outside upper center", ncols=8, fontsize=8)
    return figure_bytes(drawn)


def draw(root: Path, out: Path) -> None:
    """Adds a store's runs to all numbers, and draws the tables and the figure again."""
    numbers = out / "tables/likelihood.csv"
    known = pd.read_csv(numbers, dtype={"beta": str}).fillna({"beta": ""})
    known["data"] = known["data"].str.removesuffix(EQUAL_TIME)
    frame = pd.concat([known, read(Store(root))]).drop_duplicates(["run", "prior"])
    of_fif = frame[frame["model"] == "fif"]
    longer = frame["epochs"] > frame["data"].map(of_fif.groupby("data")["epochs"].max())
    equal_time = frame[longer], of_fif[of_fif["data"].isin(frame.loc[longer, "data"])]
    again = pd.concat(equal_time).assign(data=lambda rows: rows["data"] + EQUAL_TIME)
    frame = pd.concat([frame[~longer], again])
    frame = frame.groupby("data").filter(lambda rows: {"fif"} < set(rows["model"]))
    tables = [verdicts(frame), *(shown(rows) for _, rows in frame.groupby("data", sort=False))]
    text = "\n".join(table.to_markdown() for table in tables)
    (out / "tables/likelihood.md").write_text(text, "utf-8")
    frame.to_csv(numbers, index=False, float_format="%.6g")
    (out / "figures/likelihood.png").write_bytes(figure(frame))


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "csv":
        write_csv(words[0], Path(words[1]))
    else:
        draw(Path(words[0]), Path(words[1]))
