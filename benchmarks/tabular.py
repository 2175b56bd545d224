"""Times five tabular models trained together against one after another and one process a core.

    python benchmarks/tabular.py [--datasets power miniboone] [--steps 60] [--device cuda]
    python benchmarks/tabular.py --output results/benchmarks/tabular.md

Each way trains five FIFs of the paper's nets (appendix E.2) at its batch of 512; the figure is
models times steps per second. The ways are: the authors' formulation (forward-mode tangents, a
vector-Jacobian product) one model after another, the same with replayed tangents, processes of one
thread that share the five models out (one process a core), and the ensemble, eager and compiled.
Rounds are in turns and medians are taken, since machines are noisy; compiling is not counted.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import seconds

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble
from pythae_fif.files import write_text
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.grid import Cell, Grid, number, to_markdown
from pythae_fif.training import keep_freed_memory

SHAPES = {"power": (6, 3), "gas": (8, 2), "hepmass": (21, 10), "miniboone": (43, 21)}
MODELS, BATCH = 5, 512


def build(dataset: str, mode: str, device: str) -> FIF:
    """A model of one of the published shapes."""
    columns, latent_dim = SHAPES[dataset]
    shape = {"input_dim": (columns,), "latent_dim": latent_dim}
    nets = TabularEncoder(**shape), TabularDecoder(**shape)
    return FIF(FIFConfig(**shape, mode=mode), *nets).to(device)


def train_alone(model: FIF, data: torch.Tensor) -> None:
    """One epoch of a model with fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    model.train()
    for rows in torch.randperm(len(data), device=data.device).split(BATCH):
        optimizer.zero_grad()
        model({"data": data[rows]}).loss.backward()
        optimizer.step()


def one_after_another(dataset: str, mode: str, data: torch.Tensor):
    models = [build(dataset, mode, str(data.device)) for _ in range(MODELS)]

    def train():
        for model in models:
            train_alone(model, data)

    return train


def second_epoch(ensemble: Ensemble, data: torch.Tensor) -> float:
    """Seconds of the second of two epochs: tracing and compiling are in the first."""
    ends: list[float] = []

    def on_epoch(epoch: int) -> None:
        if data.is_cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    ensemble.train(data, epochs=2, batch_size=BATCH, on_epoch=on_epoch)
    return ends[1] - ends[0]


def together(dataset: str, data: torch.Tensor, compile: bool) -> Ensemble:
    models = [build(dataset, "replay", str(data.device)) for _ in range(MODELS)]
    return Ensemble(models, range(MODELS), compile=compile)


def worker(dataset: str, models: int, steps: int) -> float:
    """Seconds that one process of one thread needs for its share of the models."""
    torch.set_num_threads(1)
    data = torch.randn(steps * BATCH, SHAPES[dataset][0])
    nets = [build(dataset, "replay", "cpu") for _ in range(models)]
    train_alone(nets[0], data[: 2 * BATCH])
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for model in nets:
        train_alone(model, data)
    return time.perf_counter() - start


def processes(dataset: str, steps: int, cores: int) -> float:
    """Seconds until the last of the processes is done, from a common start."""
    shares = [len(range(i, MODELS, cores)) for i in range(min(cores, MODELS))]
    command = [sys.executable, __file__, "--worker", dataset, "--steps", str(steps)]
    running = [
        subprocess.Popen(
            [*command, "--models", str(share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for share in shares
    ]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(json.loads(process.communicate()[0]) for process in running)


def time_dataset(dataset: str, steps: int, rounds: int, device: str):
    """Name of a way -> models times steps per second, and what the ensemble ran on."""
    data = torch.randn(steps * BATCH, SHAPES[dataset][0], device=device)

    def alone(mode: str):
        train = one_after_another(dataset, mode, data)
        return lambda: seconds(train, device)

    eager, compiled = (together(dataset, data, compile) for compile in (False, True))
    ways = {
        "authors' formulation": alone("mixed"),
        "replay": alone("replay"),
        "ensemble, eager": lambda: second_epoch(eager, data),
        "ensemble, compiled": lambda: second_epoch(compiled, data),
    }
    if device == "cpu":
        ways["one process a core"] = lambda: processes(dataset, steps, os.cpu_count() or 1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    rates = {name: MODELS * steps / statistics.median(values) for name, values in times.items()}
    return rates, compiled.backend


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--datasets", nargs="+", choices=SHAPES, default=["power", "miniboone"])
    p.add_argument("--steps", type=int, default=60, help="of each model in a round")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--output", help="Markdown file to write the table to")
    p.add_argument("--worker", choices=SHAPES, help=argparse.SUPPRESS)
    p.add_argument("--models", type=int, help=argparse.SUPPRESS)
    flags = p.parse_args()
    keep_freed_memory()  # in every process alike
    if flags.worker:
        print(json.dumps(worker(flags.worker, flags.models, flags.steps)))
        return
    name = torch.cuda.get_device_name() if flags.device == "cuda" else platform.machine()
    where = f"{flags.device} ({name}), {torch.get_num_threads()} threads, torch {torch.__version__}"
    rows, backends = [], []
    for dataset in flags.datasets:
        rates, backend = time_dataset(dataset, flags.steps, flags.rounds, flags.device)
        first, last = next(iter(rates.values())), rates.get("one process a core")
        for way, rate in rates.items():
            rows.append(
                [
                    Cell(dataset),
                    Cell(way),
                    number(rate),
                    number(rate / first),
                    number(rate / last if last else None),
                ]
            )
        backends.append(f"The compiled ensemble of {dataset} ran {backend}.")
    grid = Grid(
        f"{MODELS} tabular models together: {where}",
        ["Data", "way", "models × steps / s ↑", "of the first", "of one process a core"],
        "llrrr",
        rows,
        [
            f"The nets of appendix E.2, batch {BATCH}, K = 1; medians of {flags.rounds} rounds of "
            f"{flags.steps} steps, the ways in turns. Compiling is not counted.",
            *backends,
            *(["GPU: not measured; `--device cuda` does."] if flags.device == "cpu" else []),
            f"Made by `{' '.join(['python', *sys.argv])}`.",
        ],
    )
    text = to_markdown(grid)
    print(text)
    if flags.output:
        write_text(Path(flags.output), text)


if __name__ == "__main__":
    main()
