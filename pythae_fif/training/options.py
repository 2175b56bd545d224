"""The options of a training that Pythae's configurations lack."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field
from pythae.trainers import BaseTrainerConfig

from pythae_fif.names import Precision
from pythae_fif.validation import config_dataclass

SchedulerInterval = Literal["epoch", "step"]


@config_dataclass
class TrainerOptions:
    """Options of :class:`FIFTrainer` beyond those of Pythae's trainers.

    They are fields of `FIFTrainerConfig`. For a model with several optimizers, which needs one of
    Pythae's configurations, they are arguments of `FIFTrainer`.

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

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    precision: Precision = "float32"
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    gradient_clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    scheduler_interval: SchedulerInterval = "epoch"

    @classmethod
    def for_training(cls, config: BaseTrainerConfig, **arguments: Any) -> "TrainerOptions":
        """Collects the options of a training.

        Args:
            config: The training's configuration, of any kind.
            arguments: The trainer's arguments by name, which come first; None for the value of the
                configuration.
        """
        values: dict[str, Any] = {
            field.name: getattr(config, field.name, field.default) for field in fields(cls)
        }
        values |= {name: value for name, value in arguments.items() if value is not None}
        return cls(**values)
