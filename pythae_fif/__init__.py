"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package makes its models known to Pythae's ``AutoModel``, and its trainer to the
``TrainingPipeline``.
"""

__all__ = ["FIF", "FIFConfig", "FIFTrainer", "FIFTrainerConfig", "__version__"]

__version__ = "0.1.0"

import pythae_fif.baselines  # noqa: F401 - so that AutoModel knows them
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.training import FIFTrainer, FIFTrainerConfig
