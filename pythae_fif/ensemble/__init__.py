"""Many small models of one architecture, trained together in one process."""

__all__ = ["Ensemble", "TrainingState", "one_cycle"]

from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.ensemble.stacking import one_cycle
from pythae_fif.ensemble.state import TrainingState
