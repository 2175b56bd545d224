"""The runs that a study is drawn from: those that have no record yet are handed to an engine."""

__all__ = ["finish"]

from collections.abc import Mapping
from pathlib import Path

from pythae_fif.errors import RunsLeftError
from pythae_fif.runs.engines.common import Batch, Engine, Outcome
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment, Finished, Kind, SpecT
from pythae_fif.runs.record import RecordT
from pythae_fif.runs.store import Store
from pythae_fif.studies import OnProgress, StudyOptions


def finish(
    kind: Kind[SpecT, RecordT],
    specs: Mapping[str, SpecT],
    options: StudyOptions,
    engine: Engine,
    on_progress: OnProgress,
) -> dict[str, Finished[SpecT, RecordT]]:
    """The runs with their records, by name; a run that has one already is not done again.

    Args:
        kind: Of all these runs.
        specs: Name of a run, for progress and errors -> its specification.
        options: Those of the study: where the store and the data are.
        engine: Does what is missing.
        on_progress: Is told the name of a run under way, and the share of all that is done.

    Raises:
        RunsLeftError: Runs failed, or go on after the engine returned. The others are kept.
    """
    store = Store(options.results, kind)
    names = {store.run_dir(spec): name for name, spec in specs.items()}
    todo = [run_dir for run_dir, name in names.items() if not store.is_done(specs[name])]
    environment = Environment(
        data_root=options.data_root, data=options.data, offline=options.offline
    )
    kept, said = len(names) - len(todo), ""

    def on_change(running: dict[Path, Status], outcomes: list[Outcome]) -> None:
        nonlocal said
        said = ", ".join(names[run_dir] for run_dir in running) or said
        done = kept + len(outcomes) + sum(status.progress for status in running.values())
        on_progress(said, done / len(names))

    outcomes = []
    if todo:
        batch = Batch(
            kind,
            todo,
            prepare=lambda run_dir: store.prepare(specs[names[run_dir]], environment),
            run_timeout=options.run_timeout,
        )
        outcomes = engine.run_all(batch, on_change)
        store.refresh()
    errors = {names[o.run_dir]: f"{o.run_dir}: {o.error or o.state}" for o in outcomes}
    finished, left = {}, []
    for name, spec in specs.items():
        record = store.record(spec)
        if record is not None:
            finished[name] = Finished(spec, record)
        else:
            left.append(f"{name}: {errors.get(name) or 'no record'}")
    if left:
        failed = f"{len(left)} of {len(specs)} runs failed: {'; '.join(left)}"
        raise RunsLeftError(engine.parting or failed)
    on_progress(said or next(iter(specs)), 1.0)
    return finished
