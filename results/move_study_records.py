"""Moves records of tabular tables and ablations to the form that all runs have.

    python results/move_study_records.py RESULTS

An earlier version kept each as a `result.json` that holds its `specification`. Such a record gets a
`config.yaml` beside it and is sealed anew with the same numbers, in the same folder, under the same
id. One that was changed since it was sealed, or is not that of its folder, stays as it is and is
named; then the exit code is 1. The script may be run again, and on a store of any age.
"""

import sys
from pathlib import Path
from typing import Any

from pythae_fif.errors import StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.record import intact
from pythae_fif.runs.store import Store
from pythae_fif.studies.tabular_protocol import CONFIGURATIONS
from pythae_fif.studies.tabular_run import TABULAR, TabularRecord, TabularSpec


def move(root: Path) -> tuple[int, list[str]]:
    """Moves all records below a store's folder.

    Returns:
        How many were moved, and a line for each that was not.
    """
    store, moved, left = Store(root, TABULAR), 0, []
    for path in sorted((root / "runs").glob("*/*/*/result.json")):
        content = read_json(path)
        if not isinstance(content, dict) or "specification" not in content:
            continue
        try:
            move_one(store, path, content)
            moved += 1
        except (AttributeError, KeyError, TypeError, ValueError, StoreError) as error:
            left.append(f"{path}: {type(error).__name__}: {error}".splitlines()[0])
    return moved, left


def move_one(store: Store[TabularSpec, TabularRecord], path: Path, content: dict[str, Any]) -> None:
    """Writes one record and its `config.yaml` in the new form.

    Raises:
        ValueError: The record was changed, is not whole or is not that of its folder.
    """
    if intact(content) is False:
        raise ValueError("was changed since it was sealed")
    before = content["specification"]
    configuration = path.parent.parent.name
    spec = TabularSpec(
        dataset=path.parents[2].name,
        configuration=configuration,
        data_hash=before["data"],
        latent_dim=before["latent_dim"],
        budget=before["profile"],
        learning_rates=before["learning_rates"],
        seeds=before["seeds"],
    )
    if CONFIGURATIONS[configuration].identity() != before["configuration"]:
        raise ValueError(f"is of another configuration than {configuration}")
    if spec.run_id != path.parent.name:
        raise ValueError(f"is that of run {spec.run_id}")
    record = TabularRecord.parse(
        {k: v for k, v in content.items() if k not in ("specification", "checksum")}
        | {"schema": TABULAR.schema, "run_id": spec.run_id}
    )
    if record is None or not TABULAR.answers(spec, record):
        raise ValueError("is not whole")
    run_dir = store.prepare(spec, Environment())
    record.write(run_dir / "result.json")
    Status("finished", "done", 1.0, record.provenance.attempts or 1).write(run_dir)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python results/move_study_records.py RESULTS")
    count, problems = move(Path(sys.argv[1]))
    print(f"{count} records moved")
    for line in problems:
        print("left as it is:", line)
    sys.exit(1 if problems else 0)
