"""Studies: experiments that are one command each, and end in figures, CSV tables and captions.

This module declares them and imports none of them, so that a command line can list them at once.
"""

__all__ = [
    "DATASETS",
    "STUDIES",
    "OnProgress",
    "Study",
    "StudyOption",
    "StudyOptions",
    "command_of",
    "run_study",
]

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pythae_fif.data.names import DATASETS as OF_BENCHMARK
from pythae_fif.data.names import TABULAR_DATASETS, TOY_DATASETS
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import require_writable

if TYPE_CHECKING:
    from pythae_fif.runs.engines.common import Engine  # which imports torch

OnProgress = Callable[[str, float], None]
"""Is told what is being done, and the share of the study that is done, in [0, 1]."""

StudyOption = Literal["data", "latent_dim", "models"]
"""A field of :class:`StudyOptions` that only some studies take; its flag has the same name."""


@dataclass(frozen=True)
class Study:
    """What a study is, and what it can be asked.

    Attributes:
        name: Of the study, and of the module of this package whose ``run`` runs it.
        description: One line.
        profiles: Name of a profile -> its number of seeds, which then are 0, 1, ...; empty where
            the profiles are those of the data set's YAML file, with five seeds.
        takes: The options that it takes beside those that all studies take.
        datasets: The data sets that it can be asked for; empty where it makes its own data.
        dataset: The one that it uses if none is asked for; None if it then uses all it finds.
    """

    name: str
    description: str
    profiles: Mapping[str, int] = field(default_factory=dict)
    takes: frozenset[StudyOption] = frozenset()
    datasets: tuple[str, ...] = ()
    dataset: str | None = None

    @property
    def one_seed(self) -> bool:
        """Whether it takes a single seed, as all its profiles do."""
        return set(self.profiles.values()) == {1}


_IMAGES = tuple(name for name in OF_BENCHMARK if name not in ("folder", "npz", "csv"))
"""Those that need no `--data`."""
_OF_TABLES = Study(
    "tabular",
    "tables 1 and 5: FIF against rectangular flows on tabular data",
    takes=frozenset({"data", "latent_dim", "models"}),
    datasets=TABULAR_DATASETS,
    dataset="miniboone",
)
_ALL = (
    Study(
        "sinusoid",
        "figures 3 and 7: which direction of a noisy sinusoid is learnt, against beta",
        {"quick": 20, "paper": 20, "released": 20},
        datasets=("sinusoid",),
        dataset="sinusoid",
    ),
    Study(
        "linear",
        "appendix C: the directions that a linear model picks, against theorem C.4",
        {"quick": 1, "paper": 1},
    ),
    Study(
        "estimator",
        "figure 6 and appendix D.3: the noise of the trace estimator",
        {"quick": 1, "paper": 1},
        frozenset({"latent_dim"}),
        datasets=_IMAGES,
        dataset="mnist",
    ),
    Study(
        "spectrum",
        "figures 8 and 9: what a conditional model's decoder spans, on MNIST",
        {"quick": 2, "paper": 5},
        frozenset({"latent_dim"}),
        datasets=_IMAGES,
        dataset="mnist",
    ),
    Study(
        "toy",
        "the density on a toy manifold (--dataset two_moons, circle, spiral, torus, ...)",
        {"quick": 3, "paper": 20},
        datasets=TOY_DATASETS,
        dataset="sinusoid",
    ),
    Study(
        "curvature",
        "figures 2, 12 and 13: what on-manifold training does to the manifold",
        {"quick": 5, "paper": 20},
    ),
    _OF_TABLES,
    dataclasses.replace(
        _OF_TABLES,
        name="ablation",
        description="tables 6 and 7: estimator, network, and on- or off-manifold training",
        dataset=None,
    ),
)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
"""Name of a study -> its declaration."""

DATASETS: dict[str, str] = {
    name: study.name
    for study in reversed(STUDIES.values())
    for name in study.datasets
    if name not in OF_BENCHMARK
}
"""Name of a data set that is not of the benchmark -> the study that ``--dataset`` starts: the first
that has it."""


@dataclass(frozen=True)
class StudyOptions:
    """What a study is asked for.

    Attributes:
        results: Folder whose ``figures/`` and ``tables/`` are written to.
        data_root: Where data sets are; None for the default.
        offline: Never download.
        dataset: The data set; None for the study's own choice.
        data: Your own file, for ``--dataset csv``.
        models: Models to compare; None for the study's own choice.
        seeds: Empty for the profile's own.
        profile: ``paper`` for the full protocol where the paper has one, ``quick`` for minutes on
            two cores; some studies have ``released``, the protocol of the authors' code, tables of
            numbers ``equal_time``.
        latent_dim: Latent dimension; None for the study's own.
        engine: Does the study's runs; None for this machine, as the study shares it out.
        run_timeout: As of :class:`~pythae_fif.runs.engines.Batch`.
        command: Stands below figures and tables; :func:`run_study` sets it.
    """

    results: Path
    data_root: str | None = None
    offline: bool = False
    dataset: str | None = None
    data: str | None = None
    models: list[str] | None = None
    seeds: Sequence[int] = ()
    profile: str = "quick"
    latent_dim: int | None = None
    engine: "Engine | None" = None
    run_timeout: float | None = None
    command: str = ""


def command_of(study: Study, options: StudyOptions) -> str:
    """The shortest command that runs a study with these options, without this machine's folders.

    Example:
        >>> command_of(STUDIES["toy"], StudyOptions(Path("results"), seeds=[3], dataset="torus"))
        'python run_benchmark.py study toy --dataset torus --seeds 3'
    """
    usual_seeds = list(options.seeds) == _usual_seeds(study, options)
    flags: dict[str, Sequence[object]] = {
        "--dataset": [] if options.dataset in (None, study.dataset) else [options.dataset],
        "--data": [] if options.data is None else [Path(options.data).name],
        "--profile": [] if options.profile == StudyOptions.profile else [options.profile],
        "--models": options.models or [],
        "--seeds": [] if usual_seeds else options.seeds,
        "--latent-dim": [] if options.latent_dim is None else [options.latent_dim],
    }
    words = [word for flag, values in flags.items() if values for word in (flag, *map(str, values))]
    return shlex.join(["python", "run_benchmark.py", "study", study.name, *words])


def run_study(name: str, options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Runs a study.

    Args:
        name: A key of ``STUDIES``.
        options: What to run it on.
        on_progress: Is told how far it is.

    Returns:
        The files written: PNG figures with a Markdown caption beside each, CSV and tables.

    Raises:
        ConfigError: An unknown study, data set or profile, or seeds for a study that takes one.
        StoreError: The folder of results cannot be written.
    """
    if name not in STUDIES:
        raise ConfigError(f"study {name!r} is unknown: {did_you_mean(name, STUDIES)}")
    study, profile, dataset = STUDIES[name], options.profile, options.dataset
    if study.profiles and profile not in study.profiles:
        raise ConfigError(
            f"profile {profile!r} is unknown: {did_you_mean(profile, study.profiles)}"
        )
    if dataset is not None and study.datasets and dataset not in study.datasets:
        hint = did_you_mean(dataset, study.datasets)
        raise ConfigError(f"study {name} has no data set {dataset!r}: {hint}")
    if study.one_seed and len(options.seeds) > 1:
        raise ConfigError(f"--seeds {list(options.seeds)}: study {name} takes one seed")
    require_writable(options.results, "choose another folder with --results")
    resolved = dataclasses.replace(
        options,
        dataset=dataset or study.dataset,
        seeds=options.seeds or _usual_seeds(study, options),
        command=command_of(study, options),
    )
    return import_module(f"{__name__}.{name}").run(resolved, on_progress)  # type: ignore[no-any-return] # the module is known at run time alone


def _usual_seeds(study: Study, options: StudyOptions) -> list[int]:
    return list(range(study.profiles.get(options.profile, 5)))
