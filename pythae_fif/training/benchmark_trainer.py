"""Pythae's trainers with fast batches, a log, checkpoints that resume exactly, and silence."""

__all__ = ["BenchmarkTrainer", "OnEpoch"]

import copy
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.trainers.training_callbacks import CallbackHandler

from pythae_fif.errors import NonFiniteError, StoreError
from pythae_fif.files import write_whole
from pythae_fif.training.checkpoint import random_state, set_random_state
from pythae_fif.training.clock import Clock
from pythae_fif.training.loader import BatchDataset, BatchLoader, CutLoader
from pythae_fif.training.progress import Progress, TrainingResult
from pythae_fif.training.quiet import quiet_pythae

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, int, dict[str, Any]], None]

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "train_log.jsonl"


class BenchmarkTrainer:
    """Mixin that goes before one of Pythae's trainers; `build_trainer` picks the right pair.

    What stays Pythae's: the optimizers and schedulers, the training and the evaluation step
    (under `torch.no_grad`, tried again with gradients on a RuntimeError) and the choice of the
    best weights. What changes: batches come by one indexing operation where the data set has
    `batch`, evaluation is in fixed order then, nothing is printed, no dated folders are made, and
    a training that was cut off goes on from its last checkpoint.

    With a wall clock a training lasts that many seconds instead of a number of epochs, and an epoch
    is cut short at every tenth of them. What is counted is the time in training steps, over all
    resumed parts: evaluation is the benchmark's, not the model's, and not counted. What was trained
    since the last checkpoint before a training was killed is lost, and its time is not counted.

    A model with a method `stage_at(epochs, share_done)`, from the passes over the data and the
    share of the training that are done to the name of a stage, has it set as its `stage` before
    each epoch. Every stage starts from the best weights of the one before, with a new optimizer
    and learning rate, and has a best of its own, as losses of two stages cannot be compared.

    `build_trainer` drops what WORLD_SIZE, RANK and LOCAL_RANK left in the configuration: its
    trainings are single processes. Of several (see `FIFTrainer`) the first alone writes, calls
    `on_epoch` and tells the callbacks.
    """

    model_folder = "model"
    """Where in `run_dir` the best weights are saved."""

    keep_last = False
    """Whether the last weights are kept, whatever their loss."""

    parts: tuple[str, ...] = ()
    """Names of the networks with an optimizer each, in the order of Pythae's losses; empty if
    there is one optimizer for all."""

    # Set by Pythae's trainers.
    model: BaseAE
    device: str
    training_config: Any
    train_dataset: Any
    eval_dataset: Any
    callbacks: Any
    model_config: Any
    is_main_process: bool
    train_loader: Any
    eval_loader: Any

    def __init__(
        self,
        *,
        run_dir: Path,
        on_epoch: OnEpoch | None,
        checkpoint_every_seconds: float,
        wall_clock: float | None = None,
        **pythae_arguments: Any,
    ) -> None:
        self.run_dir = run_dir
        self.wall_clock = wall_clock
        self._clock = Clock(wall_clock)
        self.on_epoch = on_epoch
        self.checkpoint_every_seconds = checkpoint_every_seconds
        super().__init__(**pythae_arguments)

    # Hooks of Pythae's BaseTrainer.

    def get_train_dataloader(self, train_dataset: Any) -> Any:
        if isinstance(train_dataset, BatchDataset):
            batch_size = self.training_config.per_device_train_batch_size
            loader = BatchLoader(train_dataset, batch_size, shuffle=True, device=self.device)
        else:
            loader = super().get_train_dataloader(train_dataset)  # type: ignore[misc]
        return CutLoader(loader, self._clock.is_over)

    def get_eval_dataloader(self, eval_dataset: Any) -> Any:
        if not isinstance(eval_dataset, BatchDataset):
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]
        batch_size = self.training_config.per_device_eval_batch_size
        return BatchLoader(eval_dataset, batch_size, shuffle=False, device=self.device)

    def _run_model_sanity_check(self, model: BaseAE, loader: Any) -> None:
        """Does nothing: Pythae's check moves BatchNorm's running statistics before epoch 1."""

    def _set_output_dir(self) -> None:
        """Does nothing: all files go to `run_dir`, none to a dated folder."""

    def _optimizers_step(self, model_output: Any) -> None:
        """Stops at the first step whose loss is not finite, before it reaches the weights."""
        if not torch.isfinite(model_output.loss).all():
            raise NonFiniteError(
                f"the loss of a step is {model_output.loss.mean().item()}; "
                "a smaller learning rate may help"
            )
        super()._optimizers_step(model_output)  # type: ignore[misc]

    def _setup_callbacks(self) -> None:
        """The caller's callbacks, without Pythae's progress bars and console printer."""
        callbacks = list(self.callbacks or []) if self.is_main_process else []
        self.callback_handler = CallbackHandler(callbacks, model=self.model)

    # The training.

    def train(self) -> TrainingResult:
        """Trains to the last epoch or the end of the wall clock, from the checkpoint in `run_dir`
        if there is one.

        On the CPU a training that was cut off and resumed ends with bitwise the same weights and
        losses as one that was not. An exception out of `on_epoch`, or an interrupt between two
        epochs, leaves a checkpoint of the epoch just finished; in the middle of an epoch the last
        one stays. At the end `model` holds the best weights, which are saved in `run_dir/model`.

        Returns:
            Which epoch was kept, its loss, and times.

        Raises:
            NonFiniteError: If a loss is NaN or infinite; the message names the epoch.
            StoreError: If `run_dir` cannot be written.
        """
        with quiet_pythae():
            return self._train()

    def _train(self) -> TrainingResult:
        self.prepare_training()  # type: ignore[attr-defined]
        progress = self._resume()
        if self.is_main_process:
            log = "".join(json.dumps(row) + "\n" for row in progress.history)
            write_whole(self.run_dir / LOG_NAME, lambda file: file.write(log.encode()))

        config, tell = self.training_config, self.callback_handler
        tell.on_train_begin(config, model_config=self.model_config)
        num_epochs = config.num_epochs
        last_checkpoint = time.monotonic()
        while not self._is_complete(progress):
            epoch = progress.epoch + 1
            progress = self._enter_stage(progress)
            tell.on_epoch_begin(
                config, epoch=epoch, train_loader=self.train_loader, eval_loader=self.eval_loader
            )
            progress = self._run_epoch(epoch, progress)
            tell.on_epoch_end(config)
            # Whatever the callback draws must not change the training, or one that resumes
            # after this epoch, without the callback, would differ.
            random = random_state()
            try:
                row = progress.history[-1]
                self._append_to_log(row)
                losses = {
                    f"{stage}_epoch_loss": row[f"{stage}_loss"]  # Pythae's names of them
                    for stage in ("train", "eval")
                    if f"{stage}_loss" in row
                }
                tell.on_log(config, losses, logger=logger, global_step=epoch, rank=-1)
                if time.monotonic() - last_checkpoint >= self.checkpoint_every_seconds:
                    self._save_checkpoint(progress, random)
                    last_checkpoint = time.monotonic()
                if self.on_epoch is not None and self.is_main_process:
                    self.on_epoch(epoch, num_epochs, dict(row))
            except BaseException:
                self._save_checkpoint(progress, random)
                raise
            set_random_state(random)

        self.model.load_state_dict(progress.best_state)
        if self.is_main_process:
            self._save_best_model()
            (self.run_dir / CHECKPOINT_NAME).unlink(missing_ok=True)
        tell.on_train_end(config)
        return progress.result()

    def _is_complete(self, progress: Progress) -> bool:
        if self.wall_clock is None:
            return progress.epoch >= self.training_config.num_epochs
        return progress.train_seconds >= self.wall_clock

    def _share_done(self, progress: Progress) -> float:
        """The part of the training that is done, before an epoch."""
        if self.wall_clock is None:
            return progress.epoch / self.training_config.num_epochs
        return min(1.0, progress.train_seconds / self.wall_clock)

    def _enter_stage(self, progress: Progress) -> Progress:
        """Sets the stage of a model that has some; a new one starts from the best of the last."""
        if not hasattr(self.model, "stage_at"):
            return progress
        passes = progress.images / len(self.train_dataset)
        stage = self.model.stage_at(passes, self._share_done(progress))
        if progress.stage is not None and stage != progress.stage:
            self.model.load_state_dict(progress.best_state)
            self.set_optimizer()  # type: ignore[attr-defined]
            self.set_scheduler()  # type: ignore[attr-defined]
            progress = replace(progress, best_loss=math.inf)
        self.model.stage = stage  # the weights may have brought their own
        return replace(progress, stage=stage)

    def _run_epoch(self, epoch: int, progress: Progress) -> Progress:
        """One training and one evaluation step; the progress after them."""
        learning_rates = {
            f"{name}learning_rate": optimizer.param_groups[0]["lr"]
            for name, optimizer in self._of_parts("optimizer").items()
        }
        # Models count passes over the data, of which a wall clock may cut one into several epochs.
        number = epoch
        if self.wall_clock is not None:
            number = 1 + progress.images // len(self.train_dataset)
        start = self._clock.start(progress.train_seconds)
        train_losses = self._losses("train", number)
        train_seconds = time.perf_counter() - start
        eval_losses = self._losses("eval", epoch) if self.eval_dataset is not None else {}
        seconds = time.perf_counter() - start
        self._step_schedulers(eval_losses or train_losses)

        row = {
            "epoch": epoch,
            **{f"train_{name}": loss for name, loss in train_losses.items()},
            **{f"eval_{name}": loss for name, loss in eval_losses.items()},
            **learning_rates,
            "seconds": seconds,
            **({} if progress.stage is None else {"stage": progress.stage}),
        }
        if self.wall_clock is not None:
            done = progress.train_seconds + train_seconds
            row |= {"share_done": min(1.0, done / self.wall_clock)}
        progress = replace(
            progress,
            epoch=epoch,
            history=[*progress.history, row],
            seconds=progress.seconds + seconds,
            train_seconds=progress.train_seconds + train_seconds,
            images=progress.images + self.train_loader.images,
        )
        # Pythae sets keep_best_on_train where there is no evaluation set.
        kept_on = train_losses if self.training_config.keep_best_on_train else eval_losses
        if self.keep_last or kept_on["loss"] < progress.best_loss:
            state = {
                name: value.detach().clone() for name, value in self.model.state_dict().items()
            }
            progress = replace(
                progress, best_epoch=epoch, best_loss=kept_on["loss"], best_state=state
            )
        return progress

    def _losses(self, stage: str, epoch: int) -> dict[str, float]:
        """Runs Pythae's `train_step` or `eval_step`: `loss`, then `<part>_loss` of each part."""
        try:
            losses = getattr(self, f"{stage}_step")(epoch)
        except ArithmeticError as error:
            # Of ArithmeticError itself, Pythae's "NaN detected"; its subclasses are other faults.
            if type(error) is not ArithmeticError and not isinstance(error, NonFiniteError):
                raise
            raise NonFiniteError(f"epoch {epoch}, {stage} loss: {error}") from error
        values = losses if isinstance(losses, tuple) else (losses,)
        names = ("loss", *(f"{part}_loss" for part in self.parts))
        named = dict(zip(names, map(float, values), strict=True))
        if stage == "train":  # Pythae's mean is over all batches, those that a cut left out too
            part = len(self.train_loader) / self.train_loader.batches
            named = {name: part * value for name, value in named.items()}
        for name, value in named.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"epoch {epoch}: {stage}_{name} is {value}; a smaller learning rate may help"
                )
        return named

    def _step_schedulers(self, losses: dict[str, float]) -> None:
        if self.parts:
            metrics = {f"{part}_metrics": losses[f"{part}_loss"] for part in self.parts}
            self._schedulers_step(**metrics)  # type: ignore[attr-defined]
        else:
            self._schedulers_step(losses["loss"])  # type: ignore[attr-defined]

    def _of_parts(self, kind: str) -> dict[str, Any]:
        """The optimizers or schedulers there are, by the prefix of Pythae's attribute names."""
        prefixes = [f"{part}_" for part in self.parts] or [""]
        found = {prefix: getattr(self, f"{prefix}{kind}") for prefix in prefixes}
        return {prefix: value for prefix, value in found.items() if value is not None}

    # Files.

    def _append_to_log(self, row: dict[str, Any]) -> None:
        if not self.is_main_process:
            return
        path = self.run_dir / LOG_NAME
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}") from error

    def _save_checkpoint(self, progress: Progress, random: dict[str, Any]) -> None:
        if not self.is_main_process:
            return
        state = {
            "progress": vars(progress),
            "model": self.model.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self._of_parts("optimizer").items()},
            "schedulers": {k: v.state_dict() for k, v in self._of_parts("scheduler").items()},
            "random": random,
        }
        write_whole(self.run_dir / CHECKPOINT_NAME, lambda file: torch.save(state, file))

    def _resume(self) -> Progress:
        """Restores the checkpoint's state; sets one that does not fit aside and starts afresh."""
        path = self.run_dir / CHECKPOINT_NAME
        if not path.exists():
            return Progress()
        initial = copy.deepcopy(self.model.state_dict())
        try:
            return self._restore(path)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # torch.load raises anything on a damaged file
            aside = path.with_name("checkpoint.corrupt.pt")
            if self.is_main_process:
                os.replace(path, aside)
                logger.warning(
                    "%s cannot be resumed from (%s): set aside as %s, training starts afresh",
                    path,
                    type(error).__name__,
                    aside.name,
                )
        self.model.load_state_dict(initial)
        self.prepare_training()  # type: ignore[attr-defined]
        return Progress()

    def _restore(self, path: Path) -> Progress:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        for kind in ("optimizer", "scheduler"):
            for name, target in self._of_parts(kind).items():
                target.load_state_dict(state[f"{kind}s"][name])
        set_random_state(state["random"])
        return progress

    def _save_best_model(self) -> None:
        folder = self.run_dir / self.model_folder
        temporary = folder.with_name(folder.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            self.save_model(self.model, str(temporary))  # type: ignore[attr-defined]
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        except (OSError, RuntimeError) as error:  # the latter of torch, for example of a full disk
            line = str(error).splitlines()[0]
            raise StoreError(f"cannot write {folder}: {line}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
