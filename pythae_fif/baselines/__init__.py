"""Models that FIF is compared with, besides Pythae's: injective flows, and flow matching."""

__all__ = [
    "DNF", "DNFConfig", "FlowMatching", "FlowMatchingConfig", "RectangularFlow",
    "RectangularFlowConfig", "Trumpet", "TrumpetConfig",
]  # fmt: skip

from pythae_fif.baselines.flow_matching import FlowMatching, FlowMatchingConfig
from pythae_fif.baselines.flows import DNF, DNFConfig, Trumpet, TrumpetConfig
from pythae_fif.baselines.rectangular_flow import RectangularFlow, RectangularFlowConfig
