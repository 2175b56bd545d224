"""Loads trained models: from a folder, or for the configuration that validation chose."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas
import torch
from pythae.models import BaseAE

from pythae_fif.benchmark.config import Settings
from pythae_fif.benchmark.image_spec import ImageSpec
from pythae_fif.benchmark.plan import ImageResult
from pythae_fif.errors import ConfigError, DataError, StoreError, check_choice
from pythae_fif.models.saved import load_data_description, load_errors_as_data_error, load_model
from pythae_fif.register import MODEL_FILE, find_model
from pythae_fif.runs.store import SPEC_FILE, Store, read_file, read_spec

FIELDS = [*ImageSpec.model_fields, *Settings.model_fields]
"""Names of the fields by which runs can be selected."""


@dataclass(frozen=True)
class ChosenRun:
    """The run that validation chose.

    Attributes:
        folder: Its folder.
        spec: Its specification.
        configuration: The varied hyper-parameters as `name=value`.
        sampler: The sampler with the lowest distance to validation data.
    """

    folder: Path
    spec: ImageSpec = field(repr=False)
    configuration: str
    sampler: str


def best(
    results: str | Path,
    *,
    dataset: str,
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
        dataset: Name of the data set.
        model: Name of the model.
        sampler: The sampler that is used to choose; None for the one with the lowest distance.
        trust: Whether pickles of the user's own networks may be opened.
        **fields: Further fields of the specification or its settings, such as `arch`, `profile`,
            `data_hash` or `num_samples`.

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
    specs = [
        spec
        for spec in store.specs(ImageSpec, dataset)
        if spec.model == model and fields.items() <= _fields(spec).items()
    ]
    rows = _validation_distances(store, specs, sampler)
    if not rows:
        raise DataError(f"{results} has no finished run of {model} on {dataset} with these fields")
    _check_comparable([row["spec"] for row in rows])

    selected = select(pandas.DataFrame(rows))
    selected["mean"] = selected.groupby("sampler")["frechet_val"].transform("mean")
    row = selected.sort_values(["mean", "frechet_val"], kind="stable").iloc[0]
    folder = store.folder(row["spec"])
    trained: Any = load_trained(folder, trust)
    trained.run = ChosenRun(folder, row["spec"], row["spec"].configuration, row["sampler"])
    return cast(BaseAE, trained)


def _validation_distances(
    store: Store, specs: Iterable[ImageSpec], sampler: str | None
) -> list[dict[str, Any]]:
    """Returns one row per run and sampler, for :func:`select`."""
    results = [ImageResult.read(store, spec) for spec in specs]
    return [
        {
            "model": result.spec.model,
            "sampler": name,
            "setting": setting_id(result.spec),
            "frechet_val": record.result.frechet["val"],
            "spec": result.spec,
        }
        for result in results
        if result is not None
        for name, record in result.scores.items()
        if sampler in (None, name)
    ]


def _check_comparable(specs: list[ImageSpec]) -> None:
    """Refuses runs with scores that cannot be compared, see :attr:`ImageSpec.protocol`."""
    protocols = pandas.DataFrame([spec.protocol for spec in specs], dtype=object)
    texts = protocols.astype(str)
    differing = texts.loc[:, texts.nunique() > 1]
    choices = [f"{name} ({', '.join(sorted(set(values)))})" for name, values in differing.items()]
    if choices:
        raise ConfigError(f"the runs cannot be compared: choose {' and '.join(choices)}")


def _fields(spec: ImageSpec) -> dict[str, Any]:
    """Returns the fields of a specification and of its settings."""
    return {**dict(spec.settings), **dict(spec)}


def setting_id(spec: ImageSpec) -> str:
    """Returns the id of a run with seed 0, which is equal for all seeds."""
    return spec.model_copy(update={"seed": 0}).run_id


def select(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Selects one configuration for each model and sampler.

    It is the one of lowest mean distance to validation data (appendix E.4). Only the configurations
    with the most finished seeds compete: one that failed with some seeds must not win with the
    remaining ones. The test score plays no part.

    Returns:
        The rows of the selected configurations. `candidates` is the number that competed.
    """
    groups = ["model", "sampler"]
    configuration = [*groups, "setting"]
    distances = frame.groupby(configuration, sort=False)["frechet_val"]
    means = distances.agg(["size", "mean"]).reset_index()

    most_seeds = means.groupby(groups)["size"].transform("max")
    complete = means[means["size"] == most_seeds]
    complete = complete.assign(candidates=complete.groupby(groups)["size"].transform("size"))

    best = complete.sort_values("mean", kind="stable").drop_duplicates(groups)
    selected = frame.merge(best[[*configuration, "candidates"]], on=configuration)
    return selected.sort_values(groups, kind="stable", ignore_index=True)


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

    spec = None
    with contextlib.suppress(StoreError):
        spec = read_spec(read_file(model_folder.parent / SPEC_FILE) or b"")
    with load_errors_as_data_error(model_folder):
        if isinstance(spec, ImageSpec) and (trust or _is_trusted(spec)):
            model = _rebuild_model(spec, model_folder)
        else:
            model = _load_saved_model(model_folder, spec, trust)

        is_half = any(weight.dtype.itemsize < 4 for weight in model.parameters())
        return model.float() if is_half else model


def _load_saved_model(folder: Path, spec: Any, trust: bool) -> BaseAE:
    """Loads a saved model; `spec` is the specification of its run, if it has one."""
    try:
        return load_model(str(folder), trust)
    except NameError as error:  # neither Pythae nor this package has the class
        if not isinstance(spec, ImageSpec):
            raise
        raise ConfigError(
            f"{folder}: {spec.classes.model} is neither in Pythae nor in this package: if you "
            "trust its code, pass trust=True"
        ) from error


def _rebuild_model(spec: ImageSpec, folder: Path) -> BaseAE:
    """Builds the model of a specification, and loads its weights. No pickle is opened."""
    weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    input_dim = tuple(json.loads((folder / MODEL_FILE).read_text())["input_dim"])
    model = spec.build(input_dim)
    model.load_state_dict(weights["model_state_dict"])
    load_data_description(model, folder)
    return model


def _is_trusted(spec: ImageSpec) -> bool:
    """Returns whether all code that a specification names is in Pythae or in this package."""
    classes = spec.classes
    optional_paths = [path for path in (classes.networks, classes.discriminator) if path]
    packages = {path.split(".")[0] for path in (classes.model, classes.config, *optional_paths)}
    return packages <= {"pythae", "pythae_fif"}
