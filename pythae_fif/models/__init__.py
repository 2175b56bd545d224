"""The models, with Pythae's interface; importing pythae_fif registers them with its AutoModel."""

__all__ = ["FIF", "FIFConfig", "InjectiveFlow", "as_density"]

from pythae_fif.models.config import FIFConfig
from pythae_fif.models.density import as_density
from pythae_fif.models.fif import FIF
from pythae_fif.models.injective_flow import InjectiveFlow
