"""The course of a benchmark: check, load, plan, run, report."""

import logging
import webbrowser
from typing import Any

import torch

from pythae_fif.benchmark.config import DEFAULTS, Experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.estimate import print_estimate, print_plan
from pythae_fif.cli.flags import RunFlags
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import load
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.extractors import load_extractor, require_extractor
from pythae_fif.runs.launch import Engine, run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.store import Store

logger = logging.getLogger(__name__)


def run_benchmark(flags: RunFlags, experiment: Experiment, engine: Engine) -> bool:
    """Trains, scores and compares what is asked for and not in the store, and prints the table;
    whether all runs have their records, True of a dry run, which downloads nothing."""
    console, store = Terminal(), Store(flags.results)
    name, offline = experiment.extractor, experiment.offline or flags.dry_run
    files: dict[str, Any] = {"weights": experiment.extractor_weights, "offline": offline}
    if not any(store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")):
        require_extractor(name, **files)  # before the data; the page of what is done needs none
    splits = _load(experiment, console, offline)
    plan = expand(experiment, splits)
    # A packed run has no model: the usual samplers are no reason to train it again.
    usual = experiment.samplers == list(DEFAULTS["samplers"])
    asked = [spec for spec in plan if not (usual and store.packed_run(spec))]
    todo = [spec for spec in asked if not store.is_done(spec)]
    if todo:
        with console.stage(f"preparing extractor {name}"):
            extractor = load_extractor(name, splits.input_dim, splits.name, **files)
            features, _ = extractor(to_float(splits.test, limit=2))
    if experiment.active_profile.wall_clock is not None and isinstance(engine, LocalEngine):
        # Such runs share no processor unless a flag says so.
        alone = {} if torch.cuda.is_available() else {"cpus_per_run": cores()}
        engine = LocalEngine(**{"runs_per_gpu": 1, **alone, **engine.model_dump(exclude_none=True)})
    if isinstance(engine, LocalEngine):
        console.say(f"device: {engine.machine()}")
    if flags.dry_run:
        print_plan(console, experiment, plan, todo)
        if todo:
            whole = features.nbytes // len(features) * len(splits.train)
            print_estimate(console, splits, todo, engine, whole)
        return True
    with console.runs() as on_change:
        run_all(asked, store, engine, on_change)
    left = [spec for spec in asked if not store.is_done(spec)]
    page = _report(experiment, console, splits, plan, store)
    if flags.open and page is not None and not webbrowser.open(page):
        logger.warning("--open: there is no browser here to show the page")
    if left:
        console.say(f"{pluralized(len(left), 'run')} left without a record")
    return not left


def _load(experiment: Experiment, console: Terminal, offline: bool) -> Splits:
    """The data, with notes on what was left out or is odd."""
    name, size = experiment.dataset, experiment.image_size
    cut = experiment.settings_for(experiment.models[0]).data_subset
    options = experiment.model_copy(update={"offline": offline})
    with console.stage(f"loading {name}") as progress:
        splits = load(name, options, image_size=size, progress=progress, **cut)
    for note in splits.notes:
        logger.warning("%s: %s", name, note)
    return splits


def _report(
    experiment: Experiment, console: Terminal, splits: Splits, plan: list[ImageSpec], store: Store
) -> str | None:
    """Prints the table of this command's runs, and writes that of all that are like them; the
    address of the page, None before the first run has scores."""
    everything = leaderboard(store, experiment, plan, splits)
    results = [result for result in everything if result.spec in plan]
    if not results:
        return None
    missing = sum(not store.is_done(spec) for spec in plan)
    below = store.root / "reference"
    others = (splits, missing, Store(below) if below.is_dir() else None)
    from pythae_fif.reports.report import Report  # it takes seconds

    console.print(Report(experiment, results, *others).terminal())
    *_, page = Report(experiment, everything, *others).write(store)
    console.say(f"written: {page}")
    return page.resolve().as_uri()
