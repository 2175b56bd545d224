"""The identifier of a training that was given none."""

from typing import Any

from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig

from pythae_fif.files import digest
from pythae_fif.training.options import TrainerOptions

MUTABLE_SETTINGS = {
    "output_dir", "num_epochs", "early_stopping_patience", "no_cuda",
    "train_dataloader_num_workers", "eval_dataloader_num_workers", "world_size", "rank",
    "local_rank", "dist_backend", "master_addr", "master_port",
}  # fmt: skip
"""Keys of the configuration that may differ when a training resumes."""

LATER_OPTIONS = ("gradient_clip_norm", "scheduler_interval")
"""Options that are left out of identifiers if they have their defaults, so that the identifiers of
trainings from before these options stay the same."""


def default_run_id(
    model: BaseAE, config: BaseTrainerConfig, options: TrainerOptions, datasets: tuple[Any, Any]
) -> str:
    """Returns a digest of what defines the result of a training.

    Args:
        model: The model with its first weights.
        config: The training's configuration.
        options: Its options, from the configuration or from the trainer's arguments.
        datasets: The training set, and the evaluation set or None.
    """
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in MUTABLE_SETTINGS and key not in LATER_OPTIONS
    }
    sizes = [None if dataset is None else len(dataset) for dataset in datasets]
    parts = [model.model_config.to_dict(), settings, model, options.precision, sizes]

    for name in LATER_OPTIONS:
        if getattr(options, name) != getattr(TrainerOptions, name):
            parts.append((name, getattr(options, name)))
    return digest(*parts)
