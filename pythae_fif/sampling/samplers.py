"""Codes of a model, and samples from Pythae's samplers."""

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
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, NonFiniteError, did_you_mean
from pythae_fif.models.density_training import train_density
from pythae_fif.models.fitted_priors import COMPONENTS, fit_mixture, fit_new_prior
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.integers import ceil_div
from pythae_fif.models.outputs import without_gradients
from pythae_fif.models.priors import Prior
from pythae_fif.names import SAMPLERS
from pythae_fif.training import quiet_pythae

BATCH_SIZE = 500
"""Samples drawn at once."""

ENCODE_BATCH_SIZE = 200
"""Images encoded at once."""

FIT_STEPS = 600
"""Steps that fit one of Pythae's density models, unless another number is given."""

Array = np.ndarray | Tensor


def embed(model: BaseAE, images: Array, *, labels: Array | None = None, seed: int = 0) -> Tensor:
    """Computes the codes to which Pythae's samplers are fitted: `z` of a model in evaluation mode.

    Args:
        model: The model.
        images: Images (N, C, H, W), uint8 or in [0, 1].
        labels: Class indices (N,), for a conditional model.
        seed: Random seed, as some models draw their codes. It sets all global random states.

    Returns:
        Codes (N, d), or maps of codes (N, d, h, w), on the model's device.

    Raises:
        NonFiniteError: A code is NaN or infinite.
    """
    set_seed(seed)
    codes = map_batches(_encode, model, images, labels)
    bad_codes = int((~codes.flatten(1).isfinite().all(dim=1)).sum())
    if bad_codes:
        raise NonFiniteError(
            f"the codes of {bad_codes} of {len(codes)} training images are not finite"
        )
    return codes


def reconstruction_mse(model: BaseAE, images: Array, labels: Array | None = None) -> float:
    """Computes the mean squared error per pixel, or per value of a table's rows.

    The paper's reconstruction loss, the squared error of an image, is D times this number, where D
    is the number of values of an image. A model that draws its codes draws them from torch's
    global random state.

    Args:
        model: The model.
        images: Images (N, C, H, W), uint8 or in [0, 1].
        labels: Class indices (N,), for a conditional model.

    Raises:
        NonFiniteError: The error is NaN or infinite.
    """

    def errors(model: BaseAE, x: Tensor, *labels: Tensor) -> Tensor:
        x_hat: Tensor = model.reconstruct(x.clone(), *labels)  # it may overwrite its input
        return (x_hat.reshape(x.shape) - x).square().flatten(1).mean(1)

    mse = map_batches(errors, model, images, labels).mean().item()
    if not math.isfinite(mse):
        raise NonFiniteError(f"the mean squared error of the reconstructions is {mse}")
    return mse


def _encode(model: BaseAE, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns the codes of one batch."""
    if isinstance(model, models.FactorVAE):
        output = model.encoder(x)
        return torch.normal(output.embedding, (0.5 * output.log_covariance).exp())
    if labels is None and not getattr(model, "condition_dim", 0):
        # Some models of Pythae read labels. A conditional model must not get these: it raises.
        labels = torch.ones(len(x), device=x.device)
    return model(DatasetOutput(data=x, labels=labels)).z


def map_batches(
    function: Callable[..., Tensor], model: BaseAE, images: Array, labels: Array | None = None
) -> Tensor:
    """Applies a function to float32 batches of images, without gradients.

    Args:
        function: `function(model, x[, labels])`, with x (B, C, H, W), returns a tensor (B, ...).
        model: The model, which is set to evaluation mode.
        images: Images (N, C, H, W), uint8 or floating-point.
        labels: Class indices (N,), for a conditional model.

    Returns:
        The concatenated results (N, ...), on the model's device.
    """
    model.eval()
    device = next(model.parameters()).device
    # No batch may have a single image: some of Pythae's losses need two.
    leaves_single_image = len(images) % ENCODE_BATCH_SIZE == 1
    batch_size = ENCODE_BATCH_SIZE + 1 if leaves_single_image else ENCODE_BATCH_SIZE

    arrays = (images,) if labels is None else (images, labels)
    batches = zip(*(torch.as_tensor(array).split(batch_size) for array in arrays), strict=True)
    results = []
    for batch in batches:
        pixels = batch[0].to(device)
        batch_labels = [tensor.to(device) for tensor in batch[1:]]
        floats = pixels.to(torch.float32, copy=True)  # the model may overwrite its input
        x = floats if pixels.is_floating_point() else floats.div_(255)
        results.append(without_gradients(function, model, x, *batch_labels).detach())
    return torch.cat(results)


def draw_samples(
    sampler: samplers.BaseSampler, num_samples: int, batch_size: int = BATCH_SIZE
) -> Iterator[Tensor]:
    """Draws samples from a fitted sampler, batch by batch, without gradients.

    Args:
        sampler: A fitted sampler of an unconditional model.
        num_samples: Number of samples n.
        batch_size: Samples drawn at once.

    Yields:
        Batches (B, C, H, W) on the model's device. Together they have a few more than n samples
        if the sampler needs whole batches.

    Raises:
        ConfigError: The model is conditional.
    """
    model = sampler.model
    if getattr(model, "condition_dim", 0):
        raise ConfigError(
            "Pythae's samplers do not take labels: pass model.conditioned_on(label), the model of "
            "one label"
        )
    for attribute in vars(sampler).values():
        if isinstance(attribute, nn.Module):
            attribute.eval()

    sampler = _with_callable_code_vectors(sampler)
    multiple = len(model.idle_input) if isinstance(sampler, samplers.VAMPSampler) else 1
    shape = model.model_config.input_dim
    remaining = num_samples
    while remaining > 0:
        count = ceil_div(min(batch_size, remaining), multiple) * multiple
        with torch.no_grad():
            batch = sampler.sample(num_samples=count, batch_size=count).detach()
        yield batch if shape is None else batch.reshape(-1, *shape)
        remaining -= count


def _with_callable_code_vectors(sampler: samplers.BaseSampler) -> samplers.BaseSampler:
    """Returns a sampler that works with code vectors in a buffer, where moving averages are kept.

    Pythae's PixelCNN sampler calls the code vectors like an ``nn.Embedding``. The given sampler is
    not changed.
    """
    model = sampler.model
    if not isinstance(sampler, samplers.PixelCNNSampler) or callable(model.quantizer.embeddings):
        return sampler

    code_vectors = nn.Embedding.from_pretrained(model.quantizer.embeddings)
    sampler = copy.copy(sampler)
    sampler.model = SimpleNamespace(
        quantizer=SimpleNamespace(embeddings=code_vectors), decoder=model.decoder
    )
    return sampler


def generate(
    name: str,
    model: BaseAE,
    codes: Tensor,
    *,
    num_samples: int,
    seed: int,
    fit_steps: int | None = None,
    transform: Callable[[Tensor], Tensor] = lambda samples: samples,
    prior: Prior | None = None,
) -> Tensor:
    """Fits one of the samplers to a model's codes, if it needs a fit, and draws samples.

    Args:
        name: A key of :data:`~pythae_fif.names.SAMPLERS`; the sampler must suit the model.
        model: A trained model.
        codes: Its training codes, from :func:`embed`.
        num_samples: Number of samples n.
        seed: Random seed of fit and samples.
        fit_steps: Steps of Adam, with 100 codes each, that fit a flow, a second VAE or a PixelCNN.
            With None, `flow` and `flow_matching` take a number that follows the codes, and the
            others take :data:`FIT_STEPS`.
        transform: Applied to each batch of samples, such as rounding to 8 bits.
        prior: The prior of the sampler `flow` or `flow_matching`, if it is fitted already.

    Returns:
        Samples (n, C, H, W), shuffled, on the model's device.

    Raises:
        ConfigError: The sampler is unknown, or does not suit the model.
        NonFiniteError: A sample is NaN or infinite, for example after a fit that diverged.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r} is unknown: {did_you_mean(name, SAMPLERS)}")
    _, model_class = _CLASSES[name]
    if not isinstance(model, model_class):
        raise ConfigError(
            f"sampler {name!r} cannot sample from {type(model).__name__}: "
            f"{SAMPLERS[name].description}"
        )

    set_seed(seed)
    with quiet_pythae():
        sampler = _fit_sampler(name, model, codes, seed, fit_steps, prior)
        batches = []
        for batch in draw_samples(sampler, num_samples):
            if not batch.isfinite().all():
                raise NonFiniteError(f"the {name} sampler gave samples that are not finite")
            batches.append(transform(batch))

    samples = torch.cat(batches)
    return samples[torch.randperm(len(samples))[:num_samples]]


def generate_by_class(
    name: str,
    model: BaseAE,
    codes: Tensor,
    labels: np.ndarray,
    *,
    num_samples: int,
    seed: int,
    **options: Any,
) -> tuple[Tensor, np.ndarray]:
    """Draws samples of a conditional model, with the classes in the proportions of the labels.

    :func:`generate` is called for each class, with `model.conditioned_on(label)`, the codes of the
    images of this class, and another seed.

    Args:
        name: See :func:`generate`.
        model: A trained conditional model.
        codes: Its training codes, from :func:`embed`.
        labels: The classes of these codes, (N,).
        num_samples: Number of samples n.
        seed: Random seed; the seed of each class is derived from it.
        **options: Further arguments of :func:`generate`.

    Returns:
        Samples (n, C, H, W), shuffled, on the model's device, and their labels (n,).

    Raises:
        ConfigError: See :func:`generate`.
        NonFiniteError: See :func:`generate`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    ends = np.round(np.cumsum(counts) * num_samples / len(labels)).astype(int)
    class_sizes = np.diff(ends, prepend=0)

    samples = []
    for index, (label, size) in enumerate(zip(classes, class_sizes.tolist(), strict=True)):
        if size > 0:
            class_model = model.conditioned_on(int(label))
            class_codes = codes[torch.from_numpy(labels == label)]
            class_seed = (seed + 1_000_003 * index) % 2**32
            samples.append(
                generate(
                    name, class_model, class_codes, num_samples=size, seed=class_seed, **options
                )
            )

    order = np.random.default_rng(seed).permutation(num_samples)
    return torch.cat(samples)[torch.from_numpy(order)], classes.repeat(class_sizes)[order]


class _PriorSampler(samplers.BaseSampler):
    """A sampler that draws codes from a prior of this package."""

    prior: Prior

    def sample(self, num_samples: int, **_: int) -> Tensor:
        """Draws samples (n, ...), on the model's device."""
        return self.model.decoder(self.prior.sample(num_samples)).reconstruction


_CLASSES: dict[str, tuple[type[samplers.BaseSampler], type[BaseAE]]] = {
    "normal": (samplers.NormalSampler, BaseAE),
    "own_prior": (_PriorSampler, InjectiveFlow),
    "gaussian": (samplers.GaussianMixtureSampler, BaseAE),
    "gmm": (samplers.GaussianMixtureSampler, BaseAE),
    "maf": (samplers.MAFSampler, BaseAE),
    "iaf": (samplers.IAFSampler, BaseAE),
    "flow": (_PriorSampler, BaseAE),
    "flow_matching": (_PriorSampler, BaseAE),
    "two_stage": (samplers.TwoStageVAESampler, models.VAE),
    "vamp": (samplers.VAMPSampler, models.VAMP),
    "hypersphere": (samplers.HypersphereUniformSampler, models.SVAE),
    "poincare": (samplers.PoincareDiskSampler, models.PoincareVAE),
    "rhvae": (samplers.RHVAESampler, models.RHVAE),
    "pixelcnn": (samplers.PixelCNNSampler, models.VQVAE),
}
"""The class of each sampler, and the class of the models that it suits."""

_CONFIGS = {
    "two_stage": samplers.TwoStageVAESamplerConfig(second_layers_dim=256),
    "pixelcnn": samplers.PixelCNNSamplerConfig(n_layers=4),
}


def _fit_sampler(
    name: str, model: BaseAE, codes: Tensor, seed: int, fit_steps: int | None, prior: Prior | None
) -> samplers.BaseSampler:
    """Builds a sampler and fits it to codes, if it needs a fit."""
    sampler_class, _ = _CLASSES[name]
    sampler = sampler_class(model, _CONFIGS.get(name))
    steps = fit_steps or FIT_STEPS

    if name in ("gaussian", "gmm"):
        sampler.gmm = fit_mixture(codes, 1 if name == "gaussian" else COMPONENTS, seed)
        # With an integer, every batch would have the same samples.
        sampler.gmm.random_state = np.random.RandomState(seed)
    elif name == "maf":
        sampler.maf_model = _UnstandardizingFlow(sampler, codes, steps)
    elif name == "iaf":
        # The density of an IAF takes d passes, so it is trained for fewer steps.
        iaf_steps = min(steps, max(50, 4 * steps // codes.shape[1]))
        sampler.iaf_model = _UnstandardizingFlow(sampler, codes, iaf_steps)
    elif name == "own_prior":
        sampler.prior = model.latent_distribution(codes)
    elif name == "flow":
        sampler.prior = prior or fit_new_prior("flow", codes, seed=seed, steps=fit_steps)
    elif name == "flow_matching":
        sampler.prior = prior or fit_new_prior("flow_matching", codes, seed=seed, steps=fit_steps)
    elif name == "two_stage":
        _fit(sampler.second_vae, codes, steps)
    elif name == "pixelcnn":
        _fit(sampler.pixelcnn_model, _nearest_code_vectors(model, codes), steps)
    elif name == "rhvae" and hasattr(model, "sampler_force"):
        sampler.grad_func = lambda z, model: model.sampler_force(z)

    sampler.is_fitted = True
    return sampler


class _UnstandardizingFlow(nn.Module):
    """A flow of Pythae, fitted to standardised codes, that draws codes of the original scale."""

    def __init__(self, sampler: samplers.BaseSampler, codes: Tensor, steps: int) -> None:
        super().__init__()
        deviation, self.mean = torch.std_mean(codes, dim=0)
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        _fit(sampler.flow_contained_model, (codes - self.mean) / self.scale, steps)
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


def _fit(module: nn.Module, data: Tensor, steps: int) -> None:
    """Trains one of Pythae's density models on codes."""
    train_density(module, lambda batch: module({"data": batch}).loss / len(batch), [data], steps)
