"""Experiments that take no time."""

from pathlib import Path

import yaml

from pythae_fif.benchmark import load_experiment
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.runs.kind import Environment

PROFILE = {
    "note": "a test", "epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "num_samples": 20,
    "train_size": 60, "val_size": 20, "test_size": 20, "configurations": 2,
}  # fmt: skip
ENVIRONMENT = Environment(offline=True)


def tiny(tmp_path: Path, flags: dict | None = None, **profile):
    """An experiment on the digits that takes no time, and its splits."""
    content = {"profile": "tiny", "profiles": {"tiny": {**PROFILE, **profile}},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content))
    experiment = load_experiment("digits", file, flags or {})
    splits = load_splits("digits", experiment.image_size, experiment.settings, ENVIRONMENT)
    return experiment, splits
