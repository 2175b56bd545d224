"""Adds the runs, tables, figures and pages of a store to a slim one, for a repository.

    python benchmarks/reference.py RESULTS [results/reference]

Run it on a store that `verify` found in order. Of each run that is over the texts are kept, a line
a run in `runs/<first part of its folder>.jsonl`; models and pictures are not. The packed runs that
are there already stay, and are replaced by those of the same id. PNG files get a palette where the
eye sees no difference. What stays the same is not written.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from pythae_fif.files import json_text, read_json, write_bytes, write_text
from pythae_fif.pictures import small_picture
from pythae_fif.runs.folder import STATUS, Status, sealed_files
from pythae_fif.runs.pack import TEXTS, PackedRun, read_packs

ALWAYS = ("config.yaml", STATUS, "result.json")


def packed(run_dir: Path, run: str) -> PackedRun:
    """A run's folder as a line."""
    names = [*ALWAYS, *(n for n in sealed_files(run_dir) if "/" not in n and n.endswith(TEXTS))]
    files = {name: content(run_dir / name) for name in names if (run_dir / name).is_file()}
    return PackedRun(run=run, files=files)


def content(path: Path) -> str | dict[str, Any]:
    """A file's text, or what it holds as JSON where that gives the text back."""
    text = path.read_text("utf-8")
    found = read_json(path) if path.suffix == ".json" else None
    return found if isinstance(found, dict) and json_text(found) == text else text


def pack(root: Path, target: Path) -> int:
    """Packs the runs of a store into another; the number of runs that are there then."""
    runs = {line.run: line for line in (*read_packs(target), *read_packs(root))}
    for config in (root / "runs").rglob("config.yaml"):
        run_dir = config.parent
        if (run_dir / "result.json").exists() or Status.read(run_dir).state == "failed":
            run = run_dir.relative_to(root / "runs").as_posix()
            runs[run] = packed(run_dir, run)
    packs: dict[str, list[str]] = {}
    for run in sorted(runs):
        line = json.dumps(runs[run].model_dump(), ensure_ascii=False, separators=(",", ":"))
        packs.setdefault(run.split("/")[0], []).append(line + "\n")
    for name, lines in packs.items():
        write_text(target / "runs" / f"{name}.jsonl", "".join(lines))
    return len(runs)


def copy(root: Path, target: Path) -> None:
    """Copies what was drawn."""
    for path in (p for f in ("tables", "figures", "pages") for p in sorted((root / f).glob("*.*"))):
        data = path.read_bytes()
        if path.suffix == ".png" and Image.open(path).mode not in ("P", "RGB"):
            data = small_picture(path)  # of an earlier version: `write_figure` makes small ones
        write_bytes(target / path.relative_to(root), data)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("results", type=Path)
    p.add_argument("reference", type=Path, nargs="?", default=Path("results/reference"))
    flags = p.parse_args()
    copy(flags.results, flags.reference)
    print(f"{flags.reference} holds {pack(flags.results, flags.reference)} runs")
