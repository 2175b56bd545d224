"""Builds the model of a training, its training configuration, and its trainer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.benchmark.training import Training
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.errors import check_choice
from pythae_fif.names import import_object
from pythae_fif.nn import build_networks
from pythae_fif.training import FIFTrainer, OnEpoch, TrainerOptions
from pythae_fif.training.config import network_prefixes


def model_config(training: Training, input_dim: tuple[int, ...]) -> Any:
    """Returns the model's configuration for samples of a shape.

    Raises:
        ConfigError: Unknown parameter; Pythae's classes would ignore it.
        Exception: The configuration's class refuses a value, with an error of its choice.
    """
    config_class = import_object(training.config_class)
    valid = [field.name for field in dataclasses.fields(config_class) if field.init]
    for key in training.parameters:
        check_choice(key, valid, f"unknown key {key!r}")
    return config_class(input_dim=input_dim, latent_dim=training.latent_dim, **training.parameters)


def build_model(training: Training, input_dim: tuple[int, ...]) -> BaseAE:
    """Builds a new model for samples of a shape. Seed torch first.

    Raises:
        ConfigError: The architecture does not work with the data or the model.
        Exception: See :func:`model_config`.
    """
    # The configuration comes first: if parameter and architecture are both wrong, the error
    # about the parameter helps more.
    config = model_config(training, input_dim)

    networks: tuple[Any, ...] = ()
    if training.networks is None:
        networks = build_networks(
            training.arch,
            input_dim,
            training.latent_dim,
            variational=training.variational,
            condition_dim=training.parameters.get("condition_dim", 0),
        )
    elif training.networks != "own":
        build = import_object(training.networks)
        networks = build(training.arch, input_dim, training.latent_dim)
    if training.discriminator is not None:
        networks = (*networks, import_object(training.discriminator)(input_dim))

    arguments = dict(zip(("encoder", "decoder", "discriminator"), networks, strict=False))
    model_class = import_object(training.model_class)
    return patch_slow_ops(model_class(config, **arguments))


def training_config(training: Training) -> Any:
    """Returns Pythae's training configuration: Adam, and the profile's schedule."""
    config_class = import_object(training.trainer_class)
    prefixes = network_prefixes(config_class)
    options: dict[str, Any] = {"learning_rate": training.learning_rate}
    if training.weight_decay is not None:
        options["optimizer_params"] = {"weight_decay": training.weight_decay}

    config = config_class(
        num_epochs=training.epochs or 10**9,  # only the wall clock limits the training
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        seed=training.seed,
        **{f"{prefix}{key}": value for prefix in prefixes for key, value in options.items()},
    )
    # Pythae's classes would refuse a schedule whose length only the trainer knows.
    for prefix in prefixes:
        for key, value in _schedule(training).items():
            setattr(config, f"{prefix}{key}", value)
    return config


def _schedule(training: Training) -> dict[str, Any]:
    """Returns the keys of Pythae's training configuration for the learning rate's schedule."""
    if training.one_cycle:  # appendix E.2
        parameters = {"max_lr": training.learning_rate}
        return {"scheduler_cls": "OneCycleLR", "scheduler_params": parameters}
    if training.plateau_factor is not None:  # appendix E.4
        parameters = {"factor": training.plateau_factor, "patience": 10}
        return {"scheduler_cls": "ReduceLROnPlateau", "scheduler_params": parameters}
    return {}


def build_trainer(
    training: Training,
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> FIFTrainer:
    """Builds the model of a training, seeded, in a trainer that trains it or finds it trained.

    Args:
        training: The specification.
        splits: Its data.
        labels: Split -> class of each example; empty if the model takes none.
        folder: The run's folder, for checkpoints and the trained model.
        on_epoch: Called after each epoch.
    """
    set_seed(training.seed)
    model: Any = build_model(training, splits.input_dim)
    model.columns = splits.columns
    model.class_names = splits.class_names if labels else None

    return FIFTrainer(
        model,
        ImageDataset(splits.train, labels.get("train")),
        ImageDataset(splits.val, labels.get("val")),
        training_config(training),
        run_dir=folder,
        run_id=training.run_id,
        on_epoch=on_epoch,
        wall_clock=training.wall_clock,
        keep_last=training.keep_last,
        options=TrainerOptions(
            precision=training.precision,
            scheduler_interval="step" if training.one_cycle else "epoch",
        ),
    )
