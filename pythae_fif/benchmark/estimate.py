"""How long trainings will take, from a few steps that are really made."""

__all__ = ["training_seconds"]

import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.run import trainer_of
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.training import BatchLoader, quiet_pythae

TIMED_BATCHES = 3


def training_seconds(spec: RunSpec, splits: Splits) -> float:
    """An estimate of the seconds that a run trains and evaluates, without samplers and scores.

    Under a wall clock it is that, which leaves out the evaluations too.

    One batch of training warms up, `TIMED_BATCHES` are timed; of evaluation one and five batches,
    for the part that is done once a pass and the part that is done once a batch.

    Raises:
        NonFiniteError: The loss of one of these steps is NaN or infinite.
    """
    settings = spec.settings
    if settings.wall_clock is not None:
        return settings.wall_clock
    size = settings.batch_size
    with tempfile.TemporaryDirectory() as folder, quiet_pythae(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's own go to its output.log
        trainer: Any = trainer_of(spec, splits, Path(folder))
        trainer.prepare_training()

        def timed(stage: str, batches: int) -> float:
            images = (splits.train if stage == "train" else splits.val)[: batches * size]
            loader = BatchLoader(ImageDataset(images), size, shuffle=False, device=trainer.device)
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
    steps, evaluations = (math.ceil(len(part) / size) for part in (splits.train, splits.val))
    more = max(0.0, five - one) / max(1, min(evaluations, 5) - 1)
    evaluation = one + (evaluations - 1) * more
    return (settings.epochs or 1) * (steps * step + evaluation)
