"""All finished runs that one table can hold, whichever commands made them."""

__all__ = ["leaderboard"]

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pythae_fif.errors import StoreError

from .config import Experiment, load_model_entry, names_in
from .plan import PLAN_ALONE, RunSpec
from .selection import Result
from .store import Store, read_config


def leaderboard(store: Store, experiment: Experiment, data_hash: str) -> list[Result]:
    """Specification and record of every finished run that differs from the experiment's in model,
    hyper-parameters, seed and samplers alone.

    So the files of an experiment do not depend on how its models were spread over commands.

    Args:
        store: Where the runs are.
        experiment: Gives data set, architecture, profile, extractor, image size and latent
            dimension.
        data_hash: Of its data.

    Returns:
        In the order of the models' names, their grids and the seeds; each specification has all
        samplers that its record has scores of.
    """
    results = []
    for spec in _specs(store.root / "runs" / experiment.dataset / experiment.arch):
        if spec.model not in names_in("models") or not _belongs(spec, experiment, data_hash):
            continue
        record = store.record(spec)
        if record is not None:
            samplers = load_model_entry(spec.model).samplers
            scored = tuple(name for name in samplers if name in record["scores"])
            results.append((dataclasses.replace(spec, samplers=scored), record))
    return sorted(results, key=_place)


def _specs(folder: Path) -> Iterator[RunSpec]:
    """Those of a folder's runs that are as they were planned."""
    for path in folder.glob("*/*/config.yaml"):
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
        and all(spec.settings.get(k) == v for k, v in wanted.items() if k not in PLAN_ALONE)
    )


def _place(result: Result) -> tuple[Any, ...]:
    """Where a run stands in the order of models, grids and seeds."""
    spec, _ = result
    choices = load_model_entry(spec.model).choices()
    varied = {name: spec.parameters[name] for name in spec.varied}
    index = choices.index(varied) if varied in choices else len(choices)
    return spec.model, index, spec.configuration, spec.seed
