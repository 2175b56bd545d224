"""Priors that are fitted to codes: a Gaussian, a mixture of Gaussians, a flow."""

import math
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from zuko.flows import NSF

from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError, NonFiniteError, check_choice
from pythae_fif.models.flow_matching_prior import FlowMatchingPrior
from pythae_fif.models.priors import (
    ANY_CONDITION_KINDS,
    Condition,
    Generator,
    Prior,
    PriorKind,
    StandardizedPrior,
)

COMPONENTS = 10
"""Components of a mixture."""

MIXTURE_STEPS = 500
"""Maximum number of EM steps of a mixture's fit."""


class MixturePrior(nn.Module, Prior):
    """A mixture of Gaussians with full covariances, or one mixture for each class.

    Before :meth:`fit` it is the standard normal distribution.

    Args:
        latent_dim: d.
        components: Gaussians in a mixture.
        condition_dim: Number of classes, with one-hot conditions (B, c); 0 for no classes.

    Attributes:
        log_weights: Logarithms of the weights, (max(1, c), components).
        means: Means, (max(1, c), components, d).
        scale_trils: Cholesky factors of the covariances, (max(1, c), components, d, d).
    """

    log_weights: Tensor
    means: Tensor
    scale_trils: Tensor

    def __init__(self, latent_dim: int, components: int, condition_dim: int) -> None:
        super().__init__()
        shape = (max(1, condition_dim), components)
        self.register_buffer("log_weights", torch.full(shape, -math.log(components)))
        self.register_buffer("means", torch.zeros(*shape, latent_dim))
        self.register_buffer("scale_trils", torch.eye(latent_dim).repeat(*shape, 1, 1))

    def fit(self, codes: Tensor, condition: Condition, seed: int) -> None:
        """Fits the mixture of each class with scikit-learn.

        Args:
            codes: Codes (N, d).
            condition: One-hot classes (N, c), or None.
            seed: Random seed of the fit.

        Raises:
            ConfigError: A class has fewer than two codes.
        """
        self.log_weights.fill_(-math.inf)  # for components beyond a class's number of codes
        classes, components = self.log_weights.shape
        for index in range(classes):
            class_codes = codes if condition is None else codes[condition[:, index] == 1]
            if len(class_codes) < 2:
                raise ConfigError(
                    f"class {index} has {len(class_codes)} codes: give at least two, or use 'flow'"
                )

            mixture = fit_mixture(class_codes, components, seed)
            weights = torch.from_numpy(mixture.weights_)
            means = torch.from_numpy(mixture.means_)
            scale_trils = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_))
            self.log_weights[index, : len(means)] = weights.log().to(self.means)
            self.means[index, : len(means)] = means.to(self.means)
            self.scale_trils[index, : len(means)] = scale_trils.to(self.means)

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        class_index = 0 if condition is None else condition.argmax(-1)
        gaussians = MultivariateNormal(
            self.means[class_index], scale_tril=self.scale_trils[class_index], validate_args=False
        )
        joint = self.log_weights[class_index] + gaussians.log_prob(z[..., None, :])
        return joint.logsumexp(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        zeros = self.means.new_zeros(size, self.means.shape[-1])
        classes = zeros[:, 0].long() if condition is None else condition.argmax(-1)
        weights = self.log_weights[classes].exp()
        components = weights.multinomial(1, generator=generator)[:, 0]
        noise = torch.normal(zeros, 1.0, generator=generator)
        codes = self.means[classes, components]

        # Loops over components: a Cholesky factor for each code would take too much memory.
        pairs, pair_index = torch.stack([classes, components], 1).unique(dim=0, return_inverse=True)
        for index, (class_index, component) in enumerate(pairs.tolist()):
            members = pair_index == index
            codes[members] += noise[members] @ self.scale_trils[class_index, component].T
        return codes

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        class_index = 0 if condition is None else int(condition.argmax())
        weights = self.log_weights[class_index].double().exp()
        means = self.means[class_index].double()
        scale_trils = self.scale_trils[class_index].double()

        mean = weights @ means
        offsets = means - mean
        second_moments = scale_trils @ scale_trils.mT + offsets[:, :, None] * offsets[:, None]
        return mean, (weights[:, None, None] * second_moments).sum(0)


class FlowPrior(StandardizedPrior):
    """A neural spline flow (zuko's `NSF`) over codes standardised to mean 0 and variance 1.

    Args:
        latent_dim: d.
        condition_dim: Length c of conditions (B, c), one-hot or not; 0 for none.
    """

    def __init__(self, latent_dim: int, condition_dim: int) -> None:
        super().__init__(latent_dim)
        self.flow = NSF(latent_dim, condition_dim)
        if latent_dim == 1 and not condition_dim:
            # There zuko has no network: the spline's parameters themselves are drawn at random.
            for spline in self.flow.parameters():
                nn.init.zeros_(spline)
        self.requires_grad_(False)

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        return self.flow(condition).log_prob(self._standardize(z)) - self.scale.log().sum()

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        u = torch.normal(self.mean.new_zeros(size, len(self.mean)), 1.0, generator=generator)
        return self.mean + self.scale * self.flow(condition).transform.inv(u)


FittedPrior = MixturePrior | FlowPrior | FlowMatchingPrior


def new_prior(kind: PriorKind, latent_dim: int, condition_dim: int) -> FittedPrior:
    """Builds a prior with initial weights.

    Args:
        kind: 'gaussian', 'mixture', 'flow' or 'flow_matching'.
        latent_dim: d.
        condition_dim: Length c of its conditions; 0 for none.

    Raises:
        ConfigError: The kind is unknown.
    """
    check_choice(kind, get_args(PriorKind), f"prior {kind!r}")
    if kind == "flow":
        return FlowPrior(latent_dim, condition_dim)
    if kind == "flow_matching":
        return FlowMatchingPrior(latent_dim, condition_dim)
    return MixturePrior(latent_dim, COMPONENTS if kind == "mixture" else 1, condition_dim)


def fit_new_prior(
    kind: PriorKind,
    codes: Tensor,
    condition: Condition = None,
    *,
    seed: int = 0,
    steps: int | None = None,
) -> FittedPrior:
    """Fits a prior to codes.

    Args:
        kind: 'gaussian' (mean and full covariance), 'mixture' (ten Gaussians, see
            :func:`fit_mixture`), 'flow' (zuko's neural spline flow) or 'flow_matching' (a
            continuous flow on straight paths). The first two are fitted class by class.
        codes: Codes (N, d).
        condition: Condition vectors (N, c) of a conditional model. They must be one-hot unless the
            kind is 'flow' or 'flow_matching'.
        seed: Random seed of the fit.
        steps: Steps of Adam that train a flow, with 100 codes each. With None, the training ends
            when a held-out tenth of the codes stops improving.

    Returns:
        The fitted prior, on the device and with the type of the codes.

    Raises:
        ConfigError: The kind is unknown, there are no codes, a condition is not one-hot, or a class
            has fewer than two codes.
        NonFiniteError: A code is NaN or infinite.
    """
    if not len(codes):
        raise ConfigError("a prior cannot be fitted to 0 codes")
    if condition is not None and kind not in ANY_CONDITION_KINDS:
        one_hot = condition.amax(1) * condition.square().sum(1) == 1
        if not one_hot.all():
            raise ConfigError(
                f"prior {kind!r} is fitted class by class, so conditions must be one-hot: use "
                "'flow' for other conditions"
            )
    bad_codes = int((~codes.isfinite()).any(1).sum())
    if bad_codes:
        raise NonFiniteError(f"{bad_codes} of {len(codes)} codes are NaN or infinite")

    condition_dim = 0 if condition is None else condition.shape[1]
    with fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        prior = new_prior(kind, codes.shape[1], condition_dim).to(codes)
        if isinstance(prior, MixturePrior):
            prior.fit(codes, condition, seed)
        else:
            prior.fit(codes, condition, steps)
    return prior


def fit_mixture(codes: Tensor, components: int, seed: int) -> Any:
    """Fits scikit-learn's mixture of Gaussians with full covariances.

    Each component's covariance is then raised by the covariance of all codes, divided by the mean
    number of codes in a component. Fitted to a few codes, a component would otherwise be a spike
    at them. The raise does not depend on the scale of the codes, vanishes for many codes, and is
    close to the one of highest held-out likelihood.

    Args:
        codes: Codes (N, d).
        components: Number of Gaussians; N if there are fewer codes.
        seed: Random seed of the fit.

    Returns:
        The fitted ``GaussianMixture``.
    """
    from sklearn.mixture import GaussianMixture  # here because the import takes long

    mixture = GaussianMixture(
        min(components, len(codes)), max_iter=MIXTURE_STEPS, random_state=seed
    )
    values = codes.double().cpu().numpy()
    mixture.fit(values)

    offsets = values - values.mean(0)
    covariance = offsets.T @ offsets / len(values)
    covariances = mixture.covariances_ + covariance * mixture.n_components / len(values)
    mixture.covariances_ = covariances
    mixture.precisions_ = np.linalg.inv(covariances)
    mixture.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(1, 2)
    return mixture
