"""The marginal likelihood of data with noise around a manifold, by importance sampling."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
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

NEAR_FACTOR = 4
"""Squared error of a drawn code, divided by the one of f(x), up to which there is a search."""

MODE_TOLERANCE = 0.01
"""Error of the quadratic model of the log-posterior, in nats, that calls for another step."""

MAX_ERROR_RATIO = 10
"""Squared error at the modes, divided by its expectation, above which a warning says so."""


class _Search(NamedTuple):
    """Where a search of modes ended.

    Attributes:
        z: Codes (B, d), to which the search moved.
        step: Gauss-Newton step from them to the mode, (B, d). It is short or g is linear along it.
        precision_tril: Cholesky factor of the precision of the posterior, (B, d, d).
    """

    z: Tensor
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
        drawn_starts: Codes of the prior, of which the nearest to a point is the start of a second
            search; 0 if the codes are right, or a periodic p_Z must be counted once.
        shared_draws: Whether all points have the same random numbers, so that the estimate of a
            point does not depend on the others. The errors of the points are then dependent.
    """

    decode: Callable[[Tensor], Tensor]
    x: Tensor
    z: Tensor
    condition: tuple[Tensor, ...]
    gram: Tensor
    compute_gram: Callable[[Tensor, Tensor], Tensor]
    noise_std: float
    drawn_starts: int = 256
    shared_draws: bool = False

    @full_float32()
    @torch.no_grad()
    def log_prob(self, prior: Prior, samples: int = MARGINAL_SAMPLES) -> Tensor:
        r"""Estimates :math:`\log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz`.

        Codes are drawn in turn from a normal proposal around each mode of the posterior that
        :meth:`_searches` finds. A proposal is the posterior if g is linear and the prior normal.
        See :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

        Args:
            prior: p_Z.
            samples: Codes drawn for each data point, from torch's global random state.

        Returns:
            Log-densities in nats, (B,).
        """
        searches = self._searches(prior)
        self._warn_if_far(searches)
        proposals = [
            _Proposal(search.z + search.step, search.precision_tril) for search in searches
        ]
        # Each code counts as one of the mixture of all proposals (the balance heuristic).
        counts = [len(range(first, samples, len(proposals))) for first in range(len(proposals))]

        log_weights = []
        for index in range(samples):
            z = proposals[index % len(proposals)].sample(shared=self.shared_draws)
            terms = [
                proposal.log_prob(z) + math.log(count / samples)
                for proposal, count in zip(proposals, counts, strict=True)
                if count
            ]
            log_proposal = torch.stack(terms).logsumexp(0)
            z = z.to(self.z)
            log_prior = prior.log_prob(z, *self.condition)
            log_weights.append(log_prior + self._log_likelihood(z) - log_proposal)

        variance = self.noise_std**2
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
            Codes (B, d), with a density that is not below that of f(x).
        """
        modes = self.z
        highest = torch.full_like(self.gram[:, 0, 0], -math.inf)
        for search in self._searches(prior):
            for z in (search.z, (search.z + search.step).to(search.z)):
                log_posterior = prior.log_prob(z, *self.condition) + self._log_likelihood(z)
                is_higher = log_posterior > highest
                modes = torch.where(is_higher[:, None], z, modes)
                highest = torch.where(is_higher, log_posterior.to(highest), highest)
        return modes

    @property
    def _expected_error(self) -> float:
        """The mean squared error of points with noise around the manifold, s^2 (D - d)."""
        return self.noise_std**2 * max(1, self.x[0].numel() - self.z.shape[1])

    def _log_likelihood(self, z: Tensor) -> Tensor:
        """Returns log N(x; g(z), s^2 I) of codes (B, d), up to a constant."""
        return -squared_error(self.decode(z), self.x) / (2 * self.noise_std**2)

    def _searches(self, prior: Prior) -> list[_Search]:
        """Searches the modes of the posterior from f(x) and, if some are near, codes of the prior.

        The encoder may be wrong, or the noise may have moved x to another part of the manifold.
        """
        first = self._search(prior)
        rows, draws = self._near_draws(prior)
        if not len(rows):
            return [first]

        near_points = replace(
            self,
            x=self.x[rows],
            z=draws,
            gram=self.compute_gram(draws, rows),
            compute_gram=lambda z, subset: self.compute_gram(z, rows[subset]),
        )
        second = [tensor.clone() for tensor in first]
        for tensor, values in zip(second, near_points._search(prior), strict=True):
            tensor[rows] = values
        return [first, _Search(*second)]

    def _near_draws(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """Draws codes of the prior, and finds the points to which one of them is near.

        Returns:
            The indices (n,) of these points, and the code (n, d) that is nearest to each.
        """
        if self.condition or not self.drawn_starts:  # each condition has points of its own
            return torch.empty(0, dtype=torch.int64), self.z[:0]

        generator = torch.Generator(self.z.device).manual_seed(0)  # the same starts in each search
        draws = prior.sample(self.drawn_starts, generator).to(self.z)
        points = self.decode(draws)
        nearest = torch.cdist(self.x.flatten(1), points.flatten(1)).argmin(1)
        error = squared_error(points[nearest], self.x)
        error_of_encoder = squared_error(self.decode(self.z), self.x)
        is_near = error < NEAR_FACTOR * error_of_encoder.clamp_min(self._expected_error)
        rows = is_near.nonzero()[:, 0]
        return rows, draws[nearest[rows]]

    def _warn_if_far(self, searches: list[_Search]) -> None:
        """Warns if the squared error at the modes is far above the one that the noise explains."""
        errors = [
            squared_error(self.decode((search.z + search.step).to(search.z)), self.x)
            for search in searches
        ]
        error = torch.stack(errors).amin(0)
        ratio = error.median().item() / self._expected_error
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

        z = self.z.clone()
        gram = self.gram.clone()
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
        return _Search(z, step, precision_tril)

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


class _Proposal(NamedTuple):
    """Normal distributions of codes, from which importance sampling draws.

    Attributes:
        mean: Means, (B, d).
        precision_tril: Cholesky factors of the precisions, (B, d, d).
    """

    mean: Tensor
    precision_tril: Tensor

    def sample(self, shared: bool) -> Tensor:
        """Draws a code for each data point, (B, d), if shared from the same normal numbers."""
        noise = torch.randn_like(self.mean[:1] if shared else self.mean).expand_as(self.mean)
        offset = torch.linalg.solve_triangular(self.precision_tril.mT, noise[..., None], upper=True)
        return self.mean + offset[..., 0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Computes log-densities of codes (B, d) in nats, (B,)."""
        whitened = (self.precision_tril.mT @ (z - self.mean)[..., None])[..., 0]
        log_det_tril = self.precision_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = z.shape[1] / 2 * math.log(2 * math.pi)
        return log_det_tril - constant - whitened.square().sum(1) / 2
