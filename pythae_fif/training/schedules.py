"""The lengths of learning-rate schedules, where the user leaves them to the trainer."""

from collections.abc import Mapping
from typing import Any

from pythae.trainers import BaseTrainerConfig

from pythae_fif.errors import ConfigError
from pythae_fif.training.options import SchedulerInterval
from pythae_fif.training.updates import network_prefixes

LENGTH_PARAMETERS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max"}
"""Scheduler -> its parameter for the length of the schedule. It has no default in PyTorch; without
it the schedule is as long as the training."""


def missing_length(scheduler: str | None, parameters: Mapping[str, Any]) -> str | None:
    """Returns the name of the parameter for the length of a schedule if it is missing.

    Args:
        scheduler: Name of a scheduler of PyTorch; None for none.
        parameters: The scheduler's parameters.
    """
    name = LENGTH_PARAMETERS.get(scheduler or "")
    is_set = parameters.keys() & {name, "epochs", "steps_per_epoch"}
    return None if is_set else name


def set_lengths(
    config: BaseTrainerConfig, interval: SchedulerInterval, steps_per_epoch: int | None
) -> None:
    """Sets the missing lengths of schedules to the length of the training.

    Args:
        config: The training's configuration, which is changed.
        interval: What the schedulers count.
        steps_per_epoch: Number of optimizer steps in an epoch; None if the numbers of epochs or
            steps are unknown before the training.

    Raises:
        ConfigError: A length is missing but unknown, or the scheduler cannot count steps.
    """
    for prefix in network_prefixes(config):
        scheduler = getattr(config, f"{prefix}scheduler_cls")
        parameters = getattr(config, f"{prefix}scheduler_params") or {}
        if interval == "step" and scheduler == "ReduceLROnPlateau":
            raise ConfigError(
                "ReduceLROnPlateau compares the losses of epochs: use scheduler_interval='epoch'"
            )

        name = missing_length(scheduler, parameters)
        if name is None:
            continue
        if steps_per_epoch is None:
            raise ConfigError(
                f"{scheduler} needs {name} in {prefix}scheduler_params: with a wall_clock, or a "
                "model that is trained in stages, the length of its schedule is unknown"
            )
        length = config.num_epochs * (steps_per_epoch if interval == "step" else 1)
        setattr(config, f"{prefix}scheduler_params", {**parameters, name: length})
