"""An experiment expanded into the specifications of its runs, and all runs that compare with it."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import ValidationError

from pythae_fif.benchmark.config import DataLocation, Experiment
from pythae_fif.benchmark.image_run import PER_MODEL_SETTINGS, ImageSpec, training_config
from pythae_fif.benchmark.models import ModelEntry, list_configs
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, format_error
from pythae_fif.runs.store import Store
from pythae_fif.validation import as_config_error


def expand(experiment: Experiment, splits: Splits) -> list[ImageSpec]:
    """All runs of an experiment, in the order of its models, their grids and the seeds.

    Raises:
        ConfigError: An architecture, model or sampler does not serve the data, or a model's
            configuration class does not take a hyper-parameter; the message names the model.
    """
    plan: list[ImageSpec] = []
    for name in experiment.models:
        entry = experiment.entry_for(name)
        _check_entry(experiment, name, splits)
        shared = {"dataset", "arch", "image_size", "extractor", "profile"}
        for number, varied in enumerate(experiment.configurations_for(name)):
            try:
                first = ImageSpec(
                    **experiment.model_dump(include=shared),
                    model=name,
                    classes=entry.classes,
                    parameters=_parameters(entry, splits, varied),
                    varied=list(varied),
                    latent_dim=experiment.latent_dim_for(name),
                    settings=experiment.settings_for(name, len(splits.train)),
                    data_hash=splits.content_hash,
                    labels_hash=splits.labels_hash if entry.conditional else None,
                    samplers=entry.compatible_samplers(experiment.samplers),
                    location=DataLocation(
                        **experiment.model_dump(include={*DataLocation.model_fields})
                    ),
                )
                training_config(first)
                build = first.configure if number else first.build  # networks take a while
                build(splits.input_dim)
            except ValidationError as error:
                raise as_config_error(error, f"model {name}", ImageSpec) from error
            except Exception as error:  # the user's own function of networks raises anything
                raise ConfigError(f"model {name}: {format_error(error)}") from error
            plan += [first.model_copy(update={"seed": seed}) for seed in experiment.seeds]
    return plan


def _parameters(entry: ModelEntry, splits: Splits, varied: dict[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of a run, by those that its model varies."""
    of_data = {"condition_dim": splits.classes} if entry.conditional else {}
    return {**entry.fixed, **of_data, **varied}


def _check_entry(experiment: Experiment, name: str, splits: Splits) -> None:
    """Refuses a model that does not go with the data, or with the samplers that are asked."""
    entry, dataset = experiment.entries[name], experiment.dataset
    asked = entry.compatible_samplers(experiment.samplers)
    if entry.images_only and len(splits.input_dim) == 1:
        raise ConfigError(f"model {name} takes images alone, and {dataset} is rows")
    if not asked:
        raise ConfigError(
            f"--samplers {' '.join(experiment.samplers)}: model {name} has none of them; it has "
            f"{', '.join(entry.samplers)}"
        )
    if experiment.latent_dim_for(name) == 1 and {"maf", "iaf"} & {*asked}:
        raise ConfigError(f"model {name}: its one latent dimension is too few for maf and iaf")
    if entry.conditional:
        if splits.labels is None:
            raise ConfigError(
                f"model {name} is told class labels, and {dataset} has none: they are the names of "
                "subfolders, `train_labels` of an .npz file, or the column of --label"
            )
        counts = np.bincount(splits.labels["train"], minlength=splits.classes or 0)
        if counts.min() < 2:
            found = f"class {counts.argmin()} of {len(counts)} has {counts.min()} training examples"
            raise ConfigError(f"model {name}: {found}, needs 2")


def leaderboard(
    store: Store, experiment: Experiment, plan: Iterable[ImageSpec], splits: Splits
) -> list[ImageResult]:
    """Every run with a record that differs from a plan's in model, hyper-parameters that its model
    varies, and seed alone.

    So the files of an experiment do not depend on how its models were spread over commands. First
    come the runs of the plan, then the others by model, configuration and seed.
    """
    ours = {spec.run_id: spec for spec in plan}
    comparable = {spec.comparable for spec in ours.values()}
    known = {*list_configs("models"), *experiment.models}

    def is_alike(spec: ImageSpec) -> bool:
        """Whether the run is of this data, protocol and model, whose file may have changed."""
        if spec.comparable not in comparable or spec.model not in known:
            return False
        entry = experiment.entry_for(spec.model)
        own = experiment.settings_for(spec.model, len(splits.train))
        varied = {key: spec.parameters[key] for key in spec.varied}
        return (
            spec.classes == entry.classes
            and spec.parameters == _parameters(entry, splits, varied)
            and spec.labels_hash in (None, splits.labels_hash)
            and spec.latent_dim == experiment.latent_dim_for(spec.model)
            and all(getattr(spec.settings, key) == getattr(own, key) for key in PER_MODEL_SETTINGS)
        )

    stored = store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")
    others = [spec for spec in stored if spec.run_id not in ours and is_alike(spec)]
    others.sort(key=lambda spec: (spec.model, spec.configuration, spec.seed))
    found = (ImageResult.read(store, spec) for spec in (*ours.values(), *others))
    return [result for result in found if result is not None]
