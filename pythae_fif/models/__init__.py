"""Models in Pythae's form, known to its AutoModel once this package is imported."""

__all__ = ["FIF", "FIFConfig"]

from .fif import FIF, FIFConfig
from .register import register_model

register_model(FIF, FIFConfig)
