"""Experiments that take no time."""

from pathlib import Path
from types import SimpleNamespace

import yaml

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.plan import plan
from pythae_fif.data import Splits, load_images
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from support.tabular_files import table, write_csv

PROFILE = {
    "note": "a test", "epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "num_samples": 20,
    "train_size": 60, "val_size": 20, "test_size": 20, "max_configurations": 2,
}  # fmt: skip


def write_tiny(folder: Path, profile: dict | None = None, **values) -> Path:
    """Writes the file of an experiment that takes no time.

    Args:
        folder: Folder of the file.
        profile: Keys of its profile.
        values: Further keys of the experiment.
    """
    content = {
        "profile": "tiny",
        "profiles": {"tiny": {**PROFILE, **(profile or {})}},
        "extractor": "pixels",
        "models": ["ae"],
        "samplers": ["normal"],
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**content, **values}))
    return file


def tiny_experiment(tmp_path: Path, flags: dict | None = None, **profile) -> Experiment:
    """Loads an experiment on the digits that takes no time."""
    return load_experiment("digits", flags or {}, write_tiny(tmp_path, profile))


def load_splits(experiment: Experiment) -> Splits:
    """Loads the digits of an experiment."""
    profile = experiment.active_profile
    return load_images("digits").subset(profile.train_size, profile.val_size, profile.test_size)


def make_tiny_plan(tmp_path: Path, flags: dict | None = None, **profile) -> list[Job]:
    """Lists the jobs of a tiny experiment."""
    experiment = tiny_experiment(tmp_path, flags, **profile)
    return plan(experiment, load_splits(experiment))


def fake_splits(*shape: int, content_hash: str = "0" * 16, num_train: int = 60) -> SimpleNamespace:
    """Returns what a plan needs to know of data, without the data."""
    return SimpleNamespace(
        input_dim=shape,
        content_hash=content_hash,
        train=range(num_train),
        labels=None,
        class_names=None,
    )


def train_on_table(folder: Path, models: list[str]) -> tuple[Store, list[Job]]:
    """Trains models on a table of 120 rows, `table.csv`, which is written into the folder.

    Returns:
        The store, and the jobs.
    """
    write_csv(folder / "table.csv", table() * [1, 100, 0.01], "a,b,c")
    flags = {"data": str(folder / "table.csv"), "models": models, "seeds": [0, 1]}
    file = write_tiny(folder, extractor="columns", arch="tabular")
    experiment = load_experiment("csv", flags, file)
    jobs = plan(experiment, load_images("csv", data=experiment.data).subset(60, 12, 12))
    store = Store(folder / "results")
    for job in jobs:
        execute_run(job, store)
    return store, jobs
