"""`FIFTrainerConfig`, and what a training is checked for before it starts."""

__all__ = ["FIFTrainerConfig", "check_training", "config_for", "training_digest"]

import copy
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pythae_fif.baselines.glow import ActNorm
from pythae_fif.errors import ConfigError, DataError, first_line
from pythae_fif.files import digest
from pythae_fif.models.hutchinson import HutchinsonModel
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.training.loader import BatchDataset
from pythae_fif.training.updates import config_type, rule_of, wanted_config
from pythae_fif.validation import config_dataclass


@config_dataclass
class FIFTrainerConfig(BaseTrainerConfig):
    """Configuration of :class:`FIFTrainer`: Pythae's `BaseTrainerConfig` and

    Parameters:
        precision (str): 'float32', or 'bfloat16' for forward and backward passes of the networks
            in training (autocast; weights, losses, optimizer and evaluation stay float32, see
            :func:`~pythae_fif.training.bfloat16.networks_in_bfloat16`). Default: 'float32'.
        max_grad_norm (float): Gradients of a larger norm are scaled down to it; None for never.
            Default: None.
        channels_last (bool): Memory layout of images and convolutions. On a CPU a FIF step of
            Pythae's ResNets is up to 1.07 times as fast with it in float32, 1.26 times in
            bfloat16; the ConvNets gain nothing. Default: False.
        compile (bool): Compile FIF's training loss, see
            :func:`~pythae_fif.training.compiled.compiled_loss`; other models train as ever. Losses
            and gradients are equal to rounding. On MNIST a step of Pythae's ResNet has 95 of 182
            operations, of its ConvNet 53 of 273, which on a CPU saves no time; compiling takes
            minutes (results/reference/benchmarks/step-compiled.md). Default: False.
        cudnn_benchmark (bool): Let cuDNN time its convolutions and take the fastest, in the whole
            process. Default: False.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type or out of range.
    """

    num_epochs: int = Field(100, ge=1)
    per_device_train_batch_size: int = Field(64, ge=1)
    per_device_eval_batch_size: int = Field(64, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    max_grad_norm: float | None = Field(None, gt=0)
    channels_last: bool = False
    compile: bool = False
    cudnn_benchmark: bool = False

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except (AttributeError, TypeError) as error:  # Pythae's, of optimizer and scheduler
            raise ConfigError(f"FIFTrainerConfig: {first_line(error)}") from error
        if self.optimizer_cls == "LBFGS":
            raise ConfigError("FIFTrainerConfig optimizer_cls='LBFGS': not of this trainer")
        if self.amp:
            raise ConfigError("FIFTrainerConfig amp=True: write precision='bfloat16' instead")
        for key in ("steps_saving", "steps_predict"):
            if getattr(self, key) is not None:
                raise ConfigError(
                    f"FIFTrainerConfig {key}={getattr(self, key)}: not of this trainer, which "
                    "saves by checkpoint_every_seconds and makes no predictions on the way"
                )


def config_for(
    model: BaseAE, config: BaseTrainerConfig | None, options: Mapping[str, Any]
) -> BaseTrainerConfig:
    """A copy of the caller's configuration, or the default one, for the training of a model.

    A plain one of Pythae becomes a `FIFTrainerConfig`, which gets the options. RAE_L2's decoder
    gets `reg_weight` as its weight decay, as in Pythae's `TrainingPipeline`.
    """
    if config is None:
        return FIFTrainerConfig(**options)
    if type(config) is BaseTrainerConfig:
        given = {key: value for key, value in config.to_dict().items() if key != "name"}
        return FIFTrainerConfig(**given, **options)
    config = copy.deepcopy(config)
    if options and isinstance(config, FIFTrainerConfig):
        return dataclasses.replace(config, **options)
    if model.model_name == "RAE_L2" and isinstance(config, CoupledOptimizerTrainerConfig):
        decay = {"weight_decay": model.model_config.reg_weight}
        config.decoder_optimizer_params = {**(config.decoder_optimizer_params or {}), **decay}
    return config


WHERE_AND_HOW_LONG = {
    "output_dir", "num_epochs", "no_cuda", "dist_backend", "master_addr", "master_port",
    "train_dataloader_num_workers", "eval_dataloader_num_workers", "cudnn_benchmark", "compile",
}  # fmt: skip
"""Keys of training configurations that may change where a training is cut off and resumed."""


def training_digest(
    model: BaseAE, train_data: Any, eval_data: Any, *configs: BaseTrainerConfig
) -> str:
    """Identifies a training: configurations of model and training, networks, and data sizes."""
    sizes = [None if data is None else len(data) for data in (train_data, eval_data)]
    kept = [
        {key: value for key, value in config.to_dict().items() if key not in WHERE_AND_HOW_LONG}
        for config in configs
    ]
    return digest(json.dumps([model.model_config.to_dict(), kept, sizes]), model)


def check_training(
    model: BaseAE,
    train_data: Any,
    eval_data: Any,
    config: BaseTrainerConfig,
    wall_clock: float | None,
    processes: int,
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
    if config.num_epochs < 1:
        raise ConfigError(f"num_epochs must be at least 1, not {config.num_epochs}")
    if wall_clock is not None and not 0 < wall_clock < math.inf:
        raise ConfigError(f"wall_clock={wall_clock}: a number of seconds above 0 is needed")
    for part in (config, model.model_config):
        for key, value in part.to_dict().items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{type(part).__name__} {key}: cannot be saved with the model: {error}"
                ) from error
    _check_data(model, "training", train_data)
    if eval_data is not None:
        _check_data(model, "evaluation", eval_data)
    whiten = getattr(model.model_config, "whiten", False)
    if whiten and len(train_data) <= model.latent_dim:
        raise DataError(
            f"the training set has {len(train_data)} items: whiten=True needs more than "
            f"latent_dim={model.latent_dim}"
        )
    if processes > 1:
        _check_processes(model, train_data, eval_data, config, wall_clock)


def _check_data(model: BaseAE, name: str, dataset: Any) -> None:
    """Raises ConfigError or DataError where a model cannot be trained or evaluated on a set."""
    kind = type(dataset).__name__
    if isinstance(dataset, Tensor | np.ndarray):
        raise DataError(
            f"the {name} set is a {kind}: an ImageDataset of uint8 images is needed, or a data set "
            "as Pythae's BaseDataset"
        )
    if isinstance(dataset, list | Mapping | DataLoader) or not hasattr(dataset, "__len__"):
        raise DataError(f"the {name} set is a {kind}: needs a data set, such as loader.dataset")
    if len(dataset) == 0:
        raise DataError(f"the {name} set is empty: training needs at least one item in each")
    if not isinstance(dataset, BatchDataset):
        item = dataset[0]
        if not (isinstance(item, Mapping) and "data" in item):
            raise DataError(
                f"the {name} set, a {kind}, has a {type(item).__name__} as item: needs "
                "DatasetOutput(data=..., labels=...), as of Pythae's BaseDataset"
            )
    if getattr(model, "condition_dim", 0) and not getattr(dataset, "labelled", True):
        raise ConfigError(
            f"the {name} set has no labels, and {model.model_name} is of "
            f"condition_dim={model.condition_dim}: give ImageDataset(images, labels)"
        )
    held = getattr(dataset, "images", getattr(dataset, "data", None))
    dim = model.model_config.input_dim
    if not (isinstance(held, Tensor) and dim):
        return
    shape = tuple(held.shape[1:])
    ours = isinstance(model, InjectiveFlow) and len(shape) == len(dim)
    if math.prod(shape) != math.prod(dim) or (ours and shape != tuple(dim)):
        raise DataError(
            f"the {name} set has items {shape}, and {model.model_name} is of "
            f"input_dim={tuple(dim)}: make the two alike"
        )


def _check_processes(
    model: BaseAE,
    train_data: Any,
    eval_data: Any,
    config: BaseTrainerConfig,
    wall_clock: float | None,
) -> None:
    """Raises ConfigError or DataError for what several processes cannot train together."""
    for name, dataset in (("training", train_data), ("evaluation", eval_data)):
        if dataset is not None and len(dataset) < config.world_size:
            raise DataError(
                f"the {name} set has {len(dataset)} items for {config.world_size} processes: each "
                "process needs at least one"
            )
    if len(rule_of(config).networks) > 1:
        raise ConfigError(
            f"{model.model_name} has several optimizers, which train in one process alone: unset "
            f"WORLD_SIZE={config.world_size}, or give distributed=False"
        )
    if wall_clock is not None:
        raise ConfigError(
            "FIFTrainer wall_clock: not with several processes, which would stop at different steps"
        )
    if isinstance(model, HutchinsonModel) and any(
        isinstance(module, nn.SyncBatchNorm) for module in model.modules()
    ):
        raise ConfigError(
            f"{type(model).__name__} has SyncBatchNorm layers, which PyTorch cannot differentiate "
            "twice: leave them BatchNorm, or use GroupNorm or LayerNorm"
        )
    if isinstance(model, PythaesRHVAE):
        raise ConfigError(
            "RHVAE's metric is made of the last batches, which several processes would have apart; "
            "train it in one"
        )
    if any(isinstance(module, ActNorm) for module in model.modules()):
        raise ConfigError(
            f"{type(model).__name__} has ActNorm layers, which its first batch sets: several "
            "processes would set them apart; train it in one"
        )
