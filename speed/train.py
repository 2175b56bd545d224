"""Times one epoch of real MNIST from end to end, by Pythae's trainer and by FIFTrainer.

    python speed/train.py --data-root DIR [--images 10000] [--rounds 3] [--output F]

Pythae's pipeline trains FIF by the published surrogate, with Pythae's own data loader and its
default Adam. `FIFTrainer` trains it by replayed tangents, in float32 and in bfloat16, with the
surrogate on all images and on a quarter of each batch.

All have the same network, data, batch size and number of epochs. Every program runs in a separate
process, they take turns, and each round has its seed. The validation loss is exact: beta times the
squared error minus the log-likelihood, with the last weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import command, markdown
from pythae.data.datasets import BaseDataset
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.files import write_bytes
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import processor
from pythae_fif.training import keep_freed_memory, quiet_pythae

PYTHAE = "Pythae, published"
PROGRAMS = {
    PYTHAE: ("float32", 1.0),
    "FIFTrainer": ("float32", 1.0),
    "FIFTrainer, quarter": ("float32", 0.25),
    "FIFTrainer bfloat16": ("bfloat16", 1.0),
    "FIFTrainer bfloat16, quarter": ("bfloat16", 0.25),
}
"""Name -> precision, and the part of each batch on which the surrogate is computed."""

VALIDATION_IMAGES = 1000


def measure(program: str, flags: argparse.Namespace) -> dict[str, float]:
    """Trains a model by one of the programs.

    Args:
        program: A key of `PROGRAMS`.
        flags: The command line, with a seed.

    Returns:
        Seconds of the training, and the validation loss after it.
    """
    splits = load_images("mnist", flags.data_root, offline=True)
    train = splits.train[: flags.images]
    val = splits.val[:VALIDATION_IMAGES]

    torch.manual_seed(flags.seed)
    precision, fraction = PROGRAMS[program]
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=16, surrogate_fraction=fraction)
    model = FIF(config, *build_networks("resnet", (1, 28, 28), 16))
    options = {
        "num_epochs": flags.epochs, "learning_rate": 1e-3, "seed": flags.seed,
        "per_device_train_batch_size": 100, "per_device_eval_batch_size": 100,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quiet_pythae():
        if program == PYTHAE:
            seconds = _train_by_pythae(model, train, val, folder, options)
        else:
            options["precision"] = precision
            seconds = _train_by_fif_trainer(model, train, val, folder, options)
    return {"seconds": seconds, "loss": exact_loss(model, to_float(val))}


def _train_by_pythae(
    model: FIF, train: np.ndarray, val: np.ndarray, folder: str, options: dict
) -> float:
    model.surrogate_mode = "published"
    pipeline = TrainingPipeline(model, BaseTrainerConfig(output_dir=folder, **options))
    train_data = BaseDataset(to_float(train), torch.ones(len(train)))
    eval_data = BaseDataset(to_float(val), torch.ones(len(val)))

    start = time.perf_counter()
    pipeline(train_data=train_data, eval_data=eval_data)
    return time.perf_counter() - start


def _train_by_fif_trainer(
    model: FIF, train: np.ndarray, val: np.ndarray, folder: str, options: dict
) -> float:
    keep_freed_memory()
    config = FIFTrainerConfig(**options)

    start = time.perf_counter()
    FIFTrainer(model, ImageDataset(train), ImageDataset(val), config, run_dir=folder).train()
    return time.perf_counter() - start


@torch.no_grad()
def exact_loss(model: FIF, images: torch.Tensor) -> float:
    """Computes the mean loss with the exact log-likelihood.

    Args:
        model: The model, which this puts in evaluation mode.
        images: Float images (N, 1, 28, 28).
    """
    model.eval()
    errors = (model.reconstruct(images) - images).square().flatten(1).sum(1)
    losses = model.model_config.beta * errors - model.log_prob(images)
    return losses.mean().item()


def table_rows(runs_by_program: dict[str, list[dict[str, float]]]) -> list[dict[str, str]]:
    """Summarises the results of :func:`measure`, in a row for each program."""
    base = [run["seconds"] for run in runs_by_program[PYTHAE]]
    rows = []
    for name, runs in runs_by_program.items():
        seconds = [run["seconds"] for run in runs]
        losses = [run["loss"] for run in runs]
        speedup = statistics.median(b / s for b, s in zip(base, seconds, strict=True))
        spread = f" ± {statistics.stdev(losses):.1f}" if len(losses) > 1 else ""
        rows.append({
            "program": name,
            "seconds": f"{statistics.median(seconds):.1f}",
            "times as fast": f"{speedup:.2f}",
            "validation loss": f"{statistics.mean(losses):.1f}{spread}",
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", help="folder with MNIST")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="Markdown file to write the table to")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.program:
        print(json.dumps(measure(flags.program, flags)))
        return

    runs_by_program: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for seed in range(flags.rounds):
        for name, runs in runs_by_program.items():
            words = [sys.executable, __file__, *sys.argv[1:]]
            words += ["--program", name, "--seed", str(seed)]
            runs.append(json.loads(subprocess.check_output(words)))

    text = (
        f"{markdown(table_rows(runs_by_program))}\n"
        f"MNIST ResNet, {flags.images:,} training and 1,000 validation images, "
        f"{flags.epochs} epoch(s), batch 100; medians of {flags.rounds} rounds, of the loss mean "
        f"and standard deviation over their seeds, on {processor()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}. Made by `{command(flags.output)}`.\n"
    )
    print(text)
    if flags.output:
        purpose = "This page times whole trainings of a FIF by Pythae's trainer and by FIFTrainer."
        page = f"# Training, end to end\n\n{purpose}\n\n{text}"
        write_bytes(Path(flags.output), page.encode())


if __name__ == "__main__":
    main()
