"""The commands that make the runs of a table again, from the runs themselves."""

__all__ = ["commands_of"]

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from pythae_fif.benchmark.config import OVERRIDES, Experiment, Profile, load_experiment, shipped_of
from pythae_fif.benchmark.model_entry import GRID_FLAGS, all_models, read_model_entry
from pythae_fif.benchmark.plan import RunSpec, configurations
from pythae_fif.benchmark.yaml_files import config_file
from pythae_fif.data.locations import own_configs
from pythae_fif.data.names import TableOptions
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import flag_of


def commands_of(experiment: Experiment, specs: Sequence[RunSpec]) -> list[str]:
    """The commands that make these runs, without what changes no result and without folders.

    They depend on the runs of a table alone, and not on the commands that they were made by. One
    command trains all its models with the same seeds and configurations; others have a command of
    their own. Where the runs have gaps, such as failed ones, a command makes these, too.

    Args:
        experiment: What is the same for all runs.
        specs: The runs of its table, from one command or from several.

    Returns:
        With `--config FILE` where the profile is the user's own.
    """
    profile = experiment.profiles[experiment.profile]
    alike: dict[tuple[str, int], list[RunSpec]] = {}
    for spec in specs:
        alike.setdefault((spec.model, spec.seed), []).append(spec)
    of_models: dict[tuple[str, tuple[str, ...]], list[RunSpec]] = {}
    for (model, _), runs in sorted(alike.items(), key=lambda item: item[0]):
        flags = tuple(_configuration_flags(profile, runs))
        of_models.setdefault((model, flags), []).extend(runs)
    groups: dict[tuple[tuple[int, ...], tuple[str, ...]], list[RunSpec]] = {}
    for (_, flags), runs in of_models.items():
        seeds = tuple(sorted({spec.seed for spec in runs}))
        groups.setdefault((seeds, flags), []).extend(runs)
    return [_command_of(experiment, group, flags) for (_, flags), group in groups.items()]


def _command_of(
    experiment: Experiment, specs: Sequence[RunSpec], configuration_flags: Sequence[str]
) -> str:
    words = ["--dataset", experiment.dataset, "--arch", experiment.arch]
    shipped, of_arch = shipped_of(experiment), {"arch": experiment.arch}
    usual = shipped.experiment if shipped else load_experiment(experiment.dataset, None, of_arch)
    no_size = experiment.image_size is None and usual.image_size is not None
    own_dims = experiment.latent_dims not in ({}, usual.latent_dims)
    if shipped is None or not shipped.same or no_size or own_dims:  # no flag says these two
        words += ["--config", "FILE"]
    elif shipped.table is not None:
        words += ["--table", str(shipped.table)]
    words += ["--profile", experiment.profile]
    if experiment.data is not None:
        words += ["--data", Path(experiment.data).name]
    models = sorted({spec.model for spec in specs})
    asked = [_asked_model(model) for model in models]
    everything = asked == all_models()  # a file must be named
    words += _flag("models", ["all"] if everything else asked, usual.models)
    words += _flag("samplers", _asked_samplers(specs), usual.samplers)
    words += _flag("seeds", sorted({spec.seed for spec in specs}), usual.seeds)
    words += configuration_flags
    dims = (experiment.latent_dim, experiment.latent_dims)
    if not own_dims and dims != (usual.latent_dim, usual.latent_dims):
        words += ["--latent-dim", str(experiment.latent_dim)]
    others = ("image_size", "extractor", *OVERRIDES, "skip_undecodable", *TableOptions.model_fields)
    for key in others:
        value = getattr(experiment, key)
        if value != getattr(usual, key):
            value = experiment.extractor_name if key == "extractor" else value
            value = value if isinstance(value, list) else [] if value is True else [value]
            words += _flag(key, value, (None,))
    return shlex.join(["python", "run_benchmark.py", *words])


def _configuration_flags(profile: Profile, specs: Sequence[RunSpec]) -> list[str]:
    """The flags for these configurations of a model with one seed; none for the profile's."""
    model = specs[0].model
    entry, usual = read_model_entry(model), configurations(profile, model)
    ran = [{name: spec.parameters[name] for name in spec.varied} for spec in specs]
    choices = configurations(profile.model_copy(update={"configurations": None}), model)
    last = max((i for i, choice in enumerate(choices, start=1) if choice in ran), default=0)
    if not entry.is_fif or (len(ran) == last and all(choice in choices for choice in ran)):
        return ["--configurations", str(last)] if last not in (0, len(usual)) else []
    grid, words = profile.of(model).grid or entry.grid, list[str]()
    keys = [key for key in GRID_FLAGS if any(key in choice for choice in ran)]
    for key in keys:
        known = sorted({choice[key] for choice in ran if key in choice})
        # A flag's values are run with all that the grid has of the other, so usual values need no
        # flag. But without any the profile's first configurations would be run.
        words += _flag(key, known, () if key == keys[-1] and not words else grid.get(key, ()))
    return words


def _flag(key: str, values: Sequence[object], usual: Sequence[object]) -> list[str]:
    """The words of a flag, none if the values are the usual ones."""
    if set(values) == set(usual):
        return []
    return [flag_of(key), *map(str, values)]


def _asked_model(name: str) -> str:
    """A model as `--models` takes it: its file, without the folder, where one was given."""
    path = config_file(f"models/{name}")
    return path.name if path in own_configs() else name


def _asked_samplers(specs: Iterable[RunSpec]) -> list[str]:
    """The samplers of runs; that of a model's own prior counts as `normal`, which asks for it."""
    found = set()
    for spec in specs:
        prior = read_model_entry(spec.model).samplers[0]
        found |= {"normal" if name == prior else name for name in spec.samplers}
    return [name for name in SAMPLERS if name in found]
