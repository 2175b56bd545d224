"""The configuration of a training: its options, the lengths of its schedules, and its checks."""

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pythae.models import RHVAE, BaseAE
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.names import Precision
from pythae_fif.training.datasets import find_whole
from pythae_fif.validation import config_dataclass

SchedulerInterval = Literal["epoch", "step"]

NETWORK_NAMES = {
    "encoder_": ["encoder"],
    "decoder_": ["decoder"],
    "autoencoder_": ["encoder", "decoder"],
    "discriminator_": ["discriminator"],
}
"""Prefix of an optimizer's keys in Pythae's configurations and outputs (`encoder_learning_rate`,
`encoder_loss`) -> the model's networks that it trains, in the order of backward passes."""

LENGTH_PARAMETERS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max"}
"""Scheduler -> its parameter for the length of the schedule. It has no default in PyTorch; without
it the schedule is as long as the training."""


@config_dataclass
class TrainerOptions:
    """Options of :class:`FIFTrainer` beyond those of Pythae's trainers.

    They are fields of `FIFTrainerConfig`. For a model with several optimizers, which needs one of
    Pythae's configurations, pass them to `FIFTrainer` as ``options``.

    Args:
        precision (str): 'float32', or 'bfloat16' for forward and backward passes of the networks
            in training (autocast; weights, losses, optimizer and evaluation stay float32, see
            :func:`~pythae_fif.training.precision.networks_in_bfloat16`). It is faster on
            processors with bfloat16 instructions. Default: 'float32'.
        early_stopping_patience (int): The training ends after this number of epochs in a row
            without an evaluation loss below the lowest one. A model that is trained in stages ends
            early only in its last stage. Default: None, for no early stopping.
        gradient_clip_norm (float): Before each step of an optimizer, its gradients are scaled down
            to this norm (2-norm over all of its weights) if they exceed it. Default: None, for no
            clipping.
        scheduler_interval (str): Whether `scheduler_cls` counts epochs ('epoch', as in Pythae) or
            optimizer steps ('step'). Default: 'epoch'.
        trace (bool): Whether training steps may run as a graph, which saves up to half of the time
            of a small network, see :class:`~pythae_fif.training.TracedStep`. Default: None, for
            FIFs only.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    precision: Precision = "float32"
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    gradient_clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    scheduler_interval: SchedulerInterval = "epoch"
    trace: bool | None = None


def network_prefixes(config: type[BaseTrainerConfig] | BaseTrainerConfig) -> list[str]:
    """Returns the prefixes of a configuration or its class: [''] for a single optimizer."""
    return [name for name in NETWORK_NAMES if hasattr(config, f"{name}learning_rate")] or [""]


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


@config_dataclass
class FIFTrainerConfig(TrainerOptions, BaseTrainerConfig):
    """Configuration of :class:`FIFTrainer`: Pythae's `BaseTrainerConfig` and further options.

    See :class:`~pythae_fif.training.TrainerOptions` for the options `precision`,
    `early_stopping_patience`, `gradient_clip_norm`, `scheduler_interval` and `trace`.

    Pythae's own pipeline and trainers take it for a `BaseTrainerConfig`: they train by Pythae's
    loop, where these options have no effect. :class:`~pythae_fif.training.FIFTrainingPipeline`
    trains by `FIFTrainer`.

    Args:
        num_epochs (int): Maximum number of epochs. Default: 100.
        per_device_train_batch_size (int): Batch size in training. Default: 64.
        per_device_eval_batch_size (int): Batch size in evaluation. Default: 64.
        scheduler_cls (str): Name of a scheduler in `torch.optim.lr_scheduler`. Default: None.
        scheduler_params (dict): Its parameters. For `OneCycleLR` and `CosineAnnealingLR` the
            length (`total_steps`, `T_max`) may be left out, and is then that of the training.
            Default: None.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
    """

    num_epochs: int = Field(100, ge=1)
    per_device_train_batch_size: int = Field(64, ge=1)
    per_device_eval_batch_size: int = Field(64, ge=1)
    scheduler_cls: str | None = None
    scheduler_params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Checks the scheduler as Pythae does, with any length if it has none yet."""
        parameters = self.scheduler_params
        length_name = missing_length(self.scheduler_cls, parameters or {})
        if length_name is not None:
            self.scheduler_params = {**(parameters or {}), length_name: self.num_epochs}
        super().__post_init__()
        self.scheduler_params = parameters


def config_for(
    model: BaseAE, train_data: Any, eval_data: Any, config: BaseTrainerConfig | None
) -> BaseTrainerConfig:
    """Checks that a training can start, and returns a copy of its configuration.

    Args:
        model: The model to train.
        train_data: The training set.
        eval_data: The evaluation set; None keeps the weights of the lowest training loss.
        config: The caller's configuration, which stays as it is; None for the defaults.

    Returns:
        The copy, with the weight decay that the model prescribes, if any.

    Raises:
        ConfigError: The configuration does not fit the trainer, the model or the data.
        DataError: A data set is empty.
    """
    config = copy.deepcopy(config) if config is not None else FIFTrainerConfig()

    _check_config(model, config)
    try:
        TrainingPipeline(model, config)  # It also sets the weight decay of RAE_L2.
    except AssertionError as error:  # The configuration is for another kind of model.
        raise ConfigError(str(error)) from error
    _check_data(model, "training", train_data)
    _check_data(model, "evaluation", eval_data)

    config.keep_best_on_train |= eval_data is None
    return config


def _check_config(model: BaseAE, config: BaseTrainerConfig) -> None:
    """Raises a ConfigError if the trainer cannot train the model with the configuration."""
    if config.amp or config.steps_saving or config.steps_predict:
        raise ConfigError(
            "amp, steps_saving and steps_predict have no effect in FIFTrainer: leave them unset"
        )
    if config.world_size > 1:
        raise ConfigError("FIFTrainer trains in one process: under torchrun use BaseTrainerConfig")

    # Pythae's own configurations accept any number.
    batch_sizes = (config.per_device_train_batch_size, config.per_device_eval_batch_size)
    if min(config.num_epochs, *batch_sizes) < 1:
        raise ConfigError("num_epochs and batch sizes must be at least 1")

    if isinstance(model, InjectiveFlow) and network_prefixes(config) != [""]:
        raise ConfigError(f"{model.model_name} has one optimizer: use a FIFTrainerConfig")
    if isinstance(model, RHVAE):
        raise ConfigError(
            "the metric of Pythae's RHVAE is not in its state_dict, so FIFTrainer cannot restore "
            "it: use Pythae's trainer"
        )


def _check_data(model: BaseAE, name: str, data: Any) -> None:
    """Raises a DataError or ConfigError if a data set cannot be used with the model."""
    if data is not None and not len(data):
        raise DataError(f"the {name} set is empty")
    is_labelled = getattr(find_whole(data), "labelled", True)
    if getattr(model, "condition_dim", 0) and not is_labelled:
        raise ConfigError(
            f"the {name} set has no labels, but {model.model_name} has "
            f"condition_dim={model.condition_dim}: use ImageDataset(images, labels)"
        )
