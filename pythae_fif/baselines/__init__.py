"""Models that FIF is compared with, besides Pythae's: two injective flows."""

__all__ = ["DNF", "DNFConfig", "Trumpet", "TrumpetConfig"]

from pythae_fif.baselines.flows import DNF, DNFConfig, Trumpet, TrumpetConfig
