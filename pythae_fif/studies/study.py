"""What studies are: their declarations, their options, and the files that they end in.

A study is a module with a function `run`, from :class:`StudyOptions` to a list of :class:`Finding`.
This module imports neither torch nor pandas, so that a command line can list the studies at once.
"""

__all__ = [
    "DATASETS",
    "STUDIES",
    "Finding",
    "Study",
    "StudyOption",
    "StudyOptions",
    "import_studies",
    "run_study",
]

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pythae_fif.data.names import DATASETS as OF_BENCHMARK
from pythae_fif.data.names import TABULAR_DATASETS, TOY_DATASETS, DataOptions
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import require_writable, write_text

if TYPE_CHECKING:  # these import torch, pandas or Matplotlib
    import pandas as pd
    from matplotlib.figure import Figure

    from pythae_fif.runs.launch import Engine, OnChange
DPI = 130

StudyOption = Literal["data", "latent_dim", "models"]
"""A field of :class:`StudyOptions` that only some studies take; its flag has the same name."""


@dataclass(frozen=True)
class Study:
    """What a study is, and what it can be asked.

    Attributes:
        name: Of the study.
        description: One line.
        module: Of this package; its name if empty.
        profiles: Name of a profile -> its number of seeds, which then are 0, 1, ...; empty where
            the profiles are those of the data set's YAML file, with five seeds.
        takes: The options that it takes beside those that all studies take.
        datasets: The data sets that it can be asked for; empty where it makes its own data.
        dataset: The one that it uses if none is asked for; None if it then uses all it finds.
    """

    name: str
    description: str
    module: str = ""
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
        profiles={"quick": 20, "paper": 20, "released": 20},
        datasets=("sinusoid",),
        dataset="sinusoid",
    ),
    Study(
        "linear",
        "appendix C: the directions that a linear model picks, against theorem C.4",
        profiles={"quick": 1, "paper": 1},
    ),
    Study(
        "estimator",
        "figure 6 and appendix D.3: the noise of the trace estimator",
        profiles={"quick": 1, "paper": 1},
        takes=frozenset({"latent_dim"}),
        datasets=_IMAGES,
        dataset="mnist",
    ),
    Study(
        "spectrum",
        "figures 8 and 9: what a conditional model's decoder spans, on MNIST",
        profiles={"quick": 2, "paper": 5},
        takes=frozenset({"latent_dim"}),
        datasets=_IMAGES,
        dataset="mnist",
    ),
    Study(
        "toy",
        "the density on a toy manifold (--dataset two_moons, circle, spiral, torus, ...)",
        profiles={"quick": 3, "paper": 20},
        datasets=TOY_DATASETS,
        dataset="sinusoid",
    ),
    Study(
        "curvature",
        "figures 2, 12 and 13: what on-manifold training does to the manifold",
        profiles={"quick": 5, "paper": 20},
    ),
    _OF_TABLES,
    dataclasses.replace(
        _OF_TABLES,
        name="ablation",
        description="tables 6 and 7: estimator, network, and on- or off-manifold training",
        module="tabular",
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
"""Name of a data set that is not of the benchmark -> the study that `--dataset` starts: the first
that has it."""


@dataclass(frozen=True)
class StudyOptions:
    """What a study is asked for.

    Attributes:
        results: Folder of the store, whose `figures/` and `tables/` are written to.
        data_root, data, offline: As of :class:`~pythae_fif.data.names.DataOptions`.
        dataset: The data set; None for the study's own choice.
        models: Models to compare; None for the study's own choice.
        seeds: Empty for the profile's own.
        profile: `paper` for the full protocol where the paper has one, `quick` for minutes on two
            cores; some studies have `released`, the protocol of the authors' code, tables of
            numbers `equal_time`.
        latent_dim: Latent dimension; None for the study's own.
        engine: Does the study's runs; None for this machine, as the study shares it out.
    """

    results: Path
    data_root: str | None = None
    data: str | None = None
    offline: bool = False
    dataset: str | None = None
    models: Sequence[str] | None = None
    seeds: Sequence[int] = ()
    profile: str = "quick"
    latent_dim: int | None = None
    engine: "Engine | None" = None

    @property
    def where(self) -> DataOptions:
        """Where the data are."""
        return DataOptions(data_root=self.data_root, data=self.data, offline=self.offline)


@dataclass(frozen=True)
class Finding:
    """What a study ends in: a figure, a caption and numbers.

    Attributes:
        name: Of its files.
        title: The heading.
        caption: Two sentences.
        table: The numbers below the caption.
        rows: Those of the CSV file; the table's if None.
        figure: A Matplotlib figure; None for a table alone.
        notes: Sentences below the table.
    """

    name: str
    title: str
    caption: str
    table: "pd.DataFrame"
    rows: "pd.DataFrame | None" = None
    figure: "Figure | None" = None
    notes: Sequence[str] = ()

    def write(self, results: Path) -> list[Path]:
        """Writes `figures/<name>.png`, `tables/<name>.md` and `tables/<name>.csv`.

        Raises:
            StoreError: The folder of results does not take them.
        """
        from pythae_fif.pictures import write_figure  # these import pandas
        from pythae_fif.reports.tables import Table

        cells = self.table.map(lambda of: f"{of:.3g}" if isinstance(of, float) else str(of))
        heading, _, rest = (
            Table(self.title, cells, notes=self.notes).to_markdown().partition("\n\n")
        )
        page, paths = [heading.removeprefix("#"), self.caption, rest], []
        if self.figure is not None:
            paths.append(results / "figures" / f"{self.name}.png")
            write_figure(paths[0], self.figure, DPI)
            page.insert(1, f"![{self.title}](../figures/{self.name}.png)")
        rows = self.table if self.rows is None else self.rows
        numbers = rows.to_csv(index=False, float_format="%.6g")
        for suffix, text in ((".md", "\n\n".join(filter(None, page))), (".csv", numbers)):
            paths.append(results / "tables" / f"{self.name}{suffix}")
            write_text(paths[-1], text)
        return paths


def run_study(name: str, options: StudyOptions, on_change: "OnChange") -> list[Path]:
    """Runs a study.

    Args:
        name: A key of `STUDIES`.
        options: What to run it on.
        on_change: Is told how far its runs are.

    Returns:
        The files written: a PNG figure, a Markdown and a CSV table of each finding.

    Raises:
        ConfigError: An unknown study, data set or profile, or seeds for a study that takes one.
        RunsLeftError: Runs failed, or go on elsewhere.
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
        seeds=options.seeds or range(study.profiles.get(profile, 5)),
    )
    module = import_module(f"pythae_fif.studies.{study.module or name}")
    function = module.ablation if name == "ablation" else module.run
    findings: list[Finding] = function(resolved, on_change)
    return [path for finding in findings for path in finding.write(options.results)]


def import_studies() -> None:
    """Imports all studies, so that their kinds of runs are known to who reads a store."""
    for study in STUDIES.values():
        import_module(f"pythae_fif.studies.{study.module or study.name}")
