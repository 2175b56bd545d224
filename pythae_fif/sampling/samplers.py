"""Samples of a model by Pythae's samplers; what is odd in them stands in `pythae_fif.sampling`."""

__all__ = ["draw", "fit", "generate", "generate_by_class", "needs_fit"]

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from pythae.models import RHVAE, SVAE, VAE, VAMP, VQVAE, BaseAE, FactorVAE, PoincareVAE
from pythae.models.base.base_utils import ModelOutput
from pythae.samplers import (
    BaseSampler,
    GaussianMixtureSampler,
    HypersphereUniformSampler,
    IAFSampler,
    MAFSampler,
    NormalSampler,
    PixelCNNSampler,
    PixelCNNSamplerConfig,
    PoincareDiskSampler,
    RHVAESampler,
    TwoStageVAESampler,
    TwoStageVAESamplerConfig,
    VAMPSampler,
)
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, DataError, NonFiniteError, did_you_mean
from pythae_fif.sampling import FIT_STEPS, SAMPLERS
from pythae_fif.training import quiet_pythae

IAF_PASSES = 2400
"""A fit of IAF in d dimensions takes this number over d steps, at least 50, because its density
costs d passes. It grows with `fit_steps` and never exceeds it."""
BATCH_SIZE, FIT_BATCH = 500, 100
"""Samples drawn at once, and codes in a step of a fit."""
MIXTURE_STEPS = 500
"""Most steps of a mixture's fit; Pythae takes up to 2,000."""
CHECK_EVERY = 50
"""Steps of a fit between two looks at its loss: each makes the host wait for the device."""

logger = logging.getLogger(__name__)


def needs_fit(sampler: BaseSampler) -> bool:
    """Whether a sampler is one that must be fitted, and is not yet."""
    return not sampler.is_fitted and type(sampler).fit is not BaseSampler.fit


def fit(
    sampler: BaseSampler, images: Tensor, training_config: BaseTrainerConfig | None = None
) -> None:
    """Fits a sampler as Pythae does, silently.

    Args:
        sampler: Any sampler of Pythae that is fitted.
        images: Training images (N, C, H, W), float32 in [0, 1].
        training_config: How Pythae trains samplers that are networks.

    Raises:
        DataError: There are none, or they do not fill [0, 1]: Pythae would scale them by 255.
    """
    low, high = map(float, images.aminmax()) if images.numel() else (0.0, 0.0)
    if not images.is_floating_point() or low < 0 or high != 1:
        raise DataError(
            f"images: {images.dtype} from {low:g} to {high:g}, and Pythae fits a sampler only to "
            "floating-point images in [0, 1] that reach 1: scale them, or fit the sampler before"
        )
    if isinstance(sampler.model, FactorVAE) and len(images) % FIT_BATCH == 1:
        images = images[:-1]  # FactorVAE takes no batch of one
    more = {} if training_config is None else {"training_config": training_config}
    sampler.model.eval()
    with quiet_pythae():
        sampler.fit(train_data=images, **more)


def draw(sampler: BaseSampler, num_samples: int, batch_size: int = BATCH_SIZE) -> Iterator[Tensor]:
    """Samples batch by batch, without gradients, where the model is.

    Args:
        sampler: Any sampler of Pythae, fitted.
        num_samples: n; at least as many are drawn, more where the sampler needs whole batches.
        batch_size: Most samples at once, rounded up to what the sampler needs.

    Yields:
        (B, C, H, W); of the decoder's shape where the model has no `input_dim`.
    """
    shape = sampler.model.model_config.input_dim
    multiple = len(sampler.model.idle_input) if isinstance(sampler, VAMPSampler) else 1
    for held in vars(sampler).values():
        if isinstance(held, nn.Module):
            held.eval()
    left = num_samples
    while left > 0:
        count = -(-min(batch_size, left) // multiple) * multiple
        with _callable_codes(sampler), torch.no_grad():
            batch = sampler.sample(num_samples=count, batch_size=count)
        batch = batch.detach()
        yield batch if shape is None else batch.reshape(-1, *shape)
        left -= count


@contextlib.contextmanager
def _callable_codes(sampler: BaseSampler) -> Iterator[None]:
    """Lets a PixelCNN's sampler call code vectors that are a buffer, within the block."""
    model = sampler.model
    if not isinstance(sampler, PixelCNNSampler) or callable(model.quantizer.embeddings):
        yield
        return
    quantizer = SimpleNamespace(embeddings=nn.Embedding.from_pretrained(model.quantizer.embeddings))
    sampler.model = SimpleNamespace(quantizer=quantizer, decoder=model.decoder)
    try:
        yield
    finally:
        sampler.model = model


def generate(
    name: str,
    model: BaseAE,
    codes: Tensor,
    *,
    num_samples: int,
    seed: int,
    fit_steps: int = FIT_STEPS,
) -> Tensor:
    """Samples of a model by one of Pythae's samplers, fitted to its codes where it is fitted.

    Args:
        name: A key of :data:`~pythae_fif.sampling.SAMPLERS` that the model has.
        model: A trained model.
        codes: Its training codes as :func:`~pythae_fif.sampling.models.embed` gives them.
        num_samples: n.
        seed: Of fit and draw.
        fit_steps: Of Adam, 100 codes each, for the samplers of `FITTED`. IAF's are fewer in
            many latent dimensions, see `IAF_PASSES`.

    Returns:
        (n, C, H, W), on the CPU.

    Raises:
        ConfigError: An unknown sampler, one of other models, or fewer than one sample.
        DataError: Fewer than two codes, or some that are not finite, for a sampler that is fitted.
        NonFiniteError: The fit diverged, or a sample is NaN or infinite.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r} is unknown: {did_you_mean(name, SAMPLERS)}")
    if not isinstance(model, _MODELS.get(name, BaseAE)):
        line = SAMPLERS[name].line
        raise ConfigError(f"sampler {name!r} is not for a {type(model).__name__}: {line}")
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: at least 1 is needed")
    fits = SAMPLERS[name].fitted or name in ("gaussian", "gmm")
    if fits and (len(codes) < 2 or not codes.isfinite().all()):
        raise DataError(f"sampler {name!r} needs two training codes at least, and finite ones")
    set_seed(seed)
    with quiet_pythae():
        sampler = _SAMPLERS[name](model, codes, seed, fit_steps)
        sampler.is_fitted = True
        samples = torch.cat([batch.cpu() for batch in draw(sampler, num_samples)])
    if not torch.isfinite(samples).all():
        raise NonFiniteError(f"the {name} sampler gave samples that are not finite")
    return samples[torch.randperm(len(samples))][:num_samples]


def generate_by_class(
    name: str,
    model: BaseAE,
    codes: Tensor,
    labels: np.ndarray,
    *,
    num_samples: int,
    seed: int,
    fit_steps: int = FIT_STEPS,
) -> tuple[Tensor, np.ndarray]:
    """Samples of a conditional model, of each class as many as its part of the labels.

    Arguments and errors are those of :func:`generate`, which is called class by class with
    `model.given(label)` and the codes of its images, each time with another seed.

    Args:
        labels: Of the codes, (N,).

    Returns:
        (n, C, H, W), on the CPU, shuffled, and their labels (n,).

    Raises:
        DataError: A class has one code alone, and the sampler is fitted to codes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if name != "normal" and counts.min() < 2:
        raise DataError(
            f"class {classes[counts.argmin()]} has one training image, and the {name} sampler is "
            "fitted to those of a class: leave the class or the sampler out"
        )
    ends = np.round(np.cumsum(counts) * num_samples / len(labels)).astype(int)
    wanted = np.diff(ends, prepend=0)
    parts = []
    for index, (label, number) in enumerate(zip(classes, wanted.tolist(), strict=True)):
        how = {"seed": (seed + 1_000_003 * index) % 2**32, "fit_steps": fit_steps}
        of_class = codes[torch.from_numpy(labels == label)]
        if number:
            parts += [generate(name, model.given(int(label)), of_class, num_samples=number, **how)]
    order = np.random.default_rng(seed).permutation(num_samples)
    return torch.cat(parts)[torch.from_numpy(order)], classes.repeat(wanted)[order]


def _mixture(model: BaseAE, codes: Tensor, seed: int, steps: int, components: int) -> BaseSampler:
    sampler = GaussianMixtureSampler(model)
    components = min(components, len(codes))
    mixture = GaussianMixture(components, max_iter=MIXTURE_STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # in its place a line of ours
        sampler.gmm = mixture.fit(codes.double().numpy())
    # An integer would draw the same samples in every call, of which there is one a batch.
    mixture.random_state = np.random.RandomState(seed)
    if not mixture.converged_:
        logger.warning(
            "the fit of a mixture of %d components did not converge in %d steps: samples are of "
            "its last one", components, MIXTURE_STEPS,
        )  # fmt: skip
    return sampler


def _rhvae(model: BaseAE, codes: Tensor, seed: int, steps: int) -> BaseSampler:
    sampler = RHVAESampler(model)
    sampler.grad_func = lambda z, model: model.sampler_force(z)
    return sampler


class _OfStandardised(nn.Module):
    """A flow of Pythae's, fitted to codes whose coordinates have mean 0 and variance 1, that draws
    codes of their own mean and scale."""

    def __init__(self, sampler: BaseSampler, codes: Tensor, steps: int, name: str) -> None:
        super().__init__()
        deviation, mean = torch.std_mean(codes, dim=0)
        scale = torch.where(deviation > 0, deviation, 1.0)
        _fit(sampler.flow_contained_model, (codes - mean) / scale, steps, name)
        self.flow = sampler.flow_contained_model.flow
        self.mean, self.scale = mean.to(sampler.device), scale.to(sampler.device)

    def inverse(self, u: Tensor) -> ModelOutput:
        """Codes (B, d) of draws from the flow's prior, (B, d)."""
        return ModelOutput(out=self.mean + self.scale * self.flow.inverse(u).out)


def _maf(model: BaseAE, codes: Tensor, seed: int, steps: int) -> BaseSampler:
    sampler = MAFSampler(model)
    sampler.maf_model = _OfStandardised(sampler, codes, steps, "MAF")
    return sampler


def _iaf(model: BaseAE, codes: Tensor, seed: int, steps: int) -> BaseSampler:
    sampler = IAFSampler(model)
    steps = min(steps, max(50, IAF_PASSES * steps // FIT_STEPS // codes.shape[1]))
    sampler.iaf_model = _OfStandardised(sampler, codes, steps, "IAF")
    return sampler


def _two_stage(model: BaseAE, codes: Tensor, seed: int, steps: int) -> BaseSampler:
    sampler = TwoStageVAESampler(model, TwoStageVAESamplerConfig(second_layers_dim=256))
    _fit(sampler.second_vae, codes, steps, "second VAE")
    return sampler


def _pixelcnn(model: BaseAE, codes: Tensor, seed: int, steps: int) -> BaseSampler:
    sampler = PixelCNNSampler(model, PixelCNNSamplerConfig(n_layers=4))
    vectors = model.quantizer.embeddings
    if isinstance(vectors, nn.Embedding):
        vectors = vectors.weight.detach()
    # Pythae quantises the coordinates of flat codes one by one: a row of places for the PixelCNN.
    places = codes[:, None, :, None] if codes.ndim == 2 else codes.movedim(1, -1)
    parts = places.flatten(0, 2).split(50_000)
    indices = torch.cat([torch.cdist(part, vectors.cpu()).argmin(-1) for part in parts])
    maps = indices.reshape(len(codes), 1, *places.shape[1:3]).float()
    _fit(sampler.pixelcnn_model, maps, steps, "PixelCNN")
    return sampler


_SAMPLERS: dict[str, Callable[[BaseAE, Tensor, int, int], BaseSampler]] = {
    "normal": lambda model, codes, seed, steps: NormalSampler(model),
    "gaussian": partial(_mixture, components=1),
    "gmm": partial(_mixture, components=10),
    "vamp": lambda model, codes, seed, steps: VAMPSampler(model),
    "hypersphere": lambda model, codes, seed, steps: HypersphereUniformSampler(model),
    "poincare": lambda model, codes, seed, steps: PoincareDiskSampler(model),
    "rhvae": _rhvae,
    "maf": _maf,
    "iaf": _iaf,
    "two_stage": _two_stage,
    "pixelcnn": _pixelcnn,
}
"""Name -> what makes a sampler of a model, its codes, a seed and the number of steps of a fit."""

_MODELS: dict[str, type[BaseAE]] = {
    "two_stage": VAE, "vamp": VAMP, "hypersphere": SVAE, "poincare": PoincareVAE, "rhvae": RHVAE,
    "pixelcnn": VQVAE,
}  # fmt: skip
"""Name -> the models that a sampler is for, where it is not for all."""


def _fit(module: nn.Module, data: Tensor, steps: int, name: str) -> None:
    """Trains a density model of Pythae's on codes: Adam, its learning rate falling to zero.

    Raises:
        NonFiniteError: The loss is NaN or infinite.
    """
    data = data.to(next(module.parameters()).device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    total = torch.zeros((), device=data.device)
    module.train()
    for step in range(1, steps + 1):
        batch = data[torch.randint(len(data), (min(FIT_BATCH, len(data)),), device=data.device)]
        optimizer.zero_grad()
        loss = module({"data": batch}).loss / len(batch)
        total += loss.detach()
        if (step % CHECK_EVERY == 0 or step == steps) and not torch.isfinite(total):
            raise NonFiniteError(f"the fit of the {name} diverged by step {step} of {steps}")
        loss.backward()
        optimizer.step()
        schedule.step()
    module.eval()
