"""Models that FIF is compared with, besides Pythae's: two injective flows, and RHVAE."""

__all__ = ["DNF", "RHVAE", "DNFConfig", "Trumpet", "TrumpetConfig"]

from pythae_fif.baselines.flows import DNF, DNFConfig, Trumpet, TrumpetConfig
from pythae_fif.baselines.rhvae import RHVAE
