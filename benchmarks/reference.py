"""Adds the runs, tables and figures of a store to a packed one, for a repository.

    python benchmarks/reference.py RESULTS [results/reference] [--replace]

The store is checked first, as `verify` does: one that holds something damaged, or runs made with
code that no revision holds, is refused with a line that says what and where. Of each run the
records are kept, a line a run in `runs/<first part of its folder>.jsonl`, and of its sheets of
samples what figures show; models are not. What is there already stays; `--replace` replaces it.
"""

import argparse
import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

import pythae_fif.benchmark.image_run  # noqa: F401 - a kind of runs
from pythae_fif.errors import FIFError, StoreError
from pythae_fif.files import write_bytes
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import PackedRun, Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import STATUS_FILE
from pythae_fif.studies.study import import_studies

SIDE, SHOWN = 8, 2
"""Rows of a sheet of samples, and those of them that figures show."""


def check(root: Path) -> None:
    """Refuses a store that others could not trust.

    Raises:
        StoreError: It holds no runs, or some that are refused; the line names the first.
    """
    found = [verdict for verdict in verify(root) if verdict.kind in ("corrupt", "dirty tree")]
    if found:
        first, count = found[0], len({verdict.run for verdict in found})
        raise StoreError(
            f"{count} runs of {root} cannot be added, the first is {first.run}: {first.kind} "
            f"{first.detail}; `python run_benchmark.py verify {root}` has all"
        )


def packed(folder: Path, run: str) -> PackedRun:
    """A run's folder as a line."""
    names = [SPEC_FILE, *(p.relative_to(folder).as_posix() for p in folder.rglob("*.json"))]
    kept = [name for name in dict.fromkeys(names) if "model/" not in name and name != STATUS_FILE]
    files = {name: json.loads((folder / name).read_bytes()) for name in kept}
    pictures = {
        path.name: base64.urlsafe_b64encode(shown(path))
        for path in sorted(folder.glob("samples-*.png"))
    }
    return PackedRun.model_validate({"run": run, "files": files, "pictures": pictures})


def shown(path: Path) -> bytes:
    """A sheet as a small picture, black below the rows that figures show."""
    small = io.BytesIO()
    with Image.open(path) as image:
        top = image.crop((0, 0, image.width, image.height * SHOWN // SIDE))
        sheet = Image.new(image.mode, image.size)
        sheet.paste(top)
    sheet.save(small, "PNG" if sheet.mode == "L" else "WEBP", optimize=True, quality=90)
    return small.getvalue()


def add(source: Path, target: Path, replace: bool) -> Iterator[Path]:
    """Writes the packed files and copies tables and figures; yields what was written."""
    store, lines = Store(source), dict(Store(target).packed)
    for spec in store.specs(Spec):
        if store.is_done(spec) and (replace or spec.path not in lines):
            lines[spec.path] = packed(store.folder(spec), spec.path)
    for name in sorted({run.partition("/")[0] for run in lines}):
        path = target / f"runs/{name}.jsonl"
        runs = [lines[run] for run in sorted(lines) if run.startswith(f"{name}/")]
        write_bytes(path, "".join(f"{line.model_dump_json()}\n" for line in runs).encode())
        yield path
    for path in [*source.glob("tables/*.md"), *source.glob("figures/*")]:
        copy = target / path.relative_to(source)
        if replace or not copy.exists():
            write_bytes(copy, path.read_bytes())
            yield copy


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("reference", type=Path, nargs="?", default=Path("results/reference"))
    parser.add_argument("--replace", action="store_true", help="also what is there already")
    words = parser.parse_args()
    import_studies()  # the kinds of runs
    try:
        check(words.results)
        for path in add(words.results, words.reference, words.replace):
            print(path)
    except FIFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
