"""FIF against autoencoders of equal training time, by likelihood.

First the time of an epoch of every arm is measured, which gives its number of epochs. Then all arms
train for these numbers of epochs.

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
* A run fails as in studies/cost.py. An arm with a failed run is not chosen.
* *Budget*: about 90 CPU minutes for digits and the tables, and two hours for MNIST.

Profile `paper` makes these runs. `quick` has one seed of digits, and decides nothing.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pythae.models import RAE_L2, WAE_MMD, RAE_L2_Config, WAE_MMD_Config
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.data.splits import Splits
from pythae_fif.evaluation.score_types import DASH
from pythae_fif.reports.tables import Table
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.training.traced_step import MIN_STEPS_TO_TRACE
from studies.paired.comparison import (
    PRIOR_LABELS,
    Difference,
    compare,
    difference_cells,
    format_p,
    format_spread,
    level_table,
    missing_seeds,
)
from studies.paired.training import (
    DIGITS,
    MINIBOONE,
    POWER,
    PRIORS,
    Arm,
    PairedResult,
    PairedTraining,
    PlannedTraining,
    Results,
    Task,
    Trainee,
    autoencoder,
    build_trainer,
    run_trainings,
)

MNIST = Task(
    dataset="mnist", arch="resnet", latent_dim=16, epochs=4, batch_size=50, learning_rate=3e-4,
    precision="bfloat16", train_size=8_000, val_size=2_000, points=400,
)  # fmt: skip
TASKS = {task.dataset: task for task in (DIGITS, MINIBOONE, POWER, MNIST)}
SEEDS = {"digits": range(3), "miniboone": range(3), "power": range(3), "mnist": range(2)}
MARGIN = 0.1
"""Nats per latent dimension within which models are level."""
SIGNIFICANCE = 0.05

TIMING_ROUNDS = {"digits": 3, "miniboone": 3, "power": 3, "mnist": 1}
FIRST_STEPS = MIN_STEPS_TO_TRACE + 50
"""Steps that are timed separately, because FIF's are eager and include the tracing."""
TIMED_STEPS = 200


# -------------------------------------------------------------------------------- arms


def fif(task: Task, splits: Splits, **options: Any) -> Trainee:
    return Trainee(task.build_fif(splits, **options))


def rae_l2(task: Task, splits: Splits) -> Trainee:
    config = RAE_L2_Config(
        input_dim=splits.input_dim, latent_dim=task.latent_dim, embedding_weight=0.01
    )
    model = RAE_L2(config, *task.build_networks(splits))
    return Trainee(model, decoder_weight_decay=1e-6)


def wae_imq(task: Task, splits: Splits, weight: float) -> Trainee:
    config = WAE_MMD_Config(
        input_dim=splits.input_dim,
        latent_dim=task.latent_dim,
        kernel_choice="imq",
        reg_weight=weight,
    )
    return Trainee(patch_slow_ops(WAE_MMD(config, *task.build_networks(splits))))


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


@dataclass(frozen=True)
class TrainingTime:
    """Processor time of an arm's training, and its length.

    Attributes:
        first_seconds: Time of the first epochs, in which FIF's steps are traced.
        epoch_seconds: Time of a later epoch.
        epochs: Number of epochs that take as long as the task's epochs of `REFERENCE`.
    """

    first_seconds: float
    epoch_seconds: float
    epochs: int


Times = Mapping[str, Mapping[str, TrainingTime]]
"""Data set -> arm -> its time."""


class EpochTimes(StudySpec):
    """The times of all arms on a task, measured in rounds in which they take turns."""

    kind: ClassVar[str] = "equal_time_epochs"
    result: ClassVar[Any] = dict[str, TrainingTime]
    on_cpu: ClassVar[bool] = True

    task: Task
    rounds: int
    data_hash: str

    def compute(self, report_progress: ProgressCallback) -> dict[str, TrainingTime]:
        """Measures the arms on one thread."""
        torch.set_num_threads(1)
        splits = self.task.load(self.location)
        rounds = []
        for index in range(self.rounds):
            rounds.append([measure_seconds(arm, self.task, splits) for arm in ARMS.values()])
            report_progress((index + 1) / self.rounds)
        medians = dict(zip(ARMS, np.median(rounds, 0).tolist(), strict=True))
        return equal_times(medians, self.task, splits)


def measure_seconds(arm: Arm, task: Task, splits: Splits) -> tuple[float, float]:
    """Trains a model for a short time, and measures the processor time of its epochs.

    Returns:
        The time of the first epochs, and of a later one.
    """
    first_epochs = count_epochs(FIRST_STEPS, task, splits)
    timed_epochs = count_epochs(TIMED_STEPS, task, splits)
    short_task = task.model_copy(update={"epochs": first_epochs + timed_epochs})
    set_seed(0)
    trainee = arm(short_task, splits)

    times = [time.process_time()]
    with tempfile.TemporaryDirectory() as run_dir:
        trainer = build_trainer(
            trainee, short_task, 0, splits, run_dir, lambda _: times.append(time.process_time())
        )
        trainer.train()
    first_seconds = times[first_epochs] - times[0]
    return first_seconds, (times[-1] - times[first_epochs]) / timed_epochs


def equal_times(
    seconds: Mapping[str, Sequence[float]], task: Task, splits: Splits
) -> dict[str, TrainingTime]:
    """Computes the number of epochs of every arm that takes the time of `REFERENCE`.

    Args:
        seconds: Arm -> the numbers of :func:`measure_seconds`.
        task: The task.
        splits: Its data.
    """
    first_epochs = count_epochs(FIRST_STEPS, task, splits)
    reference_first, reference_epoch = seconds[REFERENCE]
    total = reference_first + (task.epochs - first_epochs) * reference_epoch

    times = {}
    for name, (first_seconds, epoch_seconds) in seconds.items():
        epochs = first_epochs + round((total - first_seconds) / epoch_seconds)
        times[name] = TrainingTime(first_seconds, epoch_seconds, epochs)
    return times


def count_epochs(steps: int, task: Task, splits: Splits) -> int:
    """Returns the number of epochs with at least so many steps."""
    batches = math.ceil(len(splits.train) / task.batch_size)
    return math.ceil(steps / batches)


# -------------------------------------------------------------------------------- trainings


class EqualTimeTraining(PairedTraining):
    """A training of one arm."""

    kind: ClassVar[str] = "equal_time"
    arms = ARMS


def plan_trainings(times: Times, options: StudyOptions) -> Iterator[PlannedTraining]:
    """Yields the trainings of all data sets that were timed, seed by seed.

    MNIST has the first two seeds only.
    """
    for index, seed in enumerate(options.seeds):
        for dataset, times_by_arm in times.items():
            if dataset == "mnist" and index >= len(SEEDS[dataset]):
                continue
            for arm, measured in times_by_arm.items():
                task = TASKS[dataset].model_copy(update={"epochs": measured.epochs})
                yield PlannedTraining(task, arm, seed)


# -------------------------------------------------------------------------------- report


def choose(
    arms: Mapping[str, Mapping[int, PairedResult]], names: Sequence[str], prior: str
) -> str | None:
    """Chooses the arm with the highest mean validation likelihood over the seeds.

    Args:
        arms: Arm -> seed -> result.
        names: Names of the arms to choose from.
        prior: One of `PRIORS`.

    Returns:
        Its name; None if all arms have failed or are missing.
    """
    means = {}
    for name in names:
        scores = [result.valid_scores for result in arms.get(name, {}).values()]
        val_nats = [item.val_nats[prior] for item in scores if item is not None]
        if scores and len(val_nats) == len(scores):
            means[name] = float(np.mean(val_nats))
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


def compare_tasks(results: Results, prior: str) -> tuple[Table, list[str]]:
    """Compares FIF with its best rival on every data set.

    Returns:
        The table, and the verdicts.
    """
    lines = []
    verdicts = []
    for dataset, task in TASKS.items():
        arms = results.get(dataset, {})
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
            "data": dataset,
            "chosen FIF": ARM_LABELS[ours],
            "FIF's nats": _mean_nats(arms[ours], prior),
            "best rival": ARM_LABELS[rival],
            "rival's nats": _mean_nats(arms[rival], prior),
            "level within": f"{MARGIN * task.latent_dim:.1f}",
            **cells,
            "p": format_p(difference.p_with_points),
            "FIF is better": verdicts[-1],
        })  # fmt: skip
    return Table(f"FIF and its best rival, {PRIOR_LABELS[prior]}", pd.DataFrame(lines)), verdicts


def fraction_table(results: Results) -> Table:
    """Compares a quarter of the surrogate with the whole, which was not asked before the runs."""
    lines = []
    for dataset in TASKS:
        arms = results.get(dataset, {})
        for prior in PRIORS:
            difference = compare(arms.get("fif_auto_quarter", {}), arms.get(REFERENCE, {}), prior)
            names = {"data": dataset, "prior": PRIOR_LABELS[prior]}
            lines.append(names | difference_cells(difference))
    return Table("A quarter of the surrogate, minus the whole (exploratory)", pd.DataFrame(lines))


def _mean_nats(results: Mapping[int, PairedResult], prior: str) -> str:
    scores = [result.valid_scores for result in results.values()]
    return format_spread([item.nats[prior] for item in scores if item is not None])


def time_table(results: Results, times: Times) -> Table:
    """Makes the table of times: as planned by the timing, and of the trainings."""
    lines = []
    for dataset, times_by_arm in times.items():
        reference_seconds = times_by_arm[REFERENCE].epoch_seconds
        for name, measured in times_by_arm.items():
            scores = [result.scores for result in results[dataset][name].values()]
            train_seconds = [item.train_seconds for item in scores if item is not None]
            lines.append({
                "data": dataset,
                "arm": ARM_LABELS[name],
                "epoch, FIF auto = 1": f"{measured.epoch_seconds / reference_seconds:.2f}",
                "epochs": str(measured.epochs),
                "training, CPU s": f"{np.mean(train_seconds):.0f}" if train_seconds else DASH,
            })  # fmt: skip
    return Table("Time", pd.DataFrame(lines))


def report(results: Results, times: Times) -> str:
    """Makes the tables: verdicts, times and all arms."""
    missing = missing_seeds(results, list(ARMS), SEEDS)
    parts = []
    for prior in PRIORS:
        table, verdicts = compare_tasks(results, prior)
        is_worth = "yes" in verdicts and "no" not in verdicts
        answer = "yes" if is_worth else "no"
        if missing:
            answer = f"undecided: {', '.join(missing)}"
        parts.append(f"FIF is worth its time, {PRIOR_LABELS[prior]}: **{answer}**\n")
        parts.append(table.to_markdown())
    parts.append(fraction_table(results).to_markdown())
    parts.append(time_table(results, times).to_markdown())
    parts.append(level_table(results, TASKS, ARM_LABELS).to_markdown())
    return "\n".join(parts)


def run_equal_time(options: StudyOptions) -> list[StudyPage]:
    """Times and trains all arms, and answers the question."""
    names = ["digits"] if options.profile == "quick" else list(TASKS)
    times = {}
    for name in names:  # one after the other, as another run would disturb the timing
        spec = EpochTimes(
            task=TASKS[name],
            rounds=TIMING_ROUNDS[name],
            data_hash=TASKS[name].load(options.location).content_hash,
            location=options.location,
        )
        (times[name],) = collect_results([spec], options)

    results = run_trainings(EqualTimeTraining, plan_trainings(times, options), options)
    page_name = "equal-time" if options.profile == "paper" else f"equal-time-{options.profile}"
    return [StudyPage(page_name, report(results, times))]


STUDY = Study(run_equal_time, seeds=(1, 3))
