"""Codes of a model and samples by Pythae's samplers; `pythae_fif.sampling` says what is odd."""

import copy
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pythae import models, samplers
from pythae.data.datasets import DatasetOutput
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.samplers import BaseSampler
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, NonFiniteError, did_you_mean
from pythae_fif.models.fitted_priors import (
    COMPONENTS,
    FIT_STEPS,
    fit_mixture,
    fit_new_prior,
    train_density,
)
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import without_gradients
from pythae_fif.models.priors import Prior
from pythae_fif.names import SAMPLERS
from pythae_fif.training import quiet_pythae

BATCH_SIZE, ENCODE_BATCH_SIZE = 500, 200
"""Samples drawn and images coded at once."""

Array = np.ndarray | Tensor


def embed(model: BaseAE, images: Array, *, labels: Array | None = None, seed: int = 0) -> Tensor:
    """Codes of images as Pythae's samplers take them: `z` of the model in evaluation mode.

    Images (N, C, H, W) are uint8 or in [0, 1]; a conditional model needs their labels (N,). Where
    the model draws its codes they are draws, by the seed, which all random numbers then have.

    Returns:
        (N, d), or maps of codes (N, d, h, w), where the model is.

    Raises:
        NonFiniteError: A code is NaN or infinite.
    """
    set_seed(seed)
    codes = map_batches(_codes, model, images, labels)
    if bad := int((~codes.flatten(1).isfinite().all(dim=1)).sum()):
        raise NonFiniteError(f"the codes of {bad} of {len(codes)} training images are not finite")
    return codes


def reconstruction_mse(model: BaseAE, images: Array, labels: Array | None = None) -> float:
    """Mean squared error a pixel of the reconstructions of images, or a value of a table's rows.

    The paper's reconstruction loss is the squared error of an image: D times this, D its values.
    Where the model draws its codes they are draws of torch's state.

    Raises:
        NonFiniteError: It is NaN or infinite.
    """

    def errors(model: BaseAE, x: Tensor, *labels: Tensor) -> Tensor:
        x_hat: Tensor = model.reconstruct(x.clone(), *labels)  # it may write in place
        return (x_hat.reshape(x.shape) - x).square().flatten(1).mean(1)

    mean = map_batches(errors, model, images, labels).mean().item()
    if not math.isfinite(mean):
        raise NonFiniteError(f"the mean squared error of the reconstructions is {mean}")
    return mean


def _codes(model: BaseAE, x: Tensor, labels: Tensor | None = None) -> Tensor:
    if isinstance(model, models.FactorVAE):
        output = model.encoder(x)
        return torch.normal(output.embedding, (0.5 * output.log_covariance).exp())
    if labels is None and not getattr(model, "condition_dim", 0):  # which says what it lacks
        labels = torch.ones(len(x), device=x.device)
    return model(DatasetOutput(data=x, labels=labels)).z


def map_batches(
    function: Callable[..., Tensor], model: BaseAE, images: Array, labels: Array | None = None
) -> Tensor:
    """`function(model, x[, labels])` of float32 batches (B, C, H, W), joined where the model is."""
    model.eval()
    device = next(model.parameters()).device
    given = [torch.as_tensor(one) for one in (images, labels) if one is not None]
    results = []
    size = ENCODE_BATCH_SIZE + (len(images) % ENCODE_BATCH_SIZE == 1)  # some losses need two
    for some in zip(*(one.split(size) for one in given), strict=True):
        batch, *classes = (one.to(device) for one in some)
        x = batch.to(torch.float32, copy=True)  # the model may write in place
        x = x if batch.is_floating_point() else x.div_(255)
        results.append(without_gradients(function, model, x, *classes).detach())
    return torch.cat(results)


def draw_samples(
    sampler: BaseSampler, num_samples: int, batch_size: int = BATCH_SIZE
) -> Iterator[Tensor]:
    """Samples (B, C, H, W) of a fitted sampler batch by batch, without gradients, where the model
    is; a few more than asked for where it needs whole batches."""
    model = sampler.model
    if getattr(model, "condition_dim", 0):
        raise ConfigError(
            "samplers know no labels: take model.conditioned_on(label), that of one label"
        )
    shape = model.model_config.input_dim
    multiple = len(model.idle_input) if isinstance(sampler, samplers.VAMPSampler) else 1
    for held in vars(sampler).values():
        if isinstance(held, nn.Module):
            held.eval()
    if isinstance(sampler, samplers.PixelCNNSampler) and not callable(model.quantizer.embeddings):
        codes = nn.Embedding.from_pretrained(model.quantizer.embeddings)
        sampler, quantizer = copy.copy(sampler), SimpleNamespace(embeddings=codes)
        sampler.model = SimpleNamespace(quantizer=quantizer, decoder=model.decoder)
    left = num_samples
    while left > 0:
        count = -(-min(batch_size, left) // multiple) * multiple
        with torch.no_grad():
            batch = sampler.sample(num_samples=count, batch_size=count).detach()
        yield batch if shape is None else batch.reshape(-1, *shape)
        left -= count


def generate(
    name: str,
    model: BaseAE,
    codes: Tensor,
    *,
    num_samples: int,
    seed: int,
    fit_steps: int = FIT_STEPS,
    transform: Callable[[Tensor], Tensor] = lambda samples: samples,
    prior: Prior | None = None,
) -> Tensor:
    """Samples of a model by one of Pythae's samplers, fitted to its codes where it is fitted.

    Args:
        name: A key of :data:`~pythae_fif.names.SAMPLERS` that the model has.
        model: A trained model.
        codes: Its training codes as :func:`embed` gives them.
        num_samples: n.
        seed: Of fit and draw.
        fit_steps: Of Adam, 100 codes each, of a flow, second VAE or PixelCNN.
        transform: Applied to each batch of samples, such as rounding to 8 bits.
        prior: Of `flow`, if it is fitted already.

    Returns:
        (n, C, H, W), where the model is.

    Raises:
        ConfigError: An unknown sampler, or one of other models.
        NonFiniteError: A sample is NaN or infinite, as after a fit that diverged.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r} is unknown: {did_you_mean(name, SAMPLERS)}")
    if not isinstance(model, _CLASSES[name][1]):
        line = SAMPLERS[name].description
        raise ConfigError(f"sampler {name!r} is not for a {type(model).__name__}: {line}")
    set_seed(seed)
    with quiet_pythae():
        sampler = _fit_sampler(name, model, codes, seed, fit_steps, prior)
        parts = []
        for batch in draw_samples(sampler, num_samples):
            if not batch.isfinite().all():
                raise NonFiniteError(f"the {name} sampler gave samples that are not finite")
            parts.append(transform(batch))
    samples = torch.cat(parts)
    return samples[torch.randperm(len(samples))[:num_samples]]


def generate_by_class(
    name: str,
    model: BaseAE,
    codes: Tensor,
    labels: np.ndarray,
    *,
    num_samples: int,
    seed: int,
    **how: Any,
) -> tuple[Tensor, np.ndarray]:
    """Samples of a conditional model, with classes in the proportions of the labels (N,).

    Arguments and errors are those of :func:`generate`, which is called class by class with
    `model.conditioned_on(label)` and the codes of its images, each time with another seed.

    Returns:
        (n, C, H, W), where the model is, shuffled, and their labels (n,).
    """
    classes, counts = np.unique(labels, return_counts=True)
    ends = np.round(np.cumsum(counts) * num_samples / len(labels)).astype(int)
    wanted = np.diff(ends, prepend=0)
    parts = []
    for index, (label, number) in enumerate(zip(classes, wanted.tolist(), strict=True)):
        of_class = codes[torch.from_numpy(labels == label)]
        how |= {"num_samples": number, "seed": (seed + 1_000_003 * index) % 2**32}
        if number:
            parts.append(generate(name, model.conditioned_on(int(label)), of_class, **how))
    order = np.random.default_rng(seed).permutation(num_samples)
    return torch.cat(parts)[torch.from_numpy(order)], classes.repeat(wanted)[order]


class _PriorSampler(BaseSampler):
    """Draws codes from a prior of this package."""

    prior: Prior

    def sample(self, num_samples: int, **_: int) -> Tensor:
        """Samples (n, ...), where the model is."""
        return self.model.decoder(self.prior.sample(num_samples)).reconstruction


_CLASSES: dict[str, tuple[type[BaseSampler], type[BaseAE]]] = {
    "normal": (samplers.NormalSampler, BaseAE),
    "own_prior": (_PriorSampler, InjectiveFlow),
    "gaussian": (samplers.GaussianMixtureSampler, BaseAE),
    "gmm": (samplers.GaussianMixtureSampler, BaseAE),
    "maf": (samplers.MAFSampler, BaseAE),
    "iaf": (samplers.IAFSampler, BaseAE),
    "flow": (_PriorSampler, BaseAE),
    "two_stage": (samplers.TwoStageVAESampler, models.VAE),
    "vamp": (samplers.VAMPSampler, models.VAMP),
    "hypersphere": (samplers.HypersphereUniformSampler, models.SVAE),
    "poincare": (samplers.PoincareDiskSampler, models.PoincareVAE),
    "rhvae": (samplers.RHVAESampler, models.RHVAE),
    "pixelcnn": (samplers.PixelCNNSampler, models.VQVAE),
}
"""Name -> the sampler's class, and that of the models that it is for."""

_CONFIGS = {
    "two_stage": samplers.TwoStageVAESamplerConfig(second_layers_dim=256),
    "pixelcnn": samplers.PixelCNNSamplerConfig(n_layers=4),
}


def _fit_sampler(
    name: str, model: BaseAE, codes: Tensor, seed: int, steps: int, prior: Prior | None
) -> BaseSampler:
    """A sampler, fitted to codes in that many steps where it is fitted."""
    sampler = _CLASSES[name][0](model, _CONFIGS.get(name))
    if name in ("gaussian", "gmm"):
        sampler.gmm = fit_mixture(codes, 1 if name == "gaussian" else COMPONENTS, seed)
        # An integer would draw the same samples in every call, of which there is one a batch.
        sampler.gmm.random_state = np.random.RandomState(seed)
    elif name in ("maf", "iaf"):
        if name == "iaf":  # whose density costs d passes
            steps = min(steps, max(50, 4 * steps // codes.shape[1]))
        setattr(sampler, f"{name}_model", _UnstandardizingFlow(sampler, codes, steps))
    elif name == "own_prior":
        sampler.prior = model.latent_distribution(codes)
    elif name == "flow":
        sampler.prior = prior or fit_new_prior("flow", codes, seed=seed, steps=steps)
    elif name == "two_stage":
        _fit(sampler.second_vae, codes, steps)
    elif name == "pixelcnn":
        _fit(sampler.pixelcnn_model, _indices(model, codes), steps)
    elif name == "rhvae" and hasattr(model, "sampler_force"):  # else as Pythae's
        sampler.grad_func = lambda z, model: model.sampler_force(z)
    sampler.is_fitted = True
    return sampler


class _UnstandardizingFlow(nn.Module):
    """A flow of Pythae's, fitted to standardised codes, that draws codes of their own scale."""

    def __init__(self, sampler: BaseSampler, codes: Tensor, steps: int) -> None:
        super().__init__()
        deviation, self.mean = torch.std_mean(codes, dim=0)
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        _fit(sampler.flow_contained_model, (codes - self.mean) / self.scale, steps)
        self.flow = sampler.flow_contained_model.flow

    def inverse(self, u: Tensor) -> ModelOutput:
        """Codes (B, d) of draws from the flow's prior, (B, d)."""
        return ModelOutput(out=self.mean + self.scale * self.flow.inverse(u).out)


def _indices(model: BaseAE, codes: Tensor) -> Tensor:
    """Of a VQVAE's codes the nearest code vectors, as maps (N, 1, h, w) of numbers."""
    vectors = model.quantizer.embeddings
    if isinstance(vectors, nn.Embedding):
        vectors = vectors.weight.detach()
    # Pythae quantises the coordinates of flat codes one by one: a row of places for the PixelCNN.
    places = codes[:, None, :, None] if codes.ndim == 2 else codes.movedim(1, -1)
    parts = places.flatten(0, 2).split(50_000)
    indices = torch.cat([torch.cdist(part, vectors).argmin(-1) for part in parts])
    return indices.reshape(len(codes), 1, *places.shape[1:3]).float()


def _fit(module: nn.Module, data: Tensor, steps: int) -> None:
    """Trains a density model of Pythae's on codes."""
    train_density(module, lambda batch: module({"data": batch}).loss / len(batch), [data], steps)
