"""`list` shows what there is to choose from; `verify` checks the records in a results folder."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pythae_fif.benchmark.models import configs_dir, list_configs, read_entry, read_yaml
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.errors import FailedRunsError, pluralized
from pythae_fif.evaluation.catalog import EXTRACTORS
from pythae_fif.names import ARCHITECTURES
from pythae_fif.sampling.catalog import SAMPLERS
from pythae_fif.study import NO_STUDIES, study_descriptions


def list_command(argv: list[str]) -> None:
    """Prints the data sets, studies, architectures, models, samplers and extractors."""
    Parser(
        "list",
        argv,
        "Lists the data sets, studies, architectures, models, samplers and extractors.",
    ).parsed_values()
    terminal = Terminal()
    for heading, descriptions in _choices().items():
        terminal.print(f"[bold]{heading}[/]")
        if not descriptions:
            terminal.print(f"  {NO_STUDIES}")
        table = Table.grid(padding=(0, 2))
        for name, description in descriptions.items():
            table.add_row(f"  {name}", escape(description))
        terminal.print(table)


def _choices() -> dict[str, dict[str, str]]:
    """Returns a heading for each kind of choice -> name of a choice -> a one-line description."""
    entries = {name: read_entry(name) for name in list_configs("models")}

    return {
        "data sets (--dataset)": {
            name: read_yaml(configs_dir() / f"{name}.yaml")["description"]
            for name in list_configs()
        },
        "studies (study NAME)": study_descriptions(),
        "architectures (--arch)": ARCHITECTURES,
        "models (--models; --dry-run shows their configurations)": {
            name: f"{entry.label}; {entry.source.partition(';')[0]}"
            for name, entry in entries.items()
        },
        "samplers (--samplers)": {name: sampler.description for name, sampler in SAMPLERS.items()},
        "extractors (--extractor)": {
            name: record.description for name, record in EXTRACTORS.items()
        },
    }


def verify_command(words: list[str]) -> None:
    """Reads a store and prints the verdict on each run.

    Raises:
        FailedRunsError: A run is corrupt.
    """
    parser = Parser(
        "verify",
        words,
        "Checks the records in a results folder, and changes nothing.",
        positionals={"results": "folder that was passed to --results"},
    )
    root = Path(parser.parsed_values()["results"]).expanduser()

    from pythae_fif.runs.verify import VERDICTS, verify

    verdicts = verify(root)
    console = Terminal()
    for kind, meaning in VERDICTS.items():
        same_kind = [verdict for verdict in verdicts if verdict.kind == kind]
        if not same_kind:
            continue
        run_count = pluralized(len({verdict.run_path for verdict in same_kind}), "run")
        console.say(f"{kind}: {run_count}; {meaning}")
        if kind not in ("fine", "packed"):
            for verdict in same_kind:
                console.say(f"  {verdict.run_path}: {verdict.detail}".rstrip(": "))

    corrupt = sum(verdict.kind == "corrupt" for verdict in verdicts)
    run_count = pluralized(len({verdict.run_path for verdict in verdicts}), "run")
    summary = f"{run_count} checked, {corrupt or 'none'} corrupt"
    if corrupt:
        raise FailedRunsError(summary)
    console.say(summary)
