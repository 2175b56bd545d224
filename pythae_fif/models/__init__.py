"""Models in Pythae's form, known to its AutoModel once this package is imported."""

__all__ = ["FIF", "FIFConfig", "RectangularFlow", "RectangularFlowConfig"]

from .fif import FIF, FIFConfig
from .rectangular_flow import RectangularFlow, RectangularFlowConfig
from .register import register_model

register_model(FIF, FIFConfig)
register_model(RectangularFlow, RectangularFlowConfig)
