"""Pythae's samplers, seeded and fitted to codes that are computed once."""

__all__ = ["embed", "generate"]

import tempfile

import numpy as np
import torch
from pythae.models import BaseAE
from pythae.samplers import (
    GaussianMixtureSampler,
    IAFSampler,
    MAFSampler,
    NormalSampler,
)
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pythae_fif.data import ImageDataset, to_float
from pythae_fif.trainers import quiet_pythae

FLOW_EPOCHS = 50


@torch.no_grad()
def embed(model: BaseAE, images: np.ndarray, *, batch_size: int = 200) -> Tensor:
    """Codes of images as Pythae's samplers take them: `z` of the model in evaluation mode.

    Returns:
        (N, d), on the CPU.
    """
    model.eval()
    device = next(model.parameters()).device
    dataset = ImageDataset(images)
    parts = torch.arange(len(images)).split(batch_size)
    return torch.cat([model(dataset.batch(part, device=device)).z.cpu() for part in parts])


def generate(
    name: str,
    model: BaseAE,
    codes: Tensor,
    images: np.ndarray,
    *,
    num_samples: int,
    seed: int,
) -> Tensor:
    """Samples of a model by one of Pythae's samplers.

    The Gaussian mixture is fitted here, since Pythae's own `fit` takes no seed and asks the model
    for its loss; its samples come grouped by component, so they are shuffled.

    Args:
        name: `normal`, `gmm`, `maf` or `iaf`.
        model: A trained model.
        codes: Training codes, (N, d).
        images: The training images, for the samplers that embed them themselves.
        num_samples: n.
        seed: Of fit and draw.

    Returns:
        (n, C, H, W), on the CPU.
    """
    set_seed(seed)
    with quiet_pythae():
        if name == "normal":
            sampler = NormalSampler(model)
        elif name == "gmm":
            sampler = GaussianMixtureSampler(model)
            mixture = GaussianMixture(
                min(sampler.n_components, len(codes)), max_iter=2000, random_state=seed
            )
            sampler.gmm = mixture.fit(codes.double().numpy())
            # A mixture with an integer for its state draws the same samples in every call, and
            # Pythae calls it once a batch.
            mixture.random_state = np.random.RandomState(seed)
            sampler.is_fitted = True
        else:
            sampler = (MAFSampler if name == "maf" else IAFSampler)(model)
            with tempfile.TemporaryDirectory() as folder:
                config = BaseTrainerConfig(
                    output_dir=folder, num_epochs=FLOW_EPOCHS, learning_rate=1e-3, seed=seed
                )
                sampler.fit(to_float(images), training_config=config)
        with torch.no_grad():
            samples = sampler.sample(num_samples, batch_size=min(500, num_samples)).cpu()
    return samples[torch.randperm(len(samples))]
