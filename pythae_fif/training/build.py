"""The trainer that fits a training configuration: ``build_trainer``."""

__all__ = [
    "BenchmarkAdversarialTrainer",
    "BenchmarkCoupledOptimizerAdversarialTrainer",
    "BenchmarkCoupledOptimizerTrainer",
    "build_trainer",
]

import copy
from pathlib import Path
from typing import Any

from pythae.models import BaseAE
from pythae.trainers import (
    AdversarialTrainer,
    AdversarialTrainerConfig,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainer,
    CoupledOptimizerAdversarialTrainerConfig,
    CoupledOptimizerTrainer,
    CoupledOptimizerTrainerConfig,
)

from pythae_fif.errors import StoreError
from pythae_fif.training.benchmark_trainer import BenchmarkTrainer, OnEpoch
from pythae_fif.training.checks import check_training
from pythae_fif.training.fif_trainer import FIFTrainer, as_fif_config
from pythae_fif.training.quiet import quiet_pythae


class BenchmarkCoupledOptimizerTrainer(BenchmarkTrainer, CoupledOptimizerTrainer):
    """For models with an optimizer for the encoder and one for the decoder: RAE_L2, PIWAE."""

    parts = ("encoder", "decoder")


class BenchmarkAdversarialTrainer(BenchmarkTrainer, AdversarialTrainer):
    """For models with a discriminator: Adversarial_AE, FactorVAE."""

    parts = ("autoencoder", "discriminator")


class BenchmarkCoupledOptimizerAdversarialTrainer(
    BenchmarkTrainer, CoupledOptimizerAdversarialTrainer
):
    """For models with three optimizers: VAEGAN."""

    parts = ("encoder", "decoder", "discriminator")


# As in Pythae's TrainingPipeline, by the type of the training configuration.
_TRAINERS: dict[type[BaseTrainerConfig], type[BenchmarkTrainer]] = {
    CoupledOptimizerTrainerConfig: BenchmarkCoupledOptimizerTrainer,
    AdversarialTrainerConfig: BenchmarkAdversarialTrainer,
    CoupledOptimizerAdversarialTrainerConfig: BenchmarkCoupledOptimizerAdversarialTrainer,
    BaseTrainerConfig: FIFTrainer,
}


def build_trainer(
    model: BaseAE,
    train_dataset: Any,
    eval_dataset: Any,
    training_config: BaseTrainerConfig,
    *,
    run_dir: str | Path,
    on_epoch: OnEpoch | None = None,
    checkpoint_every_seconds: float = 30.0,
    wall_clock: float | None = None,
) -> BenchmarkTrainer:
    """The trainer that fits a training configuration, as in Pythae's `TrainingPipeline`.

    The configuration is copied. In the copy `output_dir` is `run_dir`, the settings of
    distributed training, which Pythae reads from WORLD_SIZE, RANK and LOCAL_RANK wherever they
    are set, are those of a single process, and RAE_L2's decoder gets `reg_weight` as its weight
    decay.

    Args:
        model: The model to train, in place; it is moved to the GPU if there is one and `no_cuda`
            is not set.
        train_dataset: Training data: a `BatchDataset`, or any data set that Pythae accepts.
        eval_dataset: The same for evaluation, or None to keep the best model by training loss.
        training_config: Pythae's configuration; its type chooses the trainer.
        run_dir: Folder for `train_log.jsonl`, `checkpoint.pt` and `model`; made if needed.
        on_epoch: Called after each epoch with its number (from 1), the number of epochs and the
            epoch's row of the log.
        checkpoint_every_seconds: Least time between two checkpoints in seconds; 0 for one after
            every epoch.
        wall_clock: Seconds of training steps, in place of the configuration's number of epochs;
            see :class:`BenchmarkTrainer`.

    Returns:
        A trainer; call its `train`.

    Raises:
        ConfigError: If the configuration does not fit the model.
        DataError: If a data set is empty.
        StoreError: If `run_dir` cannot be made.
    """
    check_training(model, train_dataset, eval_dataset, training_config, wall_clock)

    folder = Path(run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the run folder {folder}: {error}") from error

    config = as_fif_config(copy.deepcopy(training_config))
    config.output_dir = str(folder)
    config.world_size = config.rank = config.local_rank = -1
    if model.model_name == "RAE_L2":
        decay = {"weight_decay": model.model_config.reg_weight}
        config.decoder_optimizer_params = {**(config.decoder_optimizer_params or {}), **decay}

    trainer_class = next(cls for kind, cls in _TRAINERS.items() if isinstance(config, kind))
    with quiet_pythae():
        return trainer_class(
            model=model,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            training_config=config,
            run_dir=folder,
            on_epoch=on_epoch,
            checkpoint_every_seconds=checkpoint_every_seconds,
            wall_clock=wall_clock,
        )
