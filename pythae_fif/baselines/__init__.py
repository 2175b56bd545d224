"""Models that FIF is compared with, besides Pythae's: two injective flows, and RHVAE."""

__all__ = ["DNF", "RHVAE", "DNFConfig", "Trumpet", "TrumpetConfig"]

from pythae_fif.baselines.dnf import DNF, DNFConfig
from pythae_fif.baselines.rhvae import RHVAE
from pythae_fif.baselines.trumpet import Trumpet, TrumpetConfig
