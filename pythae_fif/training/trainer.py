"""`FIFTrainer`: the training loop, for models with one optimizer and with several."""

import copy
import datetime
import math
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import cloudpickle
import torch
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor

from pythae_fif.device import default_device, random_state, set_random_state
from pythae_fif.errors import ConfigError, NonFiniteError, StoreError, format_error
from pythae_fif.files import digest
from pythae_fif.models.outputs import without_gradients
from pythae_fif.names import Precision
from pythae_fif.training.checkpoint import RunFiles
from pythae_fif.training.config import config_for
from pythae_fif.training.loader import make_loader
from pythae_fif.training.precision import networks_in_bfloat16
from pythae_fif.training.progress import (
    Budget,
    EpochRow,
    LossMeter,
    OnEpoch,
    TrainingResult,
    progress_bar,
    quiet_pythae,
)
from pythae_fif.training.updates import Optimizers

MUTABLE_SETTINGS = {
    "output_dir", "num_epochs", "no_cuda", "train_dataloader_num_workers",
    "eval_dataloader_num_workers", "world_size", "rank", "local_rank", "dist_backend",
    "master_addr", "master_port",
}  # fmt: skip
"""Keys of the configuration that may change where a training resumes."""


class FIFTrainer:
    """Trains FIF, and any of Pythae's models, as Pythae's own trainers do.

    Steps, evaluations and the choice of the best weights are theirs. But batches come by one
    indexing operation from images that are kept as uint8, on the GPU where there is one, Adam is
    PyTorch's fused one, and the host waits for the device every 50 steps alone. A training that was
    cut off goes on from the checkpoint in its folder; on the CPU it ends bitwise as one that was
    not. Given a `FIFTrainerConfig`, Pythae's `TrainingPipeline` trains by this class.

    A model's `stage_at(passes, share_done)`, if it has one, gives its `stage` before each epoch. A
    stage starts from the best weights of the last, with a new optimizer, and has its own best.

    Args:
        model: The model to train, in place; it moves to the GPU, if any, unless `no_cuda` is set.
        train_dataset: An `ImageDataset`, or any data set that Pythae's trainers take.
        eval_dataset: The same, or None to keep the weights of lowest training loss.
        training_config: A `FIFTrainerConfig`, or for a model with several optimizers Pythae's
            configuration for it. It is copied.
        callbacks: Pythae's, for wandb, mlflow, comet; not told of saves, evaluations, begun steps.
        run_dir: Folder of log, checkpoint and the final `model`. Give it again to resume. By
            default a new folder of the model's name and the time in the configuration's
            `output_dir`, in which the model is `final_model`.
        run_id: Of what defines the result. It stands in all files, and those of another are set
            aside; a model that is there already is loaded and not trained again. By default a
            digest of configurations, networks and numbers of data, and such a model is an error.
        on_epoch: Called after each epoch with its row of the log.
        checkpoint_every_seconds: Least time between two checkpoints; 0 for one every epoch.
        wall_clock: Seconds of training steps, in all attempts, after which the training ends.
        keep_last: Whether the last weights are kept, whatever their loss.
        precision: See `FIFTrainerConfig`; for any kind of configuration.

    Attributes:
        model: The model; after `train` it holds the best weights.
        training_dir: The folder of the run.

    Raises:
        ConfigError: The configuration does not fit the model or the data.
        DataError: A data set is empty.

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
        checkpoint_every_seconds: float = 60.0,
        wall_clock: float | None = None,
        keep_last: bool = False,
        precision: Precision | None = None,
    ) -> None:
        config = config_for(model, train_dataset, eval_dataset, training_config)
        precision = precision or getattr(config, "precision", "float32")
        if precision not in get_args(Precision):
            raise ConfigError(f"precision={precision!r}: {' or '.join(get_args(Precision))} needed")
        if wall_clock is not None and not wall_clock > 0:
            raise ConfigError(f"wall_clock={wall_clock}: seconds above 0 are needed, or None")
        sizes = [None if data is None else len(data) for data in (train_dataset, eval_dataset)]
        self._takes_trained = run_id is not None
        kept = {
            key: value for key, value in config.to_dict().items() if key not in MUTABLE_SETTINGS
        }
        run_id = run_id or digest(model.model_config.to_dict(), kept, model, precision, sizes)
        if run_dir is None:
            now = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
            folder = Path(config.output_dir or "output", f"{model.model_name}_training_{now}")
            self._files = RunFiles(folder, run_id, "final_model")
        else:
            self._files = RunFiles(Path(run_dir), run_id)
        self.training_dir = str(self._files.path)
        self.training_config, self.keep_last = config, keep_last
        self.on_epoch, self.checkpoint_every_seconds = on_epoch, checkpoint_every_seconds

        # Convolutions in bfloat16 are up to a quarter faster with channels last, on a CPU.
        self._half = precision == "bfloat16"
        last = self._half and all(weight.dim() < 5 for weight in model.parameters())
        self._layout = torch.channels_last if last else torch.preserve_format
        self.device = "cpu" if config.no_cuda else default_device()
        self.model = model.to(self.device, memory_format=self._layout)
        self.model.device = self.device
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.train_loader = make_loader(train_dataset, "train", config, self.device)
        self.eval_loader = eval_dataset and make_loader(eval_dataset, "eval", config, self.device)
        self._budget = Budget(self.train_loader, config.num_epochs, wall_clock)
        self._callbacks = CallbackHandler(callbacks or [], model=self.model)

    def train(self) -> TrainingResult:
        """Trains to the end of the budget, from the checkpoint if there is one.

        An exception out of `on_epoch`, or an interrupt between two epochs, leaves a checkpoint of
        the epoch just finished; in the middle of an epoch the last one stays. At the end `model`
        holds the best weights, which are saved.

        Returns:
            Which epoch was kept, its loss, times, and the log.

        Raises:
            NonFiniteError: A loss is NaN or infinite; the message names the epoch. An infinite
                evaluation loss ends no training: another epoch is kept, if there is one.
            StoreError: The run's folder cannot be written, or holds a trained model.
            ConfigError: The model or the configuration cannot be saved.
        """
        if (trained := self._trained()) is not None:
            return trained
        try:  # its networks are pickled to nowhere, before it is trained for nothing
            self.training_config.to_json_string()
            with open(os.devnull, "wb") as nowhere:
                cloudpickle.dump([*self.model.children()], nowhere)
        except Exception as error:
            raise ConfigError(f"a training that cannot be saved: {format_error(error)}") from error
        config, tell, size = self.training_config, self._callbacks, len(self.train_dataset)
        with quiet_pythae(), progress_bar() as bar:
            progress = self._begin()
            share_done = self._budget.share(progress.images / size, progress.train_seconds)
            shown = bar.add_task("", total=1.0, completed=share_done)  # type: ignore[arg-type] # any number will do
            while share_done < 1:
                progress, epoch = self._enter_stage(progress, share_done), progress.epochs + 1
                means = LossMeter(f"epoch {epoch}, train loss", self.device)
                tell.on_epoch_begin(config, epoch=epoch)
                start = time.perf_counter()
                self.model.train()
                for inputs, in_pass, share_done in self._budget.batches(progress):
                    bar.update(shown, completed=share_done)
                    told = {"epoch": in_pass, "dataset_size": size, "share_done": share_done}
                    with networks_in_bfloat16(self.model, self.device, self._half):
                        output = self.model(self._to_device(inputs), uses_ddp=False, **told)
                    means.add(self._optimizers.losses(output), len(inputs["data"]))
                    self._optimizers.step(output)
                    tell.on_train_step_end(config)
                self.model.update()
                train, train_seconds = means.losses(), time.perf_counter() - start
                evaluated = self._evaluate(epoch, in_pass)
                seconds, rates = time.perf_counter() - start, self._optimizers.learning_rates()
                self._optimizers.step_schedulers(evaluated or train)

                loss = (train if config.keep_best_on_train else evaluated)["loss"]
                if self.keep_last or not progress.best_epoch or loss < progress.best_eval_loss:
                    self._best = copy.deepcopy(self.model.state_dict())  # what is shared, once
                    progress = replace(progress, best_epoch=epoch, best_eval_loss=loss)
                progress = progress.after(means.images, train_seconds, seconds)
                share_done = self._budget.share(progress.images / size, progress.train_seconds)
                bar.update(shown, completed=share_done)
                row = EpochRow(epoch, train, evaluated, rates, seconds, share_done, progress.stage)
                tell.on_epoch_end(config)
                progress = replace(progress, log=[*progress.log, row])
                self._write(progress)

            if not self.keep_last and progress.best_eval_loss == math.inf:
                raise NonFiniteError(
                    f"the evaluation loss is infinite in all {progress.epochs} epochs: networks "
                    "with dead ReLUs have no volume; take SiLU, or a smaller learning rate"
                )
            self.model.load_state_dict(self._best)
            self.model.eval()
            self._files.write_model(self._save, progress)
            tell.on_train_end(config)
            return progress

    def _trained(self) -> TrainingResult | None:
        """The result of the trained model in the folder, which is loaded; None without one."""
        if (trained := self._files.trained()) is not None:
            if not self._takes_trained:
                then = f"load {self._files.model}, or give another run_dir"
                raise StoreError(f"{self.training_dir}: its training is done; {then}")
            weights = torch.load(self._files.model / "model.pt", self.device, weights_only=True)
            self.model.load_state_dict(weights["model_state_dict"])
            self.model.eval()
        return trained

    def _begin(self) -> TrainingResult:
        """The progress of the checkpoint, whose state is put back, or no progress."""
        # before the random state is set: what a callback draws must not change a training
        config, model = self.training_config, self.model
        self._callbacks.on_train_begin(config, model_config=model.model_config)
        self._next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
        initial = copy.deepcopy(model.state_dict())

        def put_back(state: dict[str, Any]) -> TrainingResult:
            model.load_state_dict(state["model"])
            self._optimizers = Optimizers(model, config)
            self._optimizers.restore(state)
            self._best = state["best"]
            set_random_state(state["random"])
            return TrainingResult.from_dict(state["progress"])

        progress = self._files.read_checkpoint(put_back)
        if progress is None:  # one that does not fit may have changed half of the state
            model.load_state_dict(initial)
            self._optimizers, progress = Optimizers(model, config), TrainingResult()
            set_seed(config.seed)
        self._files.write_log(progress.log, "w")
        return progress

    def _enter_stage(self, progress: TrainingResult, share_done: float) -> TrainingResult:
        """Sets the stage of a model that has some; a new one starts from the best of the last."""
        if not hasattr(self.model, "stage_at"):
            return progress
        stage = self.model.stage_at(progress.images / len(self.train_dataset), share_done)
        if progress.stage is not None and stage != progress.stage:
            self.model.load_state_dict(self._best)
            self._optimizers = Optimizers(self.model, self.training_config)
            progress = replace(progress, best_eval_loss=math.inf)
        self.model.stage = stage  # the weights may have brought their own
        return replace(progress, stage=stage)

    def _evaluate(self, epoch: int, in_pass: int) -> dict[str, float]:
        """Mean losses of the evaluation data, always in float32; none where there are no data."""
        if self.eval_loader is None:
            return {}
        self.model.eval()
        means = LossMeter(f"epoch {epoch}, eval loss", self.device, infinite=True)
        told = {"epoch": in_pass, "dataset_size": len(self.eval_dataset), "uses_ddp": False}

        def losses_of(inputs: Any) -> dict[str, Tensor]:
            return self._optimizers.losses(self.model(self._to_device(inputs), **told))

        for inputs in self.eval_loader:
            means.add(without_gradients(losses_of, inputs), len(inputs["data"]))
        return means.losses()

    def _write(self, progress: TrainingResult) -> None:
        """Writes the log, and a checkpoint where it is time; then tells whoever listens."""
        row, random = progress.log[-1], random_state()
        means = {"train": row.train, "eval": row.eval}
        losses = {f"{split}_epoch_loss": mean["loss"] for split, mean in means.items() if mean}

        def write_checkpoint() -> None:
            state = {"progress": asdict(progress), "best": self._best, "random": random}
            state |= {"model": self.model.state_dict(), **self._optimizers.state()}
            self._files.write_checkpoint(state)

        try:
            self._files.write_log([row])
            self._callbacks.on_log(self.training_config, losses, global_step=row.epoch)
            if time.monotonic() >= self._next_checkpoint:
                write_checkpoint()
                self._next_checkpoint = time.monotonic() + self.checkpoint_every_seconds
            if self.on_epoch is not None:
                self.on_epoch(row)
        except BaseException:
            write_checkpoint()
            raise
        set_random_state(random)  # what `on_log` and `on_epoch` drew changes nothing

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if moved["data"].dim() == 4:
            moved["data"] = moved["data"].to(memory_format=self._layout)
        return moved

    def _save(self, folder: Path) -> None:
        self.model.save(str(folder))
        self.training_config.save_json(str(folder), "training_config")
