"""`verify`: re-reads a store of results and says what in it can be trusted."""

__all__ = ["verify_command"]

import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pythae_fif.cli.parsing import Parser
from pythae_fif.cli.terminal import Terminal
from pythae_fif.errors import counted
from pythae_fif.runs.compare import Difference, difference
from pythae_fif.runs.remote import Remote, is_url
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import KINDS_OF_FINDINGS, WRONG, Finding, verify

SHOWN = 3


def verify_command(words: list[str]) -> int:
    """Reads a store and prints what was found; 0 if nothing is wrong, 1 otherwise."""
    parser = Parser(
        "verify",
        "Re-reads a store of results and changes nothing.",
        "exit codes: 0 nothing is wrong, 1 something is damaged, missing or misplaced, 2 bad input",
    )
    parser.add_argument(
        "results", metavar="RESULTS", help="a folder that --results named, or a URL"
    )
    parser.add_argument(
        "--against",
        metavar="REFERENCE",
        help="another such folder: how far are the scores of the runs in both from each other?",
    )
    given = parser.given(words)
    from pythae_fif.studies.kinds import KINDS  # which imports torch

    console = Terminal(highlight=False)
    wrong = 0
    with contextlib.ExitStack() as stack:
        places = [given[name] for name in ("results", "against") if name in given]
        roots = [_here(place, stack) for place in places]
        for root, place in zip(roots, places, strict=True):
            findings = verify(root, KINDS)
            if is_url(place):
                findings = [finding for finding in findings if finding.kind != "no model"]
                console.print("trained models at a URL are not read")
            if len(roots) > 1:
                console.print(f"[bold]{escape(str(root))}[/]")
            console.print(_table(findings))
            runs, bad = len({f.run for f in findings}), sum(f.kind in WRONG for f in findings)
            verdict = f"[red]{bad} of them wrong[/]" if bad else "[green]nothing is wrong[/]"
            console.print(f"{counted(runs, 'run')} read, {verdict}")
            wrong += bad
        if not wrong and len(roots) > 1:
            console.print(_comparison([[Store(root, kind) for root in roots] for kind in KINDS]))
    return 1 if wrong else 0


def _here(results: str, stack: contextlib.ExitStack) -> Path:
    """A store's folder; of one at a URL its runs, fetched into a folder that goes in the end."""
    if not is_url(results):
        return Path(results).expanduser()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    Remote(results, folder).pull("runs")
    return folder


def _comparison(stores: list[list[Store[Any, Any]]]) -> Table:
    """The runs that two stores have, those that differ most first; of each kind, two stores."""
    found: dict[str, Difference] = {}
    for ours, theirs in stores:
        for spec in ours.specs():
            record, reference = ours.record(spec), theirs.record(spec)
            if record is not None and reference is not None:
                found[f"{spec.folder}/{spec.run_id}"] = difference(record, reference)
    shown = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), title=f"{counted(len(found), 'run')} in both"
    )
    for heading in ("largest relative difference", "of", "run"):
        shown.add_column(heading, overflow="fold")
    same = sum(value == 0 for value, _ in found.values())
    shown.add_row("none", "", counted(same, "run"))
    for run, (value, score) in sorted(found.items(), key=lambda pair: -pair[1].value):
        if value != 0:
            shown.add_row(f"{value:.2%}", score, escape(run))
    return shown


def _table(findings: list[Finding]) -> Table:
    """The findings, a row a kind that there is: how many, what it means, the first few."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    shown.add_column("")
    shown.add_column("runs", justify="right")
    shown.add_column("what it is, and where")
    for kind, meaning in KINDS_OF_FINDINGS.items():
        found = [finding for finding in findings if finding.kind == kind]
        if not found:
            continue
        lines = [meaning]
        if kind in ("dirty tree", "other versions"):  # the same for many runs
            for detail, count in Counter(finding.detail for finding in found).most_common(SHOWN):
                lines.append(f"  {detail}: {count}")
        elif kind != "fine" and kind != "unsealed":
            lines += [f"  {f.run}" + (f": {f.detail}" if f.detail else "") for f in found[:SHOWN]]
            lines += [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        colour = "red" if kind in WRONG else "green" if kind == "fine" else "default"
        shown.add_row(
            f"[{colour}]{kind}[/]", f"{len({f.run for f in found}):,}", escape("\n".join(lines))
        )
    return shown
