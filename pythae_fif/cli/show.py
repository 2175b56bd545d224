"""`list` and `verify`: what there is to choose from, and what in a store can be trusted."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pythae_fif.benchmark.models import configs_dir, list_configs, read_entry, read_yaml
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.errors import pluralized
from pythae_fif.names import ARCHITECTURES, DATASETS, EXTRACTORS, SAMPLERS
from pythae_fif.studies import study as studies


def list_command(words: list[str]) -> bool:
    """Prints what there is to choose from; True."""
    Parser("list", words, "Shows what there is to choose from.").parsed_values()
    console, models = Terminal(), {name: read_entry(name) for name in list_configs("models")}
    groups: dict[str, dict[str, str]] = {
        "data sets (--dataset)": {
            name: read_yaml(configs_dir() / f"{name}.yaml")["description"] for name in DATASETS
        },
        "studies (study NAME)": {name: of.description for name, of in studies.STUDIES.items()},
        "architectures (--arch)": dict(ARCHITECTURES),
        "models (--models; --dry-run shows their configurations)": {
            name: f"{of.label}; {of.source.partition(';')[0]}" for name, of in models.items()
        },
        "samplers (--samplers)": {name: of.description for name, of in SAMPLERS.items()},
        "extractors (--extractor)": dict(EXTRACTORS),
    }
    for heading, entries in groups.items():
        console.print(f"[bold]{heading}[/]")
        table = Table.grid(padding=(0, 2))
        for name, line in entries.items():
            table.add_row(f"  {name}", escape(line))
        console.print(table)
    return True


def verify_command(words: list[str]) -> bool:
    """Reads a store and prints what was found; whether nothing is wrong."""
    parser = Parser("verify", words, "Re-reads a store of results and changes nothing.")
    parser.add_argument("results", metavar="RESULTS", help="a folder that --results named")
    root = Path(parser.parsed_values()["results"]).expanduser()
    import pythae_fif.benchmark.image_run  # noqa: F401 - the kinds of runs, which import torch
    from pythae_fif.runs.verify import VERDICTS, verify

    studies.import_studies()
    verdicts = verify(root)
    console = Terminal()
    for kind, meaning in VERDICTS.items():
        found = [verdict for verdict in verdicts if verdict.kind == kind]
        if found:
            console.say(f"{kind}: {pluralized(len({of.run for of in found}), 'run')}, {meaning}")
            for of in found if kind not in ("fine", "packed") else ():
                console.say(f"  {of.run}: {of.detail}".rstrip(": "))
    wrong = sum(verdict.kind == "corrupt" for verdict in verdicts)
    said = f"{wrong} of them wrong" if wrong else "nothing is wrong"
    console.say(f"{pluralized(len({verdict.run for verdict in verdicts}), 'run')} read, {said}")
    return not wrong
