"""An experiment expanded into the specifications of its runs, and all runs that compare with it."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import names_in
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, did_you_mean, one_line
from pythae_fif.lazy import import_named
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
        of_data, entry = _of_data(experiment, name, splits), experiment.entries[name]
        for number, varied in enumerate(experiment.configurations_of(name)):
            first = ImageSpec(
                dataset=experiment.dataset,
                arch=experiment.arch,
                model=name,
                classes=entry.classes,
                parameters={**experiment.fixed_of(name), **of_data, **varied},
                varied=list(varied),
                latent_dim=experiment.latent_dim_of(name),
                image_size=experiment.image_size,
                extractor=experiment.extractor,
                profile=experiment.profile,
                settings=experiment.settings_of(name, len(splits.train)),
                data_hash=splits.content_hash,
                labels_hash=splits.labels_hash if of_data else None,
                samplers=entry.samplers_of(experiment.samplers),
                where=experiment.where,
            )
            _check_buildable(first, splits.input_dim, networks=number == 0)
            plan += [first.model_copy(update={"seed": seed}) for seed in experiment.seeds]
    return plan


def _of_data(experiment: Experiment, name: str, splits: Splits) -> dict[str, Any]:
    """The hyper-parameters that the data give a model, which they are checked to serve."""
    entry = experiment.entries[name]
    if entry.images_only and len(splits.input_dim) == 1:
        raise ConfigError(f"model {name} takes images alone, and {experiment.dataset} is rows")
    if not entry.samplers_of(experiment.samplers):
        raise ConfigError(
            f"--samplers {' '.join(experiment.samplers)}: model {name} has none of them; it has "
            f"{', '.join(entry.samplers)}"
        )
    if entry.conditional and splits.labels is None:
        raise ConfigError(
            f"model {name} is told class labels, and {experiment.dataset} has none: they are the "
            "names of subfolders, or `train_labels` of an .npz file"
        )
    return {"condition_dim": splits.classes} if entry.conditional else {}


def _check_buildable(spec: ImageSpec, input_dim: tuple[int, ...], networks: bool) -> None:
    """Builds the configuration and perhaps the networks, to ask whether they can be built."""
    where, config_class = f"model {spec.model}", None
    try:
        config_class = import_named(spec.classes.config)
        known = [field.name for field in dataclasses.fields(config_class) if field.init]
        if unknown := [key for key in spec.parameters if key not in known]:
            # Pythae's classes would drop it.
            raise ValueError(f"unknown key {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        config_class(input_dim=input_dim, latent_dim=spec.latent_dim, **spec.parameters)
        if networks:
            import_named(spec.classes.trainer)
            spec.build(input_dim)
    except ValidationError as error:
        raise as_config_error(error, where, config_class) from error
    except Exception as error:  # the user's own function of networks raises anything
        raise ConfigError(f"{where}: {one_line(error)}") from error


def leaderboard(
    store: Store, experiment: Experiment, plan: Iterable[ImageSpec]
) -> list[ImageResult]:
    """Every run with a record that differs from a plan's in model, hyper-parameters and seed alone.

    So the files of an experiment do not depend on how its models were spread over commands. First
    come the runs of the plan, then the others by model, configuration and seed.
    """
    ours = {spec.run_id: spec for spec in plan}
    alike = {spec.comparable for spec in ours.values()}
    known = {*names_in("models"), *experiment.models}
    others = [
        spec
        for spec in store.specs(ImageSpec, f"{experiment.dataset}/{experiment.arch}")
        if spec.run_id not in ours
        and spec.comparable in alike
        and spec.model in known
        and spec.latent_dim == experiment.latent_dim_of(spec.model)
    ]
    others.sort(key=lambda spec: (spec.model, spec.configuration, spec.seed))
    found = (ImageResult.read(store, spec) for spec in (*ours.values(), *others))
    return [result for result in found if result is not None]
