"""What a training is checked for before it starts."""

__all__ = ["check_training"]

import math
from typing import Any

import numpy as np
from pythae.models import RHVAE, BaseAE
from pythae.trainers import (
    AdversarialTrainerConfig,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainerConfig,
    CoupledOptimizerTrainerConfig,
)
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError

# Models of more than one optimizer, which one trainer each can train.
_CONFIGS: dict[str, type[BaseTrainerConfig]] = {
    "RAE_L2": CoupledOptimizerTrainerConfig,
    "PIWAE": CoupledOptimizerTrainerConfig,
    "Adversarial_AE": AdversarialTrainerConfig,
    "FactorVAE": AdversarialTrainerConfig,
    "VAEGAN": CoupledOptimizerAdversarialTrainerConfig,
}


def check_training(
    model: BaseAE, train_data: Any, eval_data: Any, config: Any, wall_clock: float | None
) -> None:
    """Raises ConfigError or DataError where a trainer could not train the model as it should."""
    if isinstance(model, RHVAE):
        raise ConfigError(
            "model RHVAE cannot be trained here: its metric is not in its state_dict, so that "
            "a checkpoint would lose it; use Pythae's TrainingPipeline"
        )
    wanted = _CONFIGS.get(model.model_name, BaseTrainerConfig)
    if not isinstance(config, wanted):
        raise ConfigError(
            f"model {model.model_name} needs a {wanted.__name__}, not a {type(config).__name__}: "
            "give it to build_trainer"
        )
    if config.num_epochs < 1:
        raise ConfigError(f"num_epochs must be at least 1, not {config.num_epochs}")
    if wall_clock is not None and not 0 < wall_clock < math.inf:
        raise ConfigError(f"wall_clock={wall_clock}: a number of seconds above 0 is needed")
    for name, dataset in (("training", train_data), ("evaluation", eval_data)):
        if isinstance(dataset, Tensor | np.ndarray):
            raise DataError(
                f"the {name} set is a {type(dataset).__name__}: an ImageDataset of uint8 images is "
                "needed, or a data set as Pythae's BaseDataset"
            )
        if dataset is not None and len(dataset) == 0:
            raise DataError(f"the {name} set is empty: training needs at least one item in each")
