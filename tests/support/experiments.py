"""Experiments that take no time."""

from pathlib import Path

import yaml
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.runs.kind import Environment

from pythae_fif.benchmark.config import load_experiment

PROFILE = {
    "note": "a test", "epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "num_samples": 20,
    "train_size": 60, "val_size": 20, "test_size": 20, "configurations": 2,
}  # fmt: skip
ENVIRONMENT = Environment(offline=True)


def write_tiny(folder: Path, profile: dict | None = None, **values) -> Path:
    """A file of an experiment that takes no time: keys of its profile, and others."""
    content = {"profile": "tiny", "profiles": {"tiny": {**PROFILE, **(profile or {})}},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**content, **values}))
    return file


def tiny(tmp_path: Path, flags: dict | None = None, **profile):
    """An experiment on the digits that takes no time, and its splits."""
    file = write_tiny(tmp_path, profile)
    experiment = load_experiment("digits", file, flags or {})
    splits = load_splits("digits", experiment.image_size, experiment.settings, ENVIRONMENT)
    return experiment, splits
