"""Pythae's samplers, seeded and fitted to codes that are computed once a model.

Got round from outside: the fits of Pythae 0.1.2 ask for data whose maximum is at least 1, embed the
data once a sampler, take no seed and train for a number of epochs whatever the size of the data;
the VAMP sampler fills its last batch from the first pseudo-inputs alone; the PixelCNN samples with
its batch normalisation in training mode.
"""

__all__ = ["FITTED", "FIT_STEPS", "embed", "generate", "reconstruct"]

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE, FactorVAE
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
    TwoStageVAESampler,
    TwoStageVAESamplerConfig,
    VAMPSampler,
)
from pythae.trainers.trainer_utils import set_seed
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from pythae_fif.data import ImageDataset
from pythae_fif.errors import NonFiniteError
from pythae_fif.training import quiet_pythae

FIT_STEPS = 600
"""Steps in which a flow, second VAE or PixelCNN is fitted, where the profile does not say."""
IAF_PASSES = 2400
"""The same for IAF, times latent dimension, since its density costs d passes; at least 50 steps."""


def embed(model: BaseAE, images: np.ndarray, *, seed: int = 0, batch_size: int = 200) -> Tensor:
    """Codes of images as Pythae's samplers take them: `z` of the model in evaluation mode.

    Where the model draws its codes they are draws, by the seed.

    Returns:
        (N, d), or maps of codes (N, d, h, w), on the CPU.

    Raises:
        NonFiniteError: A code is NaN or infinite.
    """
    set_seed(seed)
    codes = _in_batches(model, images, batch_size, _codes)
    if not torch.isfinite(codes).all():
        bad = (~torch.isfinite(codes.flatten(1)).all(dim=1)).sum().item()
        raise NonFiniteError(f"the codes of {bad} of {len(codes)} training images are not finite")
    return codes


def reconstruct(model: BaseAE, images: np.ndarray) -> Tensor:
    """Reconstructions of images, (N, C, H, W), on the CPU, by the model in evaluation mode."""
    return _in_batches(model, images, 200, lambda model, batch: model.reconstruct(batch.data))


def _codes(model: BaseAE, batch: Any) -> Tensor:
    if isinstance(model, FactorVAE):  # its forward pass gives codes of one half of the batch
        output = model.encoder(batch.data)
        noise = torch.randn_like(output.embedding)
        return output.embedding + (0.5 * output.log_covariance).exp() * noise
    return model(batch).z


def _in_batches(
    model: BaseAE, images: np.ndarray, batch_size: int, of: Callable[[BaseAE, Any], Tensor]
) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    dataset = ImageDataset(images)
    results = []
    for part in torch.arange(len(images)).split(batch_size):
        try:
            with torch.no_grad():
                result = of(model, dataset.batch(part, device=device))
        except RuntimeError:  # as in Pythae's trainer: HVAE and RAE-GP differentiate
            with torch.enable_grad():
                result = of(model, dataset.batch(part, device=device))
        results.append(result.detach().cpu())
    return torch.cat(results)


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

    Samples of a mixture and of VAMP come grouped by component, so all are shuffled.

    Args:
        name: A key of :data:`~pythae_fif.benchmark.model_entry.SAMPLERS` that the model has.
        model: A trained model.
        codes: Its training codes as :func:`embed` gives them.
        num_samples: n.
        seed: Of fit and draw.
        fit_steps: Of Adam, 100 codes each, for the samplers of :data:`FITTED`. IAF's are fewer in
            many latent dimensions, see :data:`IAF_PASSES`.

    Returns:
        (n, C, H, W), on the CPU.

    Raises:
        NonFiniteError: The fit diverged, or a sample is NaN or infinite.
    """
    set_seed(seed)
    with quiet_pythae():
        if name in FITTED:
            sampler = _FITS[name](model, codes, fit_steps)
        else:
            sampler = _SAMPLERS[name](model, codes, seed)
        drawn, batch_size = num_samples, min(500, num_samples)
        if name == "vamp":  # whole batches: each has every pseudo-input equally often
            batch_size = model.number_components
            drawn = -(-num_samples // batch_size) * batch_size
        with torch.no_grad():
            samples = sampler.sample(drawn, batch_size=batch_size).cpu()
    if not torch.isfinite(samples).all():
        raise NonFiniteError(f"the {name} sampler gave samples that are not finite")
    return samples[torch.randperm(len(samples))][:num_samples]


def _gmm(model: BaseAE, codes: Tensor, seed: int) -> BaseSampler:
    sampler = GaussianMixtureSampler(model)
    components = min(sampler.n_components, len(codes))
    mixture = GaussianMixture(components, max_iter=2000, random_state=seed)
    sampler.gmm = mixture.fit(codes.double().numpy())
    # A mixture with an integer for its state draws the same samples in every call, and Pythae
    # calls it once a batch.
    mixture.random_state = np.random.RandomState(seed)
    sampler.is_fitted = True
    return sampler


def _maf(model: BaseAE, codes: Tensor, steps: int) -> BaseSampler:
    sampler = MAFSampler(model)
    _fit(sampler.flow_contained_model, codes, steps, "MAF")
    sampler.maf_model, sampler.is_fitted = sampler.flow_contained_model.flow, True
    return sampler


def _iaf(model: BaseAE, codes: Tensor, steps: int) -> BaseSampler:
    sampler = IAFSampler(model)
    steps = min(steps, max(50, IAF_PASSES * steps // FIT_STEPS // codes.shape[1]))
    _fit(sampler.flow_contained_model, codes, steps, "IAF")
    sampler.iaf_model, sampler.is_fitted = sampler.flow_contained_model.flow, True
    return sampler


def _two_stage(model: BaseAE, codes: Tensor, steps: int) -> BaseSampler:
    sampler = TwoStageVAESampler(model, TwoStageVAESamplerConfig(second_layers_dim=256))
    _fit(sampler.second_vae, codes, steps, "second VAE")
    sampler.is_fitted = True
    return sampler


def _pixelcnn(model: BaseAE, codes: Tensor, steps: int) -> BaseSampler:
    sampler = PixelCNNSampler(model, PixelCNNSamplerConfig(n_layers=4))
    vectors = model.quantizer.embeddings
    if isinstance(vectors, nn.Embedding):
        vectors = vectors.weight.detach()
    # The sampler calls the code vectors, which are a buffer where they are moving averages.
    lookup = nn.Embedding.from_pretrained(vectors)
    sampler.model = SimpleNamespace(
        quantizer=SimpleNamespace(embeddings=lookup), decoder=model.decoder
    )
    # Pythae quantises the coordinates of flat codes one by one: a row of places for the PixelCNN.
    places = codes[:, None, :, None] if codes.ndim == 2 else codes.movedim(1, -1)
    parts = places.flatten(0, 2).split(50_000)
    indices = torch.cat([torch.cdist(part, vectors.cpu()).argmin(-1) for part in parts])
    maps = indices.reshape(len(codes), 1, *places.shape[1:3]).float()
    _fit(sampler.pixelcnn_model, maps, steps, "PixelCNN")
    sampler.is_fitted = True
    return sampler


_SAMPLERS: dict[str, Callable[[BaseAE, Tensor, int], BaseSampler]] = {
    "normal": lambda model, codes, seed: NormalSampler(model),
    "gmm": _gmm,
    "vamp": lambda model, codes, seed: VAMPSampler(model),
    "hypersphere": lambda model, codes, seed: HypersphereUniformSampler(model),
    "poincare": lambda model, codes, seed: PoincareDiskSampler(model),
}
_FITS: dict[str, Callable[[BaseAE, Tensor, int], BaseSampler]] = {
    "maf": _maf,
    "iaf": _iaf,
    "two_stage": _two_stage,
    "pixelcnn": _pixelcnn,
}
FITTED = tuple(_FITS)
"""Samplers with a density model of their own, which is trained here and not as in a paper."""


def _fit(module: nn.Module, data: Tensor, steps: int, name: str, batch_size: int = 100) -> None:
    """Trains a density model of Pythae's on codes: Adam, its learning rate falling to zero.

    Raises:
        NonFiniteError: The loss is NaN or infinite.
    """
    data = data.to(next(module.parameters()).device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for step in range(1, steps + 1):
        batch = data[torch.randint(len(data), (min(batch_size, len(data)),), device=data.device)]
        optimizer.zero_grad()
        loss = module({"data": batch}).loss / len(batch)
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the fit of the {name} diverged at step {step} of {steps}")
        loss.backward()
        optimizer.step()
        schedule.step()
    module.eval()
