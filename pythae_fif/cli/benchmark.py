"""`run`: the plan of a benchmark, an estimate of its time, the runs and the report."""

import logging
from collections.abc import Collection
from datetime import timedelta

from rich.table import Table

from pythae_fif.benchmark.build import build_model
from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.estimate import (
    AvailableData,
    Estimate,
    ModelTime,
    estimate_time,
    load_available,
)
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.load import DEFAULTS
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read_comparable
from pythae_fif.benchmark.training import Training
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import RunFlags
from pythae_fif.data import Splits, to_float
from pythae_fif.errors import FailedRunsError, pluralized
from pythae_fif.evaluation.build import load_extractor
from pythae_fif.names import import_object, is_user_object
from pythae_fif.runs.launch import Engine, run_all
from pythae_fif.runs.store import Store

logger = logging.getLogger(__name__)


def run_benchmark(flags: RunFlags, experiment: Experiment, engine: Engine) -> None:
    """Trains, scores and compares the models that are not in the store yet, and prints the table.

    Args:
        flags: The flags of the command. A dry run downloads nothing.
        experiment: The models, data and settings.
        engine: Where the runs are executed.

    Raises:
        FailedRunsError: Runs have no record, because they failed.
    """
    terminal = Terminal()
    store = Store(flags.results)
    for name in (*experiment.scores, *filter(is_user_object, experiment.samplers)):
        import_object(name)  # a mistake is reported before anything is computed

    experiment, splits, _, num_train = _load_data(terminal, store, experiment, flags)
    jobs = plan(experiment, splits)
    open_jobs = [job for job in jobs if not job.is_done(store)]
    todo = _without_packed(open_jobs, store, experiment)
    if todo:
        store.check_writable()
        feature_bytes = _prepare_extractor(terminal, experiment, splits)
        if experiment.active_profile.wall_clock is not None:
            engine = engine.without_sharing()
        terminal.say(f"device: {engine.describe()}")

    if flags.dry_run:
        _print_plan(terminal, experiment, jobs, todo, splits.input_dim)
        if todo:
            estimate = _estimate(terminal, todo, splits, num_train, engine)
            _print_estimate(terminal, estimate, engine, feature_bytes * num_train)
        return

    with terminal.runs() as on_change:
        errors = run_all(todo, store, engine, on_change, done=len(jobs) - len(todo))
    num_failed = sum(1 for error in errors.values() if error)

    num_packed = len(open_jobs) - len(todo)
    _print_report(terminal, experiment, splits, jobs, store, missing=num_failed + num_packed)
    if num_failed:
        raise FailedRunsError(
            f"{pluralized(num_failed, 'run')} without a record; the same command tries again"
        )


def _load_data(
    terminal: Terminal, store: Store, experiment: Experiment, flags: RunFlags
) -> AvailableData:
    """Loads the data; in a dry run, lists what a run would download."""
    # If the store has scores with the extractor, their table is shown without it.
    trainings = store.iterate_specs(Training, f"{experiment.dataset}/{experiment.arch}")
    has_scores = any(
        f"-{experiment.extractor}-" in name
        for training in trainings
        for name in store.list_files(training.run_path, "scores")
    )

    with terminal.stage(f"loading {experiment.dataset}") as progress:
        data = load_available(
            experiment, progress, check_extractor=not has_scores, substitute=flags.dry_run
        )

    for error in data.missing:
        terminal.say(f"to download: {error.download}")
    if data.missing:
        terminal.say(
            f"the estimate uses extractor {data.experiment.extractor} and, if data are missing, "
            "random images, with which the ids of the runs differ"
        )

    for note in data.splits.notes:
        logger.warning("%s: %s", experiment.dataset, note)
    return data


def _without_packed(open_jobs: list[Job], store: Store, experiment: Experiment) -> list[Job]:
    """Returns the jobs without those of packed runs that lack only some of the default samplers.

    A packed run has no model. Default samplers that it lacks are no reason to train it again.
    """
    if experiment.samplers != list(DEFAULTS["samplers"]):
        return open_jobs
    return [
        job
        for job in open_jobs
        if not (store.is_packed(job.training.run_path) and job.has_scores(store))
    ]


def _prepare_extractor(terminal: Terminal, experiment: Experiment, splits: Splits) -> int:
    """Loads the extractor once for all runs; returns the bytes of features per example."""
    with terminal.stage(f"preparing extractor {experiment.extractor}"):
        extractor = load_extractor(
            experiment.extractor,
            splits.input_dim,
            splits.name,
            weights=experiment.extractor_weights,
            offline=experiment.offline,
        )
        features, _ = extractor(to_float(splits.test, limit=2))
    return features.nbytes // len(features)


def _print_report(
    terminal: Terminal,
    experiment: Experiment,
    splits: Splits,
    jobs: list[Job],
    store: Store,
    missing: int,
) -> None:
    """Prints the table of this command's runs, and writes the table of all comparable runs."""
    comparable = read_comparable(store, experiment, jobs, splits)
    planned = [result for result in comparable if result.job in jobs]
    if not planned:
        return
    from pythae_fif.reports.report import Report  # imported here, because it takes seconds

    reference_root = store.root / "reference"
    reference = Store(reference_root) if reference_root.is_dir() else None
    terminal.print(Report(experiment, planned, splits, missing, reference).terminal())
    *_, page = Report(experiment, comparable, splits, missing, reference).write(store)
    terminal.say(f"written: {page}")


def _print_plan(
    terminal: Terminal,
    experiment: Experiment,
    jobs: list[Job],
    todo: Collection[Job],
    input_dim: tuple[int, ...],
) -> None:
    """Prints the jobs, one line each, and the settings that they share."""
    table = Table("run id", "model", "configuration", "seed", "parameters", "", box=None)
    sizes: dict[str, str] = {}
    for job in jobs:
        training = job.training
        state = "" if job in todo else "done"
        if training.model not in sizes:
            sizes[training.model] = f"{_count_parameters(training, input_dim) / 1e6:.2f} M"
        cells = (training.model, job.configuration, str(training.seed), sizes[training.model])
        table.add_row(training.run_id, *cells, state)

    terminal.print(table)
    terminal.say(
        f"{pluralized(len(jobs), 'run')}, {len(todo)} of them to do: {experiment.dataset}, "
        f"{experiment.arch}, profile {experiment.profile}, "
        f"{describe_length(experiment.active_profile)}, "
        f"samplers {', '.join(experiment.samplers)}, extractor {experiment.extractor}"
    )


def _count_parameters(training: Training, input_dim: tuple[int, ...]) -> int:
    """Returns the number of weights of a training's model."""
    model = build_model(training, input_dim)
    return sum(weights.numel() for weights in model.parameters())


def _estimate(
    terminal: Terminal, todo: list[Job], splits: Splits, num_train: int, engine: Engine
) -> Estimate:
    """Times the jobs, with a progress bar and a line for each model."""
    width = max(len(name) for name in ("model", *(job.training.model for job in todo))) + 2

    def print_line(*cells: str) -> None:
        name, runs, *times = cells
        line = f"{name:{width}}{runs:6}" + "".join(f"{text:18}" for text in times)
        terminal.say(line.rstrip())

    def print_model(model: str, runs: int, time: ModelTime) -> None:
        seconds = (time.training, time.scoring, runs * time.seconds)
        print_line(model, str(runs), *map(_format_seconds, seconds))

    print_line("model", "runs", "training", "samplers, scores", "all its runs")
    with terminal.stage("timing") as progress:
        return estimate_time(todo, splits, num_train, engine.threads_per_run, progress, print_model)


def _print_estimate(
    terminal: Terminal, estimate: Estimate, engine: Engine, feature_bytes: int
) -> None:
    """Prints how long the jobs would take, and how much memory of a GPU.

    Raises:
        FailedRunsError: The short runs of some models failed. Each has an error line, and the
            estimate does not include them.
    """
    run_bytes = estimate.run_bytes(feature_bytes)
    if run_bytes:
        terminal.say(
            f"GPU memory of a run: {run_bytes / 2**30:.1f} GB; --runs-per-gpu sets how many share "
            "a GPU"
        )

    parallel_runs = engine.parallel_runs()
    if parallel_runs is None:
        parallel = f"{_format_seconds(estimate.longest)} for the longest run"
    else:
        count = max(1, min(parallel_runs, estimate.run_counts.total()))
        seconds = _format_seconds(estimate.total / count)
        parallel = f"{seconds} with {pluralized(count, 'run')} at once"

    terminal.say(
        f"estimate: {_format_seconds(estimate.total)} one after the other, {parallel} (from a "
        f"short run of each model on this machine, on {estimate.examples:,} examples)"
    )
    terminal.say(
        "what makes it shorter: a smaller --num-samples, fewer --samplers, a shorter --profile"
    )

    if estimate.problems:
        raise FailedRunsError(*estimate.problems.values())


def _format_seconds(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
