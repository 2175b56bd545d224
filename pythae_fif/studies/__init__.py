"""Studies: experiments that are one command each, and end in figures, CSV tables and captions."""

__all__ = ["DATASETS", "STUDIES", "OnProgress", "StudyOptions", "run_study"]

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pythae_fif.data.toy import TOY_DATA
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import require_writable

STUDIES: dict[str, str] = {
    "sinusoid": "figures 3 and 7: which direction of a noisy sinusoid is learnt, against beta",
    "linear": "appendix C: the directions that a linear model picks, against theorem C.4",
    "estimator": "figure 6 and appendix D.3: the noise of the trace estimator",
    "spectrum": "figures 8 and 9: what a conditional model's decoder spans, on MNIST",
    "toy": "the density on a toy manifold (--dataset two_moons, circle, spiral, torus, ...)",
    "curvature": "figures 2, 12 and 13: what on-manifold training does to the manifold",
    "tabular": "tables 1 and 5: FIF against rectangular flows on tabular data",
    "ablation": "tables 6 and 7: estimator, network, and on- or off-manifold training",
}
"""Name of a study -> one line on it; the module of that name in this package runs it."""

DATASETS: dict[str, str] = {
    **{name: "toy" for name in TOY_DATA},
    "sinusoid": "sinusoid",
    **dict.fromkeys(("power", "gas", "hepmass", "miniboone", "csv"), "tabular"),
}
"""Name of a data set that is not an image benchmark -> the study that ``--dataset`` starts."""

PROFILES = ("quick", "paper")
PROFILES_IN_YAML = ("tabular", "ablation")
"""Studies whose profiles are in the YAML files of their data sets, which may have others."""

OnProgress = Callable[[str, float], None]
"""Is told what is being done, and the share of the study that is done, in [0, 1]."""


@dataclass(frozen=True)
class StudyOptions:
    """What the command line tells a study.

    Attributes:
        results: Folder whose ``figures/`` and ``tables/`` are written to.
        data_root: Where data sets are; None for the default.
        offline: Never download.
        dataset: The data set, for studies that have several.
        data: Your own file, for ``--dataset csv``.
        models: Models to compare; None for the study's own choice.
        seeds: Seeds; None for the profile's own.
        profile: ``paper`` for the full protocol, ``quick`` for minutes on two cores;
            tables of numbers also have ``equal_time``.
        latent_dim: Latent dimension; None for the study's own.
        command: The command that is written below tables.
    """

    results: Path
    data_root: str | None = None
    offline: bool = False
    dataset: str | None = None
    data: str | None = None
    models: list[str] | None = None
    seeds: list[int] | None = None
    profile: str = "quick"
    latent_dim: int | None = None
    command: str = ""


def run_study(name: str, options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Runs a study.

    Args:
        name: A key of ``STUDIES``.
        options: What to run it on.
        on_progress: Is told how far it is.

    Returns:
        The files written: PNG figures with a Markdown caption beside each, CSV and tables.

    Raises:
        ConfigError: An unknown study or profile.
        StoreError: The folder of results cannot be written.
    """
    if name not in STUDIES:
        raise ConfigError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    if name not in PROFILES_IN_YAML and options.profile not in PROFILES:
        raise ConfigError(
            f"profile {options.profile!r} is unknown: {did_you_mean(options.profile, PROFILES)}"
        )
    require_writable(options.results, "choose another folder with --results")
    return import_module(f"{__name__}.{name}").run(options, on_progress)
