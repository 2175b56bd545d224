"""Makes Pythae know the models of this package, without importing them or Pythae.

Pythae's AutoConfig and AutoModel choose among their own models by an if/elif chain over the name
in ``model_config.json``. Their class methods are wrapped here, to look into a table first. Its
samplers know of no labels, and refuse a conditional model here.
"""

__all__ = ["register_model"]

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook, wrap_function_wrapper

from pythae_fif.errors import ConfigError

_MODELS: dict[str, str] = {}
"""Name of a configuration class -> import path of its model."""


def register_model(config: str, model: str) -> None:
    """Registers a model under the name of its configuration class; doing so twice is harmless.

    Args:
        config: The class's name, as ``model_config.json`` has it.
        model: Import path of the model, whose ``config_class`` is that class. It is imported when
            such a file is first read.

    Example:
        >>> register_model("FIFConfig", "pythae_fif.models.FIF")
    """
    if not _MODELS:  # at once where Pythae is imported already
        register_post_import_hook(_teach, "pythae.models.auto_model")
        register_post_import_hook(_refuse_conditional_models, "pythae.samplers.base.base_sampler")
    _MODELS[config] = model


def _teach(auto_model: ModuleType) -> None:
    wrap_function_wrapper(auto_model, "AutoConfig.from_json_file", _ours(_config_from_json_file))
    wrap_function_wrapper(auto_model, "AutoModel.load_from_folder", _ours(_model_from_folder))
    wrap_function_wrapper(auto_model, "AutoModel.load_from_hf_hub", _ours(_model_from_hub))


def _refuse_conditional_models(base_sampler: ModuleType) -> None:
    wrap_function_wrapper(base_sampler, "BaseSampler.__init__", _unconditional)


def _unconditional(original: Any, sampler: Any, args: Any, kwargs: Any) -> None:
    model = args[0] if args else kwargs.get("model")
    if getattr(model, "condition_dim", 0):
        raise ConfigError(
            f"{type(sampler).__name__} knows no labels, and this model is conditional: pass "
            "model.given(label), the model at one label, or draw by model.sample(n, labels=...)"
        )
    original(*args, **kwargs)


def _ours(read: Callable[..., Any]) -> Callable[..., Any]:
    """Pythae's method after ours, where ours knows of nothing."""

    def wrapper(original: Any, _: type, args: Any, kwargs: Any) -> Any:
        result = read(*args, **kwargs)
        return original(*args, **kwargs) if result is None else result

    return wrapper


def _registered(config_file: Path) -> Any:
    """The model of a configuration file, None where it is none of ours."""
    name = json.loads(config_file.read_text()).get("name") if config_file.is_file() else None
    module, _, model = _MODELS.get(name or "", "").rpartition(".")
    return getattr(importlib.import_module(module), model) if module else None


def _config_from_json_file(json_path: str) -> Any:
    model = _registered(Path(json_path))
    return None if model is None else model.config_class.from_json_file(json_path)


def _model_from_folder(dir_path: str, *args: bool, **kwargs: bool) -> Any:
    model = _registered(Path(dir_path) / "model_config.json")
    return None if model is None else model.load_from_folder(dir_path, *args, **kwargs)


def _model_from_hub(hf_hub_path: str, allow_pickle: bool = False) -> Any:
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:  # Pythae's own method says what to install
        return None
    model = _registered(Path(hf_hub_download(repo_id=hf_hub_path, filename="model_config.json")))
    return None if model is None else model.load_from_hf_hub(hf_hub_path, allow_pickle)
