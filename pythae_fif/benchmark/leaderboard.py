"""All finished runs that one table can hold, whichever commands made them."""

__all__ = ["leaderboard"]

import dataclasses
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.plan import RunSpec, defining
from pythae_fif.benchmark.selection import Result
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.errors import StoreError
from pythae_fif.runs.store import Store, read_config


def leaderboard(
    store: Store, experiment: Experiment, data_hash: str, results: Iterable[Result] = ()
) -> list[Result]:
    """Specification and record of every finished run that differs from the experiment's in model,
    hyper-parameters, seed and samplers alone.

    So the files of an experiment do not depend on how its models were spread over commands.

    Args:
        store: Where the runs are.
        experiment: Gives data set, architecture, profile, extractor, image size and latent
            dimension.
        data_hash: Of its data.
        results: Those of them that are known already, and need not be read again.

    Returns:
        In the order of the models' names, their grids and the seeds; each specification has all
        samplers that its record has scores of.
    """
    entries = {name: load_model_entry(name) for name in names_in("models")}
    found = {str(store.run_dir(spec)): (spec, record) for spec, record in results}
    for spec in _specs(store.root / "runs" / experiment.dataset / experiment.arch, found):
        if spec.model in entries and _belongs(spec, experiment, data_hash):
            record = store.record(spec)
            if record is not None:
                found[str(store.run_dir(spec))] = (spec, record)

    def place(result: Result) -> tuple[Any, ...]:
        """Where a run stands in the order of models, grids and seeds."""
        spec, _ = result
        choices = entries[spec.model].choices()
        varied = {name: spec.parameters[name] for name in spec.varied}
        index = choices.index(varied) if varied in choices else len(choices)
        return spec.model, index, spec.configuration, spec.seed

    scored = []
    for spec, record in found.values():
        samplers = (name for name in entries[spec.model].samplers if name in record["scores"])
        scored.append((dataclasses.replace(spec, samplers=tuple(samplers)), record))
    return sorted(scored, key=place)


def _specs(folder: Path, known: Container[str]) -> Iterator[RunSpec]:
    """Those of a folder's runs that are as they were planned, without the known ones."""
    for path in folder.glob("*/*/config.yaml"):
        if str(path.parent) in known:
            continue
        try:
            spec = RunSpec.from_dict(read_config(path.parent)["spec"])
        except (StoreError, TypeError, KeyError):
            continue  # not ours, or of another schema
        if spec.run_id == path.parent.name:
            yield spec


def _belongs(spec: RunSpec, experiment: Experiment, data_hash: str) -> bool:
    wanted = experiment.settings.settings_of(spec.model)
    return (
        spec.data_hash == data_hash
        and spec.profile == experiment.profile
        and spec.extractor == experiment.extractor
        and spec.image_size == experiment.image_size
        and spec.latent_dim == experiment.latent_dim_of(spec.model)
        and defining(spec.settings) == defining(wanted)
    )
