"""Adds the runs, tables and figures of a store to a packed one, for a repository.

    python results/reference/add.py RESULTS [results/reference] [--replace]

The store is checked first, as `verify` does. It is refused, with a message that says what is wrong
and where, if something is damaged or if runs were made with code that no revision holds.

The records of a run become one line of `runs/<first part of its folder>.jsonl`. Of its sheets of
samples, only the rows that figures show are kept, and models are not kept. What the packed store
has already stays unless `--replace` is given.
"""

import argparse
import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pythae_fif.errors import FIFError, StoreError
from pythae_fif.files import write_bytes
from pythae_fif.runs.store import SPEC_FILE, PackedRun, Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import STATUS_FILE, Status

REFUSED = ("corrupt", "dirty tree")
"""Kinds of verdicts on runs that are not added."""

SHEET_ROWS = 8
"""Rows of a sheet of samples."""

FIGURE_ROWS = 2
"""Rows of a sheet that figures show."""


def check(root: Path) -> None:
    """Refuses a store that others could not trust.

    Raises:
        StoreError: If the store has no runs, or runs that are damaged or of unknown code; the
            message names the first of them.
    """
    refused = [verdict for verdict in verify(root) if verdict.kind in REFUSED]
    if refused:
        first = refused[0]
        count = len({verdict.run_path for verdict in refused})
        raise StoreError(
            f"{count} runs of {root} cannot be added, the first is {first.run_path}: {first.kind} "
            f"{first.detail}; `python run_benchmark.py verify {root}` lists all of them"
        )


def packed(folder: Path, run: str) -> PackedRun:
    """Packs the records and pictures of a run's folder.

    Args:
        folder: The folder of the run.
        run: Its path below the store's folder of runs.
    """
    names = [SPEC_FILE]
    names += [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")]
    files = {}
    for name in dict.fromkeys(names):
        if "model/" not in name and name != STATUS_FILE:
            files[name] = json.loads((folder / name).read_bytes())

    pictures = {}
    for path in sorted(folder.glob("samples-*.png")):
        pictures[path.name] = base64.urlsafe_b64encode(shrink_sheet(path))
    return PackedRun.model_validate({"run": run, "files": files, "pictures": pictures})


def shrink_sheet(path: Path) -> bytes:
    """Compresses a sheet of samples, black below the rows that figures show."""
    with Image.open(path) as image:
        height = image.height * FIGURE_ROWS // SHEET_ROWS
        rows = image.crop((0, 0, image.width, height))
        sheet = Image.new(image.mode, image.size)
        sheet.paste(rows)

    buffer = io.BytesIO()
    picture_format = "PNG" if sheet.mode == "L" else "WEBP"
    sheet.save(buffer, picture_format, optimize=True, quality=90)
    return buffer.getvalue()


def add(source: Path, target: Path, replace: bool) -> Iterator[Path]:
    """Packs the finished runs of a store, and copies its tables and figures.

    Args:
        source: The store.
        target: The packed store that they are added to.
        replace: Whether to replace what the packed store has already.

    Yields:
        The files that were written.
    """
    yield from _add_runs(Store(source), target, replace)
    for path in [*source.glob("tables/*.md"), *source.glob("figures/*")]:
        copy = target / path.relative_to(source)
        if replace or not copy.exists():
            write_bytes(copy, path.read_bytes())
            yield copy


def _add_runs(store: Store, target: Path, replace: bool) -> Iterator[Path]:
    packed_runs = dict(Store(target).packed)
    file_names = set()
    for spec_file in sorted(store.runs.rglob(SPEC_FILE)):
        folder = spec_file.parent
        run_path = folder.relative_to(store.runs).as_posix()
        is_new = replace or run_path not in packed_runs
        is_finished = Status.read(folder).state in ("finished", "")  # empty in a copy of records
        if is_new and is_finished:
            packed_runs[run_path] = packed(folder, run_path)
            file_names.add(run_path.partition("/")[0])

    for file_name in sorted(file_names):
        runs = [run for run in sorted(packed_runs) if run.startswith(f"{file_name}/")]
        lines = [f"{packed_runs[run].model_dump_json()}\n" for run in runs]
        path = target / f"runs/{file_name}.jsonl"
        write_bytes(path, "".join(lines).encode())
        yield path


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="the store")
    parser.add_argument(
        "reference", type=Path, nargs="?", default=Path("results/reference"), help="the packed one"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace what the packed store has already"
    )
    flags = parser.parse_args()

    try:
        check(flags.results)
        for path in add(flags.results, flags.reference, flags.replace):
            print(path)
    except FIFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
