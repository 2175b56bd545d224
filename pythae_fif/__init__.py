"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package makes its models known to Pythae's ``AutoModel``.
"""

__all__ = ["FIF", "FIFConfig", "__version__"]

__version__ = "0.1.0"

from .models import FIF, FIFConfig
