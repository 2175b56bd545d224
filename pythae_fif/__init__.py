"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package registers its models with Pythae's ``AutoModel``, and changes nothing else of
Pythae. Pythae and torch are not imported before they are needed.
"""

__all__ = [
    "FIF", "FIFConfig", "FIFTrainer", "FIFTrainerConfig", "FIFTrainingPipeline", "__version__",
]  # fmt: skip

from importlib import import_module
from typing import Any

from pythae_fif.register import register_models

__version__ = "0.2.0"

register_models()


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    module_name = "pythae_fif.training" if "Train" in name else "pythae_fif.models"
    return getattr(import_module(module_name), name)


def __dir__() -> list[str]:
    return __all__
