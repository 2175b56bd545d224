"""`FIFTrainerConfig`, and what a training is checked for before it starts."""

import copy
from typing import Any

import numpy as np
from pydantic import Field
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import BaseAE
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.names import Precision
from pythae_fif.training.updates import network_prefixes
from pythae_fif.validation import config_dataclass


@config_dataclass
class FIFTrainerConfig(BaseTrainerConfig):
    """Configuration of :class:`FIFTrainer`: Pythae's `BaseTrainerConfig` and

    Parameters:
        precision (str): 'float32', or 'bfloat16' for forward and backward passes of the networks
            in training (autocast; weights, losses, optimizer and evaluation stay float32, see
            :func:`~pythae_fif.training.precision.networks_in_bfloat16`). It pays on processors
            with instructions for it. Default: 'float32'.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type or out of range.
    """

    num_epochs: int = Field(100, ge=1)
    per_device_train_batch_size: int = Field(64, ge=1)
    per_device_eval_batch_size: int = Field(64, ge=1)
    precision: Precision = "float32"


def config_for(
    model: BaseAE, train_data: Any, eval_data: Any, config: BaseTrainerConfig | None
) -> BaseTrainerConfig:
    """A copy of the caller's configuration, or the default one, for a training.

    Raises:
        ConfigError, DataError: The model cannot be trained as it should.
    """
    config = copy.deepcopy(config) if config is not None else FIFTrainerConfig()
    if config.amp or config.steps_saving or config.steps_predict:
        raise ConfigError("amp, steps_saving and steps_predict do nothing in FIFTrainer")
    if config.world_size > 1:
        raise ConfigError("FIFTrainer is one process: under torchrun give a BaseTrainerConfig")
    sizes = config.per_device_train_batch_size, config.per_device_eval_batch_size
    if min(config.num_epochs, *sizes) < 1:  # Pythae's own configurations take any number
        raise ConfigError("num_epochs and batch sizes must be at least 1")
    if isinstance(model, InjectiveFlow) and network_prefixes(config) != [""]:
        raise ConfigError(f"{model.model_name} has one optimizer: give a FIFTrainerConfig")
    if isinstance(model, PythaesRHVAE) and "_extra_state" not in model.state_dict():
        raise ConfigError("Pythae's RHVAE saves no metric: use pythae_fif.baselines.RHVAE")
    try:
        TrainingPipeline(model, config)  # which sets RAE_L2's weight decay
    except AssertionError as error:  # of a configuration that is not the model's
        raise ConfigError(str(error)) from error
    for name, data in {"training": train_data, "evaluation": eval_data}.items():
        if isinstance(data, np.ndarray | Tensor):
            given = type(data).__name__
            raise DataError(f"the {name} set is a {given}: give an ImageDataset of it")
        if data is not None and not len(data):
            raise DataError(f"the {name} set is empty")
        if getattr(model, "condition_dim", 0) and not getattr(data, "labelled", True):
            raise ConfigError(
                f"the {name} set has no labels, and {model.model_name} is of "
                f"condition_dim={model.condition_dim}: give ImageDataset(images, labels)"
            )
    config.keep_best_on_train |= eval_data is None
    return config
