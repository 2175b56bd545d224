"""Registers the package's models with Pythae, and lists what the package sets on Pythae's objects.

Importing ``pythae_fif`` extends three class methods:

* ``AutoConfig.from_json_file``, ``AutoModel.load_from_folder`` and ``AutoModel.load_from_hf_hub``.
  Pythae has no registry: they find a class by an if/elif chain over the name in
  ``model_config.json``. The extended methods pass the names in :data:`MODELS` on to our classes,
  and every other call, with its arguments, to Pythae's method. They are extended when Pythae is
  imported, which takes two seconds: ``--help`` must not wait for that.

Nothing else of Pythae changes by an import. Some calls set attributes for a time, or on one object:

* ``training.quiet_pythae``, within its block: the levels of Pythae's loggers, and the function
  ``tqdm`` of ``training_callbacks``. Pythae has no option to be silent.
* ``FIFTrainer``, on its model: ``device``, as Pythae's trainers do, and ``stage``, which only
  models of this package have. In bfloat16, hooks within a step keep losses in float32.
* ``sampling.samplers.generate``, on a sampler that it makes: ``gmm``, ``maf_model``,
  ``iaf_model`` and ``is_fitted``. Pythae's ``fit`` takes no seed and no codes.
* ``sampling.samplers.draw_samples``, on a copy of a ``PixelCNNSampler``: ``model``, with code
  vectors that can be called. Pythae calls them even where they are a buffer.
* ``nn.build_networks``, on an encoder of Pythae that it makes: the first convolution, which gets
  input channels for the condition.
* ``benchmark.pythae_patches``, on a model that a run makes: ``imq_kernel`` of WAE_MMD and
  INFOVAE_MMD, and ``_permute_dims`` of FactorVAE, by faster functions with the same result.
"""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

from pythae_fif.files import read_json

MODELS = {
    "FIFConfig": "pythae_fif.models:FIF",
    "InjectiveFlowConfig": "pythae_fif.models:InjectiveFlow",
    "RectangularFlowConfig": "pythae_fif.baselines:RectangularFlow",
    "DNFConfig": "pythae_fif.baselines:DNF",
    "FlowMatchingConfig": "pythae_fif.baselines:FlowMatching",
    "TrumpetConfig": "pythae_fif.baselines:Trumpet",
}
"""Name of a configuration class in ``model_config.json`` -> import path of its model."""


MODEL_FILE = "model_config.json"
"""The file by which the folder of a saved model is recognised."""


def register_models() -> None:
    """Registers the models, now or as soon as Pythae is imported."""
    register_post_import_hook(_extend_auto_classes, "pythae.models.auto_model")


def find_model(folder: str | Path) -> Path | None:
    """Returns the folder of the model of a run, or of a saved model; None if there is no model."""
    candidates = (Path(folder, "model"), Path(folder))
    return next((path for path in candidates if (path / MODEL_FILE).is_file()), None)


def find_model_class(config_file: str | Path) -> Any:
    """Returns the model class of a configuration file, or None if it is not one of `MODELS`."""
    try:
        import_path = MODELS.get(read_json(Path(config_file))["name"])
    except (LookupError, TypeError):  # Pythae says what is wrong
        return None
    return pkgutil.resolve_name(import_path) if import_path else None


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__` (PEP 562), which imports names when they are first used.

    Args:
        package: The package's name.
        modules: Public name -> the module that defines it.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{modules[name]}:{name}")

    return get_attribute


def _extend_auto_classes(auto_model: ModuleType) -> None:
    """Extends the class methods of `AutoConfig` and `AutoModel`."""
    _extend(
        auto_model.AutoConfig,
        "from_json_file",
        lambda json_path: getattr(find_model_class(json_path), "config_class", None),
    )
    _extend(
        auto_model.AutoModel,
        "load_from_folder",
        lambda dir_path: find_model_class(Path(find_model(dir_path) or dir_path, MODEL_FILE)),
    )
    _extend(auto_model.AutoModel, "load_from_hf_hub", _model_class_on_hub)


def _model_class_on_hub(hf_hub_path: str) -> Any:
    """Returns the model class of a repository on the hub, or None."""
    try:
        from huggingface_hub import hf_hub_download

        config_file = hf_hub_download(repo_id=hf_hub_path, filename=MODEL_FILE)
    except Exception:  # Pythae says what is wrong
        return None
    return find_model_class(config_file)


def _extend(owner: type, name: str, find_class: Callable[[str], Any]) -> None:
    """Extends a class method of Pythae to our models.

    Args:
        owner: The class that has the method.
        name: Name of the method. Its first argument is a path.
        find_class: Returns the class of ours that a path belongs to, or None if it is Pythae's.
    """
    pythaes_method = vars(owner)[name].__func__
    path_argument = list(inspect.signature(pythaes_method).parameters)[1]  # after `cls`

    @functools.wraps(pythaes_method)
    def load(cls: type, *args: Any, **options: Any) -> Any:
        path = args[0] if args else options.get(path_argument)
        our_class = None if path is None else find_class(path)
        if our_class is None:
            return pythaes_method(cls, *args, **options)
        return getattr(our_class, name)(*args, **options)

    setattr(owner, name, classmethod(load))
