"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package makes its models known to Pythae's ``AutoModel``, and its trainer to the
``TrainingPipeline``.
"""

__all__ = ["FIF", "FIFConfig", "FIFTrainer", "FIFTrainerConfig", "__version__"]

__version__ = "0.1.0"

from .models import FIF, FIFConfig
from .trainers import FIFTrainer, FIFTrainerConfig
from .trainers.fif_trainer import use_in_pipelines

use_in_pipelines()
