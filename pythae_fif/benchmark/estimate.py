"""How long trainings will take, from a few steps that are really made."""

__all__ = ["BatchSeconds", "batch_seconds", "training_seconds"]

import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.run import labels_of, trainer_of
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.training import BatchLoader, quiet_pythae

TIMED_BATCHES = 3


class BatchSeconds(NamedTuple):
    """What a run's batches cost.

    Attributes:
        step: Seconds of a training step.
        first_evaluation: Of the first evaluation batch, with what is done once a pass.
        evaluation: Of every further one.
    """

    step: float
    first_evaluation: float
    evaluation: float

    def evaluations(self, batches: int) -> float:
        """Seconds of a pass over the evaluation data."""
        return self.first_evaluation + (batches - 1) * self.evaluation


def training_seconds(spec: RunSpec, splits: Splits) -> float:
    """An estimate of the seconds that a run trains and evaluates, without samplers and scores.

    Under a wall clock it is that, which leaves out the evaluations too.

    Raises:
        NonFiniteError: The loss of one of the timed steps is NaN or infinite.
    """
    settings = spec.settings
    if settings.wall_clock is not None:
        return settings.wall_clock
    found = batch_seconds(spec, splits)
    train, val = (math.ceil(len(part) / settings.batch_size) for part in (splits.train, splits.val))
    return (settings.epochs or 1) * (train * found.step + found.evaluations(val))


def batch_seconds(spec: RunSpec, splits: Splits) -> BatchSeconds:
    """Times a few batches of a run.

    One batch of training warms up, `TIMED_BATCHES` are timed; of evaluation one and five batches,
    for the part that is done once a pass and the part that is done once a batch.

    Raises:
        NonFiniteError: The loss of one of these steps is NaN or infinite.
    """
    size = spec.settings.batch_size
    with tempfile.TemporaryDirectory() as folder, quiet_pythae(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's own go to its output.log
        trainer: Any = trainer_of(spec, splits, Path(folder))
        trainer.prepare_training()

        def timed(stage: str, batches: int) -> float:
            count, training = batches * size, stage == "train"
            labels = labels_of(spec, splits).get("train" if training else "val")
            images = ImageDataset(
                (splits.train if training else splits.val)[:count],
                None if labels is None else labels[:count],
            )
            loader = BatchLoader(images, size, shuffle=False, device=trainer.device)
            setattr(trainer, f"{stage}_loader", loader)
            start = time.perf_counter()
            getattr(trainer, f"{stage}_step")(1)
            if trainer.device.startswith("cuda"):
                torch.cuda.synchronize()
            return time.perf_counter() - start

        timed("train", 1)
        step = timed("train", TIMED_BATCHES) / min(
            TIMED_BATCHES, math.ceil(len(splits.train) / size)
        )
        one, five = timed("eval", 1), timed("eval", 5)
    batches = min(5, math.ceil(len(splits.val) / size))
    return BatchSeconds(step, one, max(0.0, five - one) / max(1, batches - 1))
