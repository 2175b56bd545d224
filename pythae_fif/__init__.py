"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package makes its models known to Pythae's ``AutoModel``, importing its trainer makes
that known to the ``TrainingPipeline``. Neither Pythae nor torch is imported before it is needed.
"""

__all__ = ["FIF", "FIFConfig", "FIFTrainer", "FIFTrainerConfig", "__version__"]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily
from pythae_fif.register import teach_pythae

if TYPE_CHECKING:
    from pythae_fif.models import FIF, FIFConfig
    from pythae_fif.training import FIFTrainer, FIFTrainerConfig
else:
    __getattr__ = lazily(__name__)

__version__ = "0.2.0"

teach_pythae()
