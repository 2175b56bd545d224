"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package makes its models known to Pythae's ``AutoModel``, importing its trainer makes
that known to the ``TrainingPipeline``. Neither Pythae nor torch is imported before it is needed.
"""

__all__ = ["FIF", "FIFConfig", "FIFTrainer", "FIFTrainerConfig", "__version__"]

import importlib
from typing import TYPE_CHECKING, Any

from pythae_fif.register import register_model

if TYPE_CHECKING:
    from pythae_fif.models import FIF, FIFConfig
    from pythae_fif.training import FIFTrainer, FIFTrainerConfig

__version__ = "0.1.0"

_HOMES = {
    "FIF": "pythae_fif.models",
    "FIFConfig": "pythae_fif.models",
    "FIFTrainer": "pythae_fif.training",
    "FIFTrainerConfig": "pythae_fif.training",
}

register_model("FIFConfig", "pythae_fif.models.FIF")
register_model("RectangularFlowConfig", "pythae_fif.models.RectangularFlow")
register_model("DNFConfig", "pythae_fif.baselines.DNF")
register_model("TrumpetConfig", "pythae_fif.baselines.Trumpet")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
