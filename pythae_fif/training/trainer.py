"""`FIFTrainer`: the training loop, for models with one optimizer and with several."""

__all__ = ["FIFTrainer"]

import copy
import datetime
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor

from pythae_fif.device import default_device, random_state, set_random_state
from pythae_fif.errors import StoreError
from pythae_fif.models.outputs import without_gradients
from pythae_fif.training.budget import Budget
from pythae_fif.training.checkpoint import RunFiles
from pythae_fif.training.config import check_training, config_for, training_digest
from pythae_fif.training.loader import make_loader
from pythae_fif.training.precision import Precision, networks_in_bfloat16
from pythae_fif.training.progress import EpochRow, Means, OnEpoch, Progress, TrainingResult
from pythae_fif.training.terminal import progress_bar, quiet_pythae
from pythae_fif.training.updates import Optimizers

logger = logging.getLogger(__name__)

CHECKPOINT_PAUSE = 50
"""Of training, in units of the time that writing a checkpoint takes: 2 % at most."""
LOOK_EVERY = 50
"""Steps between two looks at the loss: each makes the host wait for the device."""


class FIFTrainer:
    """Trains FIF, and any of Pythae's models, as Pythae's own trainers do.

    The same optimizer steps, evaluations and choice of the best weights. But batches come by one
    indexing operation from images that are kept as uint8, on the GPU where there is one, Adam is
    PyTorch's fused one, and the host waits for the device every 50 steps alone. A training that was
    cut off goes on from the checkpoint in its folder; on the CPU it ends bitwise as one that was
    not. Given a `FIFTrainerConfig`, Pythae's `TrainingPipeline` trains by this class.

    A model's `stage_at(passes, share_done)`, if it has one, gives its `stage` before each epoch. A
    stage starts from the best weights of the one before, with a new optimizer, and has a best of
    its own, as losses of two stages cannot be compared.

    Args:
        model: The model to train, in place; it moves to the GPU, if any, unless `no_cuda` is set.
        train_dataset: An `ImageDataset`, another `BatchDataset`, or any data set that Pythae's
            trainers take.
        eval_dataset: The same, or None to keep the weights of lowest training loss.
        training_config: A `FIFTrainerConfig`, or for a model with several optimizers Pythae's
            configuration for it. It is copied.
        callbacks: Pythae's callbacks, for wandb, mlflow, comet.
        run_dir: Folder of log, checkpoint and the final `model`. Give it again to resume. By
            default a new folder of the model's name and the time in the configuration's
            `output_dir`, in which the model is `final_model`.
        run_id: Of what defines the result. It stands in all files, and those of another are set
            aside; a model that is there already is loaded and not trained again. By default a
            digest of configurations, networks and numbers of data, and such a model is an error.
        on_epoch: Called after each epoch with its row of the log.
        checkpoint_every_seconds: Least time between two checkpoints, at least fifty times what one
            takes to write; 0 for one every epoch.
        wall_clock: Seconds of training steps, in all attempts, in place of a number of epochs.
        keep_last: Whether the last weights are kept, whatever their loss.
        precision: As of `FIFTrainerConfig`, for any kind of configuration.
        progress: Whether to show a bar with the time left, where there is a terminal.

    Attributes:
        model: The model; after `train` it holds the best weights.
        training_dir: The folder of the run.

    Raises:
        ConfigError: The configuration does not fit the model or the data.
        DataError: A data set is empty or none.
        StoreError: `run_dir` cannot be made.

    Example:
        >>> import tempfile
        >>> from pythae_fif import FIF, FIFConfig, FIFTrainerConfig
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
        run_dir: str | Path | None = None,
        run_id: str | None = None,
        on_epoch: OnEpoch | None = None,
        checkpoint_every_seconds: float = 30.0,
        wall_clock: float | None = None,
        keep_last: bool = False,
        precision: Precision | None = None,
        progress: bool = True,
    ) -> None:
        config = config_for(model, training_config, precision)
        check_training(model, train_dataset, eval_dataset, config)
        config.keep_best_on_train |= eval_dataset is None
        self._takes_trained = run_id is not None
        run_id = run_id or training_digest(model, train_dataset, eval_dataset, config, precision)
        if run_dir is None:
            now = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
            folder = Path(config.output_dir or "output", f"{model.model_name}_training_{now}")
            self._files = RunFiles(folder, run_id, "final_model")
        else:
            self._files = RunFiles(Path(run_dir), run_id)
        self.training_dir = str(self._files.path)
        config.output_dir = config.output_dir or self.training_dir
        self.training_config = config
        self.on_epoch, self.checkpoint_every_seconds = on_epoch, checkpoint_every_seconds
        self.keep_last, self.progress = keep_last, progress
        self._callbacks = list(callbacks or [])
        self._budget = Budget(config.num_epochs, wall_clock)

        # Convolutions in bfloat16 are up to a quarter faster with channels last, on a CPU.
        self._half = (precision or getattr(config, "precision", None)) == "bfloat16"
        self._layout = torch.channels_last if self._half else torch.preserve_format
        self.device = "cpu" if config.no_cuda else default_device()
        self.model = model.to(self.device, memory_format=self._layout)
        self.model.device = self.device
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.train_loader = make_loader(train_dataset, "train", config, self.device)
        self.eval_loader = eval_dataset and make_loader(eval_dataset, "eval", config, self.device)
        self._tell_share: Callable[[float], None] = lambda share: None

    def train(self) -> TrainingResult:
        """Trains to the end of the budget, from the checkpoint if there is one.

        An exception out of `on_epoch`, or an interrupt between two epochs, leaves a checkpoint of
        the epoch just finished; in the middle of an epoch the last one stays. At the end `model`
        holds the best weights, which are saved.

        Returns:
            Which epoch was kept, its loss, and times.

        Raises:
            NonFiniteError: A loss is NaN or infinite; the message names the epoch.
            StoreError: The run's folder cannot be written, or holds a trained model.
        """
        if (trained := self._files.trained()) is not None:
            if not self._takes_trained:
                then = f"load {self._files.model}, or give another run_dir"
                raise StoreError(f"{self.training_dir}: its training is done; {then}")
            self.model.load_state_dict(self._files.weights())
            self.model.eval()
            return trained
        with quiet_pythae():
            self.prepare_training()
            # before the random state is set: what a callback draws must not change a training
            config = self.training_config
            self.callback_handler.on_train_begin(config, model_config=self.model.model_config)
            progress = self._resume()
            self._files.write_log(progress.history)
            self._next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
            share_done = self._budget.share_done(progress)
            with progress_bar(self.progress, share_done) as self._tell_share:
                while self._budget.share_done(progress) < 1:
                    progress = self._run_epoch(self._enter_stage(progress))
                    self._tell_share(self._budget.share_done(progress))
                    self._keep(progress)

            self.model.load_state_dict(progress.best_state)
            self.model.eval()
            result = progress.result()
            self._files.write_model(self._save_model, result)
            self.callback_handler.on_train_end(config)
            return result

    def prepare_training(self) -> None:
        """Seeds, and makes new optimizers: the state before the first epoch."""
        set_seed(self.training_config.seed)
        self._optimizers = Optimizers(self.model, self.training_config)
        self.callback_handler = CallbackHandler(self._callbacks, model=self.model)

    def _resume(self) -> Progress:
        """The progress of the checkpoint, whose state the training then has, or none."""
        initial = copy.deepcopy(self.model.state_dict())

        def put_back(state: dict[str, Any]) -> Progress:
            progress = Progress.from_state(state["progress"])
            self.model.load_state_dict(state["model"])
            self._optimizers.restore(state)
            set_random_state(state["random"])
            return progress

        progress = self._files.read_checkpoint(put_back)
        if progress is None:  # one that does not fit may have changed half of the state
            self.model.load_state_dict(initial)
            self.prepare_training()
        return progress or Progress()

    def _enter_stage(self, progress: Progress) -> Progress:
        """Sets the stage of a model that has some; a new one starts from the best of the last."""
        if not hasattr(self.model, "stage_at"):
            return progress
        passes = progress.images / len(self.train_dataset)
        stage = self.model.stage_at(passes, self._budget.share_done(progress))
        if progress.stage is not None and stage != progress.stage:
            self.model.load_state_dict(progress.best_state)
            self._optimizers = Optimizers(self.model, self.training_config)
            progress = replace(progress, best_loss=math.inf)
        self.model.stage = stage  # the weights may have brought their own
        return replace(progress, stage=stage)

    def _run_epoch(self, progress: Progress) -> Progress:
        """A pass over the training and one over the evaluation data; the progress after them."""
        epoch, config, tell = progress.epoch + 1, self.training_config, self.callback_handler
        loaders = {"train_loader": self.train_loader, "eval_loader": self.eval_loader}
        tell.on_epoch_begin(config, epoch=epoch, **loaders)
        rates = self._optimizers.learning_rates()
        start, size = self._budget.start_epoch(progress), len(self.train_dataset)
        in_pass = self._budget.pass_of(progress, size)
        trained = self.train_step(epoch, in_pass)
        losses = trained.losses()
        train_seconds = time.perf_counter() - start
        evaluated = {} if self.eval_loader is None else self.eval_step(epoch, in_pass).losses()
        seconds = time.perf_counter() - start
        self._optimizers.step_schedulers(evaluated or losses)
        progress = replace(
            progress,
            epoch=epoch,
            seconds=progress.seconds + seconds,
            train_seconds=progress.train_seconds + train_seconds,
            images=progress.images + trained.images,
        )
        loss = (losses if config.keep_best_on_train else evaluated)["loss"]
        if self.keep_last or loss < progress.best_loss:
            weights = copy.deepcopy(self.model.state_dict())  # what two networks share, once
            progress = replace(progress, best_epoch=epoch, best_loss=loss, best_state=weights)
        share_done = self._budget.share_done(progress)
        row = EpochRow(epoch, losses, evaluated, rates, seconds, share_done, progress.stage)
        tell.on_epoch_end(config)
        return replace(progress, history=[*progress.history, row])

    def _keep(self, progress: Progress) -> None:
        """Writes the log, and a checkpoint where it is time; then tells whoever listens."""
        config, row, random = self.training_config, progress.history[-1], random_state()
        state = {"progress": progress.state(), "model": self.model.state_dict(), "random": random}
        write = partial(self._files.write_checkpoint, state | self._optimizers.state())
        means = {"train": row.train, "eval": row.eval}
        losses = {f"{split}_epoch_loss": mean["loss"] for split, mean in means.items() if mean}
        try:
            self._files.append_to_log(row)
            tell = self.callback_handler
            tell.on_log(config, losses, logger=logger, global_step=row.epoch, rank=-1)
            if (now := time.monotonic()) >= self._next_checkpoint:
                write()
                took, least = time.monotonic() - now, self.checkpoint_every_seconds
                self._next_checkpoint = now + max(least, CHECKPOINT_PAUSE * took * (least > 0))
            if self.on_epoch is not None:
                self.on_epoch(row)
        except BaseException:
            write()
            raise
        set_random_state(random)  # what a callback drew changes nothing

    def train_step(self, epoch: int, in_pass: int | None = None) -> Means:
        """One pass over the training data, the `in_pass`-th, with an optimizer step a batch.

        A wall clock makes several epochs of one pass; else their numbers, from 1, are the same.

        Raises:
            NonFiniteError: A loss is NaN or infinite.
        """
        config, tell, loader = self.training_config, self.callback_handler, self.train_loader
        tell.on_train_step_begin(config, train_loader=loader, epoch=epoch, rank=-1)
        self.model.train()
        means = Means(f"epoch {epoch}, train loss", self.device)
        told = {"epoch": in_pass or epoch, "dataset_size": len(self.train_dataset)}
        for step, inputs in enumerate(loader, start=1):
            share_done = self._budget.share_before_step(epoch, step, len(loader))
            self._tell_share(share_done)
            with networks_in_bfloat16(self.model, self.device) if self._half else nullcontext():
                output = self._output(inputs, share_done=share_done, **told)
            means.add(self._optimizers.losses(output), len(inputs["data"]))
            if step % LOOK_EVERY == 0:
                means.losses()  # are they numbers?
            self._optimizers.step(output)
            tell.on_train_step_end(config)
            if self._budget.is_epoch_over():
                break
        self.model.update()
        return means

    def eval_step(self, epoch: int, in_pass: int | None = None) -> Means:
        """One pass over the evaluation data, always in float32; arguments as of `train_step`.

        Raises:
            NonFiniteError: A loss is NaN or infinite.
        """
        config, tell, loader = self.training_config, self.callback_handler, self.eval_loader
        assert loader is not None
        tell.on_eval_step_begin(config, eval_loader=loader, epoch=epoch, rank=-1)
        self.model.eval()
        means = Means(f"epoch {epoch}, eval loss", self.device)
        told = {"epoch": in_pass or epoch, "dataset_size": len(self.eval_dataset)}

        def losses_of(inputs: Any) -> dict[str, Tensor]:
            return self._optimizers.losses(self._output(inputs, **told))

        for inputs in loader:
            means.add(without_gradients(losses_of, inputs), len(inputs["data"]))
            tell.on_eval_step_end(config)
        return means

    def _output(self, inputs: Any, **told: float) -> ModelOutput:
        """What the model makes of a batch, which moves to the device."""
        inputs = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if inputs["data"].dim() == 4:
            inputs["data"] = inputs["data"].to(memory_format=self._layout)
        return self.model(inputs, uses_ddp=False, **told)

    def _save_model(self, folder: Path) -> None:
        self.model.save(str(folder))
        self.training_config.save_json(str(folder), "training_config")
        self.callback_handler.on_save(self.training_config)
