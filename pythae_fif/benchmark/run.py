"""One run, from its folder to its record: data, networks, training, samples, scores."""

__all__ = ["execute"]

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from pythae.models import AutoModel, BaseAE
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.data import ImageDataset, Splits, load_images
from pythae_fif.data.locations import cache_home
from pythae_fif.errors import FIFError
from pythae_fif.evaluation import (
    Extractor,
    FeatureStatistics,
    build_extractor,
    reconstruction_mse,
    reference_features,
    reference_statistics,
    score_samples,
)
from pythae_fif.nn import build_networks
from pythae_fif.trainers import build_trainer

from .config import import_class, load_model_entry
from .plan import SCHEMA, RunSpec
from .samplers import embed, generate
from .store import read_json, write_json

SHEET = 8  # rows and columns of a sheet of samples


def load_splits(spec_or_experiment: Any, environment: dict[str, Any], settings: Any) -> Splits:
    """The images of a run or an experiment, cut to the sizes of its profile."""
    splits = load_images(
        spec_or_experiment.dataset,
        environment["data_root"],
        data=environment["data"],
        image_size=spec_or_experiment.image_size,
        download=not environment["offline"],
        skip_undecodable=environment["skip_undecodable"],
        progress=environment.get("progress"),
    )
    return splits.subset(
        train=settings["train_size"], val=settings["val_size"], test=settings["test_size"]
    )


def load_extractor(
    name: str, splits: Splits, environment: dict[str, Any], device: str = "cpu"
) -> Extractor:
    """The extractor of an experiment; a classifier is trained once and cached."""
    labels = splits.labels
    return build_extractor(
        name,
        torch.from_numpy(splits.train),
        None if labels is None else torch.from_numpy(labels["train"]),
        data_hash=splits.content_hash,
        holdout=(
            None
            if labels is None
            else (torch.from_numpy(splits.test), torch.from_numpy(labels["test"]))
        ),
        cache_dir=cache_home(),
        device=device,
        inception_weights=environment["inception_weights"],
        download=not environment["offline"],
    )


def execute(run_dir: str | Path) -> dict[str, Any]:
    """Trains and scores the run that `config.yaml` describes; resumes it if it was cut off.

    `status.json` follows along, `result.json` holds the record in the end.

    Args:
        run_dir: A folder made by :meth:`Store.prepare`.

    Returns:
        The record.

    Raises:
        FIFError: What went wrong, after `status.json` got its state `failed` and the traceback.
    """
    run_dir = Path(run_dir)
    status = _Status(run_dir / "status.json")
    try:
        record = _execute(run_dir, status)
        write_json(run_dir / "result.json", record)
        status.write("finished", "done", 1.0)
        return record
    except KeyboardInterrupt:
        status.write("interrupted")
        raise
    except BaseException as error:
        line = str(error) if isinstance(error, FIFError) else f"{type(error).__name__}: {error}"
        status.write("failed", error=line.splitlines()[0], traceback=traceback.format_exc())
        raise


def _execute(run_dir: Path, status: "_Status") -> dict[str, Any]:
    started = time.time()
    spec = RunSpec.from_dict(yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))["spec"])
    environment = read_json(run_dir / "environment.json")
    status.write("running", "loading data", 0.0)
    splits = load_splits(spec, environment, spec.settings)
    if splits.content_hash != spec.data_hash:
        raise FIFError(
            f"the data of {spec.dataset} changed since the plan was made "
            f"({splits.content_hash}, not {spec.data_hash}): start the benchmark again"
        )
    model, training = trained_model(spec, splits, run_dir, status)
    device = str(next(model.parameters()).device)

    status.write("running", "sampling and scoring", 0.9)
    extractor = load_extractor(spec.extractor, splits, environment, device)
    features, references = references_of(splits, extractor)
    codes = embed(model, splits.train)
    scores, sheets, sampling_seconds = {}, [], {}
    for sampler in spec.samplers:
        start = time.perf_counter()
        samples = generate(
            sampler,
            model,
            codes,
            splits.train,
            num_samples=spec.settings["num_samples"],
            seed=spec.seed,
        )
        sampling_seconds[sampler] = round(time.perf_counter() - start, 3)
        scores[sampler] = score_samples(
            samples, extractor, references, features=features, seed=spec.seed
        )
        sheets.append(sheet(samples[: SHEET * SHEET]))
    Image.fromarray(np.concatenate(sheets, axis=1).squeeze()).save(run_dir / "samples.png")

    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "scores": scores,
        "reconstruction_mse": {
            split: reconstruction_error(model, splits[split]) for split in ("val", "test")
        },
        "training": training,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampling_seconds": sampling_seconds,
        "data": {
            "source": splits.source,
            "partial": splits.partial,
            "sizes": {split: len(splits[split]) for split in ("train", "val", "test")},
        },
        "extractor_accuracy": getattr(extractor, "accuracy", None),
        "provenance": provenance(device, started),
    }


def references_of(
    splits: Splits, extractor: Extractor
) -> tuple[dict[str, Tensor], dict[str, FeatureStatistics]]:
    """Features of the validation and test images and their statistics, computed once a machine."""
    features, statistics = {}, {}
    for split in ("val", "test"):
        images = torch.from_numpy(splits[split])
        key: dict[str, Any] = {
            "data_hash": splits.content_hash, "split": split, "cache_dir": cache_home()
        }  # fmt: skip
        # In this order: the statistics are made of the features that are there.
        features[split] = reference_features(images, extractor, **key)
        statistics[split] = reference_statistics(images, extractor, **key)
    return features, statistics


def trained_model(
    spec: RunSpec, splits: Splits, run_dir: Path, status: "_Status"
) -> tuple[BaseAE, dict[str, Any]]:
    """The model of a run and how it was trained, which an earlier attempt may have done already."""
    path = run_dir / "training.json"
    training = read_json(path)
    if training is not None:
        model = AutoModel.load_from_folder(str(run_dir / "model"))
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), training
    set_seed(spec.seed)
    model = build_model(spec, splits.input_dim)
    trainer = build_trainer(
        model,
        ImageDataset(splits.train),
        ImageDataset(splits.val),
        training_config(spec),
        run_dir=run_dir,
        on_epoch=lambda epoch, epochs, _: status.write("running", "training", 0.9 * epoch / epochs),
    )
    training = {
        **vars(trainer.train()),
        "surrogate_mode": getattr(model, "surrogate_mode", None),
        "git_revision": _git_revision(),
    }
    write_json(path, training)
    return model, training


def build_model(spec: RunSpec, input_dim: tuple[int, ...]) -> BaseAE:
    """A fresh model of a run; seed torch before."""
    entry = load_model_entry(spec.model)
    encoder, decoder = build_networks(
        spec.arch, input_dim, spec.latent_dim, variational=entry.variational
    )
    config = import_class(entry.config, spec.model)(
        input_dim=input_dim, latent_dim=spec.latent_dim, **spec.parameters
    )
    return import_class(entry.model, spec.model)(config, encoder=encoder, decoder=decoder)


def training_config(spec: RunSpec) -> Any:
    """Pythae's training configuration of a run: Adam, halved on a plateau (appendix E.4)."""
    settings = spec.settings
    config_class = import_class(load_model_entry(spec.model).trainer, spec.model)
    plateau = {"factor": settings["plateau_factor"], "patience": settings["plateau_patience"]}
    prefixes = ("encoder_", "decoder_") if hasattr(config_class, "encoder_optimizer_cls") else ("",)
    optimisation: dict[str, Any] = {}
    for prefix in prefixes:
        optimisation[f"{prefix}learning_rate"] = settings["learning_rate"]
        optimisation[f"{prefix}scheduler_cls"] = "ReduceLROnPlateau"
        optimisation[f"{prefix}scheduler_params"] = plateau
    return config_class(
        num_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        seed=spec.seed,
        **optimisation,
    )


@torch.no_grad()
def reconstruction_error(model: BaseAE, images: np.ndarray, batch_size: int = 200) -> float:
    """Mean squared error a pixel of the model's reconstructions of images in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    dataset = ImageDataset(images)
    errors = []
    for part in torch.arange(len(images)).split(batch_size):
        batch = dataset.batch(part, device=device)
        errors.append(reconstruction_mse(batch.data, model(batch).recon_x).cpu())
    return torch.cat(errors).mean().item()


def sheet(samples: Tensor) -> np.ndarray:
    """Images in [0, 1] side by side, (rows * H, columns * W, C) uint8."""
    images = (samples.clamp(0, 1) * 255).round().byte().numpy()
    missing = SHEET * SHEET - len(images)
    images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
    _, channels, height, width = images.shape
    grid = images.reshape(SHEET, SHEET, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(SHEET * height, SHEET * width, channels)


def provenance(device: str, started: float) -> dict[str, Any]:
    """Where, when and with what a record was made: nothing of it is in the run id."""
    packages = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    on_gpu = torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None
    return {
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "python": platform.python_version(),
        "git_revision": _git_revision(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "peak_memory_mb": _peak_memory_mb(),
        "peak_gpu_memory_mb": None if on_gpu is None else round(on_gpu),
    }


def _peak_memory_mb() -> int | None:
    """The largest resident size of this process so far, in MiB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with a + if it was changed."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


class _Status:
    """`status.json`: what the run does at the moment, for the display and for the next start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempt = 1 + (read_json(path) or {}).get("attempt", 0)
        self.written = 0.0

    def write(self, state: str, stage: str = "", progress: float = 0.0, **more: str) -> None:
        """Replaces the file; during training at most twice a second."""
        now = time.monotonic()
        if stage == "training" and now - self.written < 0.5:
            return
        self.written = now
        content = {"state": state, "stage": stage, "progress": round(progress, 4)}
        write_json(self.path, {**content, "attempt": self.attempt, **more})
