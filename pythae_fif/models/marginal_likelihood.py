"""The density of data around a manifold, by importance sampling."""

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
    """Data around a decoder's manifold, x = g(z) + s eps.

    Attributes:
        decode: g, from codes (B, d) to (B, ...).
        x, z: Data (B, ...) and their codes f(x) (B, d).
        condition: A conditional model's condition (B, c) as a tuple of one; else empty.
        gram: :func:`~pythae_fif.volume_change.exact.decoder_gram` of them.
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
        """Log-density of x with a prior, (B,); see
        :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

        The codes are drawn by the normal that is their posterior where g is linear and the prior
        normal: its centre is a Gauss-Newton step away from f(x).
        """
        size, dims, variance = self.z.shape[1], self.x[0].numel(), self.noise_std**2
        condition = self.condition[0] if self.condition else self.z.new_zeros(len(self.z), 1)
        kinds, kind = condition.unique(dim=0, return_inverse=True)
        moments = [prior.moments(of[None] if self.condition else None) for of in kinds]
        mean, covariance = (torch.stack(of)[kind] for of in zip(*moments, strict=True))
        precision = torch.linalg.inv(covariance)
        triangle = torch.linalg.cholesky(self.gram[:, :size, :size] / variance + precision)
        uphill = self.gram[:, :size, size:] / variance
        uphill = uphill - precision @ (self.z - mean)[..., None]
        centre = self.z[..., None] + torch.cholesky_solve(uphill, triangle)
        log_q = triangle.diagonal(dim1=1, dim2=2).log().sum(1) - size / 2 * math.log(2 * math.pi)
        found = []
        for _ in range(samples):
            noise = torch.randn_like(centre)
            z = centre + torch.linalg.solve_triangular(triangle.mT, noise, upper=True)
            z = z[..., 0].to(self.z)
            fit = -squared_error(self.decode(z), self.x) / (2 * variance)
            away = log_q - noise.square().sum((1, 2)) / 2
            found.append(prior.log_prob(z, *self.condition) + fit - away)
        constant = math.log(samples) + dims / 2 * math.log(2 * math.pi * variance)
        return torch.stack(found).logsumexp(0) - constant
