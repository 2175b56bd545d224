"""Results in a store: of a job, of all runs, and of those that one table compares."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.models import list_configs, read_entry
from pythae_fif.benchmark.plan import find_job
from pythae_fif.benchmark.record import (
    EVALUATION_FILE,
    TRAINING_FILE,
    Evaluation,
    ScoringResult,
)
from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.benchmark.training import Training
from pythae_fif.data import Splits
from pythae_fif.runs.store import Record, Store
from pythae_fif.training import TrainingResult


@dataclass(frozen=True)
class Result:
    """The records of a run, with scores that can be compared with each other.

    Attributes:
        job: The job.
        training: The record of its training.
        evaluation: The record of its evaluation.
        scores: Sampler -> record of its scores; at least one.
    """

    job: Job
    training: Record[TrainingResult]
    evaluation: Record[Evaluation]
    scores: Mapping[str, Record[ScoringResult]]


def read(store: Store, job: Job) -> Result | None:
    """Reads the records of a run.

    Args:
        store: The store that holds the run.
        job: The job. Scores of samplers that it does not ask for are read, too, if they differ from
            its scorings only in the sampler.

    Returns:
        The result, or None if no sampler has been scored yet or another record is missing.
    """
    scores = {
        record.result.scoring.sampler: record
        for record in _read_scorings(store, job.training)
        if record.result.scoring.protocol == job.scorings[0].protocol
    }
    training = store.read_record(job.training, TRAINING_FILE, TrainingResult)
    evaluation = store.read_record(job.training, EVALUATION_FILE, Evaluation)
    if training is None or evaluation is None or not scores:
        return None
    return Result(job, training, evaluation, scores)


def _read_scorings(store: Store, training: Training) -> Iterator[Record[ScoringResult]]:
    """Yields the records of all scorings of a run."""
    for name in store.list_files(training.run_path, "scores"):
        record = store.read_record(training, name, ScoringResult)
        if record is not None:
            yield record


def read_all(store: Store, subfolder: str = ".") -> Iterator[Result]:
    """Yields all results of a store, one for each run and kind of scoring.

    The varied parameters are those of the model's YAML file; all parameters if the benchmark has no
    such model.

    Args:
        store: The store.
        subfolder: A folder below `runs/`, such as `mnist/resnet`.
    """
    known_models = list_configs("models")
    entries = {}
    for training in store.iterate_specs(Training, subfolder):
        name = training.model
        if name in known_models and name not in entries:
            entries[name] = read_entry(name)
        varied = list(training.parameters)
        if name in entries:
            varied = entries[name].varied_in(training.hyperparameters)

        groups: dict[tuple[str, int, int | None], list[Scoring]] = {}
        for record in _read_scorings(store, training):
            scoring = record.result.scoring
            groups.setdefault(scoring.protocol, []).append(scoring)
        for scorings in groups.values():
            result = read(store, Job(training, tuple(scorings), varied=tuple(varied)))
            if result is not None:
                yield result


def read_comparable(
    store: Store, experiment: Experiment, jobs: Iterable[Job], splits: Splits
) -> list[Result]:
    """Reads every result that can be compared with the jobs of an experiment.

    These are the runs that the experiment could have made, with any model of the benchmark, any
    values of the parameters that the model varies, and any seed. So the files of an experiment do
    not depend on how its models were spread over commands.

    Args:
        store: The store to read.
        experiment: The experiment.
        jobs: Its jobs.
        splits: Its data.

    Returns:
        The results of the jobs, then the others by model, configuration and seed. Runs without a
        result are left out.
    """
    planned = {job.training: job for job in jobs}
    stored = store.iterate_specs(Training, f"{experiment.dataset}/{experiment.arch}")
    found = [
        find_job(experiment, training, splits) for training in stored if training not in planned
    ]
    others = [job for job in found if job is not None]
    others.sort(key=lambda job: (job.training.model, job.configuration, job.training.seed))

    results = [read(store, job) for job in (*planned.values(), *others)]
    return [result for result in results if result is not None]


def select(frame: pd.DataFrame) -> pd.DataFrame:
    """Selects one configuration for each model and sampler.

    It is the one of lowest mean distance to validation data (appendix E.4). Only the configurations
    with the most finished seeds compete: one that failed with some seeds must not win with the
    remaining ones. The test score plays no part.

    Args:
        frame: One line per run and sampler, with the columns `model`, `sampler`, `configuration`
            and `frechet_val`.

    Returns:
        The lines of the selected configurations. `candidates` is the number that competed.
    """
    groups = ["model", "sampler"]
    configuration = [*groups, "configuration"]
    distances = frame.groupby(configuration, sort=False)["frechet_val"]
    means = distances.agg(["size", "mean"]).reset_index()

    most_seeds = means.groupby(groups)["size"].transform("max")
    complete = means[means["size"] == most_seeds]
    complete = complete.assign(candidates=complete.groupby(groups)["size"].transform("size"))

    best = complete.sort_values("mean", kind="stable").drop_duplicates(groups)
    selected = frame.merge(best[[*configuration, "candidates"]], on=configuration)
    return selected.sort_values(groups, kind="stable", ignore_index=True)
