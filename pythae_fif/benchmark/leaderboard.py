"""All runs with a record that one table can hold, whichever commands made them."""

__all__ = ["ImageStore", "leaderboard"]

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.model_entry import model_hash, read_model_entry
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.selection import Result
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.runs.store import Store

ImageStore = Store[RunSpec, ImageRecord]
"""Where the runs of the benchmark are, and the reports go."""


def leaderboard(
    store: ImageStore,
    experiment: Experiment,
    data_hash: str,
    results: Iterable[Result] = (),
    labels_hash: str | None = None,
) -> list[Result]:
    """Every run with a record that differs from the experiment's in model, varied hyper-parameters,
    seed and samplers alone.

    So the files of an experiment do not depend on how its models were spread over commands.

    Args:
        store: Where the runs are.
        experiment: Gives data set, architecture, profile, extractor, image size and latent
            dimension.
        data_hash: Of its data.
        results: Those of them that are known already, and need not be read again.
        labels_hash: Of the data's labels, for models that are told them.

    Returns:
        In the order of the models' names, their grids and the seeds; each specification has the
        samplers that its record has scores of, and those that are still asked of it.
    """
    models = set(names_in("models"))
    found = {result.spec.run_id: result for result in results}
    hash_of = functools.cache(model_hash)  # which reads the user's own code
    for spec in store.specs(f"{experiment.dataset}/{experiment.arch}", known=set(found)):
        same = spec.model in models and spec.model_hash == hash_of(spec.model)
        if same and _belongs(spec, experiment, data_hash, labels_hash):
            record = store.record(spec)
            if record is not None:
                found[spec.run_id] = Result(spec, record)

    entries = {name: read_model_entry(name) for name in {r.spec.model for r in found.values()}}

    def place(result: Result) -> tuple[str, int, str, int]:
        """Where a run stands in the order of models, grids and seeds."""
        spec = result.spec
        choices = entries[spec.model].choices()
        varied = {name: spec.parameters[name] for name in spec.varied}
        index = choices.index(varied) if varied in choices else len(choices)
        return spec.model, index, spec.configuration, spec.seed

    scored = []
    for result in found.values():
        known = entries[result.spec.model].samplers
        named = {*result.record.scores, *result.spec.samplers}
        samplers = tuple(name for name in known if name in named)
        scored.append(Result(dataclasses.replace(result.spec, samplers=samplers), result.record))
    return sorted(scored, key=place)


def _belongs(
    spec: RunSpec, experiment: Experiment, data_hash: str, labels_hash: str | None
) -> bool:
    return (
        spec.data_hash == data_hash
        and spec.labels_hash in (None, labels_hash)
        and spec.profile == experiment.profile
        and spec.extractor == experiment.extractor_name
        and spec.image_size == experiment.image_size
        and spec.latent_dim == experiment.latent_dim_of(spec.model)
        and spec.settings == experiment.settings.settings_of(spec.model)
        and _fixed(spec) == _fixed_in(experiment, spec)
    )


def _fixed(spec: RunSpec) -> dict[str, Any]:
    """The hyper-parameters that no grid varies, without what the data say."""
    known = {*spec.varied, "condition_dim"}
    return {key: value for key, value in spec.parameters.items() if key not in known}


def _fixed_in(experiment: Experiment, spec: RunSpec) -> dict[str, Any]:
    """What they are in the experiment."""
    fixed = {**read_model_entry(spec.model).fixed, **experiment.settings.of(spec.model).fixed}
    return {key: value for key, value in fixed.items() if key not in spec.varied}
