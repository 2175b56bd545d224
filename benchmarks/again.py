"""Runs again what a packed store has from code that no revision holds.

    python benchmarks/again.py STORE [--of results/reference]

The runs are the same, and so are their ids: `benchmarks/reference.py STORE --replace` puts them in
the place of the old ones.
"""

import argparse
from pathlib import Path

import pythae_fif.benchmark.image_run
import pythae_fif.studies.tabular_models  # noqa: F401 - the kinds of runs
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--of", type=Path, default=Path("results/reference"))
    words = parser.parse_args()
    dirty = {found.run for found in verify(words.of) if found.kind == "dirty tree"}
    specs = [Store(words.of).spec(run) for run in sorted(dirty)]
    for spec, error in run_all(specs, Store(words.store), LocalEngine()).items():
        print(spec.title, error or "done", flush=True)
