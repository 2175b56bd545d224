"""The marginal likelihood of data with noise around a manifold, by importance sampling."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.models.priors import Prior
from pythae_fif.volume_change import squared_error

MARGINAL_SAMPLES = 50
"""Codes drawn for each data point."""


class MarginalLikelihood(NamedTuple):
    """Data modelled as x = g(z) + s eps, with normal noise eps around a decoder's manifold.

    Attributes:
        decode: g, from codes (B, d) to points (B, ...).
        x: Data (B, ...).
        z: Their codes f(x), (B, d).
        condition: A conditional model's condition, (condition (B, c),); otherwise empty.
        gram: :func:`~pythae_fif.volume_change.exact.decoder_gram` at the codes,
            (B, d + 1, d + 1).
        noise_std: s.
    """

    decode: Callable[[Tensor], Tensor]
    x: Tensor
    z: Tensor
    condition: tuple[Tensor, ...]
    gram: Tensor
    noise_std: float

    @full_float32()
    @torch.no_grad()
    def log_prob(self, prior: Prior, samples: int = MARGINAL_SAMPLES) -> Tensor:
        r"""Estimates :math:`\log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz`.

        Codes are drawn from a normal proposal q(z | x), which is the posterior if g is linear and
        the prior normal. See :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

        Args:
            prior: p_Z.
            samples: Codes drawn for each data point, from torch's global random state.

        Returns:
            Log-densities in nats, (B,).
        """
        variance = self.noise_std**2
        centre, precision_tril = self._proposal(prior)
        log_det_tril = precision_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        log_proposal_at_centre = log_det_tril - self.z.shape[1] / 2 * math.log(2 * math.pi)

        log_weights = []
        for _ in range(samples):
            noise = torch.randn_like(centre)
            offset = torch.linalg.solve_triangular(precision_tril.mT, noise, upper=True)
            z = (centre + offset)[..., 0].to(self.z)
            log_likelihood = -squared_error(self.decode(z), self.x) / (2 * variance)
            log_proposal = log_proposal_at_centre - noise.square().sum((1, 2)) / 2
            log_prior = prior.log_prob(z, *self.condition)
            log_weights.append(log_prior + log_likelihood - log_proposal)

        data_dim = self.x[0].numel()
        log_normalizer = data_dim / 2 * math.log(2 * math.pi * variance)  # of N(x; g(z), s^2 I)
        return torch.stack(log_weights).logsumexp(0) - (math.log(samples) + log_normalizer)

    def _proposal(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """Returns the centre and precision of q(z | x), one Gauss-Newton step from f(x).

        The step increases log p_Z(z) + log N(x; g(z), s^2 I), with the normal distribution that has
        the prior's moments in place of p_Z.

        Returns:
            The centre (B, d, 1), and the Cholesky factor of the precision, (B, d, d).
        """
        d = self.z.shape[1]
        variance = self.noise_std**2
        mean, covariance = self._prior_moments(prior)

        prior_precision = torch.linalg.inv(covariance)
        likelihood_precision = self.gram[:, :d, :d] / variance
        precision_tril = torch.linalg.cholesky(likelihood_precision + prior_precision)

        likelihood_gradient = self.gram[:, :d, d:] / variance
        prior_gradient = -prior_precision @ (self.z - mean)[..., None]
        step = torch.cholesky_solve(likelihood_gradient + prior_gradient, precision_tril)
        return self.z[..., None] + step, precision_tril

    def _prior_moments(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """Returns the prior's mean (B, d) and covariance (B, d, d) at each data point's condition.

        Moments are computed once for each distinct condition.
        """
        if self.condition:
            conditions, index = self.condition[0].unique(dim=0, return_inverse=True)
            moments = [prior.moments(condition[None]) for condition in conditions]
        else:
            index = torch.zeros(len(self.z), dtype=torch.int64, device=self.z.device)
            moments = [prior.moments()]

        means, covariances = zip(*moments, strict=True)
        return torch.stack(means)[index], torch.stack(covariances)[index]
