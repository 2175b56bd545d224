"""The records of a benchmark run: their contents, and the writing of scores."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from pydantic import BaseModel, FiniteFloat

from pythae_fif.benchmark.pictures import samples_picture
from pythae_fif.columns import Columns
from pythae_fif.evaluation.likelihood import SplitLikelihood
from pythae_fif.evaluation.scores import CodeScores, Scores
from pythae_fif.runs.store import Record
from pythae_fif.runs.worker import Run
from pythae_fif.training.progress import EpochRow

SAMPLE_ROWS = 1000
"""Samples of a table that a run keeps."""


class Training(BaseModel, frozen=True, extra="allow"):
    """The content of `training.json`: how the model of a run was trained.

    The checksums of the model's files are in the same record.

    Attributes:
        seconds: Time in training and evaluation steps.
        log: One row per epoch.
        images: Number of images that the training used, counting repetitions.
        surrogate: How FIF's volume term was computed; None for other models.
        Others: See :class:`~pythae_fif.training.TrainingResult`; early records lack some.
    """

    seconds: FiniteFloat
    log: list[EpochRow]
    images: int | None = None
    surrogate: str | None = None


class DataUsed(BaseModel, frozen=True):
    """The data of a run.

    Attributes:
        source: One line on where the data are from.
        partial: Whether the run used a part of the data.
        sizes: Split -> number of images.
    """

    source: str
    partial: bool
    sizes: dict[str, int]


class Evaluation(BaseModel, frozen=True):
    """The content of `evaluation.json`: measurements of the trained model that need no samples.

    Attributes:
        reconstruction_mse: Split -> mean squared error per pixel.
        codes: Scores of the codes of the training images; None in early records, and for models
            that have no such codes.
        parameters: Number of the model's weights.
        data: What the model was trained and scored on.
    """

    reconstruction_mse: dict[str, FiniteFloat]
    codes: CodeScores | None = None
    parameters: int
    data: DataUsed


def save_scores(
    run: Run,
    sampler: str,
    scores: Scores,
    likelihood: Mapping[str, SplitLikelihood],
    samples: torch.Tensor,
    classes: np.ndarray | None,
    previous: Record[Scores] | None,
    columns: Columns | None = None,
) -> None:
    """Saves a sampler's record, some of its samples, and the likelihoods of the test points.

    Samples are a picture of images, or a CSV file of rows in original units.

    Args:
        run: The run.
        sampler: Name of the sampler.
        scores: Scores of its samples.
        likelihood: Split -> marginal likelihoods of its points; empty if the model has none.
        samples: The samples (N, ...).
        classes: Their classes (N,) if the model takes labels.
        previous: The sampler's previous record. The user's scores that only it has are kept.
        columns: The columns of a table; None for images.
    """
    files: dict[str, str] = {}
    if columns is None:
        files |= run.write(f"samples-{sampler}.png", samples_picture(samples, classes))
    else:
        # Evenly spaced rows, so that all classes are among them.
        frame = columns.to_frame(samples[:: math.ceil(len(samples) / SAMPLE_ROWS)])
        content = frame.to_csv(index=False, float_format="%.6g").encode()
        files |= run.write(f"samples-{sampler}.csv", content)
    if likelihood:
        files |= run.write(f"likelihood-{sampler}.csv", likelihood["test"].to_csv().encode())

    # The record's field for the marginal likelihood is called `tube`.
    summaries = {split: values.score for split, values in likelihood.items()}
    extra = {**(previous.result.extra if previous else {}), **scores.extra}
    scores = dataclasses.replace(scores, tube=summaries, extra=extra)
    run.save(f"scores/{sampler}.json", scores, files)
