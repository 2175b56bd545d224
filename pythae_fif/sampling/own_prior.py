"""Samples of a trained model from the prior that belongs to it."""

from collections.abc import Callable, Iterable

import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import Labels
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.sampling.fits import PYTHAE_SAMPLERS
from pythae_fif.sampling.samplers import BATCH_SIZE, draw_samples


def describe_own_prior(model: BaseAE) -> str:
    """Describes the prior from which :func:`draw_own_samples` draws."""
    if not isinstance(model, InjectiveFlow):
        return find_sampler(_find_own_sampler(model)).description
    if model.prior is not None:
        return f"the fitted prior ({model.model_config.fitted_prior})"
    return f"the prior of the training ({model.model_config.latent_distribution})"


def draw_own_samples(
    model: BaseAE,
    num_samples: int,
    *,
    seed: int,
    labels: Labels = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Draws samples from the prior of a model.

    It is the fitted prior of an injective flow if there is one, and the prior of the training
    otherwise.

    Args:
        model: A trained model.
        num_samples: Number of samples n.
        seed: Random seed; it sets torch's global random state.
        labels: One class, or one condition vector (1, c), of a conditional model.
        progress: Called with the number of samples after each batch, and n.

    Returns:
        Samples (n, ...), on the CPU.

    Raises:
        ConfigError: The model is conditional and there are no labels, or the reverse.
    """
    torch.manual_seed(seed)
    batches: Iterable[Tensor]
    if isinstance(model, InjectiveFlow):
        sizes = map(len, torch.arange(num_samples).split(BATCH_SIZE))
        batches = (model.sample(size, labels=labels) for size in sizes)
    elif labels is not None:
        raise ConfigError(f"{model.model_name} takes no labels")
    else:
        _, sampler_class = PYTHAE_SAMPLERS[_find_own_sampler(model)]
        batches = draw_samples(sampler_class(model), num_samples)

    samples: list[Tensor] = []
    for batch in batches:
        samples.append(batch.cpu())
        progress(sum(map(len, samples)), num_samples)
    return torch.cat(samples)[:num_samples]


def _find_own_sampler(model: BaseAE) -> str:
    """Returns the sampler of a model of Pythae's own prior; the standard normal's for most."""
    names = [name for name, (cls, _) in PYTHAE_SAMPLERS.items() if isinstance(model, cls)]
    return names[-1]
