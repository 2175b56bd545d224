"""The committed runs, which are packed, as folders."""

import functools
import importlib.util
from pathlib import Path

from pythae_fif.runs.pack import PackedRun, read_packs

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"


@functools.cache
def lines() -> dict[str, PackedRun]:
    """Folder below `runs/` -> packed run."""
    return {line.run: line for line in read_packs(REFERENCE)}


def unpack(part: str, root: Path) -> list[Path]:
    """The folders, below `runs/` of a store, of those whose folder begins with `part`."""
    found = [line for run, line in lines().items() if f"{run}/".startswith(part)]
    for line in found:
        line.unpack(root / "runs" / line.run)
    return [root / "runs" / line.run for line in found]


def packer():
    """The script that packs a store."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "benchmarks/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
