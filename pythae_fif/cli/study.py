"""A study from the command line: the flags that it takes, its options and its progress."""

__all__ = ["run_command"]

import argparse
from pathlib import Path
from typing import get_args

from rich.console import Console

from pythae_fif import studies
from pythae_fif.benchmark.display import Display
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.remote import is_url

NOT_OF_STUDIES = (
    "arch", "beta", "hutchinson_samples", "samplers", "image_size", "extractor",
    "inception_weights", "config", "max_failures", "dry_run", "skip_undecodable", "wall_clock",
    "table", "shard", "tensorboard", "engine", "engine_config", "gpus", "runs_per_gpu",
    "cpus_per_run", "ray_address", "partition", "time", "account", "sbatch", "no_wait",
)  # fmt: skip
"""Flags that no study takes."""


def run_command(name: str, flags: argparse.Namespace) -> int:
    """Runs a study as the flags say, and prints how far it is and what was written.

    Args:
        name: A key of :data:`~pythae_fif.studies.STUDIES`.
        flags: Those of the command line.

    Returns:
        The exit code.

    Raises:
        ConfigError: An unknown study, or a flag or value that it does not take.
        StoreError: The folder of results cannot be written.
        KeyboardInterrupt: With what to say of it, if the study keeps nothing.
    """
    if name not in studies.STUDIES:
        raise ConfigError(f"study {name!r} is unknown: {did_you_mean(name, studies.STUDIES)}")
    study = studies.STUDIES[name]
    for key in (*NOT_OF_STUDIES, *set(get_args(studies.StudyOption)) - study.takes):
        value = getattr(flags, key)
        if value is not None and value is not False:
            raise ConfigError(f"--{key.replace('_', '-')} is not for study {name}")
    _check_values(study, flags)
    console = Console(highlight=False)
    if is_url(flags.results):
        raise ConfigError(f"--results {flags.results}: studies write to a folder, not to a URL")
    options = studies.StudyOptions(
        results=Path(flags.results).expanduser(),
        data_root=flags.data_root,
        offline=flags.offline,
        dataset=flags.dataset,
        data=flags.data,
        models=flags.models,
        seeds=flags.seeds or (),
        profile=flags.profile or "quick",
        latent_dim=flags.latent_dim,
    )
    tenths = 0
    with Display(console, quiet=flags.quiet).stage(name) as progress:

        def watch(what: str, share: float) -> None:
            nonlocal tenths
            progress(round(100 * share), 100)
            if int(10 * share) > tenths and not flags.quiet:
                tenths = int(10 * share)
                console.print(f"{share:4.0%} {what}", markup=False)

        try:
            paths = studies.run_study(name, options, watch)
        except KeyboardInterrupt:
            if study.keeps_runs:
                raise
            raise KeyboardInterrupt(
                "this study keeps nothing of an unfinished run; the same command starts anew"
            ) from None
    console.print(f"written: {', '.join(map(str, paths))}", markup=False)
    return 0


def _check_values(study: studies.Study, flags: argparse.Namespace) -> None:
    """Every number must be in range and no value given twice, as in the benchmark."""
    for key in ("models", "seeds"):
        values = getattr(flags, key) or []
        if len(set(values)) < len(values):
            raise ConfigError(f"--{key} {values}: give at least one value, and none twice")
    for seed in flags.seeds or []:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"--seeds {seed}: a seed is at least 0 and below 2^32")
    if study.one_seed and len(flags.seeds or []) > 1:
        raise ConfigError(f"--seeds {flags.seeds}: study {study.name} takes one seed")
    if flags.latent_dim is not None and flags.latent_dim < 1:
        raise ConfigError(f"--latent-dim {flags.latent_dim}: at least 1 is needed")
