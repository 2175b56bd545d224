"""`FIFTrainer`: the training loop, for models with one optimizer or several."""

import copy
import datetime
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor

from pythae_fif.device import default_device, fork_rng, random_state, set_random_state
from pythae_fif.errors import ConfigError, NonFiniteError, StoreError
from pythae_fif.models.fif import FIF
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import without_gradients
from pythae_fif.models.saved import load_data_description, save_data_description
from pythae_fif.training.checkpoint import RunFiles, check_can_be_saved, default_run_id
from pythae_fif.training.config import TrainerOptions, config_for, set_lengths
from pythae_fif.training.datasets import as_dataset, make_loader
from pythae_fif.training.precision import ForwardPass
from pythae_fif.training.progress import (
    Budget,
    EpochRow,
    Limit,
    LossMeter,
    OnEpoch,
    TrainingResult,
    epochs_since_best,
    progress_bar,
    quiet_pythae,
)
from pythae_fif.training.updates import Optimizers

CALIBRATION_SIZE = 2_000
"""Data points by which a trained model is calibrated, or somewhat more."""
FIF_TERMS = ("recon_loss", "nll_loss", "noise_nll")
"""Terms of a FIF's evaluation loss that the log has, too."""


class FIFTrainer:
    """Trains FIF, or any of Pythae's models, as Pythae's own trainers do.

    Steps, evaluations and the choice of the best weights are the same as Pythae's. In addition,
    batches come by one indexing operation from images that are kept as uint8, on the GPU if there
    is one; Adam is PyTorch's fused one; and the host waits for the device only every 50 steps. An
    interrupted training resumes from the checkpoint in its folder; on a CPU it ends with exactly
    the weights of an uninterrupted one. `FIFTrainingPipeline` trains by this class.

    A model may have a method `stage_at(passes, share_done)`, which gives its `stage` before each
    epoch. Each stage starts from the previous one's best weights and with a new optimizer.

    Args:
        model: The model, trained in place; on the GPU, if there is one, unless `no_cuda` is set.
        train_dataset: Images or rows, as an `ImageDataset`, a tensor or array (see
            :func:`~pythae_fif.training.datasets.as_dataset`), a `TensorDataset` of these and,
            optionally, labels, or any data set that Pythae's trainers accept.
        eval_dataset: The same, or None to keep the weights of the lowest training loss.
        training_config: A `FIFTrainerConfig`, or Pythae's configuration if the model has several
            optimizers. It is copied.
        callbacks: Pythae's callbacks. None is called at a save, an evaluation or a step's start.
        run_dir: Folder of the log, the checkpoint and the final `model`. Give the same folder to
            resume. By default it is a new folder in the configuration's `output_dir`, named by the
            model and the time, and the model in it is called `final_model`.
        run_id: Identifier of everything that defines the result. It is written into all files, and
            files with another one are set aside; a finished model in the folder is loaded. By
            default it is a digest of configurations, networks and numbers of data, and a finished
            model is an error.
        on_epoch: Function that is called after each epoch with its row of the log.
        checkpoint_every_seconds: Minimum time between two checkpoints; 0 for one per epoch.
        wall_clock: Seconds of training steps, over all attempts, after which the training ends.
        processor_time: The same in processor seconds of this process, summed over its threads,
            which other programs on the machine do not change much. All times of the result are
            then processor time.
        keep_last: Whether to keep the last weights, regardless of their loss.
        options: Options beyond those of Pythae's configurations. None takes them from a
            `FIFTrainerConfig`, and the defaults for any other configuration.

    Attributes:
        model: The model; after `train` it holds the best weights.
        training_dir: The folder of the run.
        best_weights: State of the model after the best epoch so far, for `on_epoch`.

    Raises:
        ConfigError: The configuration does not fit the model or the data.
        DataError: A data set is empty, or is nothing that can be trained on.
        StoreError: The folder cannot be created.

    Example:
        >>> import tempfile
        >>> from pythae_fif import FIF, FIFConfig, FIFTrainerConfig
        >>> images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
        >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))
        >>> config = FIFTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=2)
        >>> FIFTrainer(model, images, training_config=config).train().epochs
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
        checkpoint_every_seconds: float = 60.0,
        wall_clock: float | None = None,
        processor_time: float | None = None,
        keep_last: bool = False,
        options: TrainerOptions | None = None,
    ) -> None:
        train_dataset = as_dataset(train_dataset, "training")
        eval_dataset = as_dataset(eval_dataset, "evaluation")
        config = config_for(model, train_dataset, eval_dataset, training_config)
        if options is None:
            options = config if isinstance(config, TrainerOptions) else TrainerOptions()
        if options.early_stopping_patience is not None and eval_dataset is None:
            raise ConfigError("early_stopping_patience compares evaluation losses: pass eval data")

        self.training_config = config
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.on_epoch = on_epoch
        self.checkpoint_every_seconds = checkpoint_every_seconds
        self.keep_last = keep_last
        self.options = options

        self.device = "cpu" if config.no_cuda else default_device()
        self.train_loader = make_loader(train_dataset, "train", config, self.device)
        self.eval_loader = (
            None if eval_dataset is None else make_loader(eval_dataset, "eval", config, self.device)
        )
        self._budget = Budget(self.train_loader, config.num_epochs, wall_clock, processor_time)
        is_timed = wall_clock is not None or processor_time is not None
        has_known_length = not (is_timed or hasattr(model, "stage_at"))
        steps_per_epoch = len(self.train_loader) if has_known_length else None
        set_lengths(config, options.scheduler_interval, steps_per_epoch)

        self._loads_finished_model = run_id is not None
        run_id = run_id or default_run_id(model, config, options, (train_dataset, eval_dataset))
        if run_dir is None:
            name = f"{model.model_name}_training_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
            self._files = RunFiles(Path(config.output_dir or "output", name), run_id, "final_model")
        else:
            self._files = RunFiles(Path(run_dir), run_id)
        self.training_dir = str(self._files.path)

        self.model = model
        trace = options.trace
        if trace is None:
            trace = isinstance(model, FIF) and model.has_fixed_operations
        self._forward = ForwardPass(
            model,
            self.device,
            options.precision,
            trace=trace,
            total_steps=steps_per_epoch and config.num_epochs * steps_per_epoch,
        )
        self._callbacks = CallbackHandler(callbacks or [], model=model)

    def train(self) -> TrainingResult:
        """Trains until the budget is used up, from the checkpoint if there is one.

        At the end `model` holds the best weights, which are saved. An exception in `on_epoch`, or
        an interrupt between two epochs, leaves a checkpoint of the epoch just finished; an
        interrupt within an epoch leaves the last checkpoint.

        Returns:
            The epoch that was kept, its loss, times, the limit that ended the training, and the
            log.

        Raises:
            NonFiniteError: A loss is NaN or infinite; the message names the epoch. An infinite
                evaluation loss does not end the training, unless it is infinite in all epochs.
            StoreError: The run's folder cannot be written, or already holds a finished training.
            ConfigError: The model or the configuration cannot be saved.
        """
        finished = self._load_finished_model()
        if finished is not None:
            return finished

        check_can_be_saved(self.model, self.training_config)
        with quiet_pythae():
            progress = self._start_or_resume()
            with progress_bar(self._budget.share_done(progress)) as show_share:
                while self._limit_reached(progress) is None:
                    progress = self._enter_stage(progress)
                    progress = self._run_epoch(progress, show_share)
                    self._write_epoch(progress)
                show_share(1.0)

            progress = replace(progress, ended_by=self._limit_reached(progress))
            self._finish(progress)
        return progress

    def _load_finished_model(self) -> TrainingResult | None:
        """Loads the finished model in the folder and returns its result; None if there is none."""
        result = self._files.read_result()
        if result is None:
            return None

        if not self._loads_finished_model:
            raise StoreError(
                f"{self.training_dir} holds a finished training: load its model by "
                f"AutoModel.load_from_folder({str(self._files.model)!r}), or use another run_dir"
            )
        content = torch.load(self._files.model / "model.pt", self.device, weights_only=True)
        self.model.load_state_dict(content["model_state_dict"])
        load_data_description(self.model, self._files.model)
        self.model.eval()
        return result

    def _start_or_resume(self) -> TrainingResult:
        """Restores the progress and state of the checkpoint, or starts a new training."""
        # Callbacks come before the random state is set, so that their draws do not change anything.
        self._callbacks.on_train_begin(self.training_config, model_config=self.model.model_config)
        self._next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
        initial_weights = copy.deepcopy(self.model.state_dict())

        progress = self._files.read_checkpoint(self._restore)
        if progress is None:
            # A checkpoint that does not fit may have replaced some of the weights.
            self.model.load_state_dict(initial_weights)
            self._optimizers = Optimizers(self.model, self.training_config, self.options)
            progress = TrainingResult()
            set_seed(self.training_config.seed)

        self._files.write_log(progress.log, "w")
        return progress

    def _restore(self, state: dict[str, Any]) -> TrainingResult:
        """Restores the state of a checkpoint, and returns its progress."""
        self.model.load_state_dict(state["model"])
        self._optimizers = Optimizers(self.model, self.training_config, self.options)
        self._optimizers.restore(state)
        self.best_weights = state["best"]
        set_random_state(state["random"])
        return TrainingResult.from_dict(state["progress"])

    def _enter_stage(self, progress: TrainingResult) -> TrainingResult:
        """Sets the model's stage, if it has stages.

        A new stage starts from the best weights of the stage before it, with a new optimizer.
        """
        stage = self._stage_at(progress, self._budget.share_done(progress))
        if stage is None:
            return progress

        if progress.stage is not None and stage != progress.stage:
            self.model.load_state_dict(self.best_weights)
            self._optimizers = Optimizers(self.model, self.training_config, self.options)
            progress = replace(progress, best_eval_loss=math.inf)
        self.model.stage = stage  # The loaded weights may have set it to the earlier stage.
        return replace(progress, stage=stage)

    def _limit_reached(self, progress: TrainingResult) -> Limit | None:
        """Returns the limit that ends the training after the last epoch; None if it goes on."""
        limit = self._budget.limit_reached(progress)
        patience = self.options.early_stopping_patience
        if limit or patience is None or not progress.log:
            return limit

        is_last_stage = progress.stage == self._stage_at(progress, share_done=1.0)
        has_stalled = epochs_since_best(progress.log) >= patience
        return "early_stopping_patience" if is_last_stage and has_stalled else None

    def _stage_at(self, progress: TrainingResult, share_done: float) -> str | None:
        """Returns the model's stage at a share of the training; None for a model without stages."""
        if not hasattr(self.model, "stage_at"):
            return None
        stage: str = self.model.stage_at(progress.images / len(self.train_dataset), share_done)
        return stage

    def _run_epoch(
        self, progress: TrainingResult, show_share: Callable[[float], None]
    ) -> TrainingResult:
        """Trains and evaluates the model for an epoch, and keeps its weights if they are the best.

        Args:
            progress: The progress before the epoch.
            show_share: Shows the share of the training that is done.

        Returns:
            The progress after the epoch.
        """
        epoch = progress.epochs + 1
        self._callbacks.on_epoch_begin(self.training_config, epoch=epoch)

        start = self._budget.clock()
        meter, pass_number = self._train_epoch(progress, epoch, show_share)
        train_losses = meter.means()
        train_seconds = self._budget.clock() - start
        eval_losses = self._evaluate(epoch, pass_number)
        seconds = self._budget.clock() - start

        self._optimizers.end_epoch(eval_losses or train_losses)
        losses = train_losses if self.training_config.keep_best_on_train else eval_losses
        progress = self._keep_if_best(progress, epoch, losses["loss"])

        progress = progress.with_epoch(meter.images, train_seconds, seconds)
        share_done = self._budget.share_done(progress)
        show_share(share_done)
        self._callbacks.on_epoch_end(self.training_config)
        row = EpochRow(
            epoch,
            train_losses,
            eval_losses,
            self._optimizers.learning_rates,
            seconds,
            share_done,
            progress.stage,
            train_seconds,
        )
        return replace(progress, log=[*progress.log, row], surrogate=self._surrogate_mode())

    def _surrogate_mode(self) -> str | None:
        """Returns how the volume term was computed; None for models other than FIFs."""
        mode: str | None = getattr(self.model, "surrogate_mode", None)
        return f"traced {mode}" if mode and self._forward.has_used_graph else mode

    def _train_epoch(
        self, progress: TrainingResult, epoch: int, show_share: Callable[[float], None]
    ) -> tuple[LossMeter, int]:
        """Takes the training steps of an epoch.

        Args:
            progress: The progress before the epoch.
            epoch: Number of the epoch, from 1.
            show_share: Shows the share of the training that is done before each step.

        Returns:
            The meter of the losses, and the number of the last pass over the data.
        """
        meter = LossMeter(f"epoch {epoch}, train loss", self.device)
        self.model.train()
        for inputs, pass_number, share_done in self._budget.batches(progress):
            show_share(share_done)
            output = self._forward(
                inputs,
                epoch=pass_number,
                dataset_size=len(self.train_dataset),
                share_done=share_done,
            )
            meter.add(self._optimizers.losses(output), len(inputs["data"]))
            self._optimizers.step(output)
            self._callbacks.on_train_step_end(self.training_config)

        self.model.update()
        return meter, pass_number

    def _evaluate(self, epoch: int, pass_number: int) -> dict[str, float]:
        """Returns the mean losses of the evaluation data, in float32; empty without such data.

        Args:
            epoch: Number of the epoch, from 1.
            pass_number: Number of the epoch's last pass over the training data, from 1.
        """
        if self.eval_loader is None:
            return {}

        meter = LossMeter(f"epoch {epoch}, eval loss", self.device, infinite=True)
        is_fif = isinstance(self.model, FIF)

        def losses(inputs: Any) -> dict[str, Tensor]:
            size = len(self.eval_dataset)
            output = self._forward(
                inputs, epoch=pass_number, dataset_size=size, position=meter.images
            )
            losses = self._optimizers.losses(output)  # which computes the terms of a FIF's loss
            names = [name for name in FIF_TERMS if is_fif and name in output]
            return losses | {name: output[name] for name in names}

        self.model.eval()
        for inputs in self.eval_loader:
            meter.add(without_gradients(losses, inputs), len(inputs["data"]))

        means = meter.means()
        if is_fif:
            means["loss"] = self.model.evaluation_loss(means, inputs["data"][0].numel())
        return means

    def _keep_if_best(self, progress: TrainingResult, epoch: int, loss: float) -> TrainingResult:
        """Keeps a copy of the weights if their loss is the lowest so far, or if the last are kept.

        Args:
            progress: The progress before the epoch.
            epoch: Number of the epoch, from 1.
            loss: The loss by which epochs are compared.

        Returns:
            The progress with the best epoch and its loss.
        """
        is_first = not progress.best_epoch
        if not (self.keep_last or is_first or loss < progress.best_eval_loss):
            return progress

        # `deepcopy` copies weights that two networks share only once.
        self.best_weights = copy.deepcopy(self.model.state_dict())
        return replace(progress, best_epoch=epoch, best_eval_loss=loss)

    def _write_epoch(self, progress: TrainingResult) -> None:
        """Writes the log, calls the callbacks, and writes a checkpoint if it is time for one.

        If any of these fails or is interrupted, a checkpoint of the epoch is written.
        """
        row = progress.log[-1]
        losses = {
            f"{split}_epoch_loss": means["loss"]
            for split, means in (("train", row.train), ("eval", row.eval))
            if means
        }
        random = random_state()

        try:
            self._files.write_log([row])
            self._callbacks.on_log(self.training_config, losses, global_step=row.epoch)
            if time.monotonic() >= self._next_checkpoint:
                self._write_checkpoint(progress, random)
                self._next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
            if self.on_epoch is not None:
                self.on_epoch(row)
        except BaseException:
            self._write_checkpoint(progress, random)
            raise

        # Random numbers that `on_log` and `on_epoch` drew do not change the training.
        set_random_state(random)

    def _write_checkpoint(self, progress: TrainingResult, random: dict[str, Any]) -> None:
        """Writes a checkpoint with the progress and the states of random numbers after an epoch."""
        self._files.write_checkpoint(
            {
                "progress": asdict(progress),
                "best": self.best_weights,
                "random": random,
                "model": self.model.state_dict(),
                **self._optimizers.state(),
            }
        )

    def _finish(self, progress: TrainingResult) -> None:
        """Loads the best weights into the model, and saves it."""
        if not self.keep_last and progress.best_eval_loss == math.inf:
            raise NonFiniteError(
                f"the evaluation loss is infinite in all {progress.epochs} epochs: a network whose "
                "ReLUs are dead has zero volume; use SiLU, or a smaller learning rate"
            )

        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        self._calibrate()
        self._files.write_model(self._save, progress)
        self._callbacks.on_train_end(self.training_config)

    def _calibrate(self) -> None:
        """Calibrates a model of this package by its first evaluation data, or training data."""
        if not isinstance(self.model, InjectiveFlow):
            return

        batches = []
        count = 0
        with fork_rng():  # a loader may shuffle
            for inputs in self.eval_loader or self.train_loader:
                batches.append(inputs)
                count += len(inputs["data"])
                if count >= CALIBRATION_SIZE:
                    break
        data = torch.cat([inputs["data"] for inputs in batches])
        labels = None
        if self.model.condition_dim:
            labels = torch.cat([inputs["labels"] for inputs in batches])
        self.model.calibrate(data.to(self.device), labels)

    def _save(self, folder: Path) -> None:
        """Saves the model and the training's configuration into a folder."""
        self.model.save(str(folder))
        save_data_description(self.model, folder)  # Pythae's models do not save it
        self.training_config.save_json(str(folder), "training_config")
