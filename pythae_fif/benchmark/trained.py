"""Loads trained models: from a folder, or for the configuration that validation chose."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from pythae.models import BaseAE

from pythae_fif.benchmark.build import build_model
from pythae_fif.benchmark.results import Result, read_all, select
from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.benchmark.training import Training
from pythae_fif.data.sets import DATASETS
from pythae_fif.errors import ConfigError, DataError, StoreError, check_choice
from pythae_fif.models.saved import load_data_description, load_errors_as_data_error, load_model
from pythae_fif.register import MODEL_FILE, find_model
from pythae_fif.runs.store import SPEC_FILE, Store, read_file, read_spec

FIELDS = [*Training.model_fields, *Scoring.model_fields]
"""Names of the fields by which runs can be selected."""


@dataclass(frozen=True)
class ChosenRun:
    """The run that validation chose.

    Attributes:
        folder: Its folder.
        training: Its specification.
        configuration: The varied parameters as `name=value`.
        sampler: The sampler with the lowest distance to validation data.
    """

    folder: Path
    training: Training = field(repr=False)
    configuration: str
    sampler: str


def best(
    results: str | Path,
    *,
    dataset: str | Path,
    model: str,
    sampler: str | None = None,
    trust: bool = False,
    **fields: Any,
) -> BaseAE:
    """Loads the trained model of the configuration that validation chose.

    This is the configuration of the report: it has the lowest mean distance to validation data. Of
    its seeds, the one with the lowest distance is loaded.

    Args:
        results: The results folder.
        dataset: Name of the data set, or of your own file or folder, such as `pets.csv`.
        model: Name of the model.
        sampler: The sampler that is used to choose; None for the one with the lowest distance.
        trust: Whether pickles of the user's own networks may be opened.
        **fields: Further fields of :class:`~pythae_fif.benchmark.training.Training` or of
            :class:`~pythae_fif.benchmark.scoring.Scoring`, such as `arch`, `epochs`, `extractor` or
            `num_samples`.

    Returns:
        The model, on the CPU. Its attribute `run` is the :class:`ChosenRun`.

    Raises:
        ConfigError: A field is unknown, or the runs cannot be compared; the message names the
            fields in which they differ.
        DataError: There is no such run, or it has no model.
    """
    store = Store(results)
    for name in fields:
        check_choice(name, FIELDS, f"best: {name!r} is unknown")
    available = [*read_all(store)]
    of_model = [
        result
        for result in available
        if result.job.training.model == model
        and Path(dataset).name in (result.job.training.dataset, _data_name(result))
    ]
    if not of_model:
        raise DataError(
            f"{results} has no finished run of {model} on {dataset}: {_list_models(available)}"
        )
    if sampler is not None:
        fields["sampler"] = sampler
    found = [
        result
        for result in of_model
        if all(value in _field_values(result, name) for name, value in fields.items())
    ]
    if not found:
        raise DataError(
            f"{results} has no finished run of {model} on {dataset} with these fields: "
            f"{_list_values(of_model, fields)}"
        )
    _check_comparable(found)

    distances = [
        {
            "model": model,
            "sampler": name,
            "configuration": result.job.configuration,
            "frechet_val": record.result.scores.frechet["val"],
            "result": result,
        }
        for result in found
        for name, record in result.scores.items()
        if sampler in (None, name)
    ]
    selected = select(pd.DataFrame(distances))
    selected["mean"] = selected.groupby("sampler")["frechet_val"].transform("mean")
    chosen = selected.sort_values(["mean", "frechet_val"], kind="stable").iloc[0]

    training = chosen["result"].job.training
    folder = store.folder(training)
    trained: Any = load_trained(folder, trust)
    trained.run = ChosenRun(folder, training, chosen["configuration"], chosen["sampler"])
    return cast(BaseAE, trained)


def _data_name(result: Result) -> str:
    """Returns the name of a user's file or folder, and the data set's name for others."""
    dataset = result.job.training.dataset
    if dataset not in DATASETS or not DATASETS[dataset].needs_path:
        return dataset
    description = result.evaluation.result.data.source
    return description.removeprefix(f"{dataset} ").split(",")[0]


def _fields(result: Result) -> dict[str, Any]:
    """Returns the fields of a run's training and of its scorings, without the sampler."""
    scoring = result.job.scorings[0].model_dump(exclude={"sampler"})
    return {**dict(result.job.training), **scoring}


def _field_values(result: Result, name: str) -> list[Any]:
    """Returns the values of a field of a run: one, or several samplers."""
    return [*result.scores] if name == "sampler" else [_fields(result)[name]]


def _list_models(results: Iterable[Result]) -> str:
    """Returns which models were trained on which data."""
    models: dict[str, set[str]] = {}
    for result in results:
        models.setdefault(_data_name(result), set()).add(result.job.training.model)
    lists = [f"{', '.join(sorted(names))} on {data}" for data, names in sorted(models.items())]
    return f"there are {'; '.join(lists)}" if lists else "there is none at all"


def _list_values(results: Sequence[Result], names: Iterable[str]) -> str:
    """Returns which values of fields runs have."""
    lists = []
    for name in names:
        values = {str(value) for result in results for value in _field_values(result, name)}
        lists.append(f"{name} {', '.join(sorted(values))}")
    return f"there are {'; '.join(lists)}"


def _check_comparable(results: Sequence[Result]) -> None:
    """Refuses runs that differ in more than the parameters and the seed."""
    fields = pd.DataFrame(map(_fields, results), dtype=object)
    fields["dataset"] = [*map(_data_name, results)]
    texts = fields.drop(columns=["parameters", "seed"]).astype(str)
    differing = texts.loc[:, texts.nunique() > 1]
    if "dataset" in differing:
        differing = differing[["dataset"]]
    choices = [f"{name} ({', '.join(sorted(set(values)))})" for name, values in differing.items()]
    if choices:
        raise ConfigError(f"the runs cannot be compared: choose {' and '.join(choices)}")


def load_trained(folder: str | Path, trust: bool = False) -> BaseAE:
    """Loads the model of a run, or a saved model.

    Weights in half precision become float32, since some operations have no half precision.

    Args:
        folder: The folder of the run or of the model.
        trust: Whether files in the folder may run code.

    Raises:
        ConfigError: A file would run code that is not trusted.
        DataError: A file is missing or damaged.
    """
    model_folder = find_model(folder)
    if model_folder is None:
        raise DataError(
            f"{folder}: neither a saved model nor a run with a model (packed runs have none)"
        )

    training = None
    with contextlib.suppress(StoreError):
        training = read_spec(read_file(model_folder.parent / SPEC_FILE) or b"", Training)
    with load_errors_as_data_error(model_folder):
        if training is not None and (trust or _is_trusted(training)):
            model = _rebuild_model(training, model_folder)
        else:
            model = _load_saved_model(model_folder, training, trust)

        is_half = any(weight.dtype.itemsize < 4 for weight in model.parameters())
        return model.float() if is_half else model


def _load_saved_model(folder: Path, training: Training | None, trust: bool) -> BaseAE:
    """Loads a saved model; `training` is the specification of its run, if it has one."""
    try:
        return load_model(str(folder), trust)
    except NameError as error:  # neither Pythae nor this package has the class
        if training is None:
            raise
        raise ConfigError(
            f"{folder}: {training.model_class} is neither in Pythae nor in this package: if you "
            "trust its code, pass trust=True"
        ) from error


def _rebuild_model(training: Training, folder: Path) -> BaseAE:
    """Builds the model of a training, and loads its weights. No pickle is opened."""
    weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    input_dim = tuple(json.loads((folder / MODEL_FILE).read_text())["input_dim"])
    model = build_model(training, input_dim)
    model.load_state_dict(weights["model_state_dict"])
    load_data_description(model, folder)
    return model


def _is_trusted(training: Training) -> bool:
    """Returns whether all code that a specification names is in Pythae or in this package."""
    optional_paths = [path for path in (training.networks, training.discriminator) if path]
    paths = (training.model_class, training.config_class, *optional_paths)
    return {path.split(".")[0] for path in paths} <= {"pythae", "pythae_fif"}
