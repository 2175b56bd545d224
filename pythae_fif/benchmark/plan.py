"""The runs of an experiment: those that are planned, and what the store holds of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pythae_fif.benchmark.config import DataLocation, Experiment
from pythae_fif.benchmark.image_run import training_config
from pythae_fif.benchmark.image_spec import PER_MODEL_SETTINGS, ImageSpec
from pythae_fif.benchmark.models import ModelEntry, list_configs
from pythae_fif.benchmark.record import Evaluation, Training
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, format_error
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.store import Record, Store
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.validation import as_config_error


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


def expand(experiment: Experiment, splits: Splits) -> list[ImageSpec]:
    """Lists all runs of an experiment, in the order of its models, their grids and the seeds.

    Args:
        experiment: The experiment.
        splits: Its data.

    Returns:
        The specification of each run.

    Raises:
        ConfigError: An architecture, model or sampler does not work with the data, or a model's
            configuration class does not take a hyper-parameter; the message names the model.
    """
    plan: list[ImageSpec] = []

    for name in experiment.models:
        entry = experiment.entry_for(name)
        _check_entry(experiment, name, splits)
        for number, varied in enumerate(experiment.configurations_for(name)):
            try:
                spec = _first_seed(experiment, name, entry, splits, varied)
                training_config(spec)
                if number == 0:
                    spec.build(splits.input_dim)
                else:  # building networks takes a while, and they are the same
                    spec.configure(splits.input_dim)
            except ValidationError as error:
                raise as_config_error(error, f"model {name}", ImageSpec) from error
            except Exception as error:  # the user's function of networks may raise anything
                raise ConfigError(f"model {name}: {format_error(error)}") from error
            plan += [spec.model_copy(update={"seed": seed}) for seed in experiment.seeds]

    return plan


def _first_seed(
    experiment: Experiment, name: str, entry: ModelEntry, splits: Splits, varied: dict[str, Any]
) -> ImageSpec:
    """Returns the specification of a configuration with seed 0."""
    shared = {"dataset", "arch", "image_size", "extractor", "profile"}
    return ImageSpec(
        **experiment.model_dump(include=shared),
        model=name,
        classes=entry.classes,
        parameters=_parameters(entry, splits, varied),
        varied=list(varied),
        latent_dim=experiment.latent_dim_for(name),
        settings=experiment.settings_for(name, len(splits.train)),
        data_hash=splits.content_hash,
        labels_hash=splits.labels_hash if entry.conditional else None,
        samplers=entry.compatible_samplers(experiment.samplers),
        scores=experiment.scores,
        location=DataLocation(**experiment.model_dump(include={*DataLocation.model_fields})),
    )


def _parameters(entry: ModelEntry, splits: Splits, varied: dict[str, Any]) -> dict[str, Any]:
    """Returns all hyper-parameters of a run: fixed, given by the data, and varied."""
    data_parameters = {"condition_dim": splits.classes} if entry.conditional else {}
    return {**entry.fixed, **data_parameters, **varied}


def _check_entry(experiment: Experiment, name: str, splits: Splits) -> None:
    """Refuses a model that does not work with the data or with the requested samplers."""
    entry = experiment.entries[name]
    dataset = experiment.dataset
    samplers = entry.compatible_samplers(experiment.samplers)

    if entry.images_only and len(splits.input_dim) == 1:
        raise ConfigError(f"model {name} takes images only, and {dataset} has rows of numbers")
    if not samplers:
        raise ConfigError(
            f"--samplers {' '.join(experiment.samplers)}: model {name} has none of them; it has "
            f"{', '.join(entry.samplers)}"
        )
    latent_dim = experiment.latent_dim_for(name)
    for sampler in samplers:
        min_latent_dim = find_sampler(sampler).min_latent_dim
        if latent_dim < min_latent_dim:
            raise ConfigError(
                f"model {name}: sampler {sampler} needs {min_latent_dim} latent dimensions or "
                f"more, and it has {latent_dim}"
            )
    if entry.conditional:
        _check_labels(name, dataset, splits)


def _check_labels(name: str, dataset: str, splits: Splits) -> None:
    """Refuses data without labels, or with a class of a single training example."""
    if splits.labels is None:
        raise ConfigError(
            f"model {name} needs class labels, and {dataset} has none: they are the names of "
            "subfolders, `train_labels` of an .npz file, or the column of --label"
        )

    counts = np.bincount(splits.labels["train"], minlength=splits.classes or 0)
    if counts.min() < 2:
        names = splits.class_names or range(len(counts))
        raise ConfigError(
            f"model {name}: class {names[counts.argmin()]} of {len(counts)} has {counts.min()} "
            "training examples, needs 2"
        )


def leaderboard(
    store: Store, experiment: Experiment, plan: Iterable[ImageSpec], splits: Splits
) -> list[ImageResult]:
    """Reads every result that can be compared with the runs of a plan.

    Such runs differ from a run of the plan only in model, in hyper-parameters that the model
    varies, and in seed. So the files of an experiment do not depend on how its models were spread
    over commands.

    Args:
        store: The store to read.
        experiment: The experiment.
        plan: Its runs.
        splits: Its data.

    Returns:
        The results of the plan's runs, then the others by model, configuration and seed. Runs
        without a result are left out.
    """
    planned = {spec.run_id: spec for spec in plan}
    protocols = [spec.protocol for spec in planned.values()]
    known_models = {*list_configs("models"), *experiment.models}

    def is_comparable(spec: ImageSpec) -> bool:
        """Whether a run has this data and protocol, and its model's file has not changed."""
        if spec.protocol not in protocols or spec.model not in known_models:
            return False
        entry = experiment.entry_for(spec.model)
        settings = experiment.settings_for(spec.model, len(splits.train))
        varied = {key: spec.parameters[key] for key in spec.varied}
        return (
            spec.classes == entry.classes
            and spec.parameters == _parameters(entry, splits, varied)
            and spec.labels_hash in (None, splits.labels_hash)
            and spec.latent_dim == experiment.latent_dim_for(spec.model)
            and all(
                getattr(spec.settings, key) == getattr(settings, key) for key in PER_MODEL_SETTINGS
            )
        )

    stored_specs = store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")
    unplanned = [
        spec for spec in stored_specs if spec.run_id not in planned and is_comparable(spec)
    ]
    unplanned.sort(key=lambda spec: (spec.model, spec.configuration, spec.seed))

    results = [ImageResult.read(store, spec) for spec in (*planned.values(), *unplanned)]
    return [result for result in results if result is not None]
