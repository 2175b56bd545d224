"""Trumpet, an injective flow of growing dimension, Kothari et al., UAI 2021.

Available samplers
-------------------

.. autosummary::
    ~pythae.samplers.NormalSampler
    ~pythae.samplers.GaussianMixtureSampler
    ~pythae.samplers.MAFSampler
    ~pythae.samplers.IAFSampler
    :nosignatures:
"""

__all__ = ["Trumpet", "TrumpetConfig"]

from pythae_fif.baselines.trumpet.trumpet_config import TrumpetConfig
from pythae_fif.baselines.trumpet.trumpet_model import Trumpet
