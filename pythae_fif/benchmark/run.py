"""One run, from its folder to its record: training, samples, scores, pictures."""

__all__ = ["execute", "interrupt_after_epoch", "is_done", "trainer_of", "training_config"]

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import AutoModel, BaseAE
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.inputs import load_extractor, load_splits, references_of
from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.plan import SCHEMA, RunSpec, build_model
from pythae_fif.benchmark.sheets import write_sheets
from pythae_fif.benchmark.yaml_files import import_class
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.errors import ClaimLostError, FIFError, NonFiniteError, StoreError
from pythae_fif.evaluation import reconstruction_mse, score_samples
from pythae_fif.files import read_json, remove_temporaries, set_aside, write_json
from pythae_fif.runs.provenance import git_state, provenance
from pythae_fif.runs.records import is_whole, seal
from pythae_fif.runs.remote import mirrored, own
from pythae_fif.runs.store import read_config, whole_record
from pythae_fif.sampling.samplers import FIT_STEPS, embed, generate, reconstruct
from pythae_fif.training import BenchmarkTrainer, build_trainer
from pythae_fif.training.benchmark_trainer import OnEpoch
from pythae_fif.training.tensorboard import tensorboard_writer

logger = logging.getLogger(__name__)


def execute(run_dir: str | Path) -> dict[str, Any]:
    """Trains and scores the run that `config.yaml` describes; goes on with what is there already.

    The run is claimed before anything is read or written: while another process works on it, on
    this machine or another, this one waits, and then has no more to do than what is missing.

    A training that was cut off is resumed, a trained model is not trained again, and samplers
    that were scored before keep their scores; if the model is gone, all of them are scored anew
    with the one that is trained in its place. `status.json` follows along, `result.json` holds
    the record in the end.

    Args:
        run_dir: A folder made by :meth:`Store.prepare`, or the URL of one in a store at a URL.

    Returns:
        The record.

    Raises:
        FIFError: What went wrong, after `status.json` got its state `failed` and the traceback.
            If it was a sampler, the record holds the scores of the others.
        ClaimLostError: The process stood still until another was given the run.
    """
    run_dir = mirrored(run_dir)
    url = (read_json(run_dir / "environment.json") or {}).get("url")
    with own(run_dir, url) as check:
        return _claimed(run_dir, _Status(run_dir / "status.json", check))


def _claimed(run_dir: Path, status: "_Status") -> dict[str, Any]:
    """`execute` once the run is this process's own."""
    try:
        if is_done(run_dir):  # by another, while this process waited
            if status.state != "finished":
                status.write("finished", "done", 1.0)
            return read_json(run_dir / "result.json")
        remove_temporaries(run_dir)
        return _execute(run_dir, status)
    except ClaimLostError:
        raise  # whatever is in the folder now is another's
    except KeyboardInterrupt:
        if is_done(run_dir):  # it came when the record was there and the status not yet
            status.write("finished", "done", 1.0)
        else:
            status.write("interrupted")
        raise
    except BaseException as error:
        written = _without_folders(traceback.format_exc(), run_dir)
        with contextlib.suppress(StoreError):  # the cause is worth more: perhaps the disk is full
            status.write("failed", error=_without_folders(_line(error), run_dir), traceback=written)
        raise


def _execute(run_dir: Path, status: "_Status") -> dict[str, Any]:
    started = time.time()
    git_state()  # of the code that runs, before an editor changes it
    spec = _spec_of(run_dir)
    if spec.run_id != run_dir.name:
        raise FIFError(
            f"config.yaml describes run {spec.run_id}, not {run_dir.name}: was it edited?"
        )
    environment = read_json(run_dir / "environment.json")
    before = whole_record(run_dir / "result.json", spec) or {}
    status.write("running", "loading data", 0.0)
    splits = load_splits(spec, environment, spec.settings)
    if splits.content_hash != spec.data_hash:
        raise FIFError(
            f"the data of {spec.dataset} changed since the plan was made "
            f"({splits.content_hash}, not {spec.data_hash}): start the benchmark again"
        )
    watch = tensorboard_writer(run_dir) if environment.get("tensorboard") else None
    model, training = trained_model(spec, splits, run_dir, status, watch)
    wanted = dict.fromkeys((*spec.samplers, *before.get("scores", {})))
    if before.get("training") != training:  # those scores are of a model that is gone
        before = {}
    device = str(next(model.parameters()).device)

    status.write("running", "sampling and scoring", 0.9)
    extractor = load_extractor(spec.extractor, splits, environment, device)
    features, references = references_of(splits, extractor)
    codes = embed(model, splits.train, seed=spec.seed)
    samples, scores, sampling_seconds = {}, before.get("scores", {}), {}
    failures: dict[str, Exception] = {}
    for sampler in wanted:
        if sampler in scores:
            continue
        start = time.perf_counter()
        try:
            samples[sampler] = generate(
                sampler,
                model,
                codes,
                num_samples=spec.settings["num_samples"],
                seed=spec.seed,
                fit_steps=spec.settings.get("fit_steps", FIT_STEPS),
            )
            sampling_seconds[sampler] = round(time.perf_counter() - start, 3)
            scores[sampler] = score_samples(
                samples[sampler], extractor, references, features=features, seed=spec.seed
            ).to_dict()
        except Exception as error:  # of this sampler alone; it is raised below
            failures[sampler] = error
    made = {**provenance(device, started), "attempts": status.attempt}
    # Of samplers that were asked for when the record was there already.
    later = dict.fromkeys(sampling_seconds, made) if before else {}
    record = {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "scores": scores,
        "reconstruction_mse": {
            split: reconstruction_error(model, splits[split], spec.seed)
            for split in ("val", "test")
        },
        "training": training,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampling_seconds": before.get("sampling_seconds", {}) | sampling_seconds,
        "data": {
            "source": splits.source,
            "partial": splits.partial,
            "sizes": {split: len(splits[split]) for split in ("train", "val", "test")},
            "hash": splits.content_hash,
        },
        "extractor_accuracy": getattr(extractor, "accuracy", None),
        "seed": spec.seed,
        "provenance": before.get("provenance") or made,
        "later_provenance": before.get("later_provenance", {}) | later,
    }
    record = seal(record)
    if scores:
        # After the pictures: a run that has a record is not done again. Before the status: a run
        # that is called finished has one.
        status.check()
        write_sheets(run_dir, model, splits, codes, samples)
        write_json(run_dir / "result.json", record)
    if not failures:
        status.write("finished", "done", 1.0)
    for sampler, cause in failures.items():
        raise FIFError(f"sampler {sampler}: {_line(cause)}") from cause
    return record


def _spec_of(run_dir: Path) -> RunSpec:
    return RunSpec.from_dict(read_config(run_dir)["spec"])


def is_done(run_dir: Path) -> bool:
    """Whether the record is there, with the scores of all samplers that are asked for."""
    spec, record = _spec_of(run_dir), read_json(run_dir / "result.json")
    return is_whole(record, spec) and set(spec.samplers) <= set(record["scores"])


def trained_model(
    spec: RunSpec,
    splits: Splits,
    run_dir: Path,
    status: "_Status",
    watch: OnEpoch | None = None,
) -> tuple[BaseAE, dict[str, Any]]:
    """The model of a run and how it was trained, which an earlier attempt may have done already."""
    path = run_dir / "training.json"
    training = read_json(path)
    model = None if training is None else _saved_model(run_dir)
    if model is not None:
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), training

    def on_epoch(epoch: int, epochs: int, row: dict[str, Any]) -> None:
        status.write("running", "training", 0.9 * row.get("share_done", epoch / epochs))
        if watch is not None:
            watch(epoch, epochs, row)
        if _interrupt.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0)  # not into the checkpoint that is written now
            raise KeyboardInterrupt

    trainer = trainer_of(spec, splits, run_dir, on_epoch)
    _training.set()
    try:
        result = trainer.train()
    finally:
        _training.clear()
    training = {
        **vars(result),
        "surrogate_mode": getattr(trainer.model, "surrogate_mode", None),
        **git_state(),
    }
    write_json(path, training)
    return trainer.model, training


_training, _interrupt = threading.Event(), threading.Event()


def interrupt_after_epoch(patience: float) -> None:
    """For a signal's handler: raises KeyboardInterrupt where the run loses least.

    That is after the epoch under way, when a checkpoint is written, but at the latest in
    `patience` seconds, and at once where nothing is being trained.
    """
    if not _training.is_set():
        raise KeyboardInterrupt
    _interrupt.set()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, patience)


def _saved_model(run_dir: Path) -> BaseAE | None:
    """The trained model, or None if there is none; one that cannot be read is set aside."""
    folder = run_dir / "model"
    if not folder.is_dir():
        return None
    try:
        return AutoModel.load_from_folder(str(folder))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises anything
        aside = set_aside(folder)
        logger.warning("%s cannot be read (%s): set aside as %s", folder, _line(error), aside.name)
        return None


def trainer_of(
    spec: RunSpec,
    splits: Splits,
    run_dir: Path,
    on_epoch: OnEpoch | None = None,
) -> BenchmarkTrainer:
    """A fresh model of a run, seeded, in the trainer that trains it."""
    set_seed(spec.seed)
    trainer = build_trainer(
        build_model(spec, splits.input_dim),
        ImageDataset(splits.train),
        ImageDataset(splits.val),
        training_config(spec),
        run_dir=run_dir,
        on_epoch=on_epoch,
        wall_clock=spec.settings.get("wall_clock"),
    )
    trainer.keep_last = load_model_entry(spec.model).keep_last
    return trainer


def training_config(spec: RunSpec) -> Any:
    """Pythae's training configuration of a run: Adam, halved on a plateau (appendix E.4)."""
    settings = spec.settings
    config_class = import_class(load_model_entry(spec.model).trainer, spec.model)
    plateau = {"factor": settings["plateau_factor"], "patience": settings["plateau_patience"]}
    parts = ("encoder_", "decoder_", "autoencoder_", "discriminator_")
    optimisation: dict[str, Any] = {}
    for part in [part for part in parts if hasattr(config_class, f"{part}learning_rate")] or [""]:
        optimisation[f"{part}learning_rate"] = settings["learning_rate"]
        if "weight_decay" in settings:
            optimisation[f"{part}optimizer_params"] = {"weight_decay": settings["weight_decay"]}
        optimisation[f"{part}scheduler_cls"] = "ReduceLROnPlateau"
        optimisation[f"{part}scheduler_params"] = plateau
    return config_class(
        num_epochs=settings.get("epochs", 1),  # a wall clock knows none
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        seed=spec.seed,
        **optimisation,
    )


def reconstruction_error(model: BaseAE, images: np.ndarray, seed: int) -> float:
    """Mean squared error a pixel of the model's reconstructions of images in [0, 1].

    Raises:
        NonFiniteError: It is NaN or infinite.
    """
    set_seed(seed)
    errors = []
    for part in torch.arange(len(images)).split(200):
        batch = images[part.numpy()]
        originals = ImageDataset(batch).batch(torch.arange(len(batch))).data
        errors.append(reconstruction_mse(originals, reconstruct(model, batch)))
    mean = torch.cat(errors).mean().item()
    if not math.isfinite(mean):
        raise NonFiniteError(f"the mean squared error of the reconstructions is {mean}")
    return mean


def _line(error: BaseException) -> str:
    """An error as one line."""
    text = str(error) if isinstance(error, FIFError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


def _without_folders(text: str, run_dir: Path) -> str:
    """A message or traceback without the folders of this machine: `status.json` may be shared."""
    checkout = Path(__file__).parents[2]
    places = {str(path).rstrip(os.sep) for path in (run_dir, checkout, *sys.path)}
    for place in sorted(places - {"", "."}, key=len, reverse=True):
        text = text.replace(place + os.sep, "")
    return text


class _Status:
    """`status.json`: what the run does at the moment, for the display and for the next start."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self.path = path
        self.check = check  # raises once the run is another's
        before = read_json(path) or {}
        self.state = before.get("state")
        self.attempt = 1 + before.get("attempt", 0)
        self.written = 0.0

    def write(self, state: str, stage: str = "", progress: float = 0.0, **more: str) -> None:
        """Replaces the file, while the run is this process's own; in training twice a second."""
        self.check()
        now = time.monotonic()
        if stage == "training" and now - self.written < 0.5:
            return
        self.written = now
        content = {"state": state, "stage": stage, "progress": round(progress, 4)}
        write_json(self.path, {**content, "attempt": self.attempt, **more})
