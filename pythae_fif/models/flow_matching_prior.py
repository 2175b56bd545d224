"""A prior of codes that is trained by flow matching: a continuous flow on straight paths."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pythae_fif.models.priors import Condition, Generator, StandardizedPrior

HIDDEN_DIM = 256
WEIGHT_GAIN = 1.5
FREQUENCIES = 2
"""The network sees the time t as cos and sin of pi t and of 2 pi t."""

PATHS_PER_CODE = 4
VALIDATION_PATHS = 20
"""Random paths to every code of a batch, in training and in evaluation mode: more of them lower the
variance of the loss."""

ODE_STEPS = 12
"""Runge-Kutta steps from noise to codes."""

CHUNK_SIZE = 1_000
"""Codes that are taken through the ODE at once."""


class VelocityNetwork(nn.Module):
    r"""The velocity of a flow at time t, which is 0 for noise and 1 for codes.

    A standard normal distribution of codes has the velocity

    .. math:: \frac{2t - 1}{(1 - t)^2 + t^2}\, x,

    to which an MLP of two hidden layers adds its output. Both layers see the time and the
    condition. The last layer is zero before the training.

    Args:
        latent_dim: d.
        condition_dim: Length c of a condition; 0 for none.
        hidden_dim: Width of the hidden layers.
    """

    frequencies: Tensor

    def __init__(self, latent_dim: int, condition_dim: int, hidden_dim: int = HIDDEN_DIM) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(FREQUENCIES))
        self.embedding = nn.Linear(2 * FREQUENCIES + condition_dim, 2 * hidden_dim)
        self.input = nn.Linear(latent_dim, hidden_dim, bias=False)
        self.hidden = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.output = nn.Linear(hidden_dim, latent_dim)

        # torch's own initial weights are so small that the network learns slowly.
        for layer in (self.embedding, self.input, self.hidden):
            nn.init.normal_(layer.weight, std=WEIGHT_GAIN / math.sqrt(layer.in_features))
        nn.init.uniform_(self.embedding.bias, -1, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Condition = None) -> Tensor:
        """Computes the velocity.

        Args:
            x: Points (B, d).
            time: Their times, (B, 1) or (1, 1).
            condition: Their condition (B, c), if there is one.

        Returns:
            (B, d).
        """
        shift_1, shift_2 = self._embed(time, condition).chunk(2, dim=1)
        features = silu(self.hidden(silu(self.input(x) + shift_1)) + shift_2)
        return _normal_rate(time) * x + self.output(features)

    def with_divergence(
        self, x: Tensor, time: Tensor, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        r"""Computes the velocity and its divergence with respect to x.

        The Jacobian of the MLP is :math:`W_3 S_2 W_2 S_1 W_1`, where the diagonal matrices S have
        the derivatives s of the activations. Its trace needs no Jacobian of a point:

        .. math:: \operatorname{tr}(W_3 S_2 W_2 S_1 W_1) = s_2^\top
            \left(W_2 \circ (W_1 W_3)^\top\right) s_1 .

        Args: See :meth:`forward`.

        Returns:
            The velocity (B, d) and the divergence (B,).
        """
        shift_1, shift_2 = self._embed(time, condition).chunk(2, dim=1)
        activation_1 = self.input(x) + shift_1
        activation_2 = self.hidden(silu(activation_1)) + shift_2
        rate = _normal_rate(time)
        velocity = rate * x + self.output(silu(activation_2))

        mixing = self.hidden.weight * (self.input.weight @ self.output.weight).T
        slopes = _silu_slope(activation_1) @ mixing.T
        trace = (_silu_slope(activation_2) * slopes).sum(1)
        return velocity, trace + x.shape[1] * rate[:, 0]

    def _embed(self, time: Tensor, condition: Condition) -> Tensor:
        angles = time * self.frequencies
        features = torch.cat([angles.cos(), angles.sin()], 1)
        if condition is not None:
            features = torch.cat([features.expand(len(condition), -1), condition], 1)
        return self.embedding(features)


def _normal_rate(time: Tensor) -> Tensor:
    """The factor of x in the velocity of a standard normal distribution."""
    return (2 * time - 1) / ((1 - time) ** 2 + time**2)


def _silu_slope(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


class FlowMatchingPrior(StandardizedPrior):
    r"""A continuous flow from noise to codes, trained by flow matching.

    Flow matching (Lipman et al., ICLR 2023; Liu et al., ICLR 2023) regresses the velocity v of the
    straight paths :math:`x_t = (1 - t)\, x_0 + t\, x_1` from noise :math:`x_0` to codes
    :math:`x_1`,

    .. math:: \min_v \mathbb E\, \lVert v(x_t, t) - (x_1 - x_0) \rVert^2 .

    The ODE :math:`\dot x = v(x, t)` then carries standard normal noise to codes. The codes are
    standardised: each coordinate has mean 0 and variance 1. The likelihood is that of the ODE,

    .. math:: \log p(x_1) = \log \mathcal N(x_0; 0, I) - \int_0^1 \operatorname{div} v(x_t, t)\, dt,

    with the exact divergence. The ODE is solved by the Runge-Kutta method of fourth order. Before
    :meth:`fit` the prior is the standard normal distribution.

    Args:
        latent_dim: d.
        condition_dim: Length c of a condition (B, c) of any kind; 0 for none.
    """

    def __init__(self, latent_dim: int, condition_dim: int) -> None:
        super().__init__(latent_dim)
        self.velocity = VelocityNetwork(latent_dim, condition_dim)
        self.requires_grad_(False)

    def loss(self, codes: Tensor, condition: Condition = None) -> Tensor:
        """Computes the mean squared error of the velocity on random paths to codes.

        Args:
            codes: (B, d).
            condition: Their condition (B, c), if there is one.

        Returns:
            A scalar.
        """
        paths = PATHS_PER_CODE if self.training else VALIDATION_PATHS
        end = self._standardize(codes).repeat(paths, 1)
        if condition is not None:
            condition = condition.repeat(paths, 1)

        start = torch.randn_like(end)
        # One time in each of as many intervals as paths: their mean varies less than by chance.
        offsets = torch.rand(len(end), 1, device=end.device, dtype=end.dtype)
        intervals = torch.arange(len(end), device=end.device, dtype=end.dtype)[:, None]
        time = (intervals + offsets) / len(end)

        position = torch.lerp(start, end, time)
        error = self.velocity(position, time, condition) - (end - start)
        return error.square().sum(1).mean()

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        u = self._standardize(z)
        points = u.reshape(-1, u.shape[-1])
        parts = [points]
        if condition is not None:
            parts.append(condition.expand(*z.shape[:-1], -1).reshape(len(points), -1))

        chunks = zip(*(part.split(CHUNK_SIZE) for part in parts), strict=True)
        density = torch.cat([self._standardized_log_prob(*chunk) for chunk in chunks])
        return density.reshape(z.shape[:-1]) - self.scale.log().sum()

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        zeros = self.mean.new_zeros(size, len(self.mean))
        noise = torch.normal(zeros, 1.0, generator=generator)

        def velocity(time: Tensor, x: Tensor) -> Tensor:
            return self.velocity(x, time, condition)

        return self.mean + self.scale * solve_ode(velocity, noise, start=0.0, stop=1.0)

    def _standardized_log_prob(self, u: Tensor, condition: Condition = None) -> Tensor:
        """Log-density of standardised codes (B, d), (B,)."""

        def velocity_and_divergence(time: Tensor, state: Tensor) -> Tensor:
            """The derivative of the state: a point, and the integral of the divergence."""
            velocity, divergence = self.velocity.with_divergence(state[:, :-1], time, condition)
            return torch.cat([velocity, divergence[:, None]], 1)

        state = torch.cat([u, torch.zeros_like(u[:, :1])], 1)
        state = solve_ode(velocity_and_divergence, state, start=1.0, stop=0.0)
        # The integral runs from codes to noise, so it has the opposite sign.
        normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)
        return normal.log_prob(state[:, :-1]).sum(1) + state[:, -1]


def solve_ode(
    derivative: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    *,
    start: float,
    stop: float,
    steps: int = ODE_STEPS,
) -> Tensor:
    """Solves x' = derivative(t, x) by the classical Runge-Kutta method of fourth order.

    Args:
        derivative: Called with a time (1, 1) and a state.
        state: x at the start, (B, n).
        start: The time of the given state.
        stop: The time of the returned state, which may be earlier than the start.
        steps: Number of steps of equal length.

    Returns:
        x at the stop, (B, n).
    """
    times = torch.linspace(start, stop, 2 * steps + 1, dtype=state.dtype, device=state.device)
    step = (stop - start) / steps
    for index in range(steps):
        begin, middle, end = times[2 * index : 2 * index + 3, None, None]
        slope_1 = derivative(begin, state)
        slope_2 = derivative(middle, state + step / 2 * slope_1)
        slope_3 = derivative(middle, state + step / 2 * slope_2)
        slope_4 = derivative(end, state + step * slope_3)
        state = state + step / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4)
    return state
