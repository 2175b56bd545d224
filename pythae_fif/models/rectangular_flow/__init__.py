"""Rectangular flow, Caterini et al., NeurIPS 2021.

Available samplers
-------------------

.. autosummary::
    ~pythae.samplers.NormalSampler
    ~pythae.samplers.GaussianMixtureSampler
    ~pythae.samplers.MAFSampler
    ~pythae.samplers.IAFSampler
    :nosignatures:
"""

__all__ = ["RectangularFlow", "RectangularFlowConfig"]

from pythae_fif.models.rectangular_flow.rectangular_flow_config import RectangularFlowConfig
from pythae_fif.models.rectangular_flow.rectangular_flow_model import RectangularFlow
