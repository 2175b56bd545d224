"""Times the training of figure 3's models: one by one, one process a core, and as an ensemble.

    python benchmarks/toy.py [--models 180] [--slices 7] [--steps 20] [--cores 2] [--width 256]
                             [--output FILE]

Every variant trains the same models of the sinusoid study (a member for every beta and seed) by
the same loss; a row is a median over slices of that many steps. "The authors' formulation" is
FIF's mode `mixed`: a Jacobian-vector product of the decoder by forward differentiation and a
vector-Jacobian product of the encoder that is differentiated once more. Every variant keeps freed
memory, so that none pays for page faults.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
from machine import command, markdown
from pythae.data.datasets import DatasetOutput

from pythae_fif.ensemble import Ensemble
from pythae_fif.files import write_text
from pythae_fif.studies.sinusoid import BATCH, BETAS, Size, build, clean_points
from pythae_fif.training import keep_freed_memory

NOISE = 0.1
CONTESTANTS = ("authors", "process a core")  # what the others are compared with


def one_by_one(mode: str, slices: int, steps: int, width: int, threads: int) -> list[float]:
    """Model steps per second of one model after another, of every slice."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    data = clean_points(10_000, torch.Generator().manual_seed(0))
    model = build(1.0, NOISE, Size(10_000, 1, 4, width))
    model.model_config.mode = mode
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3, fused=True)

    def step() -> None:
        batch = data[torch.randint(len(data), (BATCH,))]
        optimizer.zero_grad()
        model(DatasetOutput(data=batch)).loss.backward()
        optimizer.step()

    step()
    rates = []
    for _ in range(slices):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        rates.append(steps / (time.perf_counter() - start))
    return rates


def process_a_core(cores: int, slices: int, steps: int, width: int) -> list[float]:
    """The same by replayed tangents in as many processes as cores, rates added up."""
    arguments = ("replay", slices, steps, width, 1)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        rates = pool.starmap(one_by_one, [arguments] * cores)
    return [sum(parts) for parts in zip(*rates, strict=True)]


def ensemble(models: int, compile: bool, slices: int, steps: int, width: int) -> list[float]:
    """Model steps per second of an ensemble, of every slice after the first."""
    betas = [BETAS[member % len(BETAS)] for member in range(models)]
    size = Size(BATCH * steps, slices + 1, 4, width)
    members = Ensemble.build(
        lambda beta: build(beta, NOISE, size), betas, list(range(models)), compile=compile
    )
    ends: list[float] = []
    members.train(
        clean_points(size.points, torch.Generator().manual_seed(0)),
        epochs=size.epochs,
        batch_size=BATCH,
        on_epoch=lambda _: ends.append(time.perf_counter()),
    )
    if compile and members.backend != "compiled":
        raise SystemExit(members.backend)
    return [models * steps / (b - a) for a, b in pairwise(ends)]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--models", type=int, default=180)
    p.add_argument("--slices", type=int, default=7)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--cores", type=int, default=os.cpu_count())
    p.add_argument("--output", help="Markdown file to write the table to")
    flags = p.parse_args()
    keep_freed_memory()
    sizes = {"slices": flags.slices, "steps": flags.steps, "width": flags.width}
    one = {**sizes, "threads": flags.cores}
    torch.set_num_threads(flags.cores)
    variants = {
        "the authors' formulation, one by one": lambda: one_by_one("mixed", **one),
        "vector-Jacobian products alone, one by one": lambda: one_by_one("backward", **one),
        "replayed tangents, one by one": lambda: one_by_one("replay", **one),
        f"replayed, one process a core ({flags.cores})": lambda: process_a_core(
            flags.cores, **sizes
        ),
        f"ensemble of {flags.models}, eager": lambda: ensemble(flags.models, False, **sizes),
        f"ensemble of {flags.models}, compiled": lambda: ensemble(flags.models, True, **sizes),
    }
    rates = {name: run() for name, run in variants.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    first, a_core = (next(m for name, m in middle.items() if part in name) for part in CONTESTANTS)
    rows = [
        {
            "variant": name,
            "model steps/s": f"{middle[name]:.0f}",
            "slices": f"{min(values):.0f} to {max(values):.0f}",
            "times the authors'": f"{middle[name] / first:.2f}",
            "times one process a core": f"{middle[name] / a_core:.2f}",
        }
        for name, values in rates.items()
    ]
    table = markdown(rows)
    print(table)
    if flags.output:
        write_text(
            Path(flags.output),
            f"# Training the models of figure 3\n\nSteps of one model a second, medians over "
            f"{flags.slices} slices of {flags.steps} steps, in one run: width {flags.width}, batch "
            f"{BATCH}, {flags.cores} cores, torch {torch.__version__}. Made by "
            f"`{command(flags.output)}`.\n\n{table}",
        )


if __name__ == "__main__":
    main()
