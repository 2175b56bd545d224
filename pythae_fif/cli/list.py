"""`list`: what there is to choose from."""

__all__ = ["list_command"]

from collections.abc import Callable

from rich.markup import escape
from rich.table import Table

from pythae_fif import studies
from pythae_fif.benchmark.config import experiment_tables
from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.yaml_files import config_file, names_in, read_yaml
from pythae_fif.cli.parsing import Parser
from pythae_fif.cli.terminal import Terminal
from pythae_fif.data import DATASETS
from pythae_fif.errors import ConfigError
from pythae_fif.evaluation import EXTRACTORS
from pythae_fif.nn import ARCHITECTURES
from pythae_fif.reports.published import load_published
from pythae_fif.sampling import SAMPLERS


def list_command(words: list[str]) -> int:
    """Prints what there is to choose from; 0."""
    Parser("list", "Shows what there is to choose from.").given(words)
    console = Terminal()
    groups: dict[str, dict[str, str]] = {
        "data sets (--dataset)": {
            name: _line(lambda name: str(read_yaml(config_file(name))["description"]), name)
            for name in names_in()
            if name in DATASETS
        },
        "data sets of studies (--dataset)": {
            study: ", ".join(name for name, of in studies.DATASETS.items() if of == study)
            for study in dict.fromkeys(studies.DATASETS.values())
        },
        "studies (study NAME)": {name: of.description for name, of in studies.STUDIES.items()},
        "tables (--table)": {
            str(number): load_published(number).title for number in experiment_tables()
        },
        "architectures (--arch)": dict(ARCHITECTURES),
        "models (--models; --dry-run shows their configurations)": {
            name: _line(_model_line, name) for name in names_in("models")
        },
        "samplers (--samplers)": {name: of.line for name, of in SAMPLERS.items()},
        "extractors (--extractor)": dict(EXTRACTORS),
    }
    for heading, entries in groups.items():
        console.print(f"[bold]{heading}[/]")
        table = Table.grid(padding=(0, 2))
        for name, line in entries.items():
            table.add_row(f"  {name}", escape(line))
        console.print(table)
    return 0


def _line(describe: Callable[[str], str], name: str) -> str:
    """What describes a name, or why its file cannot be read: one costs none of the others."""
    try:
        return describe(name)
    except (ConfigError, KeyError) as error:
        return f"cannot be used: {error}"


def _model_line(name: str) -> str:
    """Label, what its configurations differ in, samplers if it has not the usual ones, source."""
    entry = read_model_entry(name)
    choices = entry.choices()
    varied = ", ".join(dict.fromkeys(key for choice in choices for key in choice))
    grid = f"{len(choices)} configurations of {varied}" if varied else "1 configuration"
    own = [] if "normal" in entry.samplers else [f"samplers {', '.join(entry.samplers)}"]
    return "; ".join([entry.label, grid, *own, entry.source.partition(";")[0]])
