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

from pythae_fif.models.fif.fif_config import FIFConfig
from pythae_fif.models.fif.fif_model import FIF
