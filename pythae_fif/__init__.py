"""Free-form injective flows (FIF) for Pythae, and a benchmark of generative autoencoders."""

__version__ = "0.1.0"
