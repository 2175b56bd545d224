"""Pythae's deterministic autoencoders as densities."""

from pythae.models import AE, VQVAE, BaseAE

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.injective_flow import InjectiveFlow


def is_density(model: BaseAE) -> bool:
    """Whether :func:`as_density` takes a model."""
    return isinstance(model, AE | InjectiveFlow) and not isinstance(model, VQVAE)


def as_density(model: BaseAE) -> InjectiveFlow:
    """A deterministic autoencoder of Pythae (AE, RAE, WAE) as a density on its manifold.

    It has the model's networks, themselves, and a standard normal prior; `fit_prior` gives another.

    Raises:
        ConfigError: A model that draws its codes, or a VQVAE.

    Example:
        >>> import torch
        >>> from pythae.models import AE, AEConfig
        >>> density = as_density(AE(AEConfig(input_dim=(1, 8, 8), latent_dim=4)))
        >>> density.fit_prior(torch.rand(50, 1, 8, 8), "gaussian")
        >>> density.sample(3).shape, density.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """
    if isinstance(model, InjectiveFlow):
        return model
    if not is_density(model):
        raise ConfigError(f"{type(model).__name__} is no deterministic autoencoder (AE, RAE, WAE)")
    config = InjectiveFlowConfig(model.model_config.input_dim, model.latent_dim)
    return InjectiveFlow(config, model.encoder, model.decoder)
