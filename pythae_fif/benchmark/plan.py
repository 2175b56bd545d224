"""The plan of an experiment: its jobs, and which trainings the experiment could have made."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from pythae_fif.benchmark.build import build_model, model_config, training_config
from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.models import FIF_FLAGS, ModelEntry
from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.benchmark.training import Training
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, format_error
from pythae_fif.names import DataOptions, import_object
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.validation import as_config_error

BUDGET = {
    "batch_size", "epochs", "learning_rate", "one_cycle", "plateau_factor", "precision",
    "wall_clock", "weight_decay",
}  # fmt: skip
"""Fields that a training has of the profile."""


def plan(experiment: Experiment, splits: Splits) -> list[Job]:
    """Lists all jobs of an experiment, in the order of its models, their grids and the seeds.

    Args:
        experiment: The experiment.
        splits: Its data.

    Raises:
        ConfigError: An architecture, model or sampler does not work with the data, or a model's
            configuration class does not take a parameter; the message names the model.
    """
    jobs: list[Job] = []
    for name in experiment.models:
        entry = experiment.entries[name]
        _check_entry(experiment, name, splits)
        for number, varied in enumerate(_configurations(experiment, entry)):
            try:
                training = make_training(experiment, name, splits, varied)
                training_config(training)
                if number == 0:
                    build_model(training, splits.input_dim)
                else:  # building networks takes a while, and they are the same
                    model_config(training, splits.input_dim)
            except ValidationError as error:
                is_training = error.title == Training.__name__  # not the model's configuration
                cls = Training if is_training else import_object(entry.config)
                raise as_config_error(error, f"model {name}", cls) from error
            except Exception as error:  # the user's function of networks may raise anything
                raise ConfigError(f"model {name}: {format_error(error)}") from error

            if any(job.training == training for job in jobs):
                raise ConfigError(f"model {name}: configuration {dict(varied)} is there twice")
            jobs += [
                make_job(experiment, training.model_copy(update={"seed": seed}))
                for seed in experiment.seeds
            ]
    return jobs


def make_training(
    experiment: Experiment, name: str, splits: Splits, varied: Mapping[str, Any], seed: int = 0
) -> Training:
    """Returns the training of a model of an experiment.

    Args:
        experiment: The experiment.
        name: Name of the model.
        splits: The data.
        varied: Values of the parameters that the model varies, and of `learning_rate` if it does.
        seed: Random seed.
    """
    entry = experiment.entries[name]
    parameters = dict(varied)
    budget = _budget(experiment, entry, len(splits.train))
    if "learning_rate" in parameters:
        budget["learning_rate"] = parameters.pop("learning_rate")

    data_parameters = {"condition_dim": splits.classes} if entry.conditional else {}

    return Training(
        dataset=experiment.dataset,
        arch=experiment.arch,
        image_size=experiment.image_size,
        model=name,
        model_class=entry.model,
        config_class=entry.config,
        trainer_class=entry.trainer,
        **entry.model_dump(include={"variational", "networks", "discriminator", "keep_last"}),
        parameters={**entry.fixed, **data_parameters, **parameters},
        latent_dim=_latent_dim(experiment, name, splits),
        **budget,
        **experiment.active_profile.data_selection,
        data_hash=splits.content_hash,
        labels_hash=splits.labels_hash if entry.conditional else None,
        seed=seed,
    )


def make_job(experiment: Experiment, training: Training) -> Job:
    """Returns what an experiment asks of a training."""
    entry = experiment.entries[training.model]
    profile = experiment.active_profile

    # A stored run of a model that has none of the samplers is shown with those of its records.
    samplers = entry.compatible_samplers(experiment.samplers) or entry.samplers[:1]
    scorings = [
        Scoring(
            sampler=sampler,
            extractor=experiment.extractor,
            num_samples=profile.num_samples,
            fit_steps=profile.fit_steps,
        )
        for sampler in samplers
    ]

    return Job(
        training,
        tuple(scorings),
        varied=tuple(entry.varied_in(training.hyperparameters)),
        scores=tuple(experiment.scores),
        location=DataOptions(**experiment.model_dump(include={*DataOptions.model_fields})),
        extractor_weights=experiment.extractor_weights,
    )


def find_job(experiment: Experiment, training: Training, splits: Splits) -> Job | None:
    """Returns the job of a stored training, if the experiment could have made it.

    That is so with any values of the parameters that the model varies, and with any seed.

    Args:
        experiment: The experiment.
        training: The stored training.
        splits: The data of the experiment.
    """
    entry = experiment.entries.get(training.model)
    if entry is None:
        return None
    values = training.hyperparameters
    varied = {name: values[name] for name in entry.varied_in(values)}
    expected = make_training(experiment, training.model, splits, varied, training.seed)
    return make_job(experiment, training) if training == expected else None


def _configurations(experiment: Experiment, entry: ModelEntry) -> list[dict[str, Any]]:
    """Returns the varied parameters of a model's runs, one dictionary per configuration.

    These are the model's first configurations, as many as the profile allows. Values that the user
    gave by flags replace those of the grid, and are all run.
    """
    flags = {name: getattr(experiment, name) for name in FIF_FLAGS if getattr(experiment, name)}
    if flags and not entry.takes_fif_flags:
        flags = {}
    if "learning_rate" in entry.grid and "learning_rate" in experiment.overridden_keys:
        flags["learning_rate"] = [experiment.active_profile.learning_rate]
    if flags:
        return entry.choices(flags)
    return entry.choices()[: experiment.active_profile.max_configurations]


def _latent_dim(experiment: Experiment, name: str, splits: Splits) -> int:
    """Returns a model's latent dimension d: at most the largest one that the model takes."""
    if experiment.entries[name].all_dims:
        return math.prod(splits.input_dim)
    latent_dim = experiment.latent_dims.get(name, experiment.latent_dim)
    return min(latent_dim, experiment.entries[name].max_latent_dim or latent_dim)


def _budget(experiment: Experiment, entry: ModelEntry, num_train: int) -> dict[str, Any]:
    """Returns the length of a model's training and its optimizer's settings.

    If the profile counts steps, the number of epochs depends on the number of training examples.
    """
    profile = experiment.active_profile
    values = profile.model_dump(include=BUDGET)
    for key in ("batch_size", "learning_rate", "weight_decay"):
        value = getattr(entry, key)
        if value is not None and key not in experiment.overridden_keys:
            values[key] = value

    if profile.steps is not None:
        # As `BatchLoader` counts: a last batch of a single sample joins the batch before it.
        batch_size = values["batch_size"]
        batches_per_epoch = math.ceil(max(1, num_train - (batch_size > 1)) / batch_size)
        values["epochs"] = math.ceil(profile.steps / batches_per_epoch)
    return values


def _check_entry(experiment: Experiment, name: str, splits: Splits) -> None:
    """Refuses a model that does not work with the data or with the requested samplers."""
    entry = experiment.entries[name]
    dataset = experiment.dataset
    samplers = entry.compatible_samplers(experiment.samplers)

    is_table = len(splits.input_dim) == 1
    if entry.images_only and is_table:
        raise ConfigError(f"model {name} takes images only, and {dataset} has rows of numbers")
    if entry.rows_only and not is_table:
        raise ConfigError(f"model {name} takes rows of numbers only, and {dataset} has images")
    if not samplers:
        raise ConfigError(
            f"--samplers {' '.join(experiment.samplers)}: model {name} has none of them; it has "
            f"{', '.join(entry.samplers)}"
        )
    latent_dim = _latent_dim(experiment, name, splits)
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
