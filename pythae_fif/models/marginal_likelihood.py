"""The marginal likelihood of data with noise around a manifold, by importance sampling."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.models.priors import Prior
from pythae_fif.volume_change import squared_error

MARGINAL_SAMPLES = 50
"""Codes drawn for each data point."""

MODE_STEPS = 4
"""Maximum number of Gauss-Newton steps towards the mode of the posterior."""

DRAWN_STARTS = 256
"""Codes of the prior, from the nearest of which the steps start if it is nearer than f(x)."""

MODE_TOLERANCE = 0.01
"""Error of the quadratic model of the log-posterior, in nats, that calls for another step."""

MAX_ERROR_RATIO = 10
"""Squared error at the modes, divided by its expectation, above which a warning says so."""


class _Search(NamedTuple):
    """Where a search of modes ended.

    Attributes:
        z: Codes (B, d), to which the search moved.
        log_posterior: log p_Z(z) + log N(x; g(z), s^2 I) up to a constant, (B,).
        step: Gauss-Newton step from them to the mode, (B, d). It is short or g is linear along it.
        precision_tril: Cholesky factor of the precision of the posterior, (B, d, d).
    """

    z: Tensor
    log_posterior: Tensor
    step: Tensor
    precision_tril: Tensor


@dataclass(frozen=True, eq=False)
class MarginalLikelihood:
    """Data modelled as x = g(z) + s eps, with normal noise eps around a decoder's manifold.

    Attributes:
        decode: g, from codes (B, d) to points (B, ...).
        x: Data (B, ...).
        z: Their codes f(x), (B, d).
        condition: A conditional model's condition, (condition (B, c),); otherwise empty.
        gram: :func:`~pythae_fif.volume_change.exact.decoder_gram` at the codes,
            (B, d + 1, d + 1).
        compute_gram: The same for other codes (n, d), and the indices (n,) of their data points.
        noise_std: s.
    """

    decode: Callable[[Tensor], Tensor]
    x: Tensor
    z: Tensor
    condition: tuple[Tensor, ...]
    gram: Tensor
    compute_gram: Callable[[Tensor, Tensor], Tensor]
    noise_std: float

    @full_float32()
    @torch.no_grad()
    def log_prob(self, prior: Prior, samples: int = MARGINAL_SAMPLES) -> Tensor:
        r"""Estimates :math:`\log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz`.

        Codes are drawn from a normal proposal q(z | x) around the mode of the posterior. It is the
        posterior if g is linear and the prior normal. See
        :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

        Args:
            prior: p_Z.
            samples: Codes drawn for each data point, from torch's global random state.

        Returns:
            Log-densities in nats, (B,).
        """
        variance = self.noise_std**2
        search = self._search(prior)
        self._warn_if_far(search)
        centre = search.z + search.step
        log_det_tril = search.precision_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        log_proposal_at_centre = log_det_tril - self.z.shape[1] / 2 * math.log(2 * math.pi)

        log_weights = []
        for _ in range(samples):
            noise = torch.randn_like(centre)
            offset = torch.linalg.solve_triangular(
                search.precision_tril.mT, noise[..., None], upper=True
            )
            z = (centre + offset[..., 0]).to(self.z)
            log_proposal = log_proposal_at_centre - noise.square().sum(1) / 2
            log_prior = prior.log_prob(z, *self.condition)
            log_weights.append(log_prior + self._log_likelihood(z) - log_proposal)

        data_dim = self.x[0].numel()
        log_normalizer = data_dim / 2 * math.log(2 * math.pi * variance)  # of N(x; g(z), s^2 I)
        return torch.stack(log_weights).logsumexp(0) - (math.log(samples) + log_normalizer)

    @full_float32()
    @torch.no_grad()
    def find_modes(self, prior: Prior) -> Tensor:
        r"""Finds the codes of highest density :math:`p_Z(z)\, \mathcal N(x; g(z), s^2 I)`.

        Args:
            prior: p_Z.

        Returns:
            Codes (B, d), with a density that is not below the one of f(x).
        """
        search = self._search(prior)
        last = (search.z + search.step).to(search.z)
        log_posterior = prior.log_prob(last, *self.condition) + self._log_likelihood(last)
        is_better = log_posterior > search.log_posterior
        return torch.where(is_better[:, None], last, search.z)

    def _log_likelihood(self, z: Tensor) -> Tensor:
        """Returns log N(x; g(z), s^2 I) of codes (B, d), up to a constant."""
        return -squared_error(self.decode(z), self.x) / (2 * self.noise_std**2)

    def _choose_start(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """Returns f(x), or a nearer one of some codes of the prior, and its Gram matrices.

        The encoder may be wrong, or the noise may have moved x to another part of the manifold.
        """
        z = self.z.clone()
        gram = self.gram.clone()
        if self.condition:  # each condition has points g(z, c) of its own
            return z, gram

        draws = prior.sample(DRAWN_STARTS).to(z)
        points = self.decode(draws)
        nearest = torch.cdist(self.x.flatten(1), points.flatten(1)).argmin(1)
        error = squared_error(points[nearest], self.x)

        rows = (error < squared_error(self.decode(z), self.x)).nonzero()[:, 0]
        if len(rows):
            z[rows] = draws[nearest[rows]]
            gram[rows] = self.compute_gram(z[rows], rows)
        return z, gram

    def _warn_if_far(self, search: _Search) -> None:
        """Warns if the squared error at the modes is far above the one that the noise explains."""
        expected = self.noise_std**2 * (self.x[0].numel() - self.z.shape[1])
        error = squared_error(self.decode((search.z + search.step).to(search.z)), self.x)
        ratio = error.median().item() / expected
        if ratio > MAX_ERROR_RATIO:
            warnings.warn(
                f"the squared error is {ratio:.0f} times as large as noise_std {self.noise_std:.3g}"
                " explains: the likelihood is far below that of training data",
                stacklevel=4,
            )

    def _search(self, prior: Prior) -> _Search:
        """Searches the modes of the posterior by Gauss-Newton steps.

        The steps are those for log p_Z(z) + log N(x; g(z), s^2 I) with the normal distribution that
        has the prior's moments in place of p_Z. Where g is not linear along a step, the code moves,
        by a part of the step if needed, so that the log-posterior rises; g is then linearised
        again.
        """
        mean, covariance = self._prior_moments(prior)
        prior_precision = torch.linalg.inv(covariance)

        z, gram = self._choose_start(prior)
        d = z.shape[1]
        log_likelihood = self._log_likelihood(z)
        log_posterior = prior.log_prob(z, *self.condition) + log_likelihood
        fraction = gram.new_ones(len(z))  # of a step that is tried

        for _ in range(MODE_STEPS):
            step, _ = self._newton_step(z - mean, gram, prior_precision)
            step = fraction[:, None] * step
            new_z = z + step.to(z)
            new_log_likelihood = self._log_likelihood(new_z)
            new_log_posterior = prior.log_prob(new_z, *self.condition) + new_log_likelihood

            # The likelihood's gain if g were linear follows from |x - g(z) - g'(z) step|^2.
            column = torch.cat([-step, torch.ones_like(step[:, :1])], 1)[..., None]
            new_error = (column.mT @ gram @ column)[:, 0, 0]
            linear_gain = (gram[:, d, d] - new_error) / (2 * self.noise_std**2)
            model_error = (new_log_likelihood - log_likelihood - linear_gain).abs()

            is_linear = (fraction == 1) & (model_error < MODE_TOLERANCE)
            if is_linear.all():
                break
            rises = new_log_posterior > log_posterior
            fraction = torch.where(rises | is_linear, (4 * fraction).clamp(max=1), fraction / 4)

            rows = (rises & ~is_linear).nonzero()[:, 0]
            if len(rows):
                z[rows] = new_z[rows]
                log_likelihood[rows] = new_log_likelihood[rows]
                log_posterior[rows] = new_log_posterior[rows]
                gram[rows] = self.compute_gram(z[rows], rows)

        step, precision_tril = self._newton_step(z - mean, gram, prior_precision)
        return _Search(z, log_posterior, step, precision_tril)

    def _newton_step(
        self, offset: Tensor, gram: Tensor, prior_precision: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns a Gauss-Newton step (B, d) from codes, and the precision's Cholesky factor.

        Args:
            offset: Codes minus the prior's mean, (B, d).
            gram: The decoder's Gram matrices at the codes, (B, d + 1, d + 1).
            prior_precision: Inverse of the prior's covariance, (B, d, d).
        """
        d = offset.shape[1]
        precision = gram[:, :d, :d] / self.noise_std**2 + prior_precision
        precision_tril = torch.linalg.cholesky(precision)
        likelihood_gradient = gram[:, :d, d:] / self.noise_std**2
        prior_gradient = -prior_precision @ offset[..., None]
        step = torch.cholesky_solve(likelihood_gradient + prior_gradient, precision_tril)
        return step[..., 0], precision_tril

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
