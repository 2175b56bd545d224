"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders.

Importing the package registers its models with Pythae's ``AutoModel``, and changes nothing else of
Pythae. Pythae and torch are not imported before they are needed.
"""

__all__ = [
    "FIF", "FIFConfig", "FIFOutlierDetector", "FIFTrainer", "FIFTrainerConfig",
    "FIFTrainingPipeline", "__version__",
]  # fmt: skip

from pythae_fif.register import lazy_names, register_models

__version__ = "0.3.0.dev0"

register_models()

__getattr__ = lazy_names(
    __name__,
    {
        "FIF": "pythae_fif.models",
        "FIFConfig": "pythae_fif.models",
        "FIFOutlierDetector": "pythae_fif.outlier_detector",
        "FIFTrainer": "pythae_fif.training",
        "FIFTrainerConfig": "pythae_fif.training",
        "FIFTrainingPipeline": "pythae_fif.training",
    },
)


def __dir__() -> list[str]:
    return __all__
