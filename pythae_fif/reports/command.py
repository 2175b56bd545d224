"""The commands that make the runs of a table again, from the runs themselves."""

__all__ = ["commands_of"]

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.config import OVERRIDES, Experiment, Profile, load_experiment, shipped_of
from pythae_fif.benchmark.model_entry import all_models, read_model_entry
from pythae_fif.benchmark.plan import RunSpec, configurations
from pythae_fif.sampling import SAMPLERS

GRID_FLAGS = ("beta", "hutchinson_samples")


def commands_of(experiment: Experiment, specs: Sequence[RunSpec]) -> list[str]:
    """The commands that make these runs, without what changes no result and without folders.

    They depend on the runs of a table alone, and not on the commands that they were made by. One
    command trains all its models with all its seeds and the same number of configurations; models
    of which others were run have a command of their own.

    Args:
        experiment: What is the same for all runs.
        specs: The runs of its table, from one command or from several.

    Returns:
        With `--config FILE` where the profile is the user's own.
    """
    groups: dict[tuple[tuple[int, ...], int | None], list[RunSpec]] = {}
    for model in sorted({spec.model for spec in specs}):
        of_model = [spec for spec in specs if spec.model == model]
        seeds = tuple(sorted({spec.seed for spec in of_model}))
        count = _first_configurations(experiment.profiles[experiment.profile], of_model)
        groups.setdefault((seeds, count), []).extend(of_model)
    return [
        _command_of(experiment.model_copy(update={"configurations": count}), group)
        for (_, count), group in groups.items()
    ]


def _first_configurations(profile: Profile, specs: Sequence[RunSpec]) -> int | None:
    """How many of a model's first configurations were run; None if it is the profile's number.

    None for a FIF of other values than the first, too, which its own flags name.
    """
    model, ran = specs[0].model, list[dict[str, Any]]()
    for spec in specs:
        varied = {name: spec.parameters[name] for name in spec.varied}
        ran += [varied] if varied not in ran else []
    choices = configurations(profile.model_copy(update={"configurations": None}), model)
    last = max((i for i, choice in enumerate(choices, start=1) if choice in ran), default=0)
    others = len(ran) != last or any(choice not in choices for choice in ran)
    named = read_model_entry(model).is_fif and others
    usual = len(configurations(profile, model))
    return None if named or last in (0, usual) else last


def _command_of(experiment: Experiment, specs: Sequence[RunSpec]) -> str:
    """The command of models that have the same seeds and number of configurations."""
    words = ["--dataset", experiment.dataset, "--arch", experiment.arch]
    shipped = shipped_of(experiment)
    if shipped is None or not shipped.same:
        words += ["--config", "FILE"]
    elif shipped.table is not None:
        words += ["--table", str(shipped.table)]
    words += ["--profile", experiment.profile]
    of_arch = {"arch": experiment.arch}
    usual = shipped.experiment if shipped else load_experiment(experiment.dataset, None, of_arch)
    if experiment.data is not None:
        words += ["--data", Path(experiment.data).name]
    models = sorted({spec.model for spec in specs})
    everything = models == all_models()
    words += _flag("models", ["all"] if everything else models, usual.models)
    words += _flag("samplers", _asked_samplers(specs), usual.samplers)
    words += _flag("seeds", sorted({spec.seed for spec in specs}), usual.seeds)
    words += _grid_flags(experiment, specs)
    if experiment.latent_dims != usual.latent_dims or experiment.latent_dim != usual.latent_dim:
        words += ["--latent-dim", str(experiment.latent_dim)]
    table = ("missing", "separator", "no_header")
    for key in ("configurations", "image_size", "extractor", *OVERRIDES, *table):
        value = getattr(experiment, key)
        if value != getattr(usual, key):
            value = experiment.extractor_name if key == "extractor" else value
            words += _flag(key, [] if value is True else [value], (None,))
    return shlex.join(["python", "run_benchmark.py", *words])


def _grid_flags(experiment: Experiment, specs: Sequence[RunSpec]) -> list[str]:
    """The flags of FIF's grid, where other configurations than the profile's first were run."""
    found = [spec for spec in specs if read_model_entry(spec.model).is_fif]
    varied = ({name: spec.parameters[name] for name in spec.varied} for spec in found)
    ran = {tuple(choice.get(key) for key in GRID_FLAGS) for choice in varied}
    models = {spec.model for spec in found}
    usual = [c for model in models for c in configurations(experiment.settings, model)]
    if ran == {tuple(choice.get(key) for key in GRID_FLAGS) for choice in usual}:
        return []
    grid, words = read_model_entry("fif").grid, list[str]()
    for key, values in zip(GRID_FLAGS, zip(*ran, strict=True), strict=True):
        if known := sorted({value for value in values if value is not None}):
            # A flag's values are run with all that the grid has of the other, so usual values need
            # no flag. But without any the profile's first configurations would be run.
            words += _flag(key, known, () if key == GRID_FLAGS[-1] and not words else grid[key])
    return words


def _flag(key: str, values: Sequence[object], usual: Sequence[object]) -> list[str]:
    """The words of a flag, none if the values are the usual ones."""
    if set(values) == set(usual):
        return []
    return [f"--{key.replace('_', '-')}", *map(str, values)]


def _asked_samplers(specs: Iterable[RunSpec]) -> list[str]:
    """The samplers of runs; that of a model's own prior counts as `normal`, which asks for it."""
    found = set()
    for spec in specs:
        prior = read_model_entry(spec.model).samplers[0]
        found |= {"normal" if name == prior else name for name in spec.samplers}
    return [name for name in SAMPLERS if name in found]
