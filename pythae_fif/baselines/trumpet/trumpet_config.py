"""Configuration of a Trumpet."""

__all__ = ["TrumpetConfig"]

from typing import Annotated

from pydantic import Field

from pythae_fif.baselines.flow_model import FlowConfig
from pythae_fif.models.manifold import Count, NonNegative
from pythae_fif.validation import config_dataclass


@config_dataclass
class TrumpetConfig(FlowConfig):
    """Trumpet config class.

    Reconstruction and density are trained one after the other: there is no weight between them.

    Parameters:
        input_dim (tuple): Shape (C, H, W) of even H and W, or (D,).
        latent_dim (int): Latent dimension d, at most D. Default: 10.
        manifold_epochs (int): n_manifold, epochs in which the manifold is trained, before the
            density. Default: 10.
        manifold_share (float): The manifold is trained for this share of the training at most, in
            (0, 1), where the trainer says how long that is (those of this package do).
            Default: 0.5.
        latent_distribution, student_t_df: As of
            :class:`~pythae_fif.models.manifold.ManifoldConfig`.
        noise (float): Standard deviation of the Gaussian noise added to the data in training.
            Default: 0, as published.
        steps, hidden_channels, latent_blocks, latent_hidden_dim: Sizes of the flow, see
            :class:`~pythae_fif.baselines.flow_model.FlowConfig`.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    noise: NonNegative = 0.0
    manifold_epochs: Count = 10
    manifold_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
