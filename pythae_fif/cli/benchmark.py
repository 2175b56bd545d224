"""The command `run`: checks the input, loads the data, executes the runs and writes the report."""

import logging
import webbrowser
from typing import Any

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.image_run import WEIGHTS, ImageSpec
from pythae_fif.benchmark.load import DEFAULTS
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.estimate import print_estimate, print_plan
from pythae_fif.cli.flags import RunFlags
from pythae_fif.data import Splits, to_float
from pythae_fif.data.load import load
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.extractors import load_extractor, require_extractor
from pythae_fif.names import import_object
from pythae_fif.runs.launch import Engine, run_all
from pythae_fif.runs.store import Store

logger = logging.getLogger(__name__)


def run_benchmark(flags: RunFlags, experiment: Experiment, engine: Engine) -> bool:
    """Trains, scores and compares the models that are not in the store yet, and prints the table.

    Args:
        flags: The flags of the command. A dry run downloads nothing.
        experiment: The models, data and settings.
        engine: Where the runs are executed.

    Returns:
        True if all runs have their records, and after a dry run.
    """
    console = Terminal()
    store = Store(flags.results)
    for name in experiment.scores:
        import_object(name)  # a mistake is reported before anything is computed
    offline = experiment.offline or flags.dry_run
    extractor_options: dict[str, Any] = {
        "weights": experiment.extractor_weights,
        "offline": offline,
    }
    if not any(store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")):
        # A missing extractor is reported before the data are loaded. If the store has runs, their
        # table is shown without it.
        require_extractor(experiment.extractor, **extractor_options)

    splits = _load_data(experiment, console, offline)
    plan = expand(experiment, splits)
    plan = _with_rescoring(plan, store) if flags.rescore else plan
    requested = _requested_runs(experiment, plan, store)
    todo = [spec for spec in requested if not store.is_done(spec)]
    if todo:
        image_bytes = _prepare_extractor(experiment, console, splits, extractor_options)

    if experiment.active_profile.wall_clock is not None:
        engine = engine.without_sharing()
    if todo:
        console.say(f"device: {engine.describe()}")
    if flags.dry_run:
        print_plan(console, experiment, plan, todo)
        if todo:
            print_estimate(console, splits, todo, engine, image_bytes * len(splits.train))
        return True

    with console.runs() as on_change:
        run_all(requested, store, engine, on_change)

    page = _report(experiment, console, splits, plan, store)
    if flags.open and page is not None and not webbrowser.open(page):
        logger.warning("--open: there is no browser on this machine")
    missing = [spec for spec in requested if not store.is_done(spec)]
    if missing:
        console.say(
            f"{pluralized(len(missing), 'run')} without a record; the same command tries again"
        )
    return not missing


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


def _load_data(experiment: Experiment, console: Terminal, offline: bool) -> Splits:
    """Loads the data, and logs notes on what was left out or looks unusual."""
    with console.stage(f"loading {experiment.dataset}") as progress:
        splits = load(
            experiment.dataset,
            experiment.model_copy(update={"offline": offline}),
            image_size=experiment.image_size,
            progress=progress,
            **experiment.settings_for(experiment.models[0]).data_subset,
        )

    for note in splits.notes:
        logger.warning("%s: %s", experiment.dataset, note)
    return splits


def _prepare_extractor(
    experiment: Experiment, console: Terminal, splits: Splits, options: dict[str, Any]
) -> int:
    """Loads the extractor once for all runs; returns the bytes of features per image."""
    with console.stage(f"preparing extractor {experiment.extractor}"):
        extractor = load_extractor(experiment.extractor, splits.input_dim, splits.name, **options)
        features, _ = extractor(to_float(splits.test, limit=2))
    return features.nbytes // len(features)


def _report(
    experiment: Experiment, console: Terminal, splits: Splits, plan: list[ImageSpec], store: Store
) -> str | None:
    """Prints the table of this command's runs, and writes the table of all comparable runs.

    Returns:
        The page's URI, or None if no run has scores yet.
    """
    comparable = leaderboard(store, experiment, plan, splits)
    planned = [result for result in comparable if result.spec in plan]
    if not planned:
        return None
    from pythae_fif.reports.report import Report  # imported here, because it takes seconds

    missing = sum(not store.is_done(spec) for spec in plan)
    reference_root = store.root / "reference"
    reference = Store(reference_root) if reference_root.is_dir() else None
    console.print(Report(experiment, planned, splits, missing, reference).terminal())
    *_, page = Report(experiment, comparable, splits, missing, reference).write(store)
    console.say(f"written: {page}")
    return page.resolve().as_uri()
