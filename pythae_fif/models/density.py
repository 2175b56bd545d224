"""Densities of Pythae's deterministic autoencoders."""

from pythae.models import AE, VQVAE, BaseAE

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.saved import DataDescription


def is_density(model: BaseAE) -> bool:
    """Returns whether :func:`as_density` accepts the class of a model."""
    return isinstance(model, AE | InjectiveFlow) and not isinstance(model, VQVAE)


def as_density(model: BaseAE) -> InjectiveFlow:
    """Turns a deterministic autoencoder of Pythae into a density on its manifold.

    Args:
        model: An AE, RAE or WAE, or an injective flow, which is returned as it is.

    Returns:
        An injective flow that shares the model's networks. Its prior is the standard normal until
        ``fit_prior`` fits another.

    Raises:
        ConfigError: The model draws its codes at random, is a VQVAE, or has more latent dimensions
            than its data have dimensions.

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
        raise ConfigError(
            f"{type(model).__name__} is not a deterministic autoencoder (AE, RAE, WAE)"
        )
    density = InjectiveFlow(
        InjectiveFlowConfig(model.model_config.input_dim, model.latent_dim),
        model.encoder,
        model.decoder,
    )
    DataDescription.of(model).set_on(density)
    return density
