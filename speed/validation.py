"""Measures the exact volume change in FIF's evaluation loss: its cost, and the points it needs.

    python speed/validation.py [--nets mnist-resnet ...] [--rounds 3] [--output F]

*Cost*: the unit is the time of training on an image: a step of FIF, as in speed/step.py,
divided by the size of its batch. Both take turns, and medians are reported. One thread; the time is
the processor's, which does not count other programs.

*Choice*: FIFs train on digits for 200 epochs, beyond the lowest validation loss. After each epoch
the loss is computed with 16, 64 and all 300 points. The table has the epoch that each would keep,
and what the choice by few points costs: its loss with all points, minus the lowest one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import command, markdown
from paired import DIGITS, Training, build_trainer, load_data
from pythae.data.datasets import DatasetOutput
from pythae.trainers.trainer_utils import set_seed
from step import NETS, VARIANTS, build, stepper

from pythae_fif.data import to_float
from pythae_fif.files import write_bytes
from pythae_fif.models import evaluation_loss
from pythae_fif.models.evaluation_loss import (
    EVALUATED_POINTS,
    MIN_EVALUATED_POINTS,
    evaluated_points,
)
from pythae_fif.runs.provenance import processor

TIMED_POINTS = 8
"""Points whose volume change is timed at once."""
CHOICE = DIGITS._replace(latent_dim=16, epochs=200)
BETAS = ("auto", 10.0)
SEEDS = range(2)


def cpu_seconds(function: Callable[[], object]) -> float:
    """Returns the processor time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def time_net(net: str, rounds: int) -> dict[str, str]:
    """Times the volume change of a network's points, and training on its images.

    Args:
        net: A key of `speed/step.py`'s `NETS`.
        rounds: How often each is timed.

    Returns:
        A row of the table.
    """
    _, _, latent_dim, batch_size = NETS[net]
    step = stepper(net, VARIANTS["replayed"], "cpu")
    model, x = build(net, VARIANTS["replayed"], "cpu")
    model.eval()
    points = DatasetOutput(data=x[:TIMED_POINTS])

    step()
    step_times = []
    point_times = []
    for _ in range(rounds):
        step_times.append(cpu_seconds(step) / batch_size)
        point_times.append(cpu_seconds(lambda: model(points).loss) / len(points.data))

    images_per_point = statistics.median(point_times) / statistics.median(step_times)
    count = evaluated_points(latent_dim)
    return {
        "net": net,
        "d": str(latent_dim),
        "training images in the time of a point": f"{images_per_point:.1f}",
        "points": str(count),
        "images in the time of these points": f"{images_per_point * count:,.0f}",
        f"... of {EVALUATED_POINTS} points": f"{images_per_point * EVALUATED_POINTS:,.0f}",
    }


def compare_choices(beta: object, seed: int) -> dict[str, str]:
    """Trains a FIF on digits, and compares the epochs that few and all points choose.

    Args:
        beta: Its weight of the squared error.
        seed: Seed of its weights and batches.

    Returns:
        A row of the table.
    """
    splits = load_data(CHOICE, "")
    val = DatasetOutput(data=to_float(splits.val))
    counts = (MIN_EVALUATED_POINTS, EVALUATED_POINTS, len(splits.val))
    losses: list[list[float]] = []
    set_seed(seed)
    model = CHOICE.build_fif(splits, beta=beta)

    def evaluate(row: object) -> None:
        model.eval()
        losses.append([])
        for count in counts:
            evaluation_loss.EVALUATED_POINTS = evaluation_loss.MIN_EVALUATED_POINTS = count
            losses[-1].append(model(val).loss.item())
        evaluation_loss.EVALUATED_POINTS = EVALUATED_POINTS
        evaluation_loss.MIN_EVALUATED_POINTS = MIN_EVALUATED_POINTS

    with tempfile.TemporaryDirectory() as run_dir:
        build_trainer(Training(model), CHOICE, seed, splits, run_dir, evaluate).train()

    by_count = np.array(losses)
    best_epochs = by_count.argmin(0)
    exact = by_count[:, -1]
    row = {"beta": str(beta), "seed": str(seed)}
    for count, epoch in zip(counts, best_epochs, strict=True):
        row[f"epoch by {count} points"] = str(epoch + 1)
    for count, epoch in zip(counts[:-1], best_epochs[:-1], strict=True):
        row[f"loss by {count} points, above the lowest"] = f"{exact[epoch] - exact.min():.2f}"
    return row | {"spread of the last 50 epochs": f"{exact[-50:].std(ddof=1):.2f}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = ["mnist-resnet", "cifar-resnet", "celeba-resnet", "digits-convnet", "tabular-43"]
    parser.add_argument("--nets", nargs="+", choices=NETS, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="", help="Markdown file to write the table to")
    flags = parser.parse_args()
    torch.set_num_threads(1)

    costs = [time_net(net, flags.rounds) for net in flags.nets]
    choices = [compare_choices(beta, seed) for beta in BETAS for seed in SEEDS]
    text = (
        "# The exact volume change in an evaluation\n\nAn evaluation computes the exact volume "
        "change of 16 to 64 points. This page says how many training images take as long, and "
        "whether few points are enough to choose an epoch.\n\n## Cost\n\n"
        f"{markdown(costs)}\n## Choice\n\nDigits, d = {CHOICE.latent_dim}, {CHOICE.epochs} epochs; "
        f"losses in nats.\n\n{markdown(choices)}\nOn {processor()}, one thread, torch "
        f"{torch.__version__}, medians of {flags.rounds} rounds. Made by `{command(flags.output)}`."
        "\n"
    )
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), text.encode())


if __name__ == "__main__":
    main()
