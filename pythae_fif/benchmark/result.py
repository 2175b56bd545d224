"""A benchmark run with all its records."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.record import Evaluation, Training
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.store import Record, Store


@dataclass(frozen=True)
class ImageResult:
    """A run with its records.

    Attributes:
        spec: The run's specification.
        training: The record of its training.
        evaluation: The record of its evaluation.
        scores: Sampler -> record of its scores; at least one.
    """

    spec: ImageSpec
    training: Record[Training]
    evaluation: Record[Evaluation]
    scores: Mapping[str, Record[Scores]]

    @classmethod
    def read(cls, store: Store, spec: ImageSpec) -> "ImageResult | None":
        """Reads the records of a run.

        Args:
            store: The store that holds the run.
            spec: The run's specification.

        Returns:
            The result, or None if no sampler has been scored yet or another record is missing.
        """
        training = store.record(spec, "training.json", Training)
        evaluation = store.record(spec, "evaluation.json", Evaluation)
        names = store.names(spec, "scores")
        records = {Path(name).stem: store.record(spec, name, Scores) for name in names}
        scores = {sampler: record for sampler, record in records.items() if record is not None}
        if training is None or evaluation is None or not scores:
            return None
        return cls(spec, training, evaluation, scores)
