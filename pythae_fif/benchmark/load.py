"""Loads an experiment: YAML files overlaid by flags, and validated once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.config import Experiment, Profile
from pythae_fif.benchmark.models import (
    FIF_FLAGS,
    ModelEntry,
    configs_dir,
    list_configs,
    read_entry,
    read_yaml,
)
from pythae_fif.data.catalog import find_dataset
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import safe_name
from pythae_fif.sampling.catalog import SAMPLERS
from pythae_fif.validation import flag_fields, flag_name, read_checked

DEFAULTS = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""Models and samplers of every data set, unless its file or the user names others."""
BUDGETS = {"epochs", "wall_clock", "steps"}
"""Keys that limit the length of a training."""


def load_experiment(
    dataset: str | None, flags: Mapping[str, Any], file: str | Path | None = None
) -> Experiment:
    """Reads the data set's YAML file, overlaid by the user's YAML file, overlaid by the flags.

    Args:
        dataset: Name of a YAML file in `benchmark_configs/`, a user's own YAML file, or
            `module:object` for a user's own :class:`~pythae_fif.data.DataSource`. None for the data
            set that `file` names, or digits.
        flags: Keys of :class:`Experiment` and of the active profile; None means not given.
        file: A YAML file of the user's with the same keys.

    Returns:
        The validated experiment.

    Raises:
        ConfigError: Unknown name, key or value; the message says which, where, and what is valid.
    """
    file_values = {} if file is None else read_yaml(Path(file))
    file_dataset = str(file_values.get("dataset", "digits"))
    defaults = _dataset_defaults(str(dataset or file_dataset))
    source = str(file or f"{defaults['dataset']}.yaml")

    flag_values = {key: value for key, value in flags.items() if value is not None}
    user_values = _deep_merge(file_values, flag_values)
    _check_keys(user_values, source)
    values = _deep_merge(defaults, {**user_values, "dataset": defaults["dataset"]})
    _check_types(values, source)

    values["latent_dims"] = _latent_dims(values, file_values, flag_values)
    if values["samplers"] == ["all"]:
        values["samplers"] = list(SAMPLERS)
    profile = _active_profile_values(values, source)
    values |= _resolve_models(values, profile.get("models"), source)
    _check_fif_flags(user_values, values)

    if (dataset or file_dataset) != file_dataset:
        _drop_foreign_crop(values, profile)
    if "extractor" not in user_values:
        values["extractor"] = profile.get("extractor") or values["extractor"]
    _override_profile(values)

    default_name = f"{values['dataset']}-{values['arch']}-{values['profile']}"
    values["name"] = safe_name(str(values.get("name", default_name)))
    experiment = read_checked(Experiment, values, source, flags=flag_values)
    _check_model_names(experiment, source)
    return experiment


def _dataset_defaults(word: str) -> dict[str, Any]:
    """Returns the values of a data set's YAML file, with the name of the data set.

    A user's YAML file names the :class:`~pythae_fif.data.DataSource` as `reader`. If the user gives
    only that object, the other values come from `csv` for a table and from `npz` for images.
    """
    built_in = list_configs()
    if word in built_in:
        return {**DEFAULTS, **read_yaml(configs_dir() / f"{word}.yaml"), "dataset": word}

    if word.endswith(".yaml"):
        values = read_yaml(Path(word).expanduser())
        name = Path(word).stem
        if not isinstance(values.get("reader"), str):
            raise ConfigError(f"--dataset {word}: the key `reader: module:object` is missing")
    elif ":" in word:
        general = "csv" if find_dataset(word).is_table else "npz"
        values = {
            **read_yaml(configs_dir() / f"{general}.yaml"),
            "description": f"data set {word}",
            "reader": word,
        }
        name = word.rpartition(":")[2]
    else:
        raise ConfigError(f"--dataset {word!r} is unknown: {did_you_mean(word, built_in)}")

    if name in built_in:
        raise ConfigError(
            f"--dataset {word}: the benchmark has a data set {name!r}: choose another name"
        )
    return {**DEFAULTS, **values, "dataset": name}


def _latent_dims(
    values: Mapping[str, Any], file_values: Mapping[str, Any], flag_values: Mapping[str, Any]
) -> Any:
    """Returns the latent dimensions of single models.

    Those of the data set are left out if the user gives a latent dimension for all models.
    """
    if "latent_dim" in flag_values:
        return {}
    if "latent_dim" in file_values:
        return file_values.get("latent_dims", {})
    return values.get("latent_dims", {})


def _drop_foreign_crop(values: Mapping[str, Any], profile: dict[str, Any]) -> None:
    """Removes the crop of a file that was written for another data set, if this one takes none."""
    if not find_dataset(values.get("reader") or values["dataset"]).takes_crop:
        profile.pop("crop", None)


def _deep_merge(base: Any, override: Any) -> Any:
    """Overlays a mapping by another, key by key and inside of both.

    A training length in `override` replaces all training lengths of `base`.
    """
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override

    replaced_keys = BUDGETS if override.keys() & BUDGETS else set()
    merged = {key: value for key, value in base.items() if key not in replaced_keys}
    for key, value in override.items():
        merged[key] = _deep_merge(merged.get(key, value), value)
    return merged


def _check_keys(user_values: Mapping[Any, Any], source: str) -> None:
    """Refuses keys that are neither of the experiment nor of the active profile."""
    valid = {*Experiment.model_fields, *flag_fields(Profile)} - {"entries", "overridden_keys"}
    for key in sorted(map(str, user_values.keys() - valid)):
        raise ConfigError(f"{source}: unknown key {key!r}: {did_you_mean(key, sorted(valid))}")


def _check_types(values: Mapping[str, Any], source: str) -> None:
    """Refuses values of the wrong type that are needed before pydantic checks all values."""
    required_types = {"profiles": dict, "models": list, "samplers": list, "reader": str}
    for key, required_type in required_types.items():
        if not isinstance(values.get(key, required_type()), required_type):
            raise ConfigError(
                f"{source}: {key}={values[key]!r}: a {required_type.__name__} is needed"
            )


def _resolve_models(values: Mapping[str, Any], changes: Any, source: str) -> dict[str, Any]:
    """Reads the entries of all models, and replaces 'all' and files by names.

    Args:
        values: The values of the experiment.
        changes: Model -> keys of its entry that the profile changes.
        source: The file of the profile.

    Returns:
        The names as `models`, and the entries by name as `entries`. The name of a user's file is
        its stem.
    """
    known_models = list_configs("models")
    words = [str(word) for word in values["models"]]
    user_files = [] if words == ["all"] else [word for word in words if word not in known_models]
    for word in user_files:
        if word.endswith(".yaml") and Path(word).stem in known_models:
            raise ConfigError(
                f"--models {word}: the benchmark has a model of this name: rename the file"
            )

    changes = changes if isinstance(changes, dict) else {}
    entries = {
        Path(word).stem: read_entry(word, changes.get(Path(word).stem), source)
        for word in dict.fromkeys([*known_models, *user_files])
    }
    names = [Path(word).stem for word in words]  # `UniqueList` refuses a name given twice
    if words == ["all"]:
        names = [name for name in known_models if _in_all(entries[name], values)]
    return {"models": names, "entries": entries}


def _in_all(entry: ModelEntry, values: Mapping[str, Any]) -> bool:
    """Whether `all` includes a model, given the data set, architecture and samplers."""
    is_table = find_dataset(values.get("reader") or values["dataset"]).is_table
    takes_data = not (entry.images_only if is_table else entry.rows_only)
    takes_arch = entry.architectures is None or values["arch"] in entry.architectures
    has_sampler = bool(entry.compatible_samplers(values["samplers"]))
    return entry.include_in_all and has_sampler and takes_data and takes_arch


def _check_fif_flags(user_values: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuses values of FIF's parameters if no model takes them."""
    if user_values.keys() & set(FIF_FLAGS) and not any(
        values["entries"][name].takes_fif_flags for name in values["models"]
    ):
        raise ConfigError(
            f"{' and '.join(map(flag_name, FIF_FLAGS))} are for model fif, which is not in models"
        )


def _active_profile_values(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the values of the active profile; refuses one that the data set does not have."""
    name = str(values["profile"])
    profile = values["profiles"].get(name)
    if not isinstance(profile, dict):
        raise ConfigError(f"{source}: profile {name!r}: {did_you_mean(name, values['profiles'])}")
    return profile


def _override_profile(values: dict[str, Any]) -> None:
    """Moves the profile's keys that are given for the experiment into the active profile."""
    overrides = {key: values.pop(key) for key in flag_fields(Profile) if key in values}
    values["profiles"] = _deep_merge(values["profiles"], {str(values["profile"]): overrides})
    values["overridden_keys"] = sorted(overrides)


def _check_model_names(experiment: Experiment, source: str) -> None:
    """Refuses settings or latent dimensions for a model that does not exist."""
    known_models = list_configs("models")
    used_names = {*experiment.latent_dims, *experiment.active_profile.models}
    for name in used_names - {*experiment.entries}:
        raise ConfigError(
            f"{source}: model {name!r} is unknown: {did_you_mean(name, known_models)}"
        )
