"""An epoch of real MNIST, from end to end: Pythae's trainer with the published surrogate, and ours.

    python benchmarks/train.py --data-root DIR [--images 10000] [--rounds 3] [--output F]

Pythae's pipeline trains FIF by the published surrogate, with Pythae's own data loader and default
Adam; `FIFTrainer` trains it by replayed tangents, in float32 and in bfloat16, with the surrogate of
all images and of a quarter of each batch. The same network, data, batch size and number of epochs;
every program in a process of its own, in turns; a round is a seed. The validation loss is exact:
beta times the squared error minus the log-likelihood, of the last weights.
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
"""Name -> precision, and the part of the batch whose surrogate is taken."""


def measure(program: str, flags: argparse.Namespace) -> dict[str, float]:
    """Seconds of the training, and the validation loss after it."""
    splits = load_images("mnist", flags.data_root, offline=True)
    train, val = splits.train[: flags.images], splits.val[:1000]
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
            model.surrogate_mode = "published"
            pipeline = TrainingPipeline(model, BaseTrainerConfig(output_dir=folder, **options))
            ones = [torch.ones(len(images)) for images in (train, val)]
            data = [
                BaseDataset(to_float(x), one) for x, one in zip((train, val), ones, strict=True)
            ]
            start = time.perf_counter()
            pipeline(train_data=data[0], eval_data=data[1])
        else:
            keep_freed_memory()
            trained = FIFTrainerConfig(precision=precision, **options)
            start = time.perf_counter()
            sets = ImageDataset(train), ImageDataset(val)
            FIFTrainer(model, *sets, trained, run_dir=folder).train()
        seconds = time.perf_counter() - start
    model.eval()
    images = to_float(val)
    with torch.no_grad():
        error = (model.reconstruct(images) - images).square().flatten(1).sum(1)
        loss = (config.beta * error - model.log_prob(images)).mean().item()
    return {"seconds": seconds, "loss": loss}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--images", type=int, default=10_000)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--output", help="Markdown file to write the table to")
    p.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    p.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.program:
        print(json.dumps(measure(flags.program, flags)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for seed in range(flags.rounds):
        for name in PROGRAMS:
            words = [sys.executable, __file__, *sys.argv[1:], "--program", name]
            found[name].append(json.loads(subprocess.check_output([*words, "--seed", str(seed)])))
    base = [run["seconds"] for run in found[PYTHAE]]
    rows = []
    for name, runs in found.items():
        seconds, losses = ([run[key] for run in runs] for key in ("seconds", "loss"))
        ratio = statistics.median(b / s for b, s in zip(base, seconds, strict=True))
        spread = f" ± {statistics.stdev(losses):.1f}" if len(losses) > 1 else ""
        rows.append({
            "program": name,
            "seconds": f"{statistics.median(seconds):.1f}",
            "times as fast": f"{ratio:.2f}",
            "validation loss": f"{statistics.mean(losses):.1f}{spread}",
        })  # fmt: skip
    text = (
        f"{markdown(rows)}\nMNIST ResNet, {flags.images:,} training and 1,000 validation images, "
        f"{flags.epochs} epoch(s), batch 100; medians of {flags.rounds} rounds, of the loss mean "
        f"and standard deviation over their seeds, on {processor()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}. Made by `{command(flags.output)}`.\n"
    )
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), f"# Training, end to end\n\n{text}".encode())


if __name__ == "__main__":
    main()
