"""Makes Pythae's AutoConfig and AutoModel know the models of this package."""

__all__ = ["register_model"]

import json
from pathlib import Path
from typing import Any

from pythae.models import AutoModel, BaseAE
from pythae.models.auto_model.auto_config import AutoConfig

_MODELS: dict[str, type[BaseAE]] = {}
_CONFIGS: dict[str, Any] = {}


def register_model(model: type[BaseAE], config: Any) -> None:
    """Registers a model under the name of its configuration class; doing so twice is harmless.

    Pythae's two classes choose among their own models by an if/elif chain over that name; their
    class methods are wrapped once to look here first.
    """
    _MODELS[config.__name__] = model
    _CONFIGS[config.__name__] = config
    if not hasattr(AutoModel, "_pythae_fif"):
        AutoModel._pythae_fif = True
        _wrap(AutoConfig, "from_json_file", _config_from_json_file)
        _wrap(AutoModel, "load_from_folder", _model_from_folder)
        _wrap(AutoModel, "load_from_hf_hub", _model_from_hub)


def _wrap(owner: type, method: str, ours: Any) -> None:
    original = getattr(owner, method)

    def wrapped(cls: type, *args: Any, **kwargs: Any) -> Any:
        result = ours(*args, **kwargs)
        return original(*args, **kwargs) if result is None else result

    wrapped.__doc__ = original.__doc__
    setattr(owner, method, classmethod(wrapped))


def _name_in(path: Path) -> str | None:
    return json.loads(path.read_text()).get("name") if path.is_file() else None


def _config_from_json_file(json_path: str) -> Any:
    config = _CONFIGS.get(_name_in(Path(json_path)) or "")
    return None if config is None else config.from_json_file(json_path)


def _model_from_folder(dir_path: str) -> BaseAE | None:
    model = _MODELS.get(_name_in(Path(dir_path) / "model_config.json") or "")
    return None if model is None else model.load_from_folder(dir_path)


def _model_from_hub(hf_hub_path: str, allow_pickle: bool = False) -> BaseAE | None:
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:  # Pythae's own method says what to install
        return None
    config_path = hf_hub_download(repo_id=hf_hub_path, filename="model_config.json")
    model = _MODELS.get(_name_in(Path(config_path)) or "")
    return None if model is None else model.load_from_hf_hub(hf_hub_path, allow_pickle)
