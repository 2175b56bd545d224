"""Registers the package's models with Pythae, without importing the models or Pythae.

Pythae's AutoConfig and AutoModel select a model by an if/elif chain over the name in
``model_config.json``, which knows only Pythae's models. Their class methods are wrapped here: they
look into a table first, and they open a pickle only if the caller trusts it.
"""

import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook, wrap_function_wrapper

from pythae_fif.errors import ConfigError

MODELS = {
    "FIFConfig": "pythae_fif.models:FIF",
    "InjectiveFlowConfig": "pythae_fif.models:InjectiveFlow",
    "RectangularFlowConfig": "pythae_fif.models:RectangularFlow",
    "DNFConfig": "pythae_fif.baselines:DNF",
    "RHVAEConfig": "pythae_fif.baselines:RHVAE",
    "TrumpetConfig": "pythae_fif.baselines:Trumpet",
}
"""Name of a configuration class in ``model_config.json`` -> import path of its model."""


def register_models() -> None:
    """Registers the models, now or as soon as Pythae is imported."""

    def wrap_auto_classes(auto_model: ModuleType) -> None:
        _replace(auto_model, "AutoConfig.from_json_file", _config_from_json_file)
        _replace(auto_model, "AutoModel.load_from_folder", _model_from_folder)
        _replace(auto_model, "AutoModel.load_from_hf_hub", _model_from_hub)

    register_post_import_hook(wrap_auto_classes, "pythae.models.auto_model")


def _replace(module: ModuleType, method: str, function: Callable[..., Any]) -> None:
    """Replaces a class method by a function that gets the original method as its first argument."""
    wrap_function_wrapper(
        module, method, lambda original, _, args, kwargs: function(original, *args, **kwargs)
    )


def _find_model_class(json_path: str | Path) -> Any:
    """Returns the model class of a configuration file, or None if it is not one of `MODELS`."""
    path = Path(json_path)
    if not path.is_file():
        return None

    config_name = json.loads(path.read_text("utf-8")).get("name")
    import_path = MODELS.get(config_name or "")
    return pkgutil.resolve_name(import_path) if import_path else None


def _config_from_json_file(original: Callable[..., Any], json_path: str) -> Any:
    """Replaces `AutoConfig.from_json_file`."""
    model_class = _find_model_class(json_path)
    from_json_file = model_class.config_class.from_json_file if model_class else original
    return from_json_file(json_path)


def _model_from_folder(original: Callable[..., Any], dir_path: str, trust: bool = False) -> Any:
    """Replaces `AutoModel.load_from_folder`, with a second argument `trust`."""
    model_class = _find_model_class(Path(dir_path, "model_config.json"))
    load_model = model_class.load_from_folder if model_class else original
    if "trust" in inspect.signature(load_model).parameters:  # it checks pickles itself
        return load_model(dir_path, trust)

    pickles = sorted(Path(dir_path).glob("*.pkl"))
    if pickles and not trust:
        raise ConfigError(
            f"{pickles[0]} can run any code when it is opened: if you trust its author, use "
            "load_from_folder(..., trust=True)"
        )
    return load_model(dir_path)


def _model_from_hub(
    original: Callable[..., Any], hf_hub_path: str, allow_pickle: bool = False
) -> Any:
    """Replaces `AutoModel.load_from_hf_hub`."""
    from huggingface_hub import hf_hub_download

    config_file = hf_hub_download(repo_id=hf_hub_path, filename="model_config.json")
    model_class = _find_model_class(config_file)
    load_model = model_class.load_from_hf_hub if model_class else original
    return load_model(hf_hub_path, allow_pickle)
