"""What the commands `score`, `sample` and `likelihood` compute from trained models and files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.data.splits import to_float
from pythae_fif.data.table_files import read_table_file
from pythae_fif.data.user_images import read_images
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation.build import load_extractor
from pythae_fif.evaluation.extractors import Features, rounded_images
from pythae_fif.evaluation.score_types import Scores
from pythae_fif.evaluation.scoring import score_samples
from pythae_fif.files import atomic_folder, check_target, write_bytes
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.models.outlier_scores import OutlierScores
from pythae_fif.models.outputs import as_condition, class_indices
from pythae_fif.models.saved import require_columns
from pythae_fif.pictures import pixel_bytes
from pythae_fif.sampling.samplers import BATCH_SIZE, divide_samples, draw_own_samples

Progress = Callable[[int, int], None]


def _ignore_progress(done: int, total: int) -> None:
    """Shows nothing."""


def score_files(
    samples: BaseAE | str | Path,
    reference: str | Path,
    extractor: str = "inception",
    *,
    training: str | Path | None = None,
    num_samples: int = 10_000,
    label: str | None = None,
    seed: int = 0,
    extractor_weights: str | Path | None = None,
    offline: bool = False,
    skip_broken: bool = False,
    scores: Sequence[str] = (),
    progress: Progress = _ignore_progress,
) -> Scores:
    """Scores images, or samples of a model of images, against reference images.

    Args:
        samples: A model, or a folder of images or an .npz file.
        reference: Images to compare with, in a folder or an .npz file.
        extractor: Name of the extractor, see :func:`load_extractor`.
        training: Training images, for the scores of memorisation.
        num_samples: Number of samples of a model.
        label: Class of a conditional model's samples, by name or index.
        seed: Random seed of samples and subsets.
        extractor_weights: File of the extractor's weights.
        offline: Whether nothing may be downloaded.
        skip_broken: Whether images that cannot be read are left out.
        scores: The user's own scores, as `module:function`.
        progress: Called as ``progress(done, total)`` while images are read and drawn.

    Raises:
        ConfigError: A name or value is not valid, or the model is one of a table.
        DataError: Images are missing, cannot be read, or have another shape.
    """
    model = samples if isinstance(samples, BaseAE) else None
    shape = None if model is None else tuple(model.model_config.input_dim)
    if shape is not None and len(shape) != 3:
        raise ConfigError("a model of a table; score takes models of images")

    reading: dict[str, Any] = {"skip_broken": skip_broken, "progress": progress}
    reference_images, _ = read_images(reference, shape, **reading)
    shape = tuple(reference_images.shape[1:])
    training_images = None
    if training is not None:
        training_images, _ = read_images(training, shape, split="train", **reading)
    if model is None:
        images, _ = read_images(samples, shape, **reading)
    else:
        labels = _read_label(model, label)
        batches = draw_own_samples(
            model.to(default_device()), num_samples, seed=seed, labels=labels, progress=progress
        )
        images = torch.cat([*batches])

    network = load_extractor(
        extractor, shape, device=default_device(), weights=extractor_weights, offline=offline
    )
    train_features = None
    if training_images is not None:
        train_features = Features.from_images(training_images, network)
    return score_samples(
        images,
        network,
        training=train_features,
        references={"reference": Features.from_images(reference_images, network)},
        seed=seed,
        scores=scores,
    )


def export_samples(
    model: BaseAE,
    path: str | Path,
    num_samples: int = 1000,
    *,
    label: str | None = None,
    seed: int = 0,
    raw: bool = False,
    overwrite: bool = False,
    progress: Progress = _ignore_progress,
) -> None:
    """Draws samples of a model, and writes PNG files, or a CSV file in a table's original units.

    Numbers of a table are rounded as in the training rows and in their range. Noise around the
    manifold is part of the samples of this package's models.

    Args:
        model: A trained model.
        path: A new folder for images, or a .csv file for a table.
        num_samples: Number of samples n.
        label: Class of a conditional model's samples, by name or index. For a table, None draws all
            classes in their shares of the training rows.
        seed: Random seed.
        raw: Whether the numbers of a table are as the decoder gives them, without noise.
        overwrite: Whether an existing .csv file is replaced.
        progress: Called as ``progress(done, total)`` while samples are drawn.

    Raises:
        ConfigError: The path does not fit the model or exists, or the model has no prior.
    """
    path = Path(path).expanduser()
    is_table = len(model.model_config.input_dim) == 1
    if is_table != (path.suffix.lower() == ".csv") or (path.is_dir() and any(path.iterdir())):
        target = "a file that ends in .csv" if is_table else "a new folder"
        raise ConfigError(f"{path}: samples of this model need {target}")
    check_target(path, overwrite=overwrite)
    labels = _read_label(model, label)

    if is_table:
        frame = _draw_rows(model, num_samples, labels, seed, raw, progress)
        write_bytes(path, frame.to_csv(index=False, float_format="%.9g").encode())
        return

    batches = draw_own_samples(
        model.to(default_device()), num_samples, seed=seed, labels=labels, progress=progress
    )
    number = 0
    with atomic_folder(path) as folder:
        for batch in batches:
            for image in rounded_images(batch.nan_to_num()).movedim(1, -1).numpy():
                (folder / f"{number:05d}.png").write_bytes(pixel_bytes(image))
                number += 1


def _draw_rows(
    model: BaseAE, num_samples: int, labels: Any, seed: int, raw: bool, progress: Progress
) -> pd.DataFrame:
    """Draws rows of a table, with their classes if the model is conditional."""
    columns = require_columns(model)
    condition_dim = getattr(model, "condition_dim", 0)
    if condition_dim and labels is None and columns.class_counts:
        class_sizes = divide_samples(columns.class_counts, num_samples)
        classes = np.repeat(np.arange(len(class_sizes)), class_sizes)
        labels = np.random.default_rng(seed).permutation(classes)

    samples = draw_own_samples(
        model.to(default_device()),
        num_samples,
        seed=seed,
        labels=labels,
        noise_std=0.0 if raw else getattr(model, "noise_std", 0.0),
        progress=progress,
    )
    rows = torch.cat([*samples])
    condition = as_condition(labels, condition_dim, rows, getattr(model, "class_names", None))
    return columns.to_frame(rows, class_indices(condition), raw=raw)


def likelihood_frame(
    model: BaseAE,
    data: "str | Path | pd.DataFrame | np.ndarray | Tensor",
    label: str | None = None,
    *,
    validation: "str | Path | pd.DataFrame | np.ndarray | Tensor | None" = None,
    original_units: bool = False,
    skip_broken: bool = False,
    progress: Progress = _ignore_progress,
) -> pd.DataFrame:
    """Computes the log-likelihoods of each example, and the distance to its projection.

    Args:
        model: A model that :func:`~pythae_fif.models.as_density` takes.
        data: For a model of a table, its file or a DataFrame. For images, a folder or an .npz file,
            or images (N, C, H, W) as uint8.
        label: For a conditional model, the class of all data, or a table's column.
        validation: Normal data that the model was not trained on, in the same form, for quantiles.
        original_units: Whether densities are in a table's original units.
        skip_broken: Whether images that cannot be read are left out.
        progress: Called as ``progress(done, total)``.

    Returns:
        The columns `log_likelihood`, in nats, and `distance`, NaN for rows with missing values; and
        `marginal_log_likelihood` if the model knows its `noise_std`, as after a training by
        :class:`~pythae_fif.FIFTrainer`. With validation data each has a column that ends in
        `_quantile`, the share of validation examples that look more normal. The index `row` or
        `file` says where an example is from.

    Raises:
        ConfigError: The model has no density, or the label is not one of its classes.
        DataError: The data cannot be read or do not fit the model.
    """
    density = as_density(model).to(default_device())
    examples = _read_examples(density, data, label, skip_broken, progress)
    scores = examples.score(density, original_units, progress)
    columns = scores.values()
    if validation is not None:
        normal = _read_examples(density, validation, label, skip_broken, progress)
        normal_scores = normal.score(density, original_units, progress)
        quantiles = scores.quantiles(normal_scores)
        columns |= {f"{name}_quantile": shares for name, shares in quantiles.items()}

    arrays = {name: values.double().numpy() for name, values in columns.items()}
    frame = pd.DataFrame(arrays, index=examples.complete)
    return frame.reindex(range(len(examples.names))).set_axis(examples.names)


def _read_label(model: BaseAE, text: str | None) -> int | str | None:
    """Returns the class that a text names: one of the model's names, or an index."""
    is_name = text in (getattr(model, "class_names", None) or ())
    return int(text) if text is not None and text.isdecimal() and not is_name else text


@dataclass(frozen=True, eq=False)
class Examples:
    """Images, or the rows of a table.

    Attributes:
        data: The examples as they are read, (N, ...).
        names: Their row numbers or file names.
        labels: Their labels (N,) for a conditional model, or None.
    """

    data: Tensor
    names: "pd.Index[Any]"
    labels: np.ndarray | None

    @cached_property
    def complete(self) -> np.ndarray:
        """Indices (n,) of the examples without missing values."""
        return self.data.flatten(1).isfinite().all(1).nonzero()[:, 0].numpy()

    def score(
        self, density: InjectiveFlow, original_units: bool, progress: Progress
    ) -> OutlierScores:
        """Computes how unusual the n complete examples are; DataError if there are none."""
        if not len(self.complete):
            raise DataError(f"all {len(self.data)} rows have missing values")
        parts = []
        for start in range(0, len(self.complete), BATCH_SIZE):
            indices = self.complete[start : start + BATCH_SIZE]
            x = to_float(self.data[indices]).to(default_device())
            labels = None if self.labels is None else self.labels[indices]
            parts.append(density.outlier_scores(x, labels, original_units=original_units).values())
            progress(start + len(indices), len(self.complete))
        values = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        return OutlierScores(
            values["log_likelihood"], values["distance"], values.get("marginal_log_likelihood")
        )


def _read_examples(
    model: InjectiveFlow, data: Any, label_text: str | None, skip_broken: bool, progress: Progress
) -> Examples:
    """Reads a table, or images; arguments as of :func:`likelihood_frame`."""
    label: Any = _read_label(model, label_text)
    shape = tuple(model.model_config.input_dim)
    is_file = isinstance(data, str | Path)
    names: pd.Index[Any]
    if len(shape) > 1 and is_file:
        examples, names = read_images(data, shape, skip_broken=skip_broken, progress=progress)
    elif len(shape) > 1:
        examples = torch.as_tensor(data)
        names = pd.RangeIndex(len(examples), name="row")
    else:
        frame = read_table_file(Path(data))[0] if is_file else data
        examples = torch.from_numpy(require_columns(model).transform(frame)).float()
        if label in frame:
            label = frame[label].convert_dtypes().astype(str)
            examples[torch.tensor(label.isna().to_numpy())] = torch.nan
        names = pd.RangeIndex(len(examples), name="row")

    labels = None if label is None else np.broadcast_to(label, len(examples))
    return Examples(examples, names, labels)
