"""`FIFTrainer`: Pythae's training of models with one optimizer, at the speed of the hardware."""

__all__ = ["FIFTrainer", "FIFTrainerConfig", "keep_freed_memory", "use_in_pipelines"]

import contextlib
import ctypes
import dataclasses
import datetime
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from pythae.models import BaseAE
from pythae.pipelines import training
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from pythae_fif.baselines.glow import ActNorm
from pythae_fif.data.dataset import ImageDataset
from pythae_fif.errors import ConfigError, NonFiniteError
from pythae_fif.training.benchmark_trainer import BenchmarkTrainer, OnEpoch
from pythae_fif.training.checks import check_training
from pythae_fif.training.distributed import Processes, as_batches
from pythae_fif.training.loader import BatchLoader, CutLoader
from pythae_fif.training.progress import TrainingResult
from pythae_fif.training.quiet import quiet_pythae

CHECK_EVERY = 50
"""Steps between two looks at the loss: each makes the host wait for the device."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


@dataclass(config=ConfigDict(extra="forbid"))
class FIFTrainerConfig(BaseTrainerConfig):
    """Configuration of :class:`FIFTrainer`: Pythae's `BaseTrainerConfig` and

    Parameters:
        precision (str): 'float32', or 'bfloat16' for forward and backward passes in training
            (autocast; weights, losses, optimizer and evaluation stay float32). Default: 'float32'.
        max_grad_norm (float): Gradients of a larger norm are scaled down to it; None for never.
            Default: None.
        channels_last (bool): Memory layout of images and convolutions. On a CPU a FIF step of
            Pythae's ResNets is up to 1.07 times as fast with it in float32, 1.26 times in
            bfloat16; the ConvNets gain nothing. Default: False.
        reuse_memory (bool): Never return freed memory to the operating system, for the whole
            process, see :func:`keep_freed_memory`: large activations then do not cost a page
            fault a step on the CPU. Default: False.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    max_grad_norm: float | None = None
    channels_last: bool = False
    reuse_memory: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amp:
            raise ConfigError("FIFTrainerConfig amp=True: write precision='bfloat16' instead")
        for key in ("steps_saving", "steps_predict"):
            if getattr(self, key) is not None:
                raise ConfigError(
                    f"FIFTrainerConfig {key}={getattr(self, key)}: not of this trainer, which "
                    "saves by checkpoint_every_seconds and makes no predictions on the way"
                )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"FIFTrainerConfig max_grad_norm={self.max_grad_norm}: above 0")


def as_fif_config(config: BaseTrainerConfig) -> BaseTrainerConfig:
    """A plain configuration of Pythae as one of the same training in the faster trainer."""
    if type(config) is not BaseTrainerConfig:
        return config
    return FIFTrainerConfig(**{k: v for k, v in config.to_dict().items() if k != "name"})


class FIFTrainer(BenchmarkTrainer, BaseTrainer):
    """Trains FIF, and any of Pythae's models with one optimizer, as Pythae's `BaseTrainer` does.

    The same optimizer steps and the same choice of the best weights; but batches come by one
    indexing operation from images that are kept as uint8, on the GPU where there is one, Adam is
    PyTorch's fused one, the host waits for the device every 50 steps alone, and a training that
    was cut off goes on exactly where it was (see :class:`BenchmarkTrainer`).

    Started by torchrun, several processes train one model on a GPU each, or on the CPU: a batch
    is `per_device_train_batch_size` times their number, each takes its part of it, and gradients
    are averaged, so that the loss is that of one process on the whole batch. Noise and
    Hutchinson vectors are drawn by each for its part. BatchNorm normalises each part by its own
    statistics, and the running ones are the first process's, unless the model was converted by
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` (for GPUs). `run_dir` is on a file system that
    all processes see; the first alone writes.

    Args:
        model: The model to train, in place.
        train_dataset: An `ImageDataset`, or any data set that Pythae's trainers take.
        eval_dataset: The same, or None to keep the weights of lowest training loss.
        training_config: A `FIFTrainerConfig`.
        callbacks: Pythae's callbacks, for wandb, mlflow, comet.
        run_dir: Folder of log, checkpoint and final model. By default a new folder of the model's
            name and the time in the configuration's `output_dir`; give the folder to resume.
        on_epoch: Called after each epoch with its number, the number of epochs and its log row.
        checkpoint_every_seconds: Least time between two checkpoints, in seconds.
        wall_clock: Seconds of training steps, in place of the configuration's number of epochs.

    Attributes:
        training_dir: The folder, whose `final_model` is the result.

    Example:
        >>> import tempfile
        >>> from pythae_fif import FIF, FIFConfig
        >>> images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
        >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))
        >>> config = FIFTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=2)
        >>> FIFTrainer(model, ImageDataset(images), training_config=config).train().epochs
        2
    """

    def __init__(
        self,
        model: BaseAE,
        train_dataset: Any,
        eval_dataset: Any = None,
        training_config: BaseTrainerConfig | None = None,
        callbacks: list[TrainingCallback] | None = None,
        *,
        run_dir: str | Path | None = None,
        on_epoch: OnEpoch | None = None,
        checkpoint_every_seconds: float = 30.0,
        wall_clock: float | None = None,
    ) -> None:
        config: Any = FIFTrainerConfig() if training_config is None else training_config
        check_training(model, train_dataset, eval_dataset, config, wall_clock)
        config = as_fif_config(config)
        if not isinstance(config, FIFTrainerConfig):
            raise ConfigError(
                f"FIFTrainer needs a FIFTrainerConfig, not a {type(config).__name__}: that is for "
                "build_trainer"
            )
        if wall_clock is not None and config.world_size > 1:
            raise ConfigError(
                "FIFTrainer wall_clock: not with several processes, which would stop "
                "at different steps"
            )
        if config.world_size > 1 and any(isinstance(m, ActNorm) for m in model.modules()):
            raise ConfigError(
                f"{type(model).__name__} has ActNorm layers, which its first batch sets: several "
                "processes would set them apart; train it in one"
            )
        self.processes = Processes.join(config) if config.world_size > 1 else None
        if self.processes is not None:
            # To Pythae one process: it would send its models and batches other ways.
            alone: dict[str, Any] = {"world_size": 1, "rank": self.processes.rank}
            config = dataclasses.replace(config, **alone)
        if run_dir is None:
            self.model_folder = "final_model"
            time = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            if self.processes is not None:
                time = self.processes.agree(time)
            run_dir = Path(config.output_dir or "output") / f"{model.model_name}_training_{time}"
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.training_dir = str(run_dir)
        if config.reuse_memory:
            keep_freed_memory()
        with quiet_pythae():
            super().__init__(
                model=model,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                training_config=config,
                callbacks=callbacks,
                run_dir=run_dir,
                on_epoch=on_epoch,
                checkpoint_every_seconds=checkpoint_every_seconds,
                wall_clock=wall_clock,
            )
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._in_training: nn.Module = self.model
        if self.processes is not None:
            self._in_training = nn.parallel.DistributedDataParallel(self.model)

    def get_train_dataloader(self, train_dataset: Any) -> Any:
        return self._loader("train", _on(self.device, train_dataset))

    def get_eval_dataloader(self, eval_dataset: Any) -> Any:
        return self._loader("eval", _on(self.device, eval_dataset))

    def _loader(self, stage: str, dataset: Any) -> Any:
        if self.processes is None:
            return getattr(super(), f"get_{stage}_dataloader")(dataset)
        here, count = self.processes.rank, self.processes.count
        loader = BatchLoader(
            as_batches(dataset),
            count * getattr(self.training_config, f"per_device_{stage}_batch_size"),
            shuffle=stage == "train",
            device=self.device,
            part=(here, count),
        )
        return CutLoader(loader, self._clock.is_over) if stage == "train" else loader

    def train(self) -> TrainingResult:
        """See :meth:`BenchmarkTrainer.train`; of several processes all return when all is saved."""
        result = super().train()
        if self.processes is not None:
            torch.distributed.barrier()
        return result

    def _resume(self) -> Any:
        progress = super()._resume()
        if self.processes is not None:
            epochs = self.processes.all_values(progress.epoch)
            if len(set(epochs)) > 1:
                raise ConfigError(
                    f"the processes resume from epochs {epochs}: {self.run_dir} must be on a file "
                    "system that all of them see"
                )
        return progress

    def set_optimizer(self) -> None:
        """Adam and AdamW in their fused form, unless the configuration says otherwise."""
        config = self.training_config
        fused = {"fused": True} if config.optimizer_cls in ("Adam", "AdamW") else {}
        self.optimizer = getattr(torch.optim, config.optimizer_cls)(
            self.model.parameters(),
            lr=config.learning_rate,
            **{**fused, **(config.optimizer_params or {})},
        )

    def train_step(self, epoch: int) -> float:
        """One epoch of optimizer steps; the mean loss of its batches."""
        config, tell = self.training_config, self.callback_handler
        tell.on_train_step_begin(
            config, train_loader=self.train_loader, epoch=epoch, rank=self.rank
        )
        self.model.train()
        if config.precision == "bfloat16":
            context: Any = torch.autocast(self.device, dtype=torch.bfloat16)
        else:
            context = contextlib.nullcontext()
        total = torch.zeros((), device=self.device)
        steps = len(self.train_loader)
        for step, (weight, inputs) in enumerate(self._weighted(self.train_loader, epoch), start=1):
            if self.wall_clock is None:
                share_done = (epoch - 1 + (step - 1) / steps) / config.num_epochs
            else:
                share_done = self._clock.share_done()
            with context:
                loss = self._loss(inputs, epoch, self.train_loader, share_done=share_done)
                loss = weight * loss
            self.optimizer.zero_grad()
            loss.backward()
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
            self.optimizer.step()
            total += loss.detach()
            if step % CHECK_EVERY == 0:
                _check(self._mean(total), step, steps)
            tell.on_train_step_end(config)
        _check(self._mean(total), step, steps)
        self.model.update()
        return self._mean(total).item() / steps

    def eval_step(self, epoch: int) -> float:
        """The mean loss of the evaluation batches, always in float32."""
        config, tell = self.training_config, self.callback_handler
        tell.on_eval_step_begin(config, eval_loader=self.eval_loader, epoch=epoch, rank=self.rank)
        self.model.eval()
        if self.processes is not None:
            self.processes.share_buffers(self.model)
        total = torch.zeros((), device=self.device)
        for weight, inputs in self._weighted(self.eval_loader):
            try:
                with torch.no_grad():
                    total += weight * self._loss(inputs, epoch, self.eval_loader)
            except RuntimeError:  # as Pythae: a model whose loss needs gradients
                total += weight * self._loss(inputs, epoch, self.eval_loader).detach()
            tell.on_eval_step_end(config)
        return self._mean(total).item() / len(self.eval_loader)

    def _weighted(self, loader: Any, epoch: int | None = None) -> Iterator[tuple[float, Any]]:
        """The batches, with what their losses count in the mean over all processes.

        Args:
            loader: It draws its order from the same random numbers in all processes.
            epoch: Of a training, in which each process then draws numbers of its own.
        """
        if self.processes is None:
            return zip(itertools.repeat(1.0), loader)
        seed = self.training_config.seed
        if epoch is not None:
            self.processes.seed(seed, epoch, alike=True)
        batches = iter(loader)
        if epoch is not None:
            self.processes.seed(seed, epoch, alike=False)
        return zip(loader.weights(), batches, strict=True)

    def _mean(self, total: Tensor) -> Tensor:
        return total if self.processes is None else self.processes.mean(total)

    def _loss(self, inputs: Any, epoch: int, loader: Any, **more: float) -> Tensor:
        inputs = self._set_inputs_to_device(inputs)  # type: ignore[attr-defined]
        if self.training_config.channels_last and inputs["data"].dim() == 4:
            inputs["data"] = inputs["data"].contiguous(memory_format=torch.channels_last)
        size = len(loader.dataset)
        model = self._in_training if self.model.training else self.model
        return model(inputs, epoch=epoch, dataset_size=size, uses_ddp=False, **more).loss


def keep_freed_memory() -> bool:
    """Tells the C library never to give memory back to the operating system, in this process.

    A step frees and allocates the same activations again; above 128 KiB each would come fresh
    from the system, page by page. Peak memory stays the same, memory between the peaks does not.

    Returns:
        Whether the C library could be told: it is glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def _on(device: str, dataset: Any) -> Any:
    """Images on the device as they are, in uint8; other data sets where they are."""
    if isinstance(dataset, ImageDataset) and device != "cpu":
        return dataset.to(device)
    return dataset


def _check(total: Tensor, step: int, steps: int) -> None:
    if not torch.isfinite(total):
        raise NonFiniteError(
            f"the loss is not finite in one of the {CHECK_EVERY} steps before step {step} of "
            f"{steps}; a smaller learning rate may help"
        )


def use_in_pipelines() -> None:
    """Lets Pythae's `TrainingPipeline` train with :class:`FIFTrainer` if given its configuration.

    The pipeline calls the trainer by the name that its module has for it; idempotent.
    """
    original = training.BaseTrainer
    if isinstance(original, type):

        def choose(**arguments: Any) -> BaseTrainer:
            ours = isinstance(arguments["training_config"], FIFTrainerConfig)
            return (FIFTrainer if ours else original)(**arguments)

        training.BaseTrainer = choose
