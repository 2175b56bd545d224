"""Configuration of a denoising normalizing flow."""

__all__ = ["DNFConfig"]

from pythae_fif.baselines.flow_model import FlowConfig
from pythae_fif.models.manifold import BetaConfig, NonNegative, Positive
from pythae_fif.validation import config_dataclass


@config_dataclass
class DNFConfig(FlowConfig, BetaConfig):
    """Denoising normalizing flow (DNF) config class.

    Parameters:
        input_dim (tuple): Shape (C, H, W) of even H and W, or (D,).
        latent_dim (int): Latent dimension d, at most D. Default: 10.
        beta (float): Weight of the squared reconstruction error. Default: 100.
        beta_final, beta_epochs: As of :class:`~pythae_fif.models.manifold.BetaConfig`.
        latent_distribution, student_t_df: As of
            :class:`~pythae_fif.models.manifold.ManifoldConfig`.
        noise (float): Standard deviation of the noise that inflates the data, and of the D - d
            noise latents. Default: 0.01.
        steps, hidden_channels, latent_blocks, latent_hidden_dim: Sizes of the flow, see
            :class:`~pythae_fif.baselines.flow_model.FlowConfig`.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    beta: NonNegative = 100.0
    noise: Positive = 0.01
