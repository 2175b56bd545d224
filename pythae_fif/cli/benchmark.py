"""`run`: the plan of a benchmark, an estimate of its time, the runs and the report."""

import contextlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import torch
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.image_spec import WEIGHTS, ImageSpec
from pythae_fif.benchmark.load import DEFAULTS
from pythae_fif.benchmark.plan import ImageResult, expand, leaderboard
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import RunFlags
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import load
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DownloadError, FailedRunsError, format_error, pluralized
from pythae_fif.evaluation.build import load_extractor, require_extractor
from pythae_fif.names import import_object, is_user_object
from pythae_fif.runs.launch import Engine, run_all
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.training import quiet_pythae

logger = logging.getLogger(__name__)

IMAGES = 500
MIN_IMAGES = 100
"""Number of images on which a model is trained, and of samples that are scored, for timing."""
SMALL_PIXELS = 32 * 32
"""Pixels of an image of which `IMAGES` are used. Of larger images there are fewer."""
TIMING_SECONDS = 120
"""Time after which no further model is timed."""
CONTEXT_BYTES = 2**30
"""GPU memory of a run besides the model and the features of training images."""


def run_benchmark(flags: RunFlags, experiment: Experiment, engine: Engine) -> None:
    """Trains, scores and compares the models that are not in the store yet, and prints the table.

    Args:
        flags: The flags of the command. A dry run downloads nothing.
        experiment: The models, data and settings.
        engine: Where the runs are executed.

    Raises:
        FailedRunsError: Runs have no record, because they failed.
    """
    console = Terminal()
    store = Store(flags.results)
    for name in (*experiment.scores, *filter(is_user_object, experiment.samplers)):
        import_object(name)  # a mistake is reported before anything is computed
    experiment, splits, num_missing = _load_or_substitute(experiment, console, store, flags.dry_run)
    plan = expand(experiment, splits)
    plan = _with_rescoring(plan, store) if flags.rescore else plan
    requested = _requested_runs(experiment, plan, store)
    todo = [spec for spec in requested if not store.is_done(spec)]
    if todo:
        image_bytes = _prepare_extractor(experiment, console, splits)

    profile = experiment.active_profile
    if profile.wall_clock is not None:
        engine = engine.without_sharing()
    if todo:
        console.say(f"device: {engine.describe()}")
    if flags.dry_run:
        print_plan(console, experiment, plan, todo)
        if todo:
            num_train = len(splits.train)
            if num_missing and not profile.steps:  # steps were converted to epochs of the images
                num_train = min(num_missing, profile.train_size or num_missing)
            print_estimate(console, splits, todo, engine, image_bytes * num_train, num_train)
        return

    with console.runs() as on_change:
        run_all(requested, store, engine, on_change)

    _report(experiment, console, splits, plan, store)
    missing = [spec for spec in requested if not store.is_done(spec)]
    if missing:
        raise FailedRunsError(
            f"{pluralized(len(missing), 'run')} without a record; the same command tries again"
        )


def _load_or_substitute(
    experiment: Experiment, console: Terminal, store: Store, is_dry_run: bool
) -> tuple[Experiment, Splits, int]:
    """Checks the extractor and loads the data; in a dry run, without a download.

    Returns:
        The experiment, which in a dry run has substitutes for missing files; its data; and the
        number of training images that are missing.

    Raises:
        ConfigError: Files are missing and may not be downloaded, one line each.
    """
    is_offline = experiment.offline
    if is_dry_run:
        experiment = experiment.model_copy(update={"offline": True})
    missing_files: list[DownloadError] = []
    specs = store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")
    if not any(spec.extractor == experiment.extractor for spec in specs):
        # A missing extractor is reported before the data are loaded. If the store has runs with it,
        # their table is shown without it.
        with _collect_missing_files(missing_files):
            require_extractor(
                experiment.extractor,
                weights=experiment.extractor_weights,
                offline=experiment.offline,
            )

    with _collect_missing_files(missing_files):
        splits = _load_data(experiment, console)
    if missing_files and (is_offline or not is_dry_run):
        raise ConfigError(*map(str, missing_files))
    if missing_files:
        experiment = _without_missing_files(experiment, console, missing_files)
        splits = _load_data(experiment, console)
    return experiment, splits, sum(error.num_train for error in missing_files)


@contextlib.contextmanager
def _collect_missing_files(errors: list[DownloadError]) -> Iterator[None]:
    """Appends the error of a file that must be downloaded to a list."""
    try:
        yield
    except DownloadError as error:
        errors.append(error)


def _without_missing_files(
    experiment: Experiment, console: Terminal, errors: list[DownloadError]
) -> Experiment:
    """Lists what a run would download; returns an experiment that can be timed without it."""
    for error in errors:
        console.say(f"to download: {error.download}")
        experiment = experiment.model_copy(update=error.substitute)
    console.say(
        f"the estimate uses extractor {experiment.extractor} and, if data are missing, random "
        "images, with which the ids of the runs differ"
    )
    return experiment


def _with_rescoring(plan: list[ImageSpec], store: Store) -> list[ImageSpec]:
    """Requests the missing scores of all runs, except of finished ones that have no model."""
    stuck = [
        spec for spec in plan if store.is_done(spec) and not (store.folder(spec) / WEIGHTS).exists()
    ]
    if stuck:
        logger.warning(
            "--rescore adds no scores to %s: the store has no model",
            pluralized(len(stuck), "finished run"),
        )
    return [spec.model_copy(update={"rescore": spec not in stuck}) for spec in plan]


def _requested_runs(experiment: Experiment, plan: list[ImageSpec], store: Store) -> list[ImageSpec]:
    """Returns the runs of a plan without those that are packed, if the samplers are the defaults.

    A packed run has no model. Default samplers that it lacks are no reason to train it again.
    """
    if experiment.samplers != list(DEFAULTS["samplers"]):
        return plan
    return [spec for spec in plan if not store.packed_run(spec)]


def _load_data(experiment: Experiment, console: Terminal) -> Splits:
    """Loads the data, and logs notes on what was left out or looks unusual."""
    with console.stage(f"loading {experiment.dataset}") as progress:
        splits = load(
            experiment.dataset,
            experiment,
            image_size=experiment.image_size,
            progress=progress,
            **experiment.settings_for(experiment.models[0]).data_subset,
        )

    for note in splits.notes:
        logger.warning("%s: %s", experiment.dataset, note)
    return splits


def _prepare_extractor(experiment: Experiment, console: Terminal, splits: Splits) -> int:
    """Loads the extractor once for all runs; returns the bytes of features per image."""
    with console.stage(f"preparing extractor {experiment.extractor}"):
        extractor = load_extractor(
            experiment.extractor,
            splits.input_dim,
            splits.name,
            weights=experiment.extractor_weights,
            offline=experiment.offline,
        )
        features, _ = extractor(to_float(splits.test, limit=2))
    return features.nbytes // len(features)


def _report(
    experiment: Experiment, console: Terminal, splits: Splits, plan: list[ImageSpec], store: Store
) -> None:
    """Prints the table of this command's runs, and writes the table of all comparable runs."""
    comparable = leaderboard(store, experiment, plan, splits)
    planned = [result for result in comparable if result.spec in plan]
    if not planned:
        return
    from pythae_fif.reports.report import Report  # imported here, because it takes seconds

    missing = sum(not store.is_done(spec) for spec in plan)
    reference_root = store.root / "reference"
    reference = Store(reference_root) if reference_root.is_dir() else None
    console.print(Report(experiment, planned, splits, missing, reference).terminal())
    *_, page = Report(experiment, comparable, splits, missing, reference).write(store)
    console.say(f"written: {page}")


def print_plan(
    console: Terminal, experiment: Experiment, plan: list[ImageSpec], todo: list[ImageSpec]
) -> None:
    """Prints the runs of a plan, one line each, and the settings that they share.

    Args:
        console: The terminal.
        experiment: The settings of the runs.
        plan: All runs.
        todo: The runs that have no records yet.
    """
    table = Table("run id", "model", "configuration", "seed", "", box=None)
    for spec in plan:
        state = "" if spec in todo else "done"
        table.add_row(spec.run_id, spec.model, spec.configuration, str(spec.seed), state)
    console.print(table)
    console.say(
        f"{pluralized(len(plan), 'run')}, {len(todo)} of them to do: {experiment.dataset}, "
        f"{experiment.arch}, profile {experiment.profile}, "
        f"{describe_length(experiment.active_profile)}, "
        f"samplers {', '.join(experiment.samplers)}, extractor {experiment.extractor}"
    )


def print_estimate(
    console: Terminal,
    splits: Splits,
    plan: list[ImageSpec],
    engine: Engine,
    feature_bytes: int,
    num_train: int,
) -> None:
    """Executes a short run of every model, and prints how long all runs would take.

    Args:
        console: The terminal.
        splits: The data.
        plan: The runs.
        engine: Where the runs would be executed.
        feature_bytes: Size of the features of all training images, which a run holds in memory.
        num_train: Number of training images in an epoch.

    Raises:
        FailedRunsError: The short runs of some models failed. Each has an error line, and the
            estimate does not include them.
    """
    subset = _subset_for_timing(splits)
    torch.set_num_threads(engine.threads_per_run)
    seconds, problems = _time_models(console, plan, subset, num_train)
    run_counts = Counter(spec.model for spec in plan)
    table = Table("model", "runs", "training", "samplers, scores", "all its runs", box=None)
    for model, (training, scoring) in seconds.items():
        times = (training, scoring, run_counts[model] * (training + scoring))
        table.add_row(model, str(run_counts[model]), *map(_format_seconds, times))
    console.print(table)

    longest = max(map(sum, seconds.values()), default=0.0)
    untimed = [model for model in run_counts if model not in {*seconds, *problems}]
    if untimed:
        console.say(f"counted as the slowest, to save time: {', '.join(untimed)}")
    total = sum(run_counts[model] * sum(times) for model, times in seconds.items())
    total += longest * sum(run_counts[model] for model in untimed)

    peak_bytes = torch.cuda.max_memory_allocated()  # 0 without a GPU
    if peak_bytes:
        # Memorisation scores hold the features and a copy of them in float64.
        run_bytes = CONTEXT_BYTES + max(peak_bytes + feature_bytes, 3 * feature_bytes)
        console.say(
            f"GPU memory of a run: {run_bytes / 2**30:.1f} GB; --runs-per-gpu sets how many share "
            "a GPU"
        )
    parallel_runs = engine.parallel_runs()
    if parallel_runs is None:
        parallel = f"{_format_seconds(longest)} for the longest run"
    else:
        at_once = max(1, min(parallel_runs, len(plan)))
        parallel = f"{_format_seconds(total / at_once)} with {pluralized(at_once, 'run')} at once"
    console.say(
        f"estimate: {_format_seconds(total)} one after the other, {parallel} (from a short run of "
        f"each model on this machine, on {len(subset.train):,} examples with one sampler; fitting "
        "other samplers takes additional time)"
    )
    if problems:
        raise FailedRunsError(*problems.values())


def _time_models(
    console: Terminal, plan: list[ImageSpec], subset: Splits, num_train: int
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Executes a short run of each model, until `TIMING_SECONDS` have passed.

    Returns:
        Model -> seconds of training and of scoring in a run; and model -> error line of a model
        that fails. The slow models that were not executed are in neither.
    """
    first_specs: dict[str, ImageSpec] = {}
    for spec in plan:
        first_specs.setdefault(spec.model, spec)
    seconds: dict[str, tuple[float, float]] = {}
    problems: dict[str, str] = {}

    # A real run writes warnings and standard error to its `output.log`.
    quiet_stderr = contextlib.redirect_stderr(io.StringIO())
    with (
        console.stage("timing") as progress,
        quiet_pythae(),
        warnings.catch_warnings(),
        quiet_stderr,
    ):
        warnings.simplefilter("ignore")
        start = time.monotonic()
        for number, (model, spec) in enumerate(first_specs.items()):
            progress(number, len(first_specs))
            if seconds and time.monotonic() - start > TIMING_SECONDS:
                break
            try:
                seconds[model] = _estimate_run(spec, subset, num_train)
            except Exception as error:  # a user's model may raise any exception
                problems[model] = f"model {model} fails in a short run: {format_error(error)}"
    return seconds, problems


def _subset_for_timing(splits: Splits) -> Splits:
    """Returns the first images of each split, with the same share for training and validation.

    There are fewer large images, so that a model with slow networks is timed in a minute.
    """
    pixels = math.prod(splits.input_dim[1:])
    train_size = min(IMAGES, len(splits.train), max(MIN_IMAGES, IMAGES * SMALL_PIXELS // pixels))
    val_size = max(10, len(splits.val) * train_size // len(splits.train))
    return splits.subset(train=train_size, val=val_size, test=min(train_size, len(splits.test)))


def _format_seconds(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _estimate_run(spec: ImageSpec, subset: Splits, num_train: int) -> tuple[float, float]:
    """Returns the seconds of training and of scoring in a run, from a short run on a subset.

    An evaluation counts as it is, because FIF's takes about as long on any number of data, and
    others' are short.
    """
    short_spec = _shorten(spec, subset)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        execute_run(short_spec, store)
        result = ImageResult.read(store, short_spec)
    assert result is not None

    epoch = result.training.result.log[-1]  # the first epoch is a warm-up
    train_seconds = epoch.train_seconds or 0.0
    evaluation_seconds = epoch.seconds - train_seconds
    epoch_seconds = train_seconds * num_train / len(subset.train) + evaluation_seconds
    epochs = spec.settings.epochs or math.inf
    training = min(epoch_seconds * epochs, spec.settings.wall_clock or math.inf)

    # Records count their seconds from the start of the run.
    (scores,) = result.scores.values()
    scoring = (scores.provenance.seconds or 0.0) - (result.training.provenance.seconds or 0.0)
    sample_ratio = spec.settings.num_samples / short_spec.settings.num_samples
    return training, scoring * sample_ratio * len(spec.samplers)


def _shorten(spec: ImageSpec, subset: Splits) -> ImageSpec:
    """Returns the specification of a short run: two epochs on the subset, and one sampler."""
    num_samples = min(len(subset.train), spec.settings.num_samples)
    split_sizes = {f"{split}_size": len(subset[split]) for split in SPLIT_NAMES}
    short_settings = spec.settings.model_copy(
        update={"epochs": 2, "wall_clock": None, "num_samples": num_samples, **split_sizes}
    )
    return spec.model_copy(
        update={
            "settings": short_settings,
            "samplers": spec.samplers[:1],
            "data_hash": subset.content_hash,
            "labels_hash": spec.labels_hash and subset.labels_hash,
        }
    )
