"""Do fully connected blocks beside the code make codes more Gaussian, and for which models?

    python run_benchmark.py --dataset mnist --arch resnet --profile medium --precision bfloat16 \\
        --samplers normal gaussian gmm --models fif ae vae wae_imq rae_l2 --seeds 0 1
    ... and the same with --arch resnet_fc2 and --arch resnet_fc4
    python benchmarks/latent_blocks.py [--results results]

The paper's conjecture: networks with fully connected layers in latent space have more Gaussian
codes. 0, 2 and 4 residual blocks of table 11 stand behind the encoder and before the decoder, the
rest is equal. The script reads the runs' records and trains nothing: samples from the prior, from
one Gaussian and from a mixture fitted to the codes, and the divergence of the codes' Gaussian from
the prior with the part of it that is correlation. What one Gaussian leaves of the distance to the
mixture is what is not Gaussian in the codes.
"""

import argparse
import itertools
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import publish
from matplotlib.ticker import LogFormatter

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.leaderboard import leaderboard
from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.benchmark.selection import Result, select
from pythae_fif.errors import FIFError
from pythae_fif.evaluation import CodeScores
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid, number, spread
from pythae_fif.runs.store import Store
from pythae_fif.sampling import SAMPLERS
from pythae_fif.studies.output import Drawing

MODELS = ("fif", "ae", "vae", "wae_imq", "rae_l2")
SHOWN_SAMPLERS = ("normal", "gaussian", "gmm")
BLOCKS = {0: "", 2: "_fc2", 4: "_fc4"}
Found = dict[tuple[str, int], list[Result]]
"""Model and number of blocks a side -> its runs, one a seed."""

NUMBERS = (
    *(SAMPLERS[name].label for name in SHOWN_SAMPLERS),
    "KL, nats",
    "correlation, nats",
    "MSE",
)
SHOWN = NUMBERS[:4]  # in the figure


def numbers(result: Result) -> dict[str, float]:
    record = result.record
    distances = [record.scores[name].frechet["test"] for name in SHOWN_SAMPLERS]
    codes = record.codes or CodeScores(math.nan, math.nan)
    found = (*distances, codes.divergence, codes.total_correlation)
    return dict(zip(NUMBERS, (*found, record.reconstruction_mse["test"]), strict=True))


def experiment_of(flags: argparse.Namespace, blocks: int) -> Experiment:
    given = {"profile": flags.profile, "precision": flags.precision, "models": list(MODELS)}
    return load_experiment("mnist", None, {**given, "arch": "resnet" + BLOCKS[blocks]})


def read(flags: argparse.Namespace) -> Found:
    """Of each model the configuration that is chosen for the prior."""
    store = Store(flags.results, IMAGES)
    hashes = dict.fromkeys(spec.data_hash for spec in store.specs("mnist/resnet/fif/"))
    found: Found = {}
    for blocks, data_hash in itertools.product(BLOCKS, hashes):
        results = leaderboard(store, experiment_of(flags, blocks), data_hash)
        scored = [result for result in results if set(SHOWN_SAMPLERS) <= set(result.spec.samplers)]
        for choice in select(scored):
            if choice.model in MODELS and choice.sampler == "normal":
                found[choice.model, blocks] = choice.results
    if not found:
        raise FIFError(f"{flags.results} has no runs of these models, profile and precision")
    return found


def values(found: Found, model: str, blocks: int, name: str) -> list[float]:
    return [numbers(result)[name] for result in found.get((model, blocks), [])]


def table(found: Found, flags: argparse.Namespace) -> Grid:
    rows: list[list[Cell]] = []
    groups = []
    for model, blocks in sorted(found, key=lambda key: (MODELS.index(key[0]), key[1])):
        results = found[model, blocks]
        if rows and rows[-1][0].text != read_model_entry(model).label:
            groups.append(len(rows))
        cells = {name: values(found, model, blocks, name) for name in NUMBERS}
        error = cells.pop("MSE")
        rows.append(
            [
                Cell(read_model_entry(model).label),
                Cell(str(blocks)),
                Cell(str(len(results))),
                *map(spread, cells.values()),
                Cell(f"{fmean(error):.4f}", fmean(error)),
                number(fmean(cells["Gaussian"]) / fmean(cells["N"])),
                Cell(f"{results[0].record.parameters:,}"),
            ]
        )
    first, profile = next(iter(found.values()))[0].record, experiment_of(flags, 0).settings
    scores = first.scores["normal"]
    notes = [
        f"{scores.distance_name} of {scores.num_samples:,} samples to test images, from the prior "
        "(N), from one Gaussian and from a mixture of ten fitted to the codes; KL is the "
        "divergence of the Gaussian of the training codes' moments from the prior, and correlation "
        "the part of it that their marginals leave. Mean ± standard deviation over seeds.",
        f"One configuration a model. Data: {first.data.source}. "
        f"{profile.note.capitalize()}; {profile.precision} in training.",
        f"Made by `{command(flags)}`.",
    ]
    headings = ["Model", "blocks", "seeds", *(f"{name} ↓" for name in NUMBERS)]
    headings += ["Gaussian / N", "parameters"]
    title = "MNIST, ResNet: fully connected blocks beside the code"
    return Grid(title, headings, "l" + (len(headings) - 1) * "r", rows, notes, frozenset(groups))


def figure(found: Found) -> Any:
    """Each number against the number of blocks, a line a model, with every seed."""
    picture = new_figure(3 * len(SHOWN), 3.2)
    axes: Any = picture.subplots(1, len(SHOWN))
    for axis, name in zip(axes, SHOWN, strict=True):
        for model in MODELS:
            known = [blocks for blocks in BLOCKS if (model, blocks) in found]
            of = {blocks: values(found, model, blocks, name) for blocks in known}
            label = read_model_entry(model).label
            (line,) = axis.plot(known, [fmean(of[b]) for b in known], marker="o", label=label)
            for blocks in known:
                points = [blocks] * len(of[blocks])
                axis.plot(points, of[blocks], ".", ms=4, color=line.get_color())
        axis.set(yscale="log", xlabel="blocks a side", title=name)
        axis.set_xticks(list(BLOCKS))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    axes[0].set_ylabel("distance to test images, or nats")
    axes[-1].legend(fontsize="small", loc="upper right", bbox_to_anchor=(1, 0.93))
    return picture


def caption(found: Found) -> str:
    changes = []
    for model in MODELS:
        if {(model, 0), (model, max(BLOCKS))} <= found.keys():
            pairs = [
                f"{name} {fmean(values(found, model, 0, name)):.2f} to "
                f"{fmean(values(found, model, max(BLOCKS), name)):.2f}"
                for name in SHOWN
            ]
            changes.append(f"{read_model_entry(model).label} {', '.join(pairs)}")
    return (
        "Distance of samples to test images, and divergence of the codes' Gaussian from the prior, "
        "against the number of fully connected residual blocks behind the encoder and before the "
        "decoder; means, and a dot a seed; models without blocks may have more seeds. From no "
        "to four blocks: " + "; ".join(changes) + "."
    )


def command(flags: argparse.Namespace) -> str:
    return (
        f"python benchmarks/latent_blocks.py --profile {flags.profile} --precision "
        f"{flags.precision}"
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--profile", default="medium")
    p.add_argument("--precision", default="bfloat16")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    found = read(flags)
    grid = table(found, flags)
    drawing = Drawing("latent-blocks-mnist", figure(found), grid.title, caption(found))
    publish(flags.results, command(flags), grid, drawing)


if __name__ == "__main__":
    main()
