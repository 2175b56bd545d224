"""The course of a benchmark: check, load, plan, run, report."""

import logging
import webbrowser
from pathlib import Path

import torch

from pythae_fif.benchmark.config import USUAL, Experiment
from pythae_fif.benchmark.image_run import ImageSpec, extractor_of
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.cli.check import idle_gpu, machine_line, missing_to_run, missing_to_start, noted
from pythae_fif.cli.display import Display, Terminal
from pythae_fif.cli.estimate import print_estimate, print_plan
from pythae_fif.cli.flags import Request
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import load
from pythae_fif.errors import ProblemsError, counted
from pythae_fif.runs.launch import Engine, run_all
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
    flags, experiment, engine = request.flags, request.experiment, _engine(request)
    console, store = Terminal(), Store(flags.results)
    display = Display(console, quiet=flags.quiet)
    missing = missing_to_start(experiment, engine, Path(flags.results), flags.dry_run)
    of_runs = missing_to_run(experiment)
    begun = any(store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}"))
    if missing and flags.dry_run:
        return _tell_what_stops(console, missing + of_runs)
    if missing or (of_runs and not (begun or flags.dry_run)):
        raise ProblemsError(missing + of_runs)
    splits = _load(experiment, display)
    plan = expand(experiment, splits)
    # A packed run has no model: the usual samplers are no reason to train it again.
    usual = experiment.samplers == list(USUAL["samplers"])
    asked = [spec for spec in plan if not (usual and store.is_packed(spec))]
    todo = [spec for spec in asked if not store.is_done(spec)]
    if todo and not of_runs:
        with noted(of_runs), display.stage(f"preparing extractor {experiment.extractor}"):
            extractor = extractor_of(experiment.extractor, splits, experiment.where)
            extractor(to_float(splits.test, limit=2))
    if todo and of_runs and not flags.dry_run:
        raise ProblemsError(of_runs)
    if not flags.quiet:
        console.say(machine_line(engine))
    if isinstance(engine, LocalEngine) and (line := idle_gpu()):
        logger.warning(line)
    if flags.dry_run:
        print_plan(console, experiment, plan, store)
        if todo and not of_runs:
            of_runs = print_estimate(display, splits, todo, engine)
        return _tell_what_stops(console, of_runs)
    if todo:
        try:
            with display.runs() as on_change:
                run_all(asked, store, engine, on_change)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(engine.parting) from interrupt
    left = [spec for spec in asked if not store.is_done(spec)]
    _report(request, console, splits, plan, store)
    if engine.parting or left:
        told = f"{counted(len(left), 'run')} left without a record"
        console.say(engine.parting or told)
    return not left


def _engine(request: Request) -> Engine:
    """The engine; runs under a wall clock do not share this machine's cores."""
    engine = request.engine
    timed = request.experiment.in_use.wall_clock is not None
    alone = timed and isinstance(engine, LocalEngine) and not torch.cuda.is_available()
    if alone and engine.cpus_per_run is None:
        return engine.model_copy(update={"cpus_per_run": cores()})
    return engine


def _load(experiment: Experiment, display: Display) -> Splits:
    """The data, with notes on what was left out or is odd."""
    name, size = experiment.dataset, experiment.image_size
    cut = experiment.settings_of(experiment.models[0]).cut
    with display.stage(f"loading {name}") as progress:
        splits = load(name, experiment, image_size=size, progress=progress, **cut)
    for note in splits.notes:
        logger.warning("%s: %s", name, note)
    return splits


def _tell_what_stops(console: Terminal, problems: list[str]) -> bool:
    """Prints what would stop a run, a line each; whether nothing would."""
    for line in problems:
        console.say(f"would stop a run: {line}")
    return not problems


def _report(
    request: Request, console: Terminal, splits: Splits, plan: list[ImageSpec], store: Store
) -> None:
    """Prints the table of this command's runs, and writes that of all runs that are like them."""
    experiment = request.experiment
    everything = leaderboard(store, experiment, plan)
    results = [result for result in everything if result.spec in plan]
    if not results:
        return
    missing = sum(not store.is_done(spec) for spec in plan)
    below = store.root / "reference"
    others = (splits, missing, Store(below) if below.is_dir() else None)
    from pythae_fif.reports.report import build_report, write_report  # they take seconds

    console.print(build_report(experiment, results, *others).terminal())
    *_, page = write_report(build_report(experiment, everything, *others), store)
    console.say(f"written: {page}")
    if request.flags.open and not webbrowser.open(page.resolve().as_uri()):
        logger.warning("--open: there is no browser here to show the page")
