"""A study from the command line: the flags that it takes, its options and its progress."""

__all__ = ["run_command"]

import argparse
from pathlib import Path

from rich.console import Console

from pythae_fif import studies
from pythae_fif.benchmark.display import Display
from pythae_fif.benchmark.remote import is_url
from pythae_fif.errors import ConfigError

NOT_OF_STUDIES = (
    "arch", "beta", "hutchinson_samples", "samplers", "image_size", "extractor",
    "inception_weights", "config", "max_failures", "dry_run", "skip_undecodable", "wall_clock",
    "table", "shard", "tensorboard", "engine", "engine_config", "gpus", "runs_per_gpu",
    "cpus_per_run", "ray_address", "partition", "time", "account", "sbatch", "no_wait",
)  # fmt: skip
"""Flags that no study takes; of these four each takes its own:"""
OF_STUDIES = {
    "dataset": ("estimator", "spectrum", "toy", "tabular", "ablation"),
    "data": ("tabular", "ablation"),
    "latent_dim": ("estimator", "spectrum", "tabular", "ablation"),
    "models": ("tabular", "ablation"),
}


def run_command(name: str, flags: argparse.Namespace, command: str) -> int:
    """Runs a study as the flags say, and prints how far it is and what was written.

    Args:
        name: A key of :data:`~pythae_fif.studies.STUDIES`.
        flags: Those of the command line.
        command: The command as tables show it.

    Returns:
        The exit code.

    Raises:
        ConfigError: An unknown study, or a flag or value that it does not take.
    """
    refused = [*NOT_OF_STUDIES, *(key for key, takers in OF_STUDIES.items() if name not in takers)]
    for key in refused:
        starts_it = key == "dataset" and studies.DATASETS.get(flags.dataset) == name
        value = getattr(flags, key)
        if value is not None and value is not False and not starts_it:
            raise ConfigError(f"--{key.replace('_', '-')} is not for study {name}")
    console = Console(highlight=False)
    if is_url(flags.results):
        raise ConfigError(f"--results {flags.results}: studies write to a folder, not to a URL")
    options = studies.StudyOptions(
        results=Path(flags.results),
        data_root=flags.data_root,
        offline=flags.offline,
        dataset=flags.dataset,
        data=flags.data,
        models=flags.models,
        seeds=flags.seeds,
        profile=flags.profile or "quick",
        latent_dim=flags.latent_dim,
        command=command,
    )
    tenths = 0
    with Display(console, quiet=flags.quiet).stage(name) as progress:

        def watch(what: str, share: float) -> None:
            nonlocal tenths
            progress(round(100 * share), 100)
            if int(10 * share) > tenths and not flags.quiet:
                tenths = int(10 * share)
                console.print(f"{share:4.0%} {what}", markup=False)

        paths = studies.run_study(name, options, watch)
    console.print(f"written: {', '.join(map(str, paths))}", markup=False)
    return 0
