"""`FIFTrainerConfig`, and what a training is checked for before it starts."""

__all__ = ["FIFTrainerConfig", "check_training", "config_for", "training_digest"]

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.files import digest
from pythae_fif.training.loader import BatchDataset
from pythae_fif.training.precision import Precision
from pythae_fif.training.updates import config_type, wanted_config
from pythae_fif.validation import config_dataclass

NOT_OURS = {
    "amp": "write precision='bfloat16' instead",
    "steps_saving": "checkpoints are written by checkpoint_every_seconds",
    "steps_predict": "no predictions are made on the way",
}
"""Keys of Pythae's configuration that do nothing here -> what does."""


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, instead in NOT_OURS.items():
            if getattr(self, key):
                raise ConfigError(f"FIFTrainerConfig {key}={getattr(self, key)}: {instead}")


def config_for(
    model: BaseAE, config: BaseTrainerConfig | None, precision: Precision | None
) -> BaseTrainerConfig:
    """A copy of the caller's configuration, or the default one, for the training of a model.

    A plain one of Pythae becomes a `FIFTrainerConfig`. RAE_L2's decoder gets `reg_weight` as its
    weight decay, as in Pythae's `TrainingPipeline`. What Pythae has read from WORLD_SIZE, RANK and
    LOCAL_RANK, which clusters set for other ends too, is taken out.

    Raises:
        ConfigError: torchrun has started this process as one of several.
    """
    config = copy.deepcopy(config) if config is not None else FIFTrainerConfig()
    if config.world_size > 1 and torch.distributed.is_torchelastic_launched():
        raise ConfigError(
            f"FIFTrainer trains in one process, and torchrun started {config.world_size}: give "
            "Pythae's TrainingPipeline a BaseTrainerConfig, by which it trains in several"
        )
    if type(config) is BaseTrainerConfig:
        given = {key: value for key, value in config.to_dict().items() if key != "name"}
        config = FIFTrainerConfig(**given)
    if precision is not None and isinstance(config, FIFTrainerConfig):
        config = dataclasses.replace(config, precision=precision)
    if model.model_name == "RAE_L2" and isinstance(config, CoupledOptimizerTrainerConfig):
        decay = {"weight_decay": model.model_config.reg_weight}
        config.decoder_optimizer_params = {**(config.decoder_optimizer_params or {}), **decay}
    config.world_size = config.rank = config.local_rank = -1
    return config


WHERE_AND_HOW_LONG = {
    "output_dir", "num_epochs", "no_cuda", "dist_backend", "master_addr", "master_port",
    "train_dataloader_num_workers", "eval_dataloader_num_workers",
}  # fmt: skip
"""Keys of training configurations that may change where a training is cut off and resumed."""


def training_digest(
    model: BaseAE,
    train_data: Any,
    eval_data: Any,
    config: BaseTrainerConfig,
    precision: Precision | None,
) -> str:
    """Identifies a training: configurations of model and training, networks, and data sizes."""
    sizes = [None if data is None else len(data) for data in (train_data, eval_data)]
    kept = {key: v for key, v in config.to_dict().items() if key not in WHERE_AND_HOW_LONG}
    return digest(json.dumps([model.model_config.to_dict(), kept, precision, sizes]), model)


def check_training(
    model: BaseAE, train_data: Any, eval_data: Any, config: BaseTrainerConfig
) -> None:
    """Raises ConfigError or DataError where a trainer could not train the model as it should."""
    if isinstance(model, PythaesRHVAE) and "_extra_state" not in model.state_dict():
        raise ConfigError(
            "Pythae's RHVAE cannot be trained here: its metric is not in its state_dict, so that "
            "a checkpoint would lose it; use pythae_fif.baselines.RHVAE, which is the same model"
        )
    wanted = wanted_config(model)
    if wanted is not None and config_type(config) is not wanted:
        name = (FIFTrainerConfig if wanted is BaseTrainerConfig else wanted).__name__
        raise ConfigError(f"model {model.model_name} needs a {name}, not a {type(config).__name__}")
    for name, data in {"training": train_data, "evaluation": eval_data}.items():
        if data is not None or name == "training":
            _check_data(model, name, data)


def _check_data(model: BaseAE, name: str, dataset: Any) -> None:
    if not isinstance(dataset, BatchDataset):
        item = dataset[0] if hasattr(dataset, "__getitem__") and len(dataset) else None
        if not (isinstance(item, Mapping) and "data" in item):
            raise DataError(
                f"the {name} set is a {type(dataset).__name__}: an ImageDataset of uint8 images is "
                "needed, or a data set of at least one DatasetOutput(data=..., labels=...)"
            )
    elif not len(dataset):
        raise DataError(f"the {name} set is empty: training needs at least one item in each")
    if getattr(model, "condition_dim", 0) and not getattr(dataset, "labelled", True):
        raise ConfigError(
            f"the {name} set has no labels, and {model.model_name} is of "
            f"condition_dim={model.condition_dim}: give ImageDataset(images, labels)"
        )
