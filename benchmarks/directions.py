"""Figure 3 by the paper's text and by its authors' code: which direction is learnt, and why.

    OMP_NUM_THREADS=1 python benchmarks/directions.py --store DIR [--cases text code] [--draw]

The paper's models learn the noise across the sinusoid where beta is small. The text and the
released code differ in the nets and in the data; here both are trained at less width and for fewer
steps; then, at two small betas, one factor of the text's settings is changed, or width and length
are the paper's.

A case is one ensemble and one file in the store; a case that has its file is not trained again.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from machine import publish, with_range
from scipy.stats import fisher_exact, mannwhitneyu, spearmanr

from pythae_fif.ensemble import Ensemble
from pythae_fif.files import write_json
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid
from pythae_fif.runs.provenance import processor
from pythae_fif.studies.output import Drawing
from pythae_fif.studies.sinusoid import (
    BATCH,
    NOISES,
    SINUSOID,
    Size,
    clean_points,
    train,
    transition,
)
from pythae_fif.training import keep_freed_memory

NOISE = NOISES[0]
SEEDS = range(6)
LOW = (0.01, 0.1)
BETAS = (*LOW, 0.5, 1.0, 10.0)
POSITIONS, DRAWS = 500, 40  # held-out places on the curve, and noisy points at each
ACROSS = SINUSOID**2  # of the variance, what a correlation of `SINUSOID` explains
CLEAR = 0.01  # p of a two-sided rank test below which a factor counts as one that moves

TEXT = Size(10_000, 20, 4, 64)
CODE = replace(TEXT, hidden=2, standardised=True)
WIDE = replace(TEXT, width=256)
PAPER = replace(WIDE, points=100_000, epochs=50)


@dataclass(frozen=True)
class Case:
    """One ensemble: its name in tables, its settings, and the noise of its data."""

    label: str
    size: Size
    betas: tuple[float, ...] = LOW
    noise: float = NOISE


CASES = {
    "text": Case("text", TEXT, BETAS),
    "code": Case("code", CODE, BETAS),
    "hidden": Case("two hidden layers", replace(TEXT, hidden=2)),
    "standardised": Case("standardised data", replace(TEXT, standardised=True)),
    "rate": Case("rate 3e-3", replace(TEXT, learning_rate=3e-3)),
    "longer": Case("4 times the steps", replace(TEXT, epochs=80)),
    "points": Case("10 times the points, same steps", replace(TEXT, points=100_000, epochs=2)),
    "width": Case("width 256", WIDE),
    "width_hidden": Case("width 256, two hidden layers", replace(WIDE, hidden=2)),
    "width_standardised": Case("width 256, standardised data", replace(WIDE, standardised=True)),
    "whole": Case("the paper's 39,050 steps", replace(TEXT, points=100_000, epochs=50)),
    "paper": Case("width 256, 39,050 steps", PAPER),
    "code_width": Case("code, width 256", replace(CODE, width=256)),
    "code_longer": Case("code, width 256, 4 times the steps", replace(CODE, width=256, epochs=80)),
    "paper_code": Case(
        "code, width 256, 39,050 steps", replace(PAPER, hidden=2, standardised=True)
    ),
    **{
        f"{name}_noise_{noise:g}": Case(f"{name}, noise {noise:g}", size, BETAS, noise)
        for name, size in (("text", TEXT), ("code", CODE))
        for noise in NOISES[1:]
    },
}  # in the order of their training


@dataclass(frozen=True)
class Found:
    """The numbers of a case's models, in the order beta, seed.

    Attributes:
        across: Share of the code's variance that is there at a fixed position on the curve: the
            noise's. It does not matter which side of the curve is positive, nor whether that
            changes along it.
        along: Absolute rank correlation of the code with the position.
        nll: Exact negative log-likelihood on the manifold, in nats.
        reconstruction: Squared error.
        steps, seconds: Of each training; of the processor, of all together.
        processor: Its name.
    """

    across: list[float]
    along: list[float]
    nll: list[float]
    reconstruction: list[float]
    steps: int
    seconds: float
    processor: str

    def of(self, name: str, betas: Sequence[float], beta: float) -> list[float]:
        """A number of the models of one beta."""
        first = betas.index(beta) * len(SEEDS)
        values: list[float] = getattr(self, name)
        return values[first : first + len(SEEDS)]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--store", type=Path, required=True, help="folder of the measurements")
    p.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--draw", action="store_true", help="trains nothing")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    keep_freed_memory()
    for name in flags.cases:
        file = flags.store / f"{name}.json"
        if not flags.draw and not file.exists():
            write_json(file, asdict(run(CASES[name])))
            print(name, flush=True)
    files = {name: flags.store / f"{name}.json" for name in CASES}
    found = {
        name: Found(**json.loads(file.read_text())) for name, file in files.items() if file.exists()
    }
    draw(found, flags.results)


def run(case: Case) -> Found:
    """Trains a case and measures its models on held-out points."""
    start, size = time.process_time(), case.size
    ensemble = train(case.noise, case.betas, SEEDS, size)
    seconds = time.process_time() - start
    generator = torch.Generator().manual_seed(1)
    clean = clean_points(POSITIONS, generator, size.height).repeat_interleave(DRAWS, 0)
    x = clean + case.noise * torch.randn(clean.shape, generator=generator)
    return Found(
        **measure(ensemble, x, clean[:, 0]),
        steps=size.epochs * (size.points // BATCH),
        seconds=seconds,
        processor=processor(),
    )


def measure(ensemble: Ensemble, x: torch.Tensor, position: torch.Tensor) -> dict[str, Any]:
    """The numbers of :class:`Found` of models at points (N, 2), which are in order of position."""
    codes = ensemble.encode(x)[..., 0]
    inside = codes.unflatten(1, (POSITIONS, DRAWS)).var(2, correction=0).mean(1)
    few = x[::DRAWS]
    return {
        "across": (inside / codes.var(1, correction=0)).tolist(),
        "along": [abs(float(spearmanr(of.numpy(), position.numpy()).statistic)) for of in codes],
        "nll": (-ensemble.log_prob(few).mean(1)).tolist(),
        "reconstruction": ensemble.reconstruction_error(few).mean(1).tolist(),
    }


def shares(found: Found, betas: Sequence[float], beta: float) -> tuple[int, int]:
    """How many of the models of a beta learn the noise, and how many the sinusoid."""
    across, along = (found.of(name, betas, beta) for name in ("across", "along"))
    return sum(v >= ACROSS for v in across), sum(v >= SINUSOID for v in along)


def draw(found: dict[str, Found], results: Path) -> None:
    """The table, and the figure with its caption."""
    if "text" not in found:
        return
    rows = []
    for name, one in found.items():
        case = CASES[name]
        for beta in case.betas:
            counts = (Cell(f"{n} of {len(SEEDS)}", n) for n in shares(one, case.betas, beta))
            numbers = ("across", "along", "nll", "reconstruction")
            cells = [with_range(one.of(number, case.betas, beta), ".2f") for number in numbers]
            steps = Cell(f"{one.steps:,}", one.steps)
            rows.append([Cell(case.label), steps, Cell(f"{beta:g}", beta), *counts, *cells])
    text = found["text"]
    command = "python benchmarks/directions.py --store results/reference/directions --draw"
    notes = [
        f"Noise {NOISE:g} where nothing else is said. Text: {TEXT.points:,} points, "
        f"{TEXT.blocks} residual blocks of one hidden layer of width {TEXT.width} (the "
        f"paper's: 256) in encoder and decoder each, {text.steps:,} steps of batch "
        f"{BATCH} in one cycle up to a rate of {TEXT.learning_rate:g} (the paper's: 39,050). "
        "Code: two hidden layers, standardised data, else the same. Below: "
        "the text's, or where it says so the code's, with these factors changed.",
        f"Across: share of the code's variance at a fixed position on the curve, which is the "
        f"noise's; the noise is learnt from {ACROSS:g} on. Along: rank correlation of the code "
        f"with the position; the sinusoid is learnt from {SINUSOID:g} on, which explains as much "
        f"of the variance. Medians with lowest and highest of {len(SEEDS)} seeds, on "
        f"{POSITIONS * DRAWS:,} held-out points, likelihood and reconstruction on {POSITIONS}.",
        f"Made by `{command}` on {text.processor}.",
    ]
    headings = [
        "Settings", "steps", "beta", "noise", "sinusoid", "across", "along", "NLL, nats", "recon."
    ]  # fmt: skip
    title = "Which direction of a noisy sinusoid is learnt, by text and by code"
    grid = Grid(title, headings, "l" + 8 * "r", rows, notes)
    drawing = Drawing("sinusoid-directions", figure(found), f"Figure 3: {title}", caption(found))
    publish(results, command, grid, drawing)


def figure(found: dict[str, Found]) -> Any:
    """The shares of models against beta, and what each factor does at small betas."""
    picture = new_figure(13, 4)
    axes: Any = picture.subplots(1, 3, width_ratios=[1, 1, 1.6])
    for axis, name in zip(axes, ("text", "code"), strict=False):
        if name not in found:
            continue
        counts = np.array([shares(found[name], BETAS, beta) for beta in BETAS]).T / len(SEEDS)
        places = range(len(BETAS))
        axis.bar(places, counts[1], color="tab:blue", label="the sinusoid")
        axis.bar(places, counts[0], bottom=counts[1], color="tab:orange", label="the noise")
        axis.bar(places, 1 - counts.sum(0), bottom=counts.sum(0), color="0.9", label="neither")
        axis.set_xticks(places, [f"{beta:g}" for beta in BETAS])
        axis.set_title(f"by the {name}", fontsize=10)
        axis.set_xlabel("beta")
    axes[0].set_ylabel("share of the models that learn")
    strip, found = axes[2], of_noise(found)
    for row, (name, one) in enumerate(found.items()):
        for beta, colour in zip(LOW, ("tab:red", "tab:purple"), strict=True):
            values = one.of("across", CASES[name].betas, beta)
            place = row + (0.15 if beta == LOW[1] else -0.15)
            label = f"beta {beta:g}" if row == 0 else None
            strip.plot(values, [place] * len(values), "o", ms=4, color=colour, label=label)
            strip.plot([median(values)], [place], "|", ms=14, color="k")
    strip.axvline(ACROSS, color="0.7", ls=":")
    strip.set_yticks(range(len(found)), [CASES[name].label for name in found])
    strip.invert_yaxis()
    strip.set_xlabel("share of the code's variance that is the noise's")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    picture.legend(*strip.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return picture


def caption(found: dict[str, Found]) -> str:
    """What the numbers say, and what they do not."""
    text = [
        "Left and middle: how many of the models learn the noise, the sinusoid, or neither, as "
        f"defined in the table; {len(SEEDS)} seeds a beta. Right: every model at the two smallest "
        "betas, with medians; in the rows below, factors of the text's or the code's settings are "
        "changed."
    ]
    for name in ("text", "code"):
        if name in found:
            low = [shares(found[name], BETAS, beta) for beta in LOW]
            high = shares(found[name], BETAS, BETAS[-1])
            neither = [
                across
                for beta in LOW
                for across, along in zip(
                    *(found[name].of(number, BETAS, beta) for number in ("across", "along")),
                    strict=True,
                )
                if across < ACROSS and along < SINUSOID
            ]
            text.append(
                f"By the {name} {low[0][0]} of {len(SEEDS)} learn the noise at beta {LOW[0]:g} and "
                f"{low[1][0]} at {LOW[1]:g}, {low[0][1]} and {low[1][1]} the sinusoid; at "
                f"{BETAS[-1]:g} {high[1]} do. Of the {len(neither)} of small beta that learn "
                f"neither, the codes of {sum(across < 0.5 for across in neither)} vary more with "
                "the position than with the noise, but not in its order."
            )
    text += transitions(found)
    found = of_noise(found)
    base, moved, still = at_low("text", found), [], []
    for name in found:
        if name == "text":
            continue
        values = at_low(name, found)
        p = float(mannwhitneyu(values, base).pvalue)
        line = f"{CASES[name].label} {median(values):.2f} (p = {p:.2g})"
        (moved if p < CLEAR else still).append(line)
    text.append(
        f"The share of the noise in the code's variance, of a seed the mean over both betas, has a "
        f"median of {median(base):.2f} by the text. By a two-sided rank test of {len(base)} seeds "
        f"each it is clearly another (p < {CLEAR:g}) with: {'; '.join(moved) or 'none'}. Not shown "
        f"to differ: {'; '.join(still) or 'none'}."
    )
    counts, models = {}, len(LOW) * len(SEEDS)
    for name in found:
        learnt = [
            [value >= ACROSS for value in found[name].of("across", CASES[name].betas, beta)]
            for beta in LOW
        ]
        seeds = sum(any(of_seed) for of_seed in zip(*learnt, strict=True))
        counts[name] = sum(map(sum, learnt)), seeds
    table = [[counts["text"][1], len(SEEDS) - counts["text"][1]]]
    text.append(
        f"Of the {models} models of small beta, and of the {len(SEEDS)} seeds at one of the two "
        "betas, the noise is learnt by: "
        + "; ".join(
            f"{CASES[name].label} {n} and {seeds}"
            + (
                ""
                if name == "text"
                else f" (p = {fisher_exact([*table, [seeds, len(SEEDS) - seeds]]).pvalue:.2g})"
            )
            for name, (n, seeds) in counts.items()
        )
        + ". The p is that of Fisher's exact test of seeds against the text's: the two models of a "
        "seed share first weights and draws."
    )
    missing = [case.label for name, case in of_noise(CASES).items() if name not in found]
    text += [f"Not trained: {', '.join(missing)}."] if missing else []
    return " ".join(text)


def of_noise(cases: dict[str, Any], noise: float = NOISE) -> dict[str, Any]:
    """What is there of the cases whose data have this noise."""
    return {name: value for name, value in cases.items() if CASES[name].noise == noise}


def transitions(found: dict[str, Found]) -> list[str]:
    """Figure 7: from which beta on half of the models learn the sinusoid, by text and by code."""
    lines = []
    for size, label in ((TEXT, "text"), (CODE, "code")):
        points = {
            CASES[name].noise: transition(
                {beta: shares(one, BETAS, beta)[1] / len(SEEDS) for beta in BETAS}
            )
            for name, one in found.items()
            if CASES[name].size == size
        }
        listed = ", ".join(
            f"{'no beta' if math.isnan(beta) else f'beta {beta:.2g}'} at noise {noise:g}"
            for noise, beta in points.items()
        )
        if points:
            lines.append(f"By the {label} half of the models learn the sinusoid from {listed}.")
    return lines


def at_low(name: str, found: dict[str, Found]) -> list[float]:
    """The noise's share of the code's variance, of each seed the mean over the small betas."""
    betas = [found[name].of("across", CASES[name].betas, beta) for beta in LOW]
    return [fmean(of_seed) for of_seed in zip(*betas, strict=True)]


if __name__ == "__main__":
    main()
