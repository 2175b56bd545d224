"""Models in Pythae's form, known to its AutoModel once this package is imported."""

__all__ = ["FIF", "FIFConfig", "RectangularFlow", "RectangularFlowConfig"]

from pythae_fif.models.fif import FIF, FIFConfig
from pythae_fif.models.rectangular_flow import RectangularFlow, RectangularFlowConfig
from pythae_fif.models.register import register_model

register_model(FIF, FIFConfig)
register_model(RectangularFlow, RectangularFlowConfig)
