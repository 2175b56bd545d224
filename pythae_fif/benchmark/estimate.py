"""What a dry run needs: substitutes for missing files, and the time of all runs from short ones."""

import contextlib
import dataclasses
import io
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.results import read
from pythae_fif.data import Splits
from pythae_fif.data.load import load
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DownloadError, format_error
from pythae_fif.evaluation.build import require_extractor
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.sampling.fits import FIT_STEPS as DEFAULT_FIT_STEPS
from pythae_fif.training import quiet_pythae

EXAMPLES = 500
MIN_EXAMPLES = 100
"""Number of examples on which a model is trained, and of samples that are scored, for timing."""
FULL_MODELS = 6
"""Number of models of which each is timed on `EXAMPLES`. With more models there are fewer."""
SMALL_PIXELS = 32 * 32
"""Pixels of an image of which `EXAMPLES` are used. Of larger images there are fewer."""
TIMING_SECONDS = 60
"""Time in which all models are timed."""
TRAINING_SHARE = 0.3
"""The share of a model's time that its short training may take; the rest is for its samplers."""
FIT_STEPS = 30
"""Steps that fit a sampler in a short run; the time of all steps follows from them."""
CONTEXT_BYTES = 2**30
"""GPU memory of a run besides the model and the features of training data."""

OnProgress = Callable[[int, int], None]
"""Called with the number of things that are done, and the number of all."""


class AvailableData(NamedTuple):
    """The data of an experiment, or substitutes for files that would be downloaded.

    Attributes:
        experiment: The experiment, with substitutes for missing files.
        splits: Its data.
        missing: The errors that name the missing files.
        num_train: Number of training examples, also of data that are missing.
    """

    experiment: Experiment
    splits: Splits
    missing: list[DownloadError]
    num_train: int


def load_available(
    experiment: Experiment, progress: OnProgress, *, check_extractor: bool, substitute: bool
) -> AvailableData:
    """Loads the data of an experiment.

    Args:
        experiment: The experiment.
        progress: Called while images are decoded.
        check_extractor: Whether a missing extractor is reported before the data are loaded.
        substitute: Whether nothing is downloaded and files that would be are replaced, if the
            experiment is not offline.

    Raises:
        ConfigError: Files are missing and may not be downloaded, one line each.
    """
    is_offline = experiment.offline
    if substitute:
        experiment = experiment.model_copy(update={"offline": True})
    missing: list[DownloadError] = []

    if check_extractor:
        with _collect_missing_files(missing):
            require_extractor(
                experiment.extractor,
                weights=experiment.extractor_weights,
                offline=experiment.offline,
            )
    with _collect_missing_files(missing):
        splits = _load(experiment, progress)

    if missing and (is_offline or not substitute):
        raise ConfigError(*map(str, missing))
    if missing:
        for error in missing:
            experiment = experiment.model_copy(update=error.substitute)
        splits = _load(experiment, progress)

    num_train = len(splits.train)
    num_missing = sum(error.num_train for error in missing)
    profile = experiment.active_profile
    if num_missing and not profile.steps:  # steps are converted to epochs of the substitutes
        num_train = min(num_missing, profile.train_size or num_missing)
    return AvailableData(experiment, splits, missing, num_train)


def _load(experiment: Experiment, progress: OnProgress) -> Splits:
    """Loads the data that a profile selects."""
    return load(
        experiment.dataset,
        experiment,
        image_size=experiment.image_size,
        progress=progress,
        **experiment.active_profile.data_selection,
    )


@contextlib.contextmanager
def _collect_missing_files(errors: list[DownloadError]) -> Iterator[None]:
    """Appends the error of a file that must be downloaded to a list."""
    try:
        yield
    except DownloadError as error:
        errors.append(error)


@dataclass(frozen=True)
class ModelTime:
    """The time of a run of a model.

    Attributes:
        training: Seconds of training.
        scoring: Seconds of all its scorings.
    """

    training: float
    scoring: float

    @property
    def seconds(self) -> float:
        """Seconds of the run."""
        return self.training + self.scoring


@dataclass(frozen=True)
class Estimate:
    """How long jobs would take.

    Attributes:
        run_counts: Model -> number of its runs.
        times: Model -> time of one of its runs.
        problems: Model that fails -> its error line.
        examples: Number of training examples of the short runs.
        peak_bytes: GPU memory that they took; 0 without a GPU.
    """

    run_counts: Counter[str]
    times: dict[str, ModelTime]
    problems: dict[str, str]
    examples: int
    peak_bytes: int

    @property
    def longest(self) -> float:
        """Seconds of the longest run."""
        return max((time.seconds for time in self.times.values()), default=0.0)

    @property
    def total(self) -> float:
        """Seconds of all runs one after the other, without those of models that fail."""
        return sum(self.run_counts[model] * time.seconds for model, time in self.times.items())

    def run_bytes(self, feature_bytes: int) -> int:
        """Returns the GPU memory of a run; 0 without a GPU.

        Args:
            feature_bytes: Size of the features of all training data.
        """
        if not self.peak_bytes:
            return 0
        # Memorisation scores hold the features and a copy of them in float64.
        return CONTEXT_BYTES + max(self.peak_bytes + feature_bytes, 3 * feature_bytes)


def estimate_time(
    jobs: Sequence[Job],
    splits: Splits,
    num_train: int,
    threads: int,
    progress: OnProgress = lambda done, total: None,
    on_model: Callable[[str, int, ModelTime], None] = lambda model, runs, time: None,
) -> Estimate:
    """Executes a short run of each model, which takes an equal part of `TIMING_SECONDS`.

    Args:
        jobs: The jobs.
        splits: The data.
        num_train: Number of training examples in an epoch.
        threads: Number of CPU threads of a run.
        progress: Called before each short run.
        on_model: Called with a model, the number of its runs and the time of one of them.
    """
    torch.set_num_threads(threads)
    first_jobs: dict[str, Job] = {}
    for job in jobs:
        first_jobs.setdefault(job.training.model, job)
    run_counts = Counter(job.training.model for job in jobs)
    model_seconds = TIMING_SECONDS / len(run_counts)
    subset = _subset_for_timing(splits, model_seconds)
    times: dict[str, ModelTime] = {}
    problems: dict[str, str] = {}

    # A real run writes warnings and standard error to its `output.log`.
    quiet_stderr = contextlib.redirect_stderr(io.StringIO())
    with quiet_pythae(), warnings.catch_warnings(), quiet_stderr:
        warnings.simplefilter("ignore")
        for number, (model, job) in enumerate(first_jobs.items()):
            progress(number, len(first_jobs))
            try:
                times[model] = _time_job(job, subset, num_train, model_seconds)
                on_model(model, run_counts[model], times[model])
            except Exception as error:  # a user's model may raise any exception
                problems[model] = f"model {model} fails in a short run: {format_error(error)}"

    peak_bytes = torch.cuda.max_memory_allocated()
    return Estimate(run_counts, times, problems, len(subset.train), peak_bytes)


def _subset_for_timing(splits: Splits, model_seconds: float) -> Splits:
    """Returns the first examples of each split, with the same share for training and validation.

    There are fewer large images, and fewer if there are many models.
    """
    pixels = math.prod(splits.input_dim[1:])
    share = min(1.0, SMALL_PIXELS / pixels, model_seconds / TIMING_SECONDS * FULL_MODELS)
    count = max(MIN_EXAMPLES, int(EXAMPLES * share))
    train_size = min(EXAMPLES, len(splits.train), count)
    val_size = max(10, len(splits.val) * train_size // len(splits.train))
    return splits.subset(train=train_size, val=val_size, test=min(train_size, len(splits.test)))


def _time_job(job: Job, subset: Splits, num_train: int, seconds: float) -> ModelTime:
    """Returns the time of a job, from a short run on a subset.

    An evaluation counts as it is, because FIF's takes about as long on any number of data, and
    others' are short.
    """
    short_job = _shorten(job, subset, TRAINING_SHARE * seconds)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        execute_run(short_job, store)
        result = read(store, short_job)
    assert result is not None

    short = result.training.result
    epoch = short.log[-1]  # the first epoch is a warm-up
    train_seconds = epoch.train_seconds or 0.0
    evaluation_seconds = epoch.seconds - train_seconds
    if short.ended_by == "num_epochs":
        seconds_per_image = train_seconds / len(subset.train)
    else:
        seconds_per_image = short.train_seconds / short.images
    epoch_seconds = seconds_per_image * num_train + evaluation_seconds
    training = job.training
    epochs = training.epochs or math.inf

    # Records count their seconds from the start of the run.
    end_of_previous = result.training.provenance.seconds or 0
    scoring_seconds = 0.0
    for scoring, short_scoring in zip(job.scorings, short_job.scorings, strict=True):
        end = result.scores[scoring.sampler].provenance.seconds or 0
        ratio = scoring.num_samples / short_scoring.num_samples
        if find_sampler(scoring.sampler).takes_steps:
            ratio = max(ratio, (scoring.fit_steps or DEFAULT_FIT_STEPS) / FIT_STEPS)
        scoring_seconds += ratio * (end - end_of_previous)
        end_of_previous = end
    return ModelTime(
        training=min(epoch_seconds * epochs, training.wall_clock or math.inf),
        scoring=scoring_seconds,
    )


def _shorten(job: Job, subset: Splits, train_seconds: float) -> Job:
    """Returns a short job: two epochs on the subset, within a time, and few samples and steps."""
    training = job.training
    changes = {f"{split}_size": len(subset[split]) for split in SPLIT_NAMES} | {
        "epochs": 2,
        "wall_clock": None if training.one_cycle else train_seconds,
        "data_hash": subset.content_hash,
        "labels_hash": training.labels_hash and subset.labels_hash,
    }
    num_samples = min(len(subset.train), job.scorings[0].num_samples)
    scorings = tuple(
        scoring.model_copy(update={"num_samples": num_samples, "fit_steps": FIT_STEPS})
        for scoring in job.scorings
    )
    return dataclasses.replace(job, training=training.model_copy(update=changes), scorings=scorings)
