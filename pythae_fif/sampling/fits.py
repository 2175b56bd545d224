"""Fits Pythae's samplers to codes, and wraps priors and users' own samplers as Pythae's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pythae import models, samplers
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, format_error
from pythae_fif.models.density_training import train_density
from pythae_fif.models.fitted_priors import COMPONENTS, fit_mixture, fit_new_prior
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.priors import PriorKind
from pythae_fif.names import import_object

FIT_STEPS = 600
"""Steps that fit one of Pythae's density models, unless another number is given."""


@dataclass(frozen=True)
class FitRequest:
    """A request to fit a sampler.

    Attributes:
        sampler: Name of the sampler.
        model: A trained model.
        codes: Its training codes, (N, d).
        seed: Random seed of the fit. All global random states are seeded, too.
        prior_kind: Kind of the prior that a sampler of a fitted prior fits; None for others.
        steps: Steps of Adam, with 100 codes each; None for the sampler's default.
    """

    sampler: str
    model: BaseAE
    codes: Tensor
    seed: int
    prior_kind: PriorKind | None = None
    steps: int | None = None


class CodeSampler(samplers.BaseSampler):
    """A sampler of Pythae that decodes the codes of a prior, or of a user's sampler.

    Args:
        model: The model.
        source: An object with `sample(n)`, which returns codes (n, d).
    """

    def __init__(self, model: BaseAE, source: Any) -> None:
        super().__init__(model)
        self.source = source

    def sample(self, num_samples: int, **_: int) -> Tensor:
        """Draws samples (n, ...), on the model's device."""
        codes = torch.as_tensor(self.source.sample(num_samples))
        weight = next(self.model.parameters())
        return self.model.decoder(codes.to(weight)).reconstruction


PYTHAE_SAMPLERS = {
    "normal": (models.BaseAE, samplers.NormalSampler),
    "vamp": (models.VAMP, samplers.VAMPSampler),
    "hypersphere": (models.SVAE, samplers.HypersphereUniformSampler),
    "poincare": (models.PoincareVAE, samplers.PoincareDiskSampler),
}
"""Name of a sampler that needs no fit -> its class of models, and Pythae's class."""


def use_pythae_sampler(request: FitRequest) -> samplers.BaseSampler:
    """Returns one of :data:`PYTHAE_SAMPLERS`."""
    model_class, sampler_class = PYTHAE_SAMPLERS[request.sampler]
    _require_class(request, model_class)
    return sampler_class(request.model)


def use_own_prior(request: FitRequest) -> samplers.BaseSampler:
    """Returns a sampler of the prior of an injective flow."""
    _require_class(request, InjectiveFlow)
    return CodeSampler(request.model, request.model.latent_distribution(request.codes))


def fit_gaussians(request: FitRequest) -> samplers.BaseSampler:
    """Fits one Gaussian or a mixture to codes, by the sampler's kind of prior."""
    components = COMPONENTS if request.prior_kind == "mixture" else 1
    sampler = samplers.GaussianMixtureSampler(request.model)
    sampler.gmm = fit_mixture(request.codes, components, request.seed)
    # With an integer, every batch would have the same samples.
    sampler.gmm.random_state = np.random.RandomState(request.seed)
    return sampler


def fit_prior(request: FitRequest) -> samplers.BaseSampler:
    """Fits the sampler's kind of prior."""
    assert request.prior_kind is not None, "the sampler's record names the kind"
    prior = fit_new_prior(request.prior_kind, request.codes, seed=request.seed, steps=request.steps)
    return CodeSampler(request.model, prior)


def fit_maf(request: FitRequest) -> samplers.BaseSampler:
    """Fits a masked autoregressive flow to standardised codes."""
    sampler = samplers.MAFSampler(request.model)
    sampler.maf_model = _UnstandardizingFlow(sampler, request.codes, request.steps)
    return sampler


def fit_iaf(request: FitRequest) -> samplers.BaseSampler:
    """Fits an inverse autoregressive flow to standardised codes."""
    steps = request.steps or FIT_STEPS
    # The density of an IAF takes d passes, so it is trained for fewer steps.
    steps = min(steps, max(50, 4 * steps // request.codes.shape[1]))
    sampler = samplers.IAFSampler(request.model)
    sampler.iaf_model = _UnstandardizingFlow(sampler, request.codes, steps)
    return sampler


def fit_two_stage(request: FitRequest) -> samplers.BaseSampler:
    """Fits a second VAE to the codes of a VAE."""
    _require_class(request, models.VAE)
    config = samplers.TwoStageVAESamplerConfig(second_layers_dim=256)
    sampler = samplers.TwoStageVAESampler(request.model, config)
    _train(sampler.second_vae, request.codes, request.steps)
    return sampler


def fit_pixelcnn(request: FitRequest) -> samplers.BaseSampler:
    """Fits a PixelCNN to the indices of a VQVAE's code vectors."""
    _require_class(request, models.VQVAE)
    config = samplers.PixelCNNSamplerConfig(n_layers=4)
    sampler = samplers.PixelCNNSampler(request.model, config)
    indices = _nearest_code_vectors(request.model, request.codes)
    _train(sampler.pixelcnn_model, indices, request.steps)
    return sampler


def fit_user_sampler(request: FitRequest) -> samplers.BaseSampler:
    """Fits a user's sampler, `module:Class`.

    An object `Class()` has the methods `fit(codes)`, with codes (N, d), and `sample(n)`, which
    returns codes (n, d).

    Raises:
        ConfigError: The class cannot be imported or fitted.
    """
    sampler_class = import_object(request.sampler)
    try:
        source = sampler_class()
        source.fit(request.codes)
    except Exception as error:  # the user's code may raise any exception
        raise ConfigError(
            f"sampler {request.sampler!r} cannot be fitted: {format_error(error)}"
        ) from error
    return CodeSampler(request.model, source)


FITS: dict[str, Callable[[FitRequest], samplers.BaseSampler]] = {
    **dict.fromkeys(PYTHAE_SAMPLERS, use_pythae_sampler),
    "own_prior": use_own_prior,
    "gaussian": fit_gaussians,
    "gmm": fit_gaussians,
    "maf": fit_maf,
    "iaf": fit_iaf,
    "flow": fit_prior,
    "flow_matching": fit_prior,
    "two_stage": fit_two_stage,
    "pixelcnn": fit_pixelcnn,
}
"""Name of a built-in sampler -> the function that fits it."""


def _require_class(request: FitRequest, model_class: type[BaseAE]) -> None:
    """Raises a ConfigError if a sampler is not for models of this class."""
    if not isinstance(request.model, model_class):
        raise ConfigError(
            f"sampler {request.sampler!r} cannot sample from {type(request.model).__name__}: it "
            f"is for {model_class.__name__}"
        )


class _UnstandardizingFlow(nn.Module):
    """A flow of Pythae, fitted to standardised codes, that draws codes of the original scale."""

    def __init__(self, sampler: samplers.BaseSampler, codes: Tensor, steps: int | None) -> None:
        super().__init__()
        deviation, self.mean = torch.std_mean(codes, dim=0)
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        _train(sampler.flow_contained_model, (codes - self.mean) / self.scale, steps)
        self.flow = sampler.flow_contained_model.flow

    def inverse(self, u: Tensor) -> ModelOutput:
        """Maps samples of the flow's prior, (B, d), to codes, (B, d)."""
        return ModelOutput(out=self.mean + self.scale * self.flow.inverse(u).out)


def _nearest_code_vectors(model: BaseAE, codes: Tensor) -> Tensor:
    """Returns the indices of the code vectors nearest to a VQVAE's codes, as maps (N, 1, h, w)."""
    embeddings = model.quantizer.embeddings
    vectors = embeddings.weight.detach() if isinstance(embeddings, nn.Embedding) else embeddings

    # Pythae quantises each coordinate of flat codes: they become a map of one row.
    points = codes[:, None, :, None] if codes.ndim == 2 else codes.movedim(1, -1)
    chunks = points.flatten(0, 2).split(50_000)
    indices = torch.cat([torch.cdist(chunk, vectors).argmin(-1) for chunk in chunks])
    return indices.reshape(len(codes), 1, *points.shape[1:3]).float()


def _train(module: nn.Module, data: Tensor, steps: int | None) -> None:
    """Trains one of Pythae's density models on codes."""
    train_density(
        module,
        lambda batch: module({"data": batch}).loss / len(batch),
        [data],
        steps or FIT_STEPS,
    )
