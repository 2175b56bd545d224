"""`pythae-fif verify RESULTS`: re-reads a store and says what in it can be trusted."""

__all__ = ["KINDS", "Finding", "main", "verify"]

import argparse
import functools
import hashlib
import importlib.metadata
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pythae_fif.benchmark.plan import SCHEMA, RunSpec
from pythae_fif.errors import StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.records import is_intact, is_whole
from pythae_fif.runs.remote import Remote, is_url
from pythae_fif.runs.store import read_config

SHOWN = 3

WRONG = ("corrupt", "missing", "misplaced")
KINDS = {
    "fine": "whole, and sealed by a checksum that agrees",
    "unsealed": "whole, but made before records had checksums: an edit by hand would not show",
    "corrupt": "the record, or a file beside it, is damaged or was changed",
    "missing": "something that belongs to the run is not there",
    "misplaced": "config.yaml is not that of the run whose folder it is in",
    "other schema": "the record is of another version of records, which this one does not read",
    "failed": "the run failed; the same command tries it again",
    "unfinished": "no record yet; the same command goes on",
    "under way": "a process works on it at this moment",
    "set aside": "a damaged file that was put away, kept for you to look at",
    "dirty tree": "made with code or configurations that no revision holds",
    "other versions": "made with other versions than those installed here",
}
"""Kind of finding -> what it means; those of `WRONG` make the exit code 1."""


@dataclass(frozen=True)
class Finding:
    """What was found of one run: a key of `KINDS`, the run's folder below `runs/`, and more."""

    kind: str
    run: str
    detail: str = ""


def verify(root: Path) -> list[Finding]:
    """Reads all runs below a store's folder, and changes nothing.

    Returns:
        Of every run one of the kinds up to `under way`, and notes of those after it.

    Raises:
        StoreError: There are no runs.
    """
    names = ("config.yaml", "result.json")
    folders = sorted({p.parent for name in names for p in (root / "runs").rglob(name)})
    if not folders:
        raise StoreError(f"{root} holds no runs: the folder that --results names is needed")
    return [
        Finding(kind, folder.relative_to(root / "runs").as_posix(), detail)
        for folder in folders
        for kind, detail in _findings(folder, root)
    ]


def _findings(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    record = read_json(folder / "result.json")
    if isinstance(record, dict) and "specification" in record:
        kind, detail = _of_study(folder, record)
    else:
        kind, detail = _of_run(folder, root, record)
    yield kind, detail
    for aside in sorted(folder.glob("*.corrupt*")):
        yield "set aside", aside.name
    if kind in ("fine", "unsealed"):
        made = record["provenance"]
        if made.get("git_dirty") or str(made.get("git_revision")).endswith("+"):
            yield "dirty tree", str(made["git_revision"]).rstrip("+")
        if others := _other_versions(made.get("versions") or {}):
            yield "other versions", ", ".join(others)


def _of_run(folder: Path, root: Path, record: Any) -> tuple[str, str]:
    """Kind and detail of a run of the benchmark."""
    try:
        content = read_config(folder)
        if content["schema"] != SCHEMA:
            return "other schema", f"{content['schema']}, not {SCHEMA}"
        spec = RunSpec.from_dict(content["spec"])
        place = root / "runs" / spec.dataset / spec.arch / spec.model / spec.run_id
    except (StoreError, KeyError, TypeError, AttributeError):
        if (folder / "config.yaml").exists():
            return "corrupt", "config.yaml"
        if record is None:  # perhaps a study's, which has no config.yaml
            return "corrupt", "result.json is cut off"
        return "missing", "config.yaml"
    if place != folder:
        return "misplaced", f"config.yaml is that of {spec.run_id}"
    if not (folder / "result.json").exists():
        return _without_record(folder)
    if not isinstance(record, dict):
        return "corrupt", "result.json is cut off"
    if not is_whole(record, spec):
        changed = is_intact(record) is False
        return "corrupt", "result.json " + ("was changed" if changed else "is not whole")
    if record["data"].get("hash", spec.data_hash) != spec.data_hash:
        return "corrupt", "result.json is of other data than config.yaml"
    if not set(spec.samplers) <= set(record["scores"]):
        absent = ", ".join(sorted(set(spec.samplers) - set(record["scores"])))
        status = read_json(folder / "status.json") or {}
        return "failed", f"no scores of {absent}: {status.get('error', 'never finished')}"
    pictures = ["reconstructions.png", *(f"samples-{name}.png" for name in record["scores"])]
    for name in pictures:
        if not (folder / name).exists():
            return "missing", name
        if not _is_png(folder / name):
            return "corrupt", name
    if problem := _log_problem(folder / "train_log.jsonl", record["training"].get("epochs")):
        return problem
    return ("unsealed" if is_intact(record) is None else "fine"), ""


def _of_study(folder: Path, record: dict[str, Any]) -> tuple[str, str]:
    """Kind and detail of a study's run, whose folder is named by its specification's hash."""
    text = json.dumps(record["specification"], sort_keys=True)
    if hashlib.sha256(text.encode()).hexdigest()[:12] != folder.name:
        return "misplaced", "its specification is that of another run"
    intact = is_intact(record)
    if intact is False or not isinstance(record.get("provenance"), dict):
        return "corrupt", "result.json was changed"
    return ("unsealed" if intact is None else "fine"), ""


def _without_record(folder: Path) -> tuple[str, str]:
    status = read_json(folder / "status.json") or {}
    state = status.get("state", "no status")
    if state == "finished":
        return "missing", "result.json of a run that is called finished"
    if is_claimed(folder):
        return "under way", status.get("stage", "")
    if state == "failed":
        return "failed", status.get("error", "")
    return "unfinished", state


def _is_png(path: Path) -> bool:
    """Whether a file begins and ends as pictures do."""
    with open(path, "rb") as file:
        begin = file.read(8)
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 8))
        return begin == b"\x89PNG\r\n\x1a\n" and file.read()[:4] == b"IEND"


def _log_problem(path: Path, epochs: int | None) -> tuple[str, str] | None:
    """What is wrong with a log of training: it has a line of JSON an epoch."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except FileNotFoundError:
        return "missing", path.name
    except (OSError, ValueError):
        return "corrupt", path.name
    if epochs is not None and len(rows) != epochs:
        return "corrupt", f"{path.name} has {len(rows)} of {epochs} epochs"
    return None


def _other_versions(versions: dict[str, str]) -> list[str]:
    """Packages that a record was made with and that are here in another version, or not at all."""
    return [
        f"{package} {version} ({here} here)" if here else f"{package} {version} (not here)"
        for package, version in versions.items()
        for here in [_installed(package)]
        if here != version
    ]


@functools.cache
def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(findings: list[Finding]) -> Table:
    """The findings, a row a kind that there is: how many, what it means, the first few."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    shown.add_column("")
    shown.add_column("runs", justify="right")
    shown.add_column("what it is, and where")
    for kind, meaning in KINDS.items():
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
        shown.add_row(f"[{colour}]{kind}[/]", f"{len(found):,}", escape("\n".join(lines)))
    return shown


def main(arguments: Sequence[str], parser: type[argparse.ArgumentParser]) -> int:
    """The program; 0 if nothing is wrong, 1 otherwise."""
    p = parser(
        prog="pythae-fif verify",
        description="Re-reads a store of results and changes nothing.",
        epilog="exit codes: 0 nothing is wrong, 1 something is corrupt, missing or misplaced, "
        "2 bad input",
        allow_abbrev=False,
    )
    p.add_argument("results", metavar="RESULTS", help="a folder that --results named, or a URL")
    results = p.parse_args(list(arguments)).results
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if is_url(results) else Path(results).expanduser()
        if is_url(results):
            Remote(results, root).pull("runs")
        findings = verify(root)
    console = Console(highlight=False)
    console.print(table(findings))
    runs, wrong = len({f.run for f in findings}), sum(f.kind in WRONG for f in findings)
    verdict = f"[red]{wrong} of them wrong[/]" if wrong else "[green]nothing is wrong[/]"
    console.print(f"{runs:,} runs read, {verdict}")
    return 1 if wrong else 0
