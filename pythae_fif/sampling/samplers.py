"""Codes of a model, and samples from Pythae's samplers."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pythae import models, samplers
from pythae.data.datasets import DatasetOutput
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import Labels, without_gradients
from pythae_fif.sampling.catalog import find_sampler
from pythae_fif.sampling.fits import FITS, PYTHAE_SAMPLERS, FitRequest, fit_user_sampler
from pythae_fif.training import quiet_pythae

BATCH_SIZE = 500
"""Samples drawn at once."""

ENCODE_BATCH_SIZE = 200
"""Images encoded at once."""

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
        DataError: The sampler returned samples of another shape, or another number of them.
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
        count = math.ceil(min(batch_size, remaining) / multiple) * multiple
        with torch.no_grad():
            batch = sampler.sample(num_samples=count, batch_size=count).detach()
        if shape is not None and batch.shape != (count, *shape):
            if batch.shape != (count, math.prod(shape)):
                raise DataError(
                    f"the sampler returned shape {tuple(batch.shape)}, needs {(count, *shape)}"
                )
            batch = batch.reshape(count, *shape)
        yield batch
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
    on_batch: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Fits one of the samplers to a model's codes, if it needs a fit, and draws samples.

    Args:
        name: A key of :data:`~pythae_fif.sampling.catalog.SAMPLERS`, or `module:Class`; the
            sampler must suit the model.
        model: A trained model.
        codes: Its training codes, from :func:`embed`.
        num_samples: Number of samples n.
        seed: Random seed of fit and samples.
        fit_steps: Steps of Adam, with 100 codes each, that fit a flow, a second VAE or a PixelCNN.
            With None, `flow` and `flow_matching` take a number that follows the codes, and the
            others take :data:`~pythae_fif.sampling.fits.FIT_STEPS`.
        transform: Applied to each batch of samples, such as rounding to 8 bits.
        on_batch: Called with the number of samples after each batch.

    Returns:
        Samples (n, C, H, W), shuffled, on the model's device.

    Raises:
        ConfigError: The sampler is unknown, or does not suit the model.
        NonFiniteError: A sample is NaN or infinite, for example after a fit that diverged.
    """
    record = find_sampler(name)
    request = FitRequest(name, model, codes, seed, record.prior_kind, fit_steps)
    set_seed(seed)
    with quiet_pythae():
        sampler = FITS.get(name, fit_user_sampler)(request)
        sampler.is_fitted = True
        batches = []
        for batch in draw_samples(sampler, num_samples):
            if not batch.isfinite().all():
                raise NonFiniteError(f"the {name} sampler gave samples that are not finite")
            batches.append(transform(batch))
            on_batch(len(batch))

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
    class_sizes = divide_samples(counts, num_samples)

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


def divide_samples(class_counts: Sequence[int] | np.ndarray, num_samples: int) -> np.ndarray:
    """Returns how many of the samples each class gets, (c,), in proportion to its count."""
    counts = np.asarray(class_counts)
    ends = np.round(np.cumsum(counts) * num_samples / counts.sum()).astype(int)
    return np.diff(ends, prepend=0)


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
    noise_std: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Tensor]:
    """Draws samples from the prior of a model, batch by batch.

    It is the fitted prior of an injective flow if there is one, and the prior of the training
    otherwise.

    Args:
        model: A trained model.
        num_samples: Number of samples n.
        seed: Random seed; it sets torch's global random state.
        labels: One class, or the class indices (n,) of all samples, of a conditional model.
        noise_std: Standard deviation of normal noise that is added.
        progress: Called with the number of samples after each batch, and n.

    Yields:
        Batches (B, ...) on the CPU, together n samples.

    Raises:
        ConfigError: The model is conditional and there are no labels, or the reverse; or it has no
            prior.
    """
    torch.manual_seed(seed)
    batches: Iterable[Tensor]
    if isinstance(model, InjectiveFlow):
        parts = [slice(start, start + BATCH_SIZE) for start in range(0, num_samples, BATCH_SIZE)]
        sizes = [min(part.stop, num_samples) - part.start for part in parts]
        batches = (
            model.sample(size, labels=labels[part] if isinstance(labels, np.ndarray) else labels)
            for size, part in zip(sizes, parts, strict=True)
        )
    elif labels is not None:
        raise ConfigError(f"{model.model_name} takes no labels")
    else:
        _, sampler_class = PYTHAE_SAMPLERS[_find_own_sampler(model)]
        batches = draw_samples(sampler_class(model), num_samples)

    done = 0
    for batch in batches:
        samples = batch.cpu()[: num_samples - done]
        done += len(samples)
        yield torch.normal(samples, noise_std) if noise_std > 0 else samples
        progress(done, num_samples)


def _find_own_sampler(model: BaseAE) -> str:
    """Returns the sampler of a model of Pythae's own prior; the standard normal's for most."""
    if isinstance(model, models.VQVAE):
        raise ConfigError("a VQVAE has no prior: fit Pythae's PixelCNNSampler")
    names = [name for name, (cls, _) in PYTHAE_SAMPLERS.items() if isinstance(model, cls)]
    return names[-1]
