"""The course of a benchmark: check, load, plan, run, report."""

__all__ = ["run_benchmark"]

import logging
import webbrowser

import torch

from pythae_fif.benchmark.image_run import ImageSpec, Where, extractor_of
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.cli.check import check, idle_gpu, machine_line, noted
from pythae_fif.cli.display import Display, Terminal
from pythae_fif.cli.estimate import print_estimate, print_plan
from pythae_fif.cli.flags import AnyEngine, Request
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import load
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ProblemsError, counted
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.store import Store

logger = logging.getLogger(__name__)


def run_benchmark(request: Request) -> bool:
    """Trains, scores and compares what is asked for and not in the store, and prints the table.

    Returns:
        Whether all runs have their records, or in a dry run nothing would stop one.

    Raises:
        ProblemsError: Something is missing; a line each.
    """
    flags, experiment = request.flags, request.experiment
    console = Terminal()
    display = Display(console, quiet=flags.quiet)
    engine, where, store = _engine(request), _where(request), Store(flags.results)
    found = check(request, where)
    begun = any(store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}"))
    if not flags.dry_run and (found.data or (found.runs and not begun)):
        raise ProblemsError(found.data + found.runs)
    if found.data:
        if found.plan:
            print_plan(console, experiment, found.plan, store)
        return _tell_what_stops(console, found.data + found.runs)
    splits = _load(request, where, display)
    plan = expand(experiment, splits, where)
    # A packed run has no model: a sampler that nobody chose is no reason to train it again.
    kept = [spec for spec in plan if request.usual_samplers and store.is_packed(spec)]
    asked = [spec for spec in plan if spec not in kept]
    todo = [spec for spec in asked if not store.is_done(spec)]
    if todo and not found.runs:
        with noted(found.runs), display.stage(f"preparing extractor {experiment.extractor}"):
            extractor = extractor_of(experiment.extractor, splits, where)
            extractor(to_float(splits.test, limit=2))
    if todo and found.runs and not flags.dry_run:
        raise ProblemsError(found.runs)
    if not flags.quiet:
        console.say(machine_line(engine))
    if isinstance(engine, LocalEngine) and (line := idle_gpu()):
        logger.warning(line)
    if flags.dry_run:
        print_plan(console, experiment, plan, store)
        if todo and not found.runs:
            found.runs += print_estimate(display, splits, todo, engine)
        return _tell_what_stops(console, found.runs)
    if todo:
        try:
            with display.runs() as on_change:
                run_all(asked, store, engine, on_change)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(engine.parting) from interrupt
    left = [spec for spec in asked if not store.is_done(spec)]
    _report(request, console, splits, plan, store)
    if engine.parting:
        console.say(engine.parting)
    elif left:
        console.say(f"{counted(len(left), 'run')} left without a record")
    return not left


def _engine(request: Request) -> AnyEngine:
    """The engine; runs under a wall clock do not share this machine's cores."""
    engine = request.engine
    timed = request.experiment.in_use.wall_clock is not None
    alone = timed and isinstance(engine, LocalEngine) and not torch.cuda.is_available()
    if alone and engine.cpus_per_run is None:
        return engine.model_copy(update={"cpus_per_run": cores()})
    return engine


def _where(request: Request) -> Where:
    """What the runs need but their results do not depend on."""
    flags, experiment = request.flags, request.experiment
    return Where(
        data_root=flags.data_root,
        data=experiment.data,
        offline=flags.offline,
        **{name: getattr(experiment, name) for name in TableOptions.model_fields},
        extractor_weights=flags.extractor_weights,
    )


def _load(request: Request, where: Where, display: Display) -> Splits:
    """The data, with notes on what was left out or is odd."""
    experiment = request.experiment
    settings = experiment.settings_of(experiment.models[0])
    cut = settings.model_dump(include={"train_size", "val_size", "test_size", "crop"})
    with display.stage(f"loading {experiment.dataset}") as progress:
        size = experiment.image_size
        splits = load(experiment.dataset, where, image_size=size, progress=progress, **cut)
    for note in splits.notes:
        logger.warning("%s: %s", experiment.dataset, note)
    return splits


def _tell_what_stops(console: Terminal, problems: list[str]) -> bool:
    """Prints what would stop a run, a line each; whether nothing would."""
    for line in problems:
        console.say(f"would stop a run: {line}")
    return not problems


def _report(
    request: Request,
    console: Terminal,
    splits: Splits,
    plan: list[ImageSpec],
    store: Store,
) -> None:
    """Prints the table of this command's runs, and writes that of all runs that are like them."""
    experiment = request.experiment
    everything = leaderboard(store, experiment, plan)
    results = [result for result in everything if result.spec in plan]
    if not results:
        return
    missing = sum(not store.is_done(spec) for spec in plan)
    below = store.root / "reference"
    reference = Store(below) if below.is_dir() else None
    from pythae_fif.reports.report import build_report, write_report  # they take seconds

    others = (splits, missing, reference)
    console.print(build_report(experiment, results, *others).terminal())
    *_, page = write_report(build_report(experiment, everything, *others), store)
    console.say(f"written: {page}")
    if request.flags.open and not webbrowser.open(page.resolve().as_uri()):
        logger.warning("--open: there is no browser here to show the page")
