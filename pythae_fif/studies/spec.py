"""A run of a study, and the records of all its runs."""

__all__ = ["RESULT", "StudySpec", "Tell", "finish", "results_of"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pythae_fif.data.names import DataOptions
from pythae_fif.device import default_device
from pythae_fif.errors import RunsLeftError
from pythae_fif.runs.launch import OnChange, run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.study import StudyOptions

RESULT = "result.json"

Tell = Callable[[float], None]
"""Is told the share of a run that is done, in [0, 1]."""


class StudySpec(Spec):
    """A run of a study: one computation with one record, so that an interrupt loses it alone.

    The constants of a study's module are not in the id: raise `schema_version` when one changes.

    Attributes:
        result: Type of what is found, of dataclasses, lists and numbers.
        on_cpu: Whether it computes on the processor whatever else there is.
        where: The data.
    """

    kind: ClassVar[str] = "study"
    asked: ClassVar[frozenset[str]] = frozenset({"where"})
    result: ClassVar[Any] = None
    on_cpu: ClassVar[bool] = False

    where: DataOptions = DataOptions()

    @property
    def folder(self) -> str:
        """`studies/<kind>`."""
        return f"studies/{self.kind}"

    @property
    def outputs(self) -> Mapping[str, type]:
        """One record."""
        return {RESULT: self.result}

    def compute(self, tell: Tell) -> Any:
        """The result, an instance of `result`."""
        raise NotImplementedError

    def run(self, run: Run) -> None:
        """Computes, and saves the record."""
        run.device = "cpu" if self.on_cpu else default_device()
        run.tell("training")
        run.save(RESULT, self.compute(lambda share: run.tell("training", share)))


def finish(specs: Sequence[Spec], options: StudyOptions, on_change: OnChange) -> Store:
    """Does the runs that have no records yet; the store that has them.

    Args:
        specs: The runs.
        options: Those of the study.
        on_change: Is told how far all of them are.

    Raises:
        RunsLeftError: Runs failed, or go on after the engine returned. The others are kept.
    """
    store = Store(options.results)
    engine = options.engine or LocalEngine(cpus_per_run=cores() if len(specs) == 1 else None)
    errors = {outcome.spec: outcome.error for outcome in run_all(specs, store, engine, on_change)}
    left = [spec for spec in specs if not store.is_done(spec)]
    if left:
        causes = [f"{of.title} ({of.run_id}): {errors.get(of) or 'no record'}" for of in left]
        failed = f"{len(left)} of {len(specs)} runs failed: {'; '.join(causes)}"
        raise RunsLeftError(engine.parting or failed)
    return store


def results_of(specs: Sequence[StudySpec], options: StudyOptions, on_change: OnChange) -> list[Any]:
    """The results of runs, each an instance of its `result`; see :func:`finish`."""
    store = finish(specs, options, on_change)
    records = (store.record(spec, RESULT, spec.result) for spec in specs)
    return [record.result for record in records if record is not None]
