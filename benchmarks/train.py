"""An epoch of real MNIST, from end to end: Pythae's trainer with the vjp loss against ours.

    python benchmarks/train.py --data-root DIR [--images 10000] [--out results/benchmarks/train.md]

Pythae's pipeline trains FIF in mode `backward` (vector-Jacobian products alone and double
backward) with Pythae's own data loader and default Adam; `FIFTrainer` trains it by
replayed tangents in channels-last layout, in float32 and in bfloat16, with the surrogate of all
images (the default) and of a quarter of each batch. The same network, data, batch size and number
of epochs; every program in a process of its own, in turns; a round is a seed. The validation loss
is exact: beta times the squared error minus the log-likelihood, of the last weights. Outside the
model is the share of the training time that is neither loss, backward pass nor optimizer step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import markdown
from pythae.data.datasets import BaseDataset
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.files import write_text
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import processor
from pythae_fif.training import keep_freed_memory, quiet_pythae

PYTHAE = "Pythae, vjp"
PROGRAMS = {  # of FIFTrainer: precision, and the part of the batch whose surrogate is taken
    PYTHAE: ("float32", 1.0),
    "FIFTrainer": ("float32", 1.0),
    "FIFTrainer, quarter": ("float32", 0.25),
    "FIFTrainer bfloat16": ("bfloat16", 1.0),
    "FIFTrainer bfloat16, quarter": ("bfloat16", 0.25),
}


def measure(program: str, flags: argparse.Namespace) -> dict[str, float]:
    """Seconds of the training, validation loss after it, and the share outside the model."""
    splits = load_images("mnist", flags.data_root, offline=True)
    train, val = splits.train[: flags.images], splits.val[:1000]
    torch.manual_seed(flags.seed)
    nets = build_networks("resnet", (1, 28, 28), 16)
    precision, fraction = PROGRAMS[program]
    mode = "backward" if program == PYTHAE else "replay"
    shape = {"input_dim": (1, 28, 28), "latent_dim": 16}
    model = FIF(FIFConfig(**shape, mode=mode, surrogate_fraction=fraction), *nets)
    options = {
        "num_epochs": flags.epochs, "learning_rate": 1e-3, "seed": flags.seed,
        "per_device_train_batch_size": 100, "per_device_eval_batch_size": 100,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quiet_pythae():
        if program == PYTHAE:
            pipeline = TrainingPipeline(model, BaseTrainerConfig(output_dir=folder, **options))
            data = [
                BaseDataset(to_float(images), torch.ones(len(images))) for images in (train, val)
            ]
            start = time.perf_counter()
            pipeline(train_data=data[0], eval_data=data[1])
            seconds, inside = time.perf_counter() - start, float("nan")
        else:
            keep_freed_memory()
            config = FIFTrainerConfig(precision=precision, **options)
            start = time.perf_counter()
            trainer = FIFTrainer(
                model, ImageDataset(train), ImageDataset(val), config, run_dir=folder
            )
            inside = _time_inside(trainer)
            trainer.train()
            seconds = time.perf_counter() - start
            inside = sum(inside) / seconds
    model.eval()
    images = to_float(val)
    with torch.no_grad():
        error = (model.reconstruct(images) - images).square().flatten(1).sum(1)
        loss = (model.beta() * error - model.log_prob(images)).mean().item()
    return {"seconds": seconds, "loss": loss, "outside": 1 - inside}


def _time_inside(trainer: FIFTrainer) -> list[float]:
    """Lets the trainer's losses, backward passes and optimizer steps note their time."""
    spent: list[float] = []

    def timed(function):
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    trainer._losses = timed(trainer._losses)
    torch.autograd.backward = timed(torch.autograd.backward)
    torch.optim.Adam.step = timed(torch.optim.Adam.step)
    return spent


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--images", type=int, default=10_000)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--out", help="Markdown file to write the table to")
    p.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    p.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.program:
        print(json.dumps(measure(flags.program, flags)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for seed in range(flags.rounds):
        for name in PROGRAMS:
            command = [sys.executable, __file__, *sys.argv[1:], "--program", name]
            command += ["--seed", str(seed)]
            found[name].append(json.loads(subprocess.check_output(command)))
    base = [run["seconds"] for run in found[PYTHAE]]
    rows = []
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        ratio = statistics.median(b / s for b, s in zip(base, seconds, strict=True))
        losses = [run["loss"] for run in runs]
        loss = f"{statistics.mean(losses):.1f}"
        if len(losses) > 1:
            loss += f" ± {statistics.stdev(losses):.1f}"
        outside = statistics.median(run["outside"] for run in runs)
        share = "–" if name == PYTHAE else f"{outside:.1%}"
        rows.append(
            {
                "program": name,
                "seconds": f"{statistics.median(seconds):.1f}",
                "times as fast": f"{ratio:.2f}",
                "validation loss": loss,
                "outside the model": share,
            }
        )
    text = markdown(rows)
    print(text)
    if flags.out:
        write_text(
            Path(flags.out),
            "# Training, end to end\n\n"
            f"{text}\nMNIST ResNet, {flags.images:,} training and 1,000 validation images, "
            f"{flags.epochs} epoch(s), batch 100; medians of {flags.rounds} rounds, of the loss "
            f"mean and standard deviation over their seeds, on "
            f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}. "
            f"Made by `python benchmarks/train.py --images {flags.images} "
            f"--epochs {flags.epochs} --rounds {flags.rounds}`.\n",
        )


if __name__ == "__main__":
    main()
