"""Configuration of a denoising normalizing flow."""

__all__ = ["DNFConfig"]

from pydantic.dataclasses import dataclass

from pythae_fif.errors import ConfigError
from pythae_fif.models.injective_flow import InjectiveFlowConfig


@dataclass
class DNFConfig(InjectiveFlowConfig):
    """Denoising normalizing flow (DNF) config class.

    Parameters:
        input_dim (tuple): Shape (C, H, W) of even H and W, or (D,).
        latent_dim (int): Latent dimension d, at most D. Default: 10.
        beta (float): Weight of the squared reconstruction error. Default: 100.
        beta_final, beta_epochs, latent_distribution, student_t_df: As of
            :class:`~pythae_fif.models.FIFConfig`.
        noise (float): Standard deviation of the noise that inflates the data, and of the D - d
            noise latents. Default: 0.01.
        steps, hidden_channels, latent_blocks, latent_hidden_dim: Sizes of the flow, see
            :class:`~pythae_fif.models.injective_flow.InjectiveFlowConfig`.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, a value out of range, or an
            option of FIF's surrogate that has no meaning here.
    """

    beta: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise == 0:
            raise ConfigError("DNFConfig noise=0: the data must be inflated, above 0 is needed")
