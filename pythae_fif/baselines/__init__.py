"""The injective flows that FIF is compared with, and the flow layers that they alone use."""

__all__ = ["DNF", "DNFConfig", "Trumpet", "TrumpetConfig"]

from pythae_fif.baselines.dnf import DNF, DNFConfig
from pythae_fif.baselines.trumpet import Trumpet, TrumpetConfig
