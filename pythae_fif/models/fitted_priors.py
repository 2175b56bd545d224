"""Priors that are fitted to codes: Gaussian, mixture, flow."""

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from zuko.flows import NSF

from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError, NonFiniteError, did_you_mean
from pythae_fif.models.priors import Condition, Generator, Prior, PriorKind

COMPONENTS, MIXTURE_STEPS = 10, 500
"""Components of a mixture, and the most steps of its fit."""

FIT_BATCH, FIT_STEPS = 100, 600
"""Codes in a step of a fit by descent, and its steps where nobody says."""


class MixturePrior(nn.Module, Prior):
    """Gaussians of full covariance, or such a mixture for each class of a conditional model.

    Before :meth:`fit` it is the standard normal.

    Args:
        latent_dim, components: d, and how many Gaussians.
        condition_dim: The classes, of which a condition (B, c) is one-hot; 0 for none.
    """

    log_weights: Tensor
    means: Tensor
    triangles: Tensor

    def __init__(self, latent_dim: int, components: int, condition_dim: int) -> None:
        super().__init__()
        size = max(1, condition_dim), components
        self.register_buffer("log_weights", torch.full(size, -math.log(components)))
        self.register_buffer("means", torch.zeros(*size, latent_dim))
        self.register_buffer("triangles", torch.eye(latent_dim).repeat(*size, 1, 1))

    def fit(self, codes: Tensor, condition: Condition, seed: int, steps: int) -> None:
        """Fits it by scikit-learn to codes (N, d) and their condition (N, c)."""
        self.log_weights.fill_(-math.inf)  # of components for which there are no codes
        for index in range(len(self.means)):
            own = codes if condition is None else codes[condition[:, index] == 1]
            if len(own) < 2:
                raise ConfigError(f"{len(own)} codes of class {index}: give two, or take 'flow'")
            found = fit_mixture(own, self.means.shape[1], seed)
            values = found.weights_, found.means_, found.covariances_
            weights, means, covariances = (torch.from_numpy(of) for of in values)
            self.log_weights[index, : len(means)] = weights.log().to(self.means)
            self.means[index, : len(means)] = means.to(self.means)
            self.triangles[index, : len(means)] = torch.linalg.cholesky(covariances).to(self.means)

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        row = 0 if condition is None else condition.argmax(-1)
        scale = self.triangles[row]
        gaussians = MultivariateNormal(self.means[row], scale_tril=scale, validate_args=False)
        return (self.log_weights[row] + gaussians.log_prob(z[..., None, :])).logsumexp(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        zeros = self.means.new_zeros(size, self.means.shape[-1])
        row = zeros[:, 0].long() if condition is None else condition.argmax(-1)
        picked = self.log_weights[row].exp().multinomial(1, generator=generator)[:, 0]
        noise, codes = torch.normal(zeros, 1.0, generator=generator), self.means[row, picked]
        pairs, place = torch.stack([row, picked], 1).unique(dim=0, return_inverse=True)
        for index, (of_class, component) in enumerate(pairs.tolist()):  # not a triangle a code
            codes[place == index] += noise[place == index] @ self.triangles[of_class, component].T
        return codes

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        row = 0 if condition is None else int(condition.argmax())
        weights, means = self.log_weights[row].double().exp(), self.means[row].double()
        triangles, mean = self.triangles[row].double(), weights @ means
        parts = triangles @ triangles.mT + (means - mean)[:, :, None] * (means - mean)[:, None]
        return mean, (weights[:, None, None] * parts).sum(0)


class FlowPrior(nn.Module, Prior):
    """zuko's neural spline flow, of codes whose coordinates have mean 0 and variance 1.

    Args:
        latent_dim, condition_dim: d, and c of a condition (B, c), of whatever kind; 0 for none.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.flow = NSF(latent_dim, condition_dim)
        if latent_dim == 1 and not condition_dim:  # of these zuko draws the spline itself
            for spline in self.flow.parameters():
                nn.init.zeros_(spline)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self.requires_grad_(False)

    def fit(self, codes: Tensor, condition: Condition, seed: int, steps: int) -> None:
        """Fits it by Adam to codes (N, d) and their condition (N, c)."""
        deviation, mean = torch.std_mean(codes, dim=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        self.requires_grad_(True)
        data = [codes] if condition is None else [codes, condition]
        train_density(self, lambda *batch: -self.log_prob(*batch).mean(), data, steps)
        self.requires_grad_(False)

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        u = (z - self.mean) / self.scale
        return self.flow(condition).log_prob(u) - self.scale.log().sum()

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        u = torch.normal(self.mean.new_zeros(size, len(self.mean)), 1.0, generator=generator)
        return self.mean + self.scale * self.flow(condition).transform.inv(u)


def new_prior(kind: PriorKind, latent_dim: int, condition_dim: int) -> FlowPrior | MixturePrior:
    """A prior of a kind, into which weights can be loaded."""
    if kind not in get_args(PriorKind):
        raise ConfigError(f"prior {kind!r}: {did_you_mean(kind, get_args(PriorKind))}")
    if kind == "flow":
        return FlowPrior(latent_dim, condition_dim)
    return MixturePrior(latent_dim, COMPONENTS if kind == "mixture" else 1, condition_dim)


def fit_new_prior(
    kind: PriorKind,
    codes: Tensor,
    condition: Condition = None,
    *,
    seed: int = 0,
    steps: int = FIT_STEPS,
) -> FlowPrior | MixturePrior:
    """p_Z, fitted to codes.

    Args:
        kind: 'gaussian' (mean and full covariance, variances 1e-6 larger), 'mixture' (ten of these)
            or 'flow' (zuko's neural spline flow). The first two are fitted class by class.
        codes: (N, d).
        condition: (N, c) of a conditional model, one-hot unless it is a flow's.
        seed: Of the fit.
        steps: Of Adam, 100 codes each, of a flow.

    Raises:
        ConfigError: Another kind, a condition that is not one-hot, a class of fewer than two codes.
        NonFiniteError: A code is NaN or infinite.
    """
    if condition is not None and kind != "flow":
        one_hot = condition.amax(1) * condition.square().sum(1) == 1
        if not one_hot.all():
            raise ConfigError(f"prior {kind!r} is fitted by class: else take 'flow'")
    if bad := int((~codes.isfinite()).any(1).sum()):
        raise NonFiniteError(f"{bad} of {len(codes)} codes are NaN or infinite")
    with fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        width = 0 if condition is None else condition.shape[1]
        prior = new_prior(kind, codes.shape[1], width).to(codes)
        prior.fit(codes, condition, seed, steps)
    return prior


def fit_mixture(codes: Tensor, components: int, seed: int) -> Any:
    """scikit-learn's mixture of full covariances, of at most as many components as codes (N, d)."""
    from sklearn.mixture import GaussianMixture  # whose import takes long

    mixture = GaussianMixture(
        min(components, len(codes)), max_iter=MIXTURE_STEPS, random_state=seed
    )
    return mixture.fit(codes.double().cpu().numpy())


def train_density(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor], steps: int
) -> None:
    """Trains a density by Adam, its learning rate falling to 0, on batches of data (N, ...)."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    size, device = min(FIT_BATCH, len(data[0])), data[0].device
    with torch.enable_grad():
        for _ in range(steps):
            some = torch.randint(len(data[0]), (size,), device=device)
            optimizer.zero_grad()
            loss(*(part[some] for part in data)).backward()
            optimizer.step()
            schedule.step()
