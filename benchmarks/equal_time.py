"""Compares FIF with autoencoders of equal training time by likelihood.

    python benchmarks/equal_time.py time RECORDS --data-root DIR [--tasks digits ...]
    python benchmarks/equal_time.py run RECORDS --data-root DIR [--tasks digits ...]
    python benchmarks/equal_time.py report RECORDS [--output FILE.md]

`time` measures how long an epoch of every arm takes, and writes the numbers of epochs to
RECORDS/epochs.json. `run` trains for these numbers of epochs.

Method and criteria, fixed before the runs:

* *Arms*: five configurations of FIF and five of its rivals, see `ARMS`. FIFs have K = 1, and their
  steps are traced as by default. Rivals run as in the benchmark, eagerly.
* *Time*: the processor time of `TASKS`' epochs of FIF with `beta="auto"`, on one thread, with the
  tracing and validation. Every arm has the number of epochs that takes this time. It comes from
  the median of three rounds, in which all arms take turns; MNIST has one round. All keep their
  epoch of lowest validation loss.
* *Seeds*: 0 to 2 (MNIST: 0 and 1), paired.
* *Measure*: the marginal log-likelihood (`marginal_log_prob`) of 2,000 test points, of all where
  there are fewer (MINIBOONE 1,927, digits 300), of 400 on MNIST, with the mixture and with the
  standard normal N. The noise's scale is each model's own, from validation data.
* *Choice*: for each data set and prior, FIF and the rivals each have the arm with the highest mean
  likelihood of validation data over the seeds.
* *Yes* (FIF is better) or *no* (the rival is better): the paired difference of test likelihoods is
  above or below 0 with p < 0.05, in a two-sided t-test with the noise of seeds and of test points.
  Otherwise *level*, if the 90 % interval is within 0.1 nats per latent dimension of 0, or
  *undecided*.
* FIF is *worth its time* for a prior if at least one of the data sets is a yes and none is a no.
* *MNIST* has the sizes, the batch and the learning rate of the benchmark's profile `quick`. It was
  added when the verdicts on the other three data sets were known. The likelihood of an image takes
  0.14 CPU seconds with both priors, so it has 400 test points.
* A run fails as in benchmarks/cost.py. An arm with a failed run is not chosen.
* *Budget*: about 90 CPU minutes for digits and the tables, and two hours for MNIST.
"""

import json
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from comparison import (
    PRIOR_LABELS,
    Difference,
    compare,
    difference_cells,
    level_table,
    missing_seeds,
    parse_flags,
    run_chosen,
    write_report,
)
from paired import (
    DIGITS,
    MINIBOONE,
    POWER,
    PRIORS,
    Arm,
    Records,
    Task,
    Training,
    autoencoder,
    build_trainer,
    has_failed,
    load_data,
    read_folder,
)
from pythae.models import RAE_L2, WAE_MMD, RAE_L2_Config, WAE_MMD_Config
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.data.splits import Splits
from pythae_fif.files import write_bytes
from pythae_fif.reports.tables import DASH, Table, number
from pythae_fif.training.traced_step import MIN_STEPS_TO_TRACE

MNIST = Task(
    "mnist",
    "mnist",
    "resnet",
    latent_dim=16,
    epochs=4,
    batch_size=50,
    learning_rate=3e-4,
    precision="bfloat16",
    train_size=8_000,
    val_size=2_000,
    points=400,
)
TASKS = {task.name: task for task in (DIGITS, MINIBOONE, POWER, MNIST)}
SEEDS = {"digits": range(3), "miniboone": range(3), "power": range(3), "mnist": range(2)}
MARGIN = 0.1
"""Nats per latent dimension within which models are level."""
SIGNIFICANCE = 0.05

TIMING_ROUNDS = {"digits": 3, "miniboone": 3, "power": 3, "mnist": 1}
FIRST_STEPS = MIN_STEPS_TO_TRACE + 50
"""Steps that are timed separately, because FIF's are eager and include the tracing."""
TIMED_STEPS = 200


# -------------------------------------------------------------------------------- arms


def fif(task: Task, splits: Splits, **options: Any) -> Training:
    return Training(task.build_fif(splits, **options))


def rae_l2(task: Task, splits: Splits) -> Training:
    config = RAE_L2_Config(
        input_dim=splits.input_dim, latent_dim=task.latent_dim, embedding_weight=0.01
    )
    model = RAE_L2(config, *task.build_networks(splits))
    return Training(model, decoder_weight_decay=1e-6)


def wae_imq(task: Task, splits: Splits, weight: float) -> Training:
    config = WAE_MMD_Config(
        input_dim=splits.input_dim,
        latent_dim=task.latent_dim,
        kernel_choice="imq",
        reg_weight=weight,
    )
    return Training(patch_slow_ops(WAE_MMD(config, *task.build_networks(splits))))


REFERENCE = "fif_auto"
"""The arm whose time all others have."""
FIFS: dict[str, Arm] = {
    REFERENCE: fif,
    "fif_auto_quarter": partial(fif, surrogate_fraction=0.25),
    "fif_5": partial(fif, beta=5.0),
    "fif_10": partial(fif, beta=10.0),
    "fif_25": partial(fif, beta=25.0),
}
RIVALS: dict[str, Arm] = {
    "ae": autoencoder,
    "rae_l2": rae_l2,
    "wae_1": partial(wae_imq, weight=1),
    "wae_10": partial(wae_imq, weight=10),
    "wae_100": partial(wae_imq, weight=100),
}
ARMS = FIFS | RIVALS
ARM_LABELS = {
    "fif_auto": 'FIF, beta="auto"',
    "fif_auto_quarter": 'FIF, beta="auto", surrogate_fraction=0.25',
    "fif_5": "FIF, beta 5",
    "fif_10": "FIF, beta 10",
    "fif_25": "FIF, beta 25",
    "ae": "AE",
    "rae_l2": "RAE-L2",
    "wae_1": "WAE-IMQ, weight 1",
    "wae_10": "WAE-IMQ, weight 10",
    "wae_100": "WAE-IMQ, weight 100",
}


# -------------------------------------------------------------------------------- time


Epochs = dict[str, dict[str, dict[str, float]]]
"""Task -> arm -> the fields of :class:`TrainingTime`, and the number of `epochs`."""


class TrainingTime(NamedTuple):
    """Processor time of an arm's training.

    Attributes:
        first_seconds: Of the first epochs, in which FIF's steps are traced.
        epoch_seconds: Of a later epoch.
    """

    first_seconds: float
    epoch_seconds: float


def count_epochs(steps: int, task: Task, splits: Splits) -> int:
    """Returns the number of epochs with at least so many steps."""
    batches = math.ceil(len(splits.train) / task.batch_size)
    return math.ceil(steps / batches)


def time_training(arm: Arm, task: Task, splits: Splits) -> TrainingTime:
    """Trains a model for a short time, and measures the processor time of its epochs."""
    first_epochs = count_epochs(FIRST_STEPS, task, splits)
    timed_epochs = count_epochs(TIMED_STEPS, task, splits)
    set_seed(0)
    training = arm(task, splits)._replace(epochs=first_epochs + timed_epochs)

    times = [time.process_time()]
    with tempfile.TemporaryDirectory() as run_dir:
        trainer = build_trainer(
            training, task, 0, splits, run_dir, lambda _: times.append(time.process_time())
        )
        trainer.train()
    return TrainingTime(
        first_seconds=times[first_epochs] - times[0],
        epoch_seconds=(times[-1] - times[first_epochs]) / timed_epochs,
    )


def measure_epochs(task: Task, splits: Splits) -> dict[str, dict[str, float]]:
    """Measures the time of all arms, and computes their epochs of equal time.

    Returns:
        Arm -> its time and its number of epochs.
    """
    rounds = [
        {name: time_training(arm, task, splits) for name, arm in ARMS.items()}
        for _ in range(TIMING_ROUNDS[task.name])
    ]
    times = {name: TrainingTime(*np.median([times[name] for times in rounds], 0)) for name in ARMS}

    first_epochs = count_epochs(FIRST_STEPS, task, splits)
    reference = times[REFERENCE]
    seconds = reference.first_seconds + (task.epochs - first_epochs) * reference.epoch_seconds
    return {
        name: {
            **measured._asdict(),
            "epochs": first_epochs
            + round((seconds - measured.first_seconds) / measured.epoch_seconds),
        }
        for name, measured in times.items()
    }


def run_timing(records: Path, tasks: list[str], data_root: str) -> None:
    """Measures the epochs of tasks, and adds them to RECORDS/epochs.json."""
    torch.set_num_threads(1)
    path = records / "epochs.json"
    epochs = read_epochs(records)
    for name in tasks:
        task = TASKS[name]
        epochs[name] = measure_epochs(task, load_data(task, data_root))
        write_bytes(path, json.dumps(epochs, indent=1).encode())
        print(name, {arm: int(values["epochs"]) for arm, values in epochs[name].items()})


def read_epochs(records: Path) -> Epochs:
    """Reads the numbers of epochs; there are none before the first timing."""
    path = records / "epochs.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def arms_of_equal_time(epochs: Epochs) -> dict[str, Arm]:
    """Returns the arms with their numbers of epochs."""

    def build(name: str, task: Task, splits: Splits) -> Training:
        return ARMS[name](task, splits)._replace(epochs=int(epochs[task.name][name]["epochs"]))

    return {name: partial(build, name) for name in ARMS}


# -------------------------------------------------------------------------------- report


def choose(arms: dict[str, dict[int, dict[str, Any]]], names: list[str], prior: str) -> str | None:
    """Chooses the arm with the highest mean validation likelihood over the seeds.

    Args:
        arms: Arm -> seed -> record.
        names: Names of the arms to choose from.
        prior: One of `PRIORS`.

    Returns:
        Its name; None if all arms have failed or are missing.
    """
    means = {
        name: np.mean([record["val_nats"][prior] for record in arms[name].values()])
        for name in names
        if name in arms and not any(map(has_failed, arms[name].values()))
    }
    return max(means, key=lambda name: means[name], default=None)


def judge(difference: Difference, margin: float) -> str:
    """Judges FIF's likelihood minus the rival's.

    Args:
        difference: The difference, in nats.
        margin: The size of a difference that does not matter.

    Returns:
        'yes', 'no', 'level' or 'undecided'.
    """
    if difference.p_with_points < SIGNIFICANCE:
        return "yes" if difference.mean > 0 else "no"
    largest = abs(difference.mean) + difference.margin
    return "level" if largest < margin else "undecided"


def compare_tasks(records: Records, prior: str) -> tuple[Table, list[str]]:
    """Compares FIF with its best rival on every data set.

    Returns:
        The table, and the verdicts.
    """
    lines = []
    verdicts = []
    for task in TASKS.values():
        arms = records.get(task.name, {})
        ours = choose(arms, list(FIFS), prior)
        rival = choose(arms, list(RIVALS), prior)
        if ours is None or rival is None:
            continue
        difference = compare(arms[ours], arms[rival], prior)
        assert difference is not None
        verdicts.append(judge(difference, MARGIN * task.latent_dim))

        cells = difference_cells(difference)
        del cells["p"], cells["failed"]
        lines.append({
            "data": task.name,
            "chosen FIF": ARM_LABELS[ours],
            "FIF's nats": _mean_nats(arms[ours], prior),
            "best rival": ARM_LABELS[rival],
            "rival's nats": _mean_nats(arms[rival], prior),
            "level within": f"{MARGIN * task.latent_dim:.1f}",
            **cells,
            "p": f"{difference.p_with_points:.2g}",
            "FIF is better": verdicts[-1],
        })  # fmt: skip
    return Table(f"FIF and its best rival, {PRIOR_LABELS[prior]}", pd.DataFrame(lines)), verdicts


def fraction_table(records: Records) -> Table:
    """Compares a quarter of the surrogate with the whole, which was not asked before the runs."""
    lines = []
    for task in TASKS.values():
        arms = records.get(task.name, {})
        for prior in PRIORS:
            difference = compare(arms.get("fif_auto_quarter", {}), arms.get(REFERENCE, {}), prior)
            names = {"data": task.name, "prior": PRIOR_LABELS[prior]}
            lines.append(names | difference_cells(difference))
    return Table("A quarter of the surrogate, minus the whole (exploratory)", pd.DataFrame(lines))


def _mean_nats(runs: dict[int, dict[str, Any]], prior: str) -> str:
    values = [record["nats"][prior] for record in runs.values()]
    return number(float(np.mean(values)), float(np.std(values, ddof=1)))


def time_table(records: Records, epochs: Epochs) -> Table:
    """Makes the table of times: as planned by the timing, and of the trainings."""
    lines = []
    for task, times in epochs.items():
        reference_seconds = times[REFERENCE]["epoch_seconds"]
        for name in times:
            runs = records.get(task, {}).get(name, {}).values()
            trained = [record["train_seconds"] for record in runs if "train_seconds" in record]
            relative_time = times[name]["epoch_seconds"] / reference_seconds
            lines.append({
                "data": task,
                "arm": ARM_LABELS[name],
                "epoch, FIF auto = 1": f"{relative_time:.2f}",
                "epochs": str(int(times[name]["epochs"])),
                "training, CPU s": f"{np.mean(trained):.0f}" if trained else DASH,
            })  # fmt: skip
    return Table("Time", pd.DataFrame(lines))


def report(records: Records, epochs: Epochs) -> str:
    """Makes the tables: verdicts, times and all arms."""
    missing = missing_seeds(records, list(ARMS), SEEDS)
    parts = []
    for prior in PRIORS:
        table, verdicts = compare_tasks(records, prior)
        is_worth = "yes" in verdicts and "no" not in verdicts
        answer = "yes" if is_worth else "no"
        if missing:
            answer = f"undecided: {', '.join(missing)}"
        parts.append(f"FIF is worth its time, {PRIOR_LABELS[prior]}: **{answer}**\n")
        parts.append(table.to_markdown())
    parts.append(fraction_table(records).to_markdown())
    parts.append(time_table(records, epochs).to_markdown())
    parts.append(level_table(records, TASKS, ARM_LABELS).to_markdown())
    return "\n".join(parts)


def main() -> None:
    flags = parse_flags(__doc__, TASKS, ARMS, ["time", "run", "report"])
    epochs = read_epochs(flags.records)
    match flags.command:
        case "time":
            run_timing(flags.records, flags.tasks, flags.data_root)
        case "run":
            run_chosen(flags, TASKS, arms_of_equal_time(epochs), SEEDS)
        case "report":
            write_report(report(read_folder(flags.records), epochs), flags.output)


if __name__ == "__main__":
    main()
