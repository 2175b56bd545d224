"""Do the codes of a WAE stay within the reach of its kernel?

    PYTHAE_FIF_DATA=... OMP_NUM_THREADS=1 python benchmarks/mmd_kernel.py [--results results]

WAE pulls its codes to the prior by the maximum mean discrepancy. Pythae's RBF kernel of two codes,
exp(-|z - z'|^2 / (2 d bandwidth^2)), and its gradient vanish where codes are far from all samples
of the prior. Hypothesis: at weight 10 and bandwidth 1, the first configuration of our grid,
reconstruction drives the codes out of that reach in the first steps, and nothing brings them back;
with a larger weight or a wider kernel they stay. What would refute it: codes that come back, or
that leave with the larger weight, too. The IMQ kernel, whose gradient falls by a power of the
distance, is beside it.

The first steps of the table of MNIST are made again: Pythae's ResNet, batch 100, Adam, the
published rate, in float32.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from machine import publish
from pythae.data.datasets import DatasetOutput
from pythae.models import WAE_MMD, WAE_MMD_Config

from pythae_fif.data import load_images, to_float
from pythae_fif.nn import build_networks
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid, spread
from pythae_fif.runs.provenance import processor
from pythae_fif.studies.output import Drawing

D, STEPS, SEEDS = 16, 400, 3


class Choice(NamedTuple):
    """A configuration of WAE."""

    kernel: str
    weight: int
    bandwidth: int

    @property
    def name(self) -> str:
        return f"{self.kernel} kernel, weight {self.weight}, bandwidth {self.bandwidth}"


CONFIGURATIONS = (
    Choice("rbf", 10, 1), Choice("rbf", 100, 1), Choice("rbf", 10, 2), Choice("rbf", 10, 5),
    Choice("imq", 10, 1),
)  # fmt: skip
COMMAND = "python benchmarks/mmd_kernel.py"


@dataclass(frozen=True)
class Course:
    """One training.

    Attributes:
        square: Mean |z|^2 / d of the batch in every step.
        reach: Mean kernel between codes and prior in the last step, as a fraction of that between
            samples of the prior.
    """

    square: list[float]
    reach: float


def train(data: torch.Tensor, choice: Choice, seed: int) -> Course:
    torch.manual_seed(seed)
    config = WAE_MMD_Config(
        input_dim=(1, 28, 28), latent_dim=D, kernel_choice=choice.kernel,
        reg_weight=float(choice.weight), kernel_bandwidth=float(choice.bandwidth),
    )  # fmt: skip
    model = WAE_MMD(config, *build_networks("resnet", config.input_dim, D)).train()
    kernel_of = model.rbf_kernel if choice.kernel == "rbf" else model.imq_kernel
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    square, reach = list[float](), torch.tensor(1.0)
    for step in range(STEPS):
        output = model(DatasetOutput(data=data[100 * step : 100 * (step + 1)]))
        with torch.no_grad():
            z, (prior, other) = output.z, torch.randn(2, 100, D)
            square.append(z.square().mean().item())
            reach = kernel_of(z, prior).mean() / kernel_of(prior, other).mean()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return Course(square, reach.item())


def table(courses: dict[Choice, list[Course]], source: str) -> Grid:
    marks = [30, 100, STEPS]
    rows = [
        [
            Cell(choice.name),
            Cell(str(len(found))),
            *(spread([course.square[mark - 1] for course in found]) for mark in marks),
            Cell(f"{min(course.reach for course in found):.2g}"),
            Cell(f"{max(course.reach for course in found):.2g}"),
        ]
        for choice, found in courses.items()
    ]
    headings = [
        "WAE",
        "seeds",
        *(f"|z|²/d, {mark} steps" for mark in marks),
        "kernel, least",
        "most",
    ]
    notes = [
        "|z|²/d: mean square of the codes, 1 for the prior; mean ± standard deviation over seeds. "
        f"Kernel: its mean between codes and samples of the prior after {STEPS} steps, as a "
        "fraction of that between samples of the prior, the least and the most of all seeds.",
        f"Data: {source}. Pythae's ResNet, batch 100, Adam with a rate of 1e-4, float32; on "
        f"{processor()}, torch {torch.__version__}.",
        f"Made by `{COMMAND}`.",
    ]
    title = "MNIST, ResNet: codes of WAE in the first steps"
    return Grid(title, headings, "l" + (len(headings) - 1) * "r", rows, notes)


def figure(courses: dict[Choice, list[Course]]) -> Any:
    picture = new_figure(6, 3.6)
    axis: Any = picture.subplots()
    for choice, found in courses.items():
        color = None
        for course in found:
            label = choice.name if color is None else None
            (line,) = axis.plot(range(1, STEPS + 1), course.square, color=color, lw=1, label=label)
            color = line.get_color()
    axis.axhline(1, color="grey", ls=":", lw=1)
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="|z|²/d of the codes (prior: 1)")
    axis.legend(fontsize="small")
    return picture


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    splits = load_images("mnist", flags.data_root, offline=True)
    data = to_float(splits.train, limit=100 * STEPS)
    courses = {
        choice: [train(data, choice, seed) for seed in range(SEEDS)] for choice in CONFIGURATIONS
    }
    grid = table(courses, splits.source)
    ends = [
        f"{choice.name}: {fmean(course.square[-1] for course in found):.3g}"
        for choice, found in courses.items()
    ]
    caption = (
        f"Mean square of the codes of WAE in the first {STEPS} steps on MNIST, a line a "
        f"seed. Means at the end, over seeds that may end far apart: {'; '.join(ends)}."
    )
    drawing = Drawing("mmd-kernel-mnist", figure(courses), grid.title, caption)
    publish(flags.results, COMMAND, grid, drawing)


if __name__ == "__main__":
    main()
