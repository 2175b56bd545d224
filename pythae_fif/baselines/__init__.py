"""Models that FIF is compared with, besides Pythae's: three injective flows."""

__all__ = [
    "DNF", "DNFConfig", "RectangularFlow", "RectangularFlowConfig", "Trumpet", "TrumpetConfig",
]  # fmt: skip

from pythae_fif.baselines.flows import DNF, DNFConfig, Trumpet, TrumpetConfig
from pythae_fif.baselines.rectangular_flow import RectangularFlow, RectangularFlowConfig
