"""`FIFTrainer`: the training loop, for models with one optimizer and with several."""

__all__ = ["FIFTrainer"]

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn

from pythae_fif.device import default_device, random_state, set_random_state
from pythae_fif.errors import ConfigError, FIFError
from pythae_fif.models.outputs import without_gradients
from pythae_fif.training.bfloat16 import networks_in_bfloat16
from pythae_fif.training.budget import Budget
from pythae_fif.training.compiled import compiled_loss
from pythae_fif.training.config import FIFTrainerConfig, check_training, config_for, training_digest
from pythae_fif.training.distributed import ALONE, Processes
from pythae_fif.training.loader import items_for_batch_norm, make_loader, moved, weighted_batches
from pythae_fif.training.progress import EpochRow, OnEpoch, Pass, Progress, TrainingResult
from pythae_fif.training.quiet import quiet_pythae
from pythae_fif.training.run_files import PlainFolder, RunFiles, TrainingFiles, new_folder
from pythae_fif.training.updates import BatchLosses, Optimizers, rule_of

logger = logging.getLogger(__name__)

CHECKPOINT_PAUSE = 50
"""Of training, in units of the time that writing a checkpoint takes: 2 % at most."""
LOOK_EVERY = 50  # steps of a single optimizer; a look at the loss makes the host wait


class FIFTrainer:
    """Trains FIF, and any of Pythae's models, as Pythae's own trainers do.

    The same optimizer steps, evaluations and choice of the best weights. But batches come by one
    indexing operation from images that are kept as uint8, on the GPU where there is one, and
    nothing is printed. Where one optimizer trains the whole model, Adam is PyTorch's fused one
    and the host waits for the device every 50 steps alone.

    **Resume.** A training that was cut off goes on from the checkpoint in its folder, if that is of
    this configuration and as many data. On the CPU it ends bitwise as one that was not cut off.

    **Wall clock.** With one a training lasts that many seconds instead of a number of epochs, and
    an epoch is cut short at every tenth of them. What counts is the time in training steps of all
    attempts: evaluation is the benchmark's, not the model's. What a killed training did after its
    last checkpoint is lost, and its time does not count.

    **Stages.** A model with a method `stage_at(passes, share_done)`, from the passes over the data
    and the share of the training that are done to the name of a stage, has it set as its `stage`
    before each epoch. Every stage starts from the best weights of the one before, with a new
    optimizer, and has a best of its own, as losses of two stages cannot be compared.

    **Whitening.** A model with `whiten` set has its codes whitened in the end, if they can be.

    **Several processes.** Started by torchrun, several processes train one model on a GPU each, or
    on the CPU: a batch is `per_device_train_batch_size` times their number, each takes its slice
    of it, and gradients are averaged, so that the loss is that of one process on the whole batch.
    Noise and Hutchinson vectors are drawn by each for its slice. BatchNorm normalises each slice by
    its own statistics; the running ones are the first process's. `torch.nn.SyncBatchNorm` works for
    Pythae's models on GPUs, not for FIF: PyTorch cannot differentiate it twice. `run_dir` is on a
    file system that all see; the first process alone writes, calls `on_epoch` and tells callbacks.

    Args:
        model: The model to train, in place; it moves to the GPU, if any, unless `no_cuda` is set.
        train_dataset: An `ImageDataset`, another `BatchDataset`, or any data set that Pythae's
            trainers take.
        eval_dataset: The same, or None to keep the weights of lowest training loss.
        training_config: A `FIFTrainerConfig`, or for a model with several optimizers Pythae's
            configuration for it. It is copied.
        callbacks: Pythae's callbacks, for wandb, mlflow, comet.
        run_dir: Folder of log, checkpoint and final model, or a `RunFiles` that is asked at
            every write. By default a new folder of the model's name and the time in the
            configuration's `output_dir`. Give a folder again to resume; a finished one is refused.
        on_epoch: Called after each epoch with its number, the number of epochs and its log row.
        on_saved: Called once the model is saved, with it, the result and the folder that holds it,
            before that takes its final name: what is written of the model is there before it.
        checkpoint_every_seconds: Least time between two checkpoints, in seconds; one that takes
            long to write is followed by a pause of fifty times that. 0 for one every epoch.
        wall_clock: Seconds of training steps, in place of the configuration's number of epochs.
        keep_last: Whether the last weights are kept, whatever their loss.
        distributed: Whether to train with the other processes of a torchrun. WORLD_SIZE, RANK and
            LOCAL_RANK, which Pythae's configurations read wherever they are set, are ignored
            otherwise.
        options: Keys of `FIFTrainerConfig` that Pythae's configurations have not, such as
            `{"precision": "bfloat16"}`, for any kind of configuration.

    Attributes:
        model: The model; after `train` it holds the best weights.
        training_dir: The folder of the run, with the result in `model`, or in `final_model` where
            it was made by default.

    Raises:
        ConfigError: The configuration does not fit the model or the data, or is not of JSON.
        DataError: A data set is empty or none, or has too few items for processes or whitening.
        StoreError: `run_dir` cannot be made.

    Example:
        >>> import tempfile
        >>> from pythae_fif import FIF, FIFConfig
        >>> from pythae_fif.data import ImageDataset
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
        run_dir: str | Path | RunFiles | None = None,
        on_epoch: OnEpoch | None = None,
        on_saved: Callable[[BaseAE, TrainingResult, Path], None] | None = None,
        checkpoint_every_seconds: float = 30.0,
        wall_clock: float | None = None,
        keep_last: bool = False,
        distributed: bool = True,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        config = config_for(model, training_config, options)
        count = config.world_size if distributed else 1
        check_training(model, train_dataset, eval_dataset, config, wall_clock, count)
        self.processes = Processes.join(config) if count > 1 else ALONE
        self.is_main_process = self.processes.rank == 0
        config.world_size = config.rank = config.local_rank = -1  # `processes` knows better
        config.keep_best_on_train |= eval_dataset is None
        self.training_config = config
        ours = isinstance(config, FIFTrainerConfig)
        self._options = config if ours else FIFTrainerConfig(**options)
        self._rule = rule_of(config)

        folder_name = "model"
        if run_dir is None:
            folder_name = "final_model"
            parent = Path(config.output_dir or "output")
            made = new_folder(parent, model.model_name) if self.is_main_process else ""
            run_dir = self.processes.all_values(str(made))[0]
        if not isinstance(run_dir, RunFiles):
            run_id = training_digest(model, train_dataset, eval_dataset, config, self._options)
            run_dir = PlainFolder(Path(run_dir), run_id)
        self.training_dir = str(run_dir.path)
        config.output_dir = config.output_dir or self.training_dir
        self._files = TrainingFiles(run_dir, folder_name, writes=self.is_main_process)

        self.on_epoch, self._on_saved = on_epoch, on_saved
        self.checkpoint_every_seconds = checkpoint_every_seconds
        self.keep_last = keep_last
        self._budget = Budget(config.num_epochs, wall_clock)
        self._callbacks = list(callbacks or []) if self.is_main_process else []

        if self._options.cudnn_benchmark:
            torch.backends.cudnn.benchmark = True
        self.device = "cpu" if config.no_cuda else default_device()
        self.model = model.to(self.device)
        self.model.device = self.device
        if self._options.channels_last:
            self.model.to(memory_format=torch.channels_last)
        half = self._options.precision == "bfloat16"
        self._precision = partial(networks_in_bfloat16, model, self.device) if half else nullcontext
        self._in_training = self.processes.average_gradients(self.model)

        self.train_dataset, self.eval_dataset = moved(train_dataset, self.device), eval_dataset
        place = (config, self.device, self.processes)
        self.train_loader = make_loader(self.train_dataset, "train", *place)
        evaluated = eval_dataset is not None
        self.eval_loader = make_loader(eval_dataset, "eval", *place) if evaluated else None

    def train(self) -> TrainingResult:
        """Trains to the end of the budget, from the checkpoint if there is one.

        An exception out of `on_epoch`, or an interrupt between two epochs, leaves a checkpoint of
        the epoch just finished; in the middle of an epoch the last one stays. At the end `model`
        holds the best weights, which are saved. Of several processes all return when all is saved.

        Returns:
            Which epoch was kept, its loss, and times.

        Raises:
            ConfigError: BatchNorm gets one item alone.
            NonFiniteError: A loss is NaN or infinite; the message names the epoch.
            StoreError: The run's folder cannot be written, or holds a trained model.
        """
        steps = compiled_loss(self.model, self.device) if self._options.compile else nullcontext()
        with quiet_pythae(), steps:
            config = self.training_config
            self.prepare_training()
            # before the random state is set: what a callback draws must not change a training
            self.callback_handler.on_train_begin(config, model_config=self.model.model_config)
            progress, tell = self._resume(), self.callback_handler
            self._files.write_log(progress.history)
            next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
            while not self._budget.is_spent(progress):
                progress = self._run_epoch(self._enter_stage(progress))
                row = progress.history[-1]
                random = random_state()  # what a callback draws below must change nothing
                save_checkpoint = partial(
                    self._files.save_checkpoint, progress, self.model, self._optimizers, random
                )
                try:
                    self._files.append_to_log(row)
                    losses = row.by_pythaes_names()
                    tell.on_log(config, losses, logger=logger, global_step=row.epoch, rank=-1)
                    if (now := time.monotonic()) >= next_checkpoint:
                        save_checkpoint()
                        took, least = time.monotonic() - now, self.checkpoint_every_seconds
                        next_checkpoint = now + max(least, CHECKPOINT_PAUSE * took * (least > 0))
                    if self.on_epoch is not None and self.is_main_process:
                        self.on_epoch(row.epoch, config.num_epochs, row)
                except BaseException:
                    save_checkpoint()
                    raise
                set_random_state(random)

            self.model.load_state_dict(progress.best_state)
            self.model.eval()
            result = progress.result()
            if getattr(self.model.model_config, "whiten", False):
                start, place = time.perf_counter(), (config, self.device, ALONE)
                try:
                    self.model.whiten(make_loader(self.train_dataset, "eval", *place))
                except FIFError as error:  # the training is not lost for it
                    logger.warning("saved without whitening: %s", error)
                more = time.perf_counter() - start
                seconds, trained = result.seconds + more, result.train_seconds + more
                result = replace(result, seconds=seconds, train_seconds=trained)
            self._files.finish(partial(self._save_model, result))
            tell.on_train_end(config)
            self.processes.wait_for_all()
            return result

    def prepare_training(self) -> None:
        """Seeds, and makes new optimizers: the state before the first epoch."""
        set_seed(self.training_config.seed)
        self._optimizers = self._new_optimizers()
        self.callback_handler = CallbackHandler(self._callbacks, model=self.model)

    def _run_epoch(self, progress: Progress) -> Progress:
        """A pass over the training and one over the evaluation data; the progress after them."""
        epoch, config, tell = progress.epoch + 1, self.training_config, self.callback_handler
        loaders = {"train_loader": self.train_loader, "eval_loader": self.eval_loader}
        tell.on_epoch_begin(config, epoch=epoch, **loaders)
        learning_rates = self._optimizers.learning_rates()
        start, size = self._budget.start_epoch(progress), len(self.train_dataset)
        in_pass = self._budget.pass_of(progress, size)
        batch_size = config.per_device_train_batch_size
        with items_for_batch_norm(size, batch_size, self.processes.count):
            trained = self.train_step(epoch, in_pass)
        train_seconds = time.perf_counter() - start
        evaluated = {} if self.eval_loader is None else self.eval_step(epoch, in_pass).losses
        seconds = time.perf_counter() - start
        self._optimizers.step_schedulers(evaluated or trained.losses)
        images = trained.batches * batch_size * self.processes.count
        progress = replace(
            progress,
            epoch=epoch,
            seconds=progress.seconds + seconds,
            train_seconds=progress.train_seconds + train_seconds,
            images=progress.images + min(images, size),
        )
        row = EpochRow(
            epoch=epoch,
            train=trained.losses,
            eval=evaluated,
            learning_rates=learning_rates,
            seconds=seconds,
            stage=progress.stage,
            share_done=self._budget.share_of_clock(progress),
        )
        loss = (trained.losses if config.keep_best_on_train else evaluated)["loss"]
        if self.keep_last or loss < progress.best_loss:
            weights = copy.deepcopy(self.model.state_dict())  # what two networks share, once
            progress = replace(progress, best_epoch=epoch, best_loss=loss, best_state=weights)
        tell.on_epoch_end(config)
        return replace(progress, history=[*progress.history, row])

    def train_step(self, epoch: int, in_pass: int | None = None) -> Pass:
        """One pass over the training data, with an optimizer step a batch.

        Args:
            epoch: Number of the epoch, from 1.
            in_pass: Number of the pass over the data, of which a wall clock makes several epochs.

        Raises:
            NonFiniteError: A loss is NaN or infinite.
        """
        config, tell, loader = self.training_config, self.callback_handler, self.train_loader
        tell.on_train_step_begin(config, train_loader=loader, epoch=epoch, rank=self.processes.rank)
        self.model.train()
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        size, in_pass = len(self.train_dataset), in_pass or epoch
        batches = weighted_batches(loader, config.seed, in_pass)
        for step, (weight, inputs) in enumerate(batches, start=1):
            done = self._budget.share_before_step(epoch, step, len(loader))
            with self._precision():
                losses = self._losses(
                    self._in_training, inputs, weight, size, epoch=in_pass, share_done=done
                )
            total = total + losses.detached()
            if step % LOOK_EVERY == 0 or not self._rule.single:
                self._means(total, losses, step, f"epoch {epoch}, train loss")
            self._optimizers.step(losses)
            tell.on_train_step_end(config)
            if self._budget.is_epoch_over():
                break
        self.model.update()
        return self._means(total, losses, step, f"epoch {epoch}, train loss")

    def eval_step(self, epoch: int, in_pass: int | None = None) -> Pass:
        """One pass over the evaluation data, always in float32.

        Args:
            epoch, in_pass: As of the `train_step` before.

        Raises:
            NonFiniteError: A loss is NaN or infinite.
        """
        config, tell, loader = self.training_config, self.callback_handler, self.eval_loader
        assert loader is not None
        tell.on_eval_step_begin(config, eval_loader=loader, epoch=epoch, rank=self.processes.rank)
        self.model.eval()
        self.processes.share_buffers(self.model)
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        size, in_pass = len(self.eval_dataset), in_pass or epoch
        for weight, inputs in weighted_batches(loader, config.seed, None):
            losses = without_gradients(
                self._losses, self.model, inputs, weight, size, epoch=in_pass
            )
            total = total + losses.detached()
            tell.on_eval_step_end(config)
        return self._means(total, losses, len(loader), f"epoch {epoch}, eval loss")

    def _means(self, total: Tensor, last: BatchLosses, batches: int, place: str) -> Pass:
        """The means of the losses of some batches, whose sum is given; waits for the device."""
        return Pass.of(self.processes.mean(total).tolist(), list(last.values), batches, place)

    def _losses(
        self, model: nn.Module, inputs: Any, weight: float, size: int, **told: float
    ) -> BatchLosses:
        """The losses of a batch of a data set of some size, times a weight."""
        if self.device == "cuda":
            inputs = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if self._options.channels_last and inputs["data"].dim() == 4:
            inputs["data"] = inputs["data"].contiguous(memory_format=torch.channels_last)
        output = model(inputs, dataset_size=size, uses_ddp=False, **told)
        return self._rule.losses(output, weight)

    def _new_optimizers(self) -> Optimizers:
        return Optimizers(self._rule, self.model, self.training_config, self._options.max_grad_norm)

    def _enter_stage(self, progress: Progress) -> Progress:
        """Sets the stage of a model that has some; a new one starts from the best of the last."""
        if not hasattr(self.model, "stage_at"):
            return progress
        passes = progress.images / len(self.train_dataset)
        stage = self.model.stage_at(passes, self._budget.share_done(progress))
        if progress.stage is not None and stage != progress.stage:
            self.model.load_state_dict(progress.best_state)
            self._optimizers = self._new_optimizers()
            progress = replace(progress, best_loss=math.inf)
        self.model.stage = stage  # the weights may have brought their own
        return replace(progress, stage=stage)

    def _save_model(self, result: TrainingResult, folder: str) -> None:
        self.model.save(folder)
        self.training_config.save_json(folder, "training_config")
        self.callback_handler.on_save(self.training_config)
        if self._on_saved is not None:
            self._on_saved(self.model, result, Path(folder))

    def _resume(self) -> Progress:
        """The progress of the checkpoint, whose state the training then has, or none."""
        progress = self._files.restore(self.model, self._optimizers)
        if progress is None:
            self.prepare_training()  # a checkpoint that does not fit may have changed half of it
            progress = Progress()
        epochs = self.processes.all_values(progress.epoch)
        if len(set(epochs)) > 1:
            raise ConfigError(
                f"the processes resume from epochs {epochs}: {self.training_dir} must be on a "
                "file system that all of them see"
            )
        return progress
