"""Experiments that take no time."""

from pathlib import Path
from types import SimpleNamespace

import yaml

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.plan import expand
from pythae_fif.data import Splits, load_images

PROFILE = {
    "note": "a test", "epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "num_samples": 20,
    "train_size": 60, "val_size": 20, "test_size": 20, "max_configurations": 2,
}  # fmt: skip


def write_tiny(folder: Path, profile: dict | None = None, **values) -> Path:
    """A file of an experiment that takes no time: keys of its profile, and others."""
    content = {"profile": "tiny", "profiles": {"tiny": {**PROFILE, **(profile or {})}},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**content, **values}))
    return file


def tiny(tmp_path: Path, flags: dict | None = None, **profile) -> Experiment:
    """An experiment on the digits that takes no time."""
    return load_experiment("digits", flags or {}, write_tiny(tmp_path, profile))


def splits_of(experiment: Experiment) -> Splits:
    """Its digits."""
    used = experiment.active_profile
    return load_images("digits").subset(used.train_size, used.val_size, used.test_size)


def plan_of(tmp_path: Path, flags: dict | None = None, **profile) -> list[ImageSpec]:
    """The runs of a tiny experiment."""
    experiment = tiny(tmp_path, flags, **profile)
    return expand(experiment, splits_of(experiment))


def of_shape(*shape: int, content_hash: str = "0" * 16, train: int = 60) -> SimpleNamespace:
    """What a plan needs to know of data that are not there."""
    return SimpleNamespace(
        input_dim=shape, content_hash=content_hash, train=range(train), labels=None
    )
