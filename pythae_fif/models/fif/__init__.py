"""Free-form injective flow (FIF), Sorrenson et al., ICLR 2024.

Available samplers
-------------------

.. autosummary::
    ~pythae.samplers.NormalSampler
    ~pythae.samplers.GaussianMixtureSampler
    ~pythae.samplers.MAFSampler
    ~pythae.samplers.IAFSampler
    :nosignatures:
"""

__all__ = ["FIF", "FIFConfig"]

from .fif_config import FIFConfig
from .fif_model import FIF
