"""The course of a benchmark: load, plan, execute, report."""

__all__ = ["run_benchmark"]

import dataclasses
import logging
import math
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.display import Best, Display
from pythae_fif.benchmark.inputs import (
    data_options,
    labelled,
    load_extractor,
    load_splits,
)
from pythae_fif.benchmark.leaderboard import ImageStore, leaderboard
from pythae_fif.benchmark.model_entry import all_models, read_model_entry
from pythae_fif.benchmark.plan import Announced, RunSpec, check_classes, expand
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.benchmark.selection import Result, select
from pythae_fif.cli.dry_run import networks_line, print_estimate, print_plan
from pythae_fif.cli.preflight import (
    Space,
    cuda_warning,
    disk_problems,
    machine_line,
    may_be_made,
    noted,
    run_problems,
    unreachable,
)
from pythae_fif.cli.request import Request
from pythae_fif.cli.terminal import Terminal
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import absent
from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ProblemsError, counted, require_package
from pythae_fif.evaluation.extractors import check_extractor
from pythae_fif.evaluation.names import EXTRACTORS
from pythae_fif.reports.experiment import Failure, constant_error, write_experiment
from pythae_fif.reports.report import Report, build_report
from pythae_fif.reports.score_table import score_terminal
from pythae_fif.runs.engines.common import Batch, Engine, Outcome, cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.engines.options import EngineOptions, LocalOptions, build_engine
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.remote import Remote, is_url
from pythae_fif.runs.store import Store
from pythae_fif.sampling import SAMPLERS
from pythae_fif.training import LOG_NAME, read_log

ESSENTIAL = 2
"""Notes of a table that the terminal shows beside that on the data: warnings come first, then the
profile. The page has all."""

MANY_STEPS = 1_000_000
"""On a CPU, where a step of a small ResNet takes 0.1 s, more than a day."""

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}

logger = logging.getLogger(__name__)


def run_benchmark(request: Request) -> bool:
    """Trains, scores and compares what is asked for and not in the store, and prints the table.

    Args:
        request: What to do.

    Returns:
        Whether no run failed, or would fail in its first steps.
    """
    flags, experiment = request.flags, request.experiment
    console = Terminal(highlight=False)
    display = Display(console, quiet=flags.quiet)
    environment = Environment(
        data_root=flags.data_root,
        data=experiment.data,
        offline=flags.offline,
        skip_undecodable=experiment.skip_undecodable,
        **{name: getattr(experiment, name) for name in TableOptions.model_fields},
        extractor_weights=flags.extractor_weights,
        own_extractor=None if experiment.extractor in EXTRACTORS else experiment.extractor,
        tensorboard=flags.tensorboard,
    )
    engine, plan, later = _check(request, environment)
    if not flags.quiet:
        console.print(machine_line(engine), markup=False, soft_wrap=True)
    if isinstance(engine, LocalEngine) and (warning := cuda_warning()):
        logger.warning(warning)
    with display.stage(f"loading {experiment.dataset}") as progress:
        splits = load_splits(
            experiment.dataset, experiment.image_size, experiment.settings, environment, progress
        )
    with noted(later):
        shape, weights = splits.input_dim, flags.extractor_weights
        check_extractor(experiment.extractor, shape, labelled(splits), weights=weights)
    if plan:
        plan = [dataclasses.replace(spec, data_hash=splits.content_hash) for spec in plan]
    else:
        plan = expand(experiment, splits)
    ours = plan[request.shard]
    if flags.dry_run:
        for line in later:
            logger.warning("no run would start: %s", line)
        todo = None
        if not is_url(flags.results):  # to look there would fetch all that it has
            todo = _todo(Store(flags.results, IMAGES, reads_only=True), ours, request)
        print_plan(console, experiment, splits, ours, todo)
        if todo == []:
            return True
        return print_estimate(console, display, splits, todo or ours, engine)
    store = Store(flags.results, IMAGES)
    course = _Course(request, console, display, environment, splits, plan, store)
    todo = _todo(store, ours, request)
    if todo and later:
        raise ProblemsError(later)
    if isinstance(engine, LocalEngine) and engine.slots()[0].device == "cpu":
        _warn_of_days(experiment, splits, len(todo))
    outcomes = course.execute(todo, engine, done=len(ours) - len(todo)) if todo else []
    store.refresh()
    failed = [outcome for outcome in outcomes if outcome.state != "finished"]
    page = course.report(failed)
    for outcome in failed:
        console.print(
            f"{outcome.state}: {outcome.run_dir}: {outcome.error}", markup=False, soft_wrap=True
        )
    if engine.parting:
        console.print(engine.parting, markup=False)
    elif left := len(todo) - len(outcomes):
        after = counted(len(failed), "failure")
        console.print(f"{counted(left, 'run')} not started after {after} (--max-failures)")
    if page is not None:
        console.print(
            f"written: tables/{page.stem}*, figures/{page.stem}* in {store.root}\nopen: {page}",
            markup=False,
            soft_wrap=True,
        )
        if flags.open and not webbrowser.open(page.resolve().as_uri()):
            logger.warning("--open: there is no browser here to show the page")
    return not failed


def _todo(store: ImageStore, plan: list[RunSpec], request: Request) -> list[RunSpec]:
    """The runs of a plan that the store lacks."""
    return [
        spec
        for spec in plan
        # A packed run has no model: a sampler that nobody chose is no reason to train it again.
        if not (store.is_done(spec) or (request.usual_samplers and store.is_packed(spec)))
    ]


def _warn_of_days(experiment: Experiment, splits: Splits, runs: int) -> None:
    """Says so where the runs are too many for a CPU, and names the shorter profiles."""
    epochs, batch = experiment.settings.epochs or 0, experiment.settings.batch_size
    steps = epochs * math.ceil(len(splits.train) / batch)
    if steps * runs <= MANY_STEPS:
        return
    shorter = [name for name, of in experiment.profiles.items() if of.epochs and of.epochs < epochs]
    remedy = f"--profile {' or '.join(shorter)} is shorter, and " if shorter else ""
    logger.warning(
        f"{counted(runs, 'run')} of {steps:,} steps may take days on a CPU: {remedy}--dry-run "
        "estimates the time"
    )


def _check(request: Request, environment: Environment) -> tuple[Engine, list[RunSpec], list[str]]:
    """Looks for all that may be missing before the first long step.

    Returns:
        The engine; the plan with no hash of the data yet, empty where it cannot be made without
        them; and what is missing for runs. That matters only if one is to be done: where the store
        has some already, it is told once the data are loaded.

    Raises:
        ProblemsError: Something is missing.
    """
    flags, experiment = request.flags, request.experiment
    problems: list[str] = []
    plan: list[RunSpec] = []
    room: list[Space] = []
    engine: Engine | None = None
    input_dim = None
    with noted(problems):
        engine = build_engine(engine_options(request), flags.results)
    with noted(problems):
        all_models()  # which reports read
    with noted(problems):
        if flags.tensorboard:
            require_package("tensorboard", "tensorboard", "--tensorboard")
    remote = is_url(flags.results)
    results = cache_home() if remote else Path(flags.results).expanduser()
    with noted(problems):
        if remote and not flags.dry_run:
            Remote(flags.results)  # which reaches for it
    if not (remote or flags.dry_run or may_be_made(results)):
        problems.append(f"{results} cannot be written: choose another folder with --results")
    with noted(problems):
        size, crop = experiment.image_size, experiment.settings.crop
        options = data_options(environment)
        lacking = absent(experiment.dataset, options, image_size=size, crop=crop)
        if lacking and (silent := unreachable(lacking.url)):
            problems.append(f"{lacking} ({silent})")
    with noted(problems):
        celeba = (3, size or 64, size or 64)
        input_dim = {**SHAPES, "celeba": celeba}.get(experiment.dataset)
        told_labels = any(read_model_entry(name).conditional for name in experiment.models)
        if input_dim is not None and not told_labels:  # whose number of classes is not known yet
            plan = expand(experiment, Announced(input_dim))
        else:
            check_classes(experiment.models)
    full = disk_problems(room)
    problems += full
    where = engine, results, [] if full else room
    ours = plan[request.shard]
    later = run_problems(ours, input_dim, experiment.extractor, environment, *where)
    if not may_be_made(cache_home()):
        later.append(f"{cache_home()} cannot be written: choose another with {CACHE_VARIABLE}")
    below = results / "runs" / experiment.dataset / experiment.arch
    packed = (results / "runs" / f"{experiment.dataset}.jsonl").exists()
    begun = remote or packed or next(below.glob("*/*/result.json"), None) is not None
    if problems or engine is None or (later and not begun and not flags.dry_run):
        raise ProblemsError(problems + later)
    return engine, plan, later


def engine_options(request: Request) -> EngineOptions:
    """The engine's options. Runs under a wall clock do not share this machine's cores."""
    options = request.engine
    timed = request.experiment.settings.wall_clock is not None
    alone = timed and isinstance(options, LocalOptions) and not torch.cuda.is_available()
    if alone and options.cpus_per_run is None:
        return options.model_copy(update={"cpus_per_run": cores()})
    return options


@dataclass(frozen=True)
class _Course:
    """A benchmark that is under way: what all its steps need."""

    request: Request
    console: Console
    display: Display
    environment: Environment
    splits: Splits
    plan: list[RunSpec]
    store: ImageStore

    def execute(self, todo: list[RunSpec], engine: Engine, done: int) -> list[Outcome]:
        """Executes the runs that are not done; the outcomes of those that were started."""
        experiment, store = self.request.experiment, self.store
        if not self.display.quiet:
            self.console.print(networks_line(experiment, self.splits), markup=False)
        with self.display.stage(f"preparing extractor {experiment.extractor}"):
            extractor = load_extractor(experiment.extractor, self.splits, self.environment)
            extractor(to_float(self.splits.test, limit=2))
        specs = {store.run_dir(spec): spec for spec in todo}
        names = {
            run_dir: f"{spec.model} {spec.configuration}"
            + (f" seed {spec.seed}" if len(experiment.seeds) > 1 else "")
            for run_dir, spec in specs.items()
        }
        with self.display.runs(names, done, _losses, self._best) as on_change:
            batch = Batch(
                IMAGES,
                list(specs),
                prepare=lambda run_dir: store.prepare(specs[run_dir], self.environment),
                lent=self.splits,
                max_failures=self.request.flags.max_failures,
                run_timeout=self.request.engine.timeout_seconds,
            )
            return engine.run_all(batch, on_change)

    def _results(self) -> list[Result]:
        """The runs of the plan that have a record."""
        records = ((spec, self.store.record(spec)) for spec in self.plan)
        return [Result(spec, record) for spec, record in records if record is not None]

    def _best(self) -> list[Best]:
        """Of the runs that are finished, one a sampler."""
        found: dict[str, Best] = {}
        for choice in select(self._results()):
            name = f"{choice.model} {choice.spec.configuration}"
            distance, label = choice.distance("val"), SAMPLERS[choice.sampler].label
            if label not in found or distance < found[label].distance:
                found[label] = Best(label, distance, name)
        return list(found.values())

    def report(self, failed: list[Outcome]) -> Path | None:
        """Prints the table of this command's runs, and writes that of all runs that are like them,
        with figures and the page, below the results folder.

        Returns:
            The page; None, and nothing is written, if no run has a record.
        """
        experiment, store, console = self.request.experiment, self.store, self.console
        results = self._results()
        if not results:
            return None
        unmade = len(self.plan) - len(results)
        guess = constant_error(self.splits)
        below = store.root / "reference"
        reference = Store(below, IMAGES, reads_only=True) if below.is_dir() else None

        def report_of(results: list[Result]) -> Report:
            partial = sum(not IMAGES.answers(r.spec, r.record) for r in results)
            return build_report(experiment, results, unmade + partial, guess, reference)

        report = report_of(results)
        console.print(score_terminal(report, console.width))
        data = next(note for note in report.notes if note.startswith("Data: "))
        others = [note for note in report.notes if note != data]
        more = f"{len(others[ESSENTIAL:])} more notes are on the page, with all names in full"
        for note in (*others[:ESSENTIAL], data, more):
            console.print(f"· {note}", markup=False)
        splits = self.splits
        everything = leaderboard(
            store, experiment, splits.content_hash, results, splits.labels_hash
        )
        report = report_of(everything)
        specs = {store.run_dir(spec): spec for spec in self.plan}
        reasons = {f.run_dir: f.error for f in failed}
        for run_dir, spec in specs.items():  # those of packs, which are not tried again
            before = Status.read(store.place(spec))
            if before.state == "failed" and store.record(spec) is None:
                reasons.setdefault(run_dir, before.error)
        failures = [
            Failure(specs[run_dir].model, specs[run_dir].configuration, reason)
            for run_dir, reason in reasons.items()
        ]
        paths = write_experiment(store, self.splits, report, failures)
        store.publish(paths)
        return next(path for path in paths if path.suffix == ".html")


def _losses(run_dir: Path) -> list[float]:
    """Those of a run's log: of the evaluation where there is one."""
    rows = read_log(run_dir / LOG_NAME)
    return [(row.eval or row.train).get("loss", math.nan) for row in rows]
