"""Models in Pythae's form, known to its AutoModel once this package is imported."""

__all__ = [
    "DNF",
    "FIF",
    "DNFConfig",
    "FIFConfig",
    "RectangularFlow",
    "RectangularFlowConfig",
    "Trumpet",
    "TrumpetConfig",
]

from .dnf import DNF, DNFConfig
from .fif import FIF, FIFConfig
from .rectangular_flow import RectangularFlow, RectangularFlowConfig
from .register import register_model
from .trumpet import Trumpet, TrumpetConfig

register_model(FIF, FIFConfig)
register_model(RectangularFlow, RectangularFlowConfig)
register_model(DNF, DNFConfig)
register_model(Trumpet, TrumpetConfig)
