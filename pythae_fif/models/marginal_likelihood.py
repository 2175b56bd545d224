"""The marginal likelihood of data with noise around a manifold, by importance sampling."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.models.priors import Prior
from pythae_fif.volume_change import squared_error
from pythae_fif.volume_change.exact import decoder_gram

MARGINAL_SAMPLES = 50
"""Codes drawn for each data point."""

SEARCH_STEPS = 16
"""Maximum number of steps of a search of modes. Each is a gradient of the decoder."""

GAIN_TOLERANCE = 0.01
"""Expected gain of a step, in nats, below which the search has ended."""

NEAR_FACTOR = 2
"""Squared error of a drawn code, divided by the first code's, up to which there is a search."""

MAX_ERROR_RATIO = 10
"""Squared error at the modes, divided by its expectation, above which a warning says so."""

DECODED_AT_ONCE = 256
"""Drawn codes that are decoded at once, if there are fewer data points."""

GRADIENT_BATCH = 100
"""Points whose gradients are computed at once, about as many as in a training step."""


@dataclass(frozen=True, eq=False)
class MarginalLikelihood:
    """Data modelled as x = g(z) + s eps, with normal noise eps around a decoder's manifold.

    Attributes:
        decode: g, differentiable, from codes (n, d) and the indices (n,) of their data points to
            points (n, ...).
        x: Data (B, ...).
        z: Codes at which the search of modes starts, such as f(x), (B, d).
        condition: A conditional model's condition, (condition (B, c),); otherwise empty.
        drawn_starts: Codes of the prior, of which the nearest to a point is the start of a second
            search; 0 if the codes are right, or a periodic p_Z must be counted once.
        shared_draws: Whether all points have the same random numbers, so that the estimate of a
            point does not depend on the others. The errors of the points are then dependent.
    """

    decode: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    z: Tensor
    condition: tuple[Tensor, ...] = ()
    drawn_starts: int = 256
    shared_draws: bool = False

    @full_float32()
    @torch.no_grad()
    def log_prob(self, prior: Prior, noise_std: float, samples: int = MARGINAL_SAMPLES) -> Tensor:
        r"""Estimates :math:`\log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz`.

        Codes are drawn in turn from a normal proposal around each mode of the posterior that
        :meth:`_searches` finds. A proposal is the posterior if g is linear and the prior normal.
        See :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

        Args:
            prior: p_Z.
            noise_std: s.
            samples: Codes drawn for each data point, from torch's global random state.

        Returns:
            Log-densities in nats, (B,).
        """
        posterior = _Posterior(self, prior, noise_std)
        searches = self._searches(posterior)
        self._warn_if_far([search.z for search in searches], noise_std)
        proposals = [posterior.proposal(search) for search in searches]
        # Each code counts as one of the mixture of all proposals (the balance heuristic).
        counts = [len(range(first, samples, len(proposals))) for first in range(len(proposals))]

        draws_at_once = max(1, DECODED_AT_ONCE // len(self.x))
        log_weights = []
        for first in range(0, samples, draws_at_once):
            indices = range(samples)[first : first + draws_at_once]
            draws = [proposals[i % len(proposals)].sample(self.shared_draws) for i in indices]
            z = torch.stack(draws)
            terms = [
                proposal.log_prob(z) + math.log(count / samples)
                for proposal, count in zip(proposals, counts, strict=True)
                if count
            ]
            log_proposal = torch.stack(terms).logsumexp(0)
            rows = self.rows.repeat(len(draws))
            log_density = posterior.log_density(z.flatten(0, 1).to(self.z), rows)
            log_weights.append(log_density.view_as(log_proposal) - log_proposal)

        data_dim = self.x[0].numel()
        log_normalizer = data_dim / 2 * math.log(2 * math.pi * noise_std**2)  # of N(x; g(z), s^2 I)
        return torch.cat(log_weights).logsumexp(0) - (math.log(samples) + log_normalizer)

    @full_float32()
    @torch.no_grad()
    def find_modes(self, prior: Prior, noise_std: float) -> Tensor:
        r"""Finds the codes of highest density :math:`p_Z(z)\, \mathcal N(x; g(z), s^2 I)`.

        Args:
            prior: p_Z.
            noise_std: s.

        Returns:
            Codes (B, d), with a density that is not below the one at which the search started.
        """
        posterior = _Posterior(self, prior, noise_std)
        modes, *others = [search.z for search in self._searches(posterior)]
        for z in others:
            is_higher = posterior.log_density(z, self.rows) > posterior.log_density(
                modes, self.rows
            )
            modes = torch.where(is_higher[:, None], z, modes)
        return modes

    @cached_property
    def rows(self) -> Tensor:
        """The indices of all data points, (B,)."""
        return torch.arange(len(self.x), device=self.x.device)

    @cached_property
    def start_gram(self) -> Tensor:
        """The decoder's Gram matrices at the codes `z`, (B, d, d), in float64."""
        return self.gram(self.z, self.rows)

    def gram(self, z: Tensor, rows: Tensor) -> Tensor:
        """Computes the decoder's Gram matrices g'(z)^T g'(z) at codes (n, d), (n, d, d)."""
        d = z.shape[1]
        return decoder_gram(self.decode, z, self.x[rows], rows)[:, :d, :d]

    def _searches(self, posterior: "_Posterior") -> "list[_Search]":
        """Searches the modes of the posterior from `z` and, if some are near, codes of the prior.

        The encoder may be wrong, or the noise may have moved x to another part of the manifold.
        """
        first = posterior.search(self.z, self.start_gram, self.rows)
        rows, draws = self._near_draws(posterior)
        if not len(rows):
            return [first]

        second = [tensor.clone() for tensor in first]
        near = posterior.search(draws, self.gram(draws, rows), rows)
        for tensor, values in zip(second, near, strict=True):
            tensor[rows] = values
        return [first, _Search(*second)]

    def _near_draws(self, posterior: "_Posterior") -> tuple[Tensor, Tensor]:
        """Draws codes of the prior, and finds the points to which one of them is near.

        Returns:
            The indices (n,) of these points, and the code (n, d) that is nearest to each.
        """
        if self.condition or not self.drawn_starts:  # each condition has points of its own
            return self.rows[:0], self.z[:0]

        generator = torch.Generator(self.z.device).manual_seed(0)  # the same starts in each search
        draws = posterior.prior.sample(self.drawn_starts, generator).to(self.z)
        points = self.decode(draws, self.rows[:0])
        nearest = torch.cdist(self.x.flatten(1), points.flatten(1)).argmin(1)
        error = squared_error(points[nearest], self.x)
        first_error = squared_error(self.decode(self.z, self.rows), self.x)
        expected_error = self._expected_error(posterior.noise_std)
        is_near = error < NEAR_FACTOR * first_error.clamp_min(expected_error)
        rows = is_near.nonzero()[:, 0]
        return rows, draws[nearest[rows]]

    def _warn_if_far(self, codes: list[Tensor], noise_std: float) -> None:
        """Warns if the squared error at all codes is far above the one that the noise explains."""
        errors = [squared_error(self.decode(z, self.rows), self.x) for z in codes]
        error = torch.stack(errors).amin(0)
        ratio = error.median().item() / self._expected_error(noise_std)
        if ratio > MAX_ERROR_RATIO:
            warnings.warn(
                f"the squared error is {ratio:.0f} times as large as noise_std {noise_std:.3g}"
                " explains: the likelihood is far below that of training data",
                stacklevel=6,  # the caller of `InjectiveFlow.marginal_log_prob`
            )

    def _expected_error(self, noise_std: float) -> float:
        """The mean squared error of points with noise around the manifold, s^2 (D - d)."""
        return noise_std**2 * max(1, self.x[0].numel() - self.z.shape[1])


class _Search(NamedTuple):
    """Where a search of modes ended.

    Attributes:
        z: Codes (n, d).
        last_step: Step from them to the modes that is too small to be tried, (n, d).
        move: The codes minus those at which the search started, (n, d).
        start_gram: The decoder's Gram matrices at the start, (n, d, d).
    """

    z: Tensor
    last_step: Tensor
    move: Tensor
    start_gram: Tensor


class _Posterior:
    """The density p_Z(z) N(x; g(z), s^2 I) of codes, up to a constant factor.

    Args:
        likelihood: The data and the decoder.
        prior: p_Z.
        noise_std: s.
    """

    def __init__(self, likelihood: MarginalLikelihood, prior: Prior, noise_std: float) -> None:
        self.prior = prior
        self.noise_std = noise_std
        self._likelihood = likelihood
        self._prior_precision = self._compute_prior_precision()

    def log_density(self, z: Tensor, rows: Tensor) -> Tensor:
        """Computes log-densities of codes (n, d) of the data points with indices (n,), in nats."""
        likelihood = self._likelihood
        condition = (tensor[rows] for tensor in likelihood.condition)
        error = squared_error(likelihood.decode(z, rows), likelihood.x[rows])
        return self.prior.log_prob(z, *condition) - error / (2 * self.noise_std**2)

    def search(self, z: Tensor, gram: Tensor, rows: Tensor) -> _Search:
        """Searches modes by steps that raise the log-density.

        A step is the Newton step for a decoder that is linear with these Gram matrices, and a
        normal prior. It is shortened where it does not raise the density.

        Args:
            z: Codes at which the search starts, (n, d).
            gram: The decoder's Gram matrices at them, (n, d, d).
            rows: Indices (n,) of the data points.
        """
        z = z.clone()
        start_tril = torch.linalg.cholesky(self._precision(gram, rows))
        log_density, gradient = self._differentiate(z, rows)
        fraction = torch.ones_like(log_density)  # of a step
        last_step = torch.zeros_like(gradient)
        move = torch.zeros_like(gradient)
        active = torch.arange(len(z), device=z.device)

        for _ in range(SEARCH_STEPS):
            step = torch.cholesky_solve(gradient[active, :, None], start_tril[active])[..., 0]
            is_moving = (gradient[active] * step).sum(1) / 2 > GAIN_TOLERANCE
            last_step[active[~is_moving]] = step[~is_moving]
            active = active[is_moving]
            if not len(active):
                break

            step = fraction[active, None] * step[is_moving]
            new_z = z[active] + step.to(z)
            new_density, new_gradient = self._differentiate(new_z, rows[active])

            rises = new_density > log_density[active]
            fraction[active] *= torch.where(rises, 2.0, 0.25)
            fraction.clamp_(max=1)
            raised = active[rises]
            z[raised] = new_z[rises]
            move[raised] += step[rises]
            log_density[raised] = new_density[rises]
            gradient[raised] = new_gradient[rises]

        return _Search(z, last_step, move, gram)

    def proposal(self, search: _Search) -> "_Proposal":
        """Returns the normal distributions that approximate the posterior around modes."""
        rows = self._likelihood.rows
        gram = search.start_gram.clone()

        # A matrix serves as long as the code moved by less than a deviation of the posterior.
        move = search.move[:, None]
        is_far = (move @ self._precision(gram, rows) @ move.mT)[:, 0, 0] > 1
        far = is_far.nonzero()[:, 0]
        if len(far):
            gram[far] = self._likelihood.gram(search.z[far], far)
        precision_tril = torch.linalg.cholesky(self._precision(gram, rows))
        return _Proposal(search.z + search.last_step, precision_tril)

    def _differentiate(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Computes log-densities (n,) and their gradients (n, d) in float64, a part at a time."""
        log_densities, gradients = [], []
        for codes, part in zip(z.split(GRADIENT_BATCH), rows.split(GRADIENT_BATCH), strict=True):
            codes = codes.detach().requires_grad_()
            with torch.enable_grad():
                log_density = self.log_density(codes, part)
                (gradient,) = torch.autograd.grad(log_density.sum(), codes)
            log_densities.append(log_density.detach().double())
            gradients.append(gradient.double())
        return torch.cat(log_densities), torch.cat(gradients)

    def _precision(self, gram: Tensor, rows: Tensor) -> Tensor:
        """Returns the posterior's precision (n, d, d) for a linear decoder and a normal prior."""
        return gram / self.noise_std**2 + self._prior_precision[rows]

    def _compute_prior_precision(self) -> Tensor:
        """Computes the inverse of the prior's covariance at each point's condition, (B, d, d).

        Moments are computed once for each distinct condition.
        """
        likelihood = self._likelihood
        index = torch.zeros_like(likelihood.rows)
        conditions: list[tuple[Tensor, ...]] = [()]
        if likelihood.condition:
            distinct, index = likelihood.condition[0].unique(dim=0, return_inverse=True)
            conditions = [(condition[None],) for condition in distinct]
        covariances = [self.prior.moments(*condition)[1] for condition in conditions]
        return torch.linalg.inv(torch.stack(covariances))[index]


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
        """Computes log-densities of codes (..., B, d) in nats, (..., B)."""
        whitened = (self.precision_tril.mT @ (z - self.mean)[..., None])[..., 0]
        log_det_tril = self.precision_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = z.shape[-1] / 2 * math.log(2 * math.pi)
        return log_det_tril - constant - whitened.square().sum(-1) / 2
