"""`FIFTrainerConfig`, and the checks that a training passes before it starts."""

import copy
from typing import Any

from pydantic import Field
from pythae.models import RHVAE, BaseAE
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.training.options import TrainerOptions
from pythae_fif.training.updates import missing_length, network_prefixes
from pythae_fif.validation import config_dataclass


@config_dataclass
class FIFTrainerConfig(TrainerOptions, BaseTrainerConfig):
    """Configuration of :class:`FIFTrainer`: Pythae's `BaseTrainerConfig` and further options.

    See :class:`~pythae_fif.training.TrainerOptions` for the options `precision`,
    `early_stopping_patience`, `gradient_clip_norm` and `scheduler_interval`.

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
    if isinstance(model, RHVAE) and "_extra_state" not in model.state_dict():
        raise ConfigError("Pythae's RHVAE does not save its metric: use pythae_fif.baselines.RHVAE")


def _check_data(model: BaseAE, name: str, data: Any) -> None:
    """Raises a DataError or ConfigError if a data set cannot be used with the model."""
    if data is not None and not len(data):
        raise DataError(f"the {name} set is empty")
    if getattr(model, "condition_dim", 0) and not getattr(data, "labelled", True):
        raise ConfigError(
            f"the {name} set has no labels, but {model.model_name} has "
            f"condition_dim={model.condition_dim}: use ImageDataset(images, labels)"
        )
