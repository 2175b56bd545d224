"""Adds the runs, tables, figures and pages of a store to a slim one, for a repository.

    python benchmarks/reference.py RESULTS [results/reference] [--replace]

The store is checked first, as `verify` does: one that holds something damaged, or runs made with
code that no revision holds, is refused with a line that says what and where. Of each run that is
over the texts are kept, a line a run in `runs/<first part of its folder>.jsonl`, and of its sheets
of images what figures show; models are not. What is there already stays, tables and pages too, and
the script prints how to draw those anew from all runs; `--replace` replaces it. What stays the same
is not written.
"""

import argparse
import base64
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pythae_fif.benchmark.sheets import RECONSTRUCTIONS, SIDE, classes_name, samples_name
from pythae_fif.errors import FIFError, StoreError
from pythae_fif.files import json_text, read_json, write_bytes, write_text
from pythae_fif.reports.sample_figure import MOST
from pythae_fif.runs.folder import STATUS, Status, sealed_files
from pythae_fif.runs.pack import TEXTS, PackedRun, read_packs
from pythae_fif.runs.verify import WRONG, verify
from pythae_fif.studies.kinds import KINDS

ALWAYS = ("config.yaml", STATUS, "result.json")
_ROWS = MOST // SIDE
SHOWN = {samples_name("*"): _ROWS, RECONSTRUCTIONS: 2 * _ROWS, classes_name("*"): SIDE}
"""Pattern of a sheet's name -> how many of its eight rows figures show, at most."""
REFUSED = (*WRONG, "unsealed", "other schema", "dirty tree")
"""Kinds of findings of which one run is enough to refuse a store."""


def check(root: Path) -> None:
    """Refuses a store that others could not trust.

    Raises:
        StoreError: It holds no runs, or some that are refused; the line names the first.
    """
    found = [finding for finding in verify(root, KINDS) if finding.kind in REFUSED]
    if found:
        first, count = found[0], len({finding.run for finding in found})
        detail = f" ({first.detail})" if first.detail else ""
        raise StoreError(
            f"{count} runs of {root} cannot be added, the first is {first.run}: {first.kind}"
            f"{detail}; `python run_benchmark.py verify {root}` has all"
        )


def packed(run_dir: Path, run: str) -> PackedRun:
    """A run's folder as a line."""
    names = [*ALWAYS, *(n for n in sealed_files(run_dir) if "/" not in n and n.endswith(TEXTS))]
    files = {name: content(run_dir / name) for name in names if (run_dir / name).is_file()}
    sheets = {} if (run_dir / "reconstructions.csv").exists() else SHOWN  # of a table none
    pictures = {
        path.name: base64.urlsafe_b64encode(shown(path, rows))
        for name, rows in sheets.items()
        for path in sorted(run_dir.glob(name))
    }
    return PackedRun(run=run, files=files, pictures=pictures)


def shown(path: Path, rows: int) -> bytes:
    """A sheet as a small picture, black below the rows that figures show."""
    small = io.BytesIO()
    with Image.open(path) as image:
        top = image.crop((0, 0, image.width, image.height * rows // SIDE))
        sheet = Image.new(image.mode, image.size)
        sheet.paste(top)
    sheet.save(small, "PNG" if sheet.mode == "L" else "WEBP", optimize=True, quality=90)
    return small.getvalue()


def content(path: Path) -> str | dict[str, Any]:
    """A file's text, or what it holds as JSON where that gives the text back."""
    text = path.read_text("utf-8")
    found = read_json(path) if path.suffix == ".json" else None
    return found if isinstance(found, dict) and json_text(found) == text else text


def pack(root: Path, target: Path, replace: bool = False) -> int:
    """Packs the runs of a store into another; the number of runs that are there then."""
    there = {line.run: line for line in read_packs(target)}
    runs = {line.run: line for line in read_packs(root)}
    for config in (root / "runs").rglob("config.yaml"):
        run_dir = config.parent
        state = Status.read(run_dir).state
        run = run_dir.relative_to(root / "runs").as_posix()
        scored = (run_dir / "result.json").exists()
        if scored and state in ("waiting", "running", "interrupted"):
            print(f"{run} is left out: it is {state}, and may lack samplers")
        elif scored or state == "failed":
            runs[run] = packed(run_dir, run)
    runs = there | runs if replace else runs | there
    packs: dict[str, list[str]] = {}
    for run in sorted(runs):
        values = runs[run].model_dump(exclude_defaults=True)
        line = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=bytes.decode)
        packs.setdefault(run.split("/")[0], []).append(line + "\n")
    for name, lines in packs.items():
        write_text(target / "runs" / f"{name}.jsonl", "".join(lines))
    return len(runs)


def copy(root: Path, target: Path, replace: bool = False) -> list[str]:
    """Copies what was drawn; the commands that draw what was there already anew, from all runs."""
    again = {}
    for path in (p for f in ("tables", "figures", "pages") for p in sorted((root / f).glob("*.*"))):
        copied, data = target / path.relative_to(root), path.read_bytes()
        if copied.exists() and not replace:
            text = copied.read_text("utf-8") if path.suffix == ".md" else ""
            if made := re.search("Made by `(.+?)`", text):  # any of several draws it all
                again[path.stem] = f"{made[1]} --results {target}"
            continue
        write_bytes(copied, data)
    return list(again.values())


def main(words: Sequence[str] | None = None) -> int:
    """Checks, packs and copies; 0, or 2 with a line if the store is refused."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("results", type=Path)
    p.add_argument("reference", type=Path, nargs="?", default=Path("results/reference"))
    p.add_argument("--replace", action="store_true")
    flags = p.parse_args(words)
    try:
        check(flags.results)
        before = sum(1 for _ in read_packs(flags.reference))
        after = pack(flags.results, flags.reference, flags.replace)
        again = copy(flags.results, flags.reference, flags.replace)
    except FIFError as error:
        print("error:", error, file=sys.stderr)
        return 2
    print(f"{flags.reference} holds {after} runs, {after - before} of them new")
    for command in again:
        print(f"draw the table of all anew: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
