"""What Pythae is told of this package, without importing it or Pythae.

Pythae's AutoConfig and AutoModel choose among their own models by an if/elif chain over the name
in ``model_config.json``. Their class methods are wrapped here, to look into a table first, and to
open no pickle unless it is trusted.
"""

import importlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook, wrap_function_wrapper

from pythae_fif.errors import ConfigError

MODELS = {
    "FIFConfig": "pythae_fif.models.FIF",
    "InjectiveFlowConfig": "pythae_fif.models.InjectiveFlow",
    "RectangularFlowConfig": "pythae_fif.models.RectangularFlow",
    "DNFConfig": "pythae_fif.baselines.DNF",
    "RHVAEConfig": "pythae_fif.baselines.RHVAE",
    "TrumpetConfig": "pythae_fif.baselines.Trumpet",
}
"""Name of a configuration class, as ``model_config.json`` has it -> import path of its model."""


def register_models() -> None:
    """Makes the models known to Pythae, at once or as soon as that is imported."""

    def teach(auto_model: ModuleType) -> None:
        wrap_function_wrapper(auto_model, "AutoConfig.from_json_file", _config_from_json_file)
        wrap_function_wrapper(auto_model, "AutoModel.load_from_folder", _model_from_folder)
        wrap_function_wrapper(auto_model, "AutoModel.load_from_hf_hub", _model_from_hub)

    register_post_import_hook(teach, "pythae.models.auto_model")


def _registered(json_path: str | Path) -> Any:
    """The model of a configuration file, None where it is none of ours."""
    path = Path(json_path)
    name = json.loads(path.read_text("utf-8")).get("name") if path.is_file() else None
    module, _, model = MODELS.get(name or "", "").rpartition(".")
    return getattr(importlib.import_module(module), model) if module else None


def _config_from_json_file(original: Any, _: type, args: Any, kwargs: Any) -> Any:
    model = _registered(*args, **kwargs)
    return (model.config_class.from_json_file if model else original)(*args, **kwargs)


def _model_from_folder(original: Any, _: type, args: Any, kwargs: Any) -> Any:
    def load(dir_path: str, trust: bool = False) -> Any:
        model = _registered(Path(dir_path, "model_config.json"))
        load_model = model.load_from_folder if model else original
        if "trust" in inspect.signature(load_model).parameters:  # looks by itself
            return load_model(dir_path, trust)
        if not trust and (pickles := sorted(Path(dir_path).glob("*.pkl"))):
            raise ConfigError(
                f"{pickles[0]} can run any code when it is opened: load_from_folder(..., "
                "trust=True) opens it, if you trust whoever wrote it"
            )
        return load_model(dir_path)

    return load(*args, **kwargs)


def _model_from_hub(original: Any, _: type, args: Any, kwargs: Any) -> Any:
    def load(hf_hub_path: str, allow_pickle: bool = False) -> Any:
        from huggingface_hub import hf_hub_download

        model = _registered(hf_hub_download(repo_id=hf_hub_path, filename="model_config.json"))
        load = model.load_from_hf_hub if model else original
        return load(hf_hub_path, allow_pickle)

    return load(*args, **kwargs)
