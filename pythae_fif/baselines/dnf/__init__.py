"""Denoising normalizing flow (DNF), Horvat & Pfister, NeurIPS 2021.

Available samplers
-------------------

.. autosummary::
    ~pythae.samplers.NormalSampler
    ~pythae.samplers.GaussianMixtureSampler
    ~pythae.samplers.MAFSampler
    ~pythae.samplers.IAFSampler
    :nosignatures:
"""

__all__ = ["DNF", "DNFConfig"]

from pythae_fif.baselines.dnf.dnf_config import DNFConfig
from pythae_fif.baselines.dnf.dnf_model import DNF
