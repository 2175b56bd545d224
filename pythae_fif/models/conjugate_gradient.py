"""Log-volume terms of rectangular flows: Hutchinson with conjugate gradients, or exactly."""

__all__ = [
    "RectangularAt",
    "RectangularEstimator",
    "RectangularOutput",
    "conjugate_gradient",
    "rectangular_surrogate",
]

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pythae_fif.volume_change.exact import log_volume
from pythae_fif.volume_change.surrogates import Map, differentiable_kernels

RectangularAt = Literal["data", "reconstruction"]
RectangularEstimator = Literal["conjugate_gradient", "exact"]


class RectangularOutput(NamedTuple):
    """What one pass of encoder and decoder yields.

    Attributes:
        log_volume: (B,), to be added to the loss. Exact, or a surrogate with the gradient alone.
        z: Codes f(x), (B, d).
        x_hat: Reconstructions g(f(x)), the shape of x.
        iterations: Conjugate gradient steps of every Hutchinson vector, (K, B); None if exact.
    """

    log_volume: Tensor
    z: Tensor
    x_hat: Tensor
    iterations: Tensor | None


@torch.no_grad()
def conjugate_gradient(
    matvec: Map,
    b: Tensor,
    *,
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Solves A s = b for many right-hand sides at once (Hestenes and Stiefel 1952).

    A system stops when its residual is at most ``tolerance`` times its right-hand side, and the
    whole stops when the last one does. In exact arithmetic d steps solve all.

    Arguments:
        matvec: v -> A v on the last axis, symmetric positive definite, each system its own A.
        b: Right-hand sides, (..., d).
        tolerance: Relative residual, in units of the length of b.
        max_iterations: Limit on the steps; d if None.

    Returns:
        The solutions, (..., d), and the number of steps of each, int64, (...).

    Example:
        >>> a, b = torch.diag(torch.tensor([1.0, 2.0, 4.0])), torch.ones(5, 3)
        >>> s, iterations = conjugate_gradient(lambda v: v @ a, b, tolerance=1e-6)
        >>> s[0], iterations.tolist()
        (tensor([1.0000, 0.5000, 0.2500]), [3, 3, 3, 3, 3])
    """
    solution, residual, direction = torch.zeros_like(b), b, b
    square = residual.square().sum(-1)
    stop = square * tolerance**2
    iterations = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
    for _ in range(b.shape[-1] if max_iterations is None else max_iterations):
        active = square > stop
        if not active.any():
            break
        product = matvec(direction)
        step = torch.where(active, square / (direction * product).sum(-1), 0.0)[..., None]
        solution = solution + step * direction
        residual = residual - step * product
        new = residual.square().sum(-1)
        direction = residual + torch.where(active, new / square, 0.0)[..., None] * direction
        square = torch.where(active, new, square)
        iterations += active
    return solution, iterations


def rectangular_surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    estimator: RectangularEstimator = "conjugate_gradient",
    jacobian_at: RectangularAt = "reconstruction",
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
) -> RectangularOutput:
    r"""The log-volume term of a rectangular flow (Caterini et al. 2021).

    It solves for (J^T J)^-1 where FIF takes f' for the inverse of g'. With J = g'(f(x)), the
    ``conjugate_gradient`` estimator is eq. 6 of Sorrenson et al. 2024,

    .. math:: \frac{1}{2K} \sum_k \text{stop\_gradient}(\text{CG}(J^\top J; \epsilon_k))^\top
        J^\top J \epsilon_k,

    whose gradient is on average that of :math:`\frac12 \log\det J^\top J` and whose value is not.
    All K vectors are one batch. ``exact`` takes all d columns and the log-determinant itself.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, B, d); of ``exact`` they are not used.
        estimator: ``conjugate_gradient`` or ``exact``.
        jacobian_at: ``reconstruction`` is the published loss: the volume change of the decoder, at
            the projection of x. ``data`` is the off-manifold variant: that of the encoder at x
            itself, :math:`-\frac12 \log\det f'(x) f'(x)^\top`, estimated the same way.
        tolerance, max_iterations: See :func:`conjugate_gradient`.

    Returns:
        The term, (B,), with z and x_hat of the same pass.

    Raises:
        ValueError: ``eps`` of the wrong shape.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> out = rectangular_surrogate(encode, decode, torch.randn(7, 5), sample_hutchinson(7, 2))
        >>> out.log_volume.shape, out.iterations.shape, out.iterations.max() <= 2
        (torch.Size([7]), torch.Size([1, 7]), tensor(True))
    """
    of_encoder = jacobian_at == "data"
    copies = 1 if estimator == "exact" else len(eps)
    with torch.enable_grad():
        # The map whose Jacobian is taken runs once, on one copy of the batch for each vector.
        point = x.detach()
        if of_encoder:
            point = point.repeat(copies, *[1] * (x.dim() - 1)).requires_grad_()
        with differentiable_kernels():
            codes = encode(point)
        z = codes[: len(x)]
        if not z.requires_grad:
            z = z.requires_grad_()
        if not of_encoder:
            point = z.repeat(copies, 1)
        with differentiable_kernels():
            outputs = decode(z if of_encoder else point)
        x_hat = outputs[: len(x)]
        if (eps.shape[1:] != z.shape or not len(eps)) and estimator != "exact":
            raise ValueError(
                f"eps of shape {tuple(eps.shape)}: (K from 1 up, {', '.join(map(str, z.shape))}) "
                "is needed"
            )
        tall = _Tall(codes, point, True) if of_encoder else _Tall(outputs, point, False)
        if estimator == "exact":
            basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            columns = [tall.apply(e.expand_as(z), create_graph=True) for e in basis]
            volume, iterations = log_volume(torch.stack(columns, -1)), None
        else:
            volume, iterations = _estimate(tall, eps, tolerance, max_iterations)
    return RectangularOutput(-volume if of_encoder else volume, z, x_hat, iterations)


def _estimate(
    tall: "_Tall", eps: Tensor, tolerance: float, max_iterations: int | None
) -> tuple[Tensor, Tensor]:
    """1/(2K) sum_k s_k^T M^T M eps_k as (M s_k)^T (M eps_k), (B,), and the iterations, (K, B)."""
    solution, iterations = conjugate_gradient(
        lambda v: tall.transposed(tall.apply(v.flatten(0, 1))).unflatten(0, eps.shape[:2]),
        eps,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    left = tall.apply(solution.flatten(0, 1), create_graph=True)
    right = tall.apply(eps.flatten(0, 1), create_graph=True)
    return (left * right).sum(-1).unflatten(0, eps.shape[:2]).mean(0) / 2, iterations


class _Tall:
    """M of shape D x d for every sample: g'(z), or f'(x)^T where ``transpose`` is set.

    Both products come from the one pass by backward differentiation, the Jacobian-vector product
    as the derivative of u -> u^T J. Measured, that takes half the time of forward mode, which
    runs the flow anew for every product.
    """

    def __init__(self, value: Tensor, point: Tensor, transpose: bool) -> None:
        self._value, self._point, self._transpose = value, point, transpose
        self._u = torch.zeros_like(value, requires_grad=True)
        (self._pulled,) = torch.autograd.grad(value, point, self._u, create_graph=True)

    def apply(self, v: Tensor, create_graph: bool = False) -> Tensor:
        """M v, (B, D), of v (B, d)."""
        return self._product(v, self._transpose, create_graph).flatten(1)

    def transposed(self, v: Tensor) -> Tensor:
        """M^T v, (B, d), of v (B, D)."""
        return self._product(v, not self._transpose, False)

    def _product(self, v: Tensor, pull: bool, create_graph: bool) -> Tensor:
        source, wrt = (self._value, self._point) if pull else (self._pulled, self._u)
        (product,) = torch.autograd.grad(
            source, wrt, v.view_as(source), retain_graph=True, create_graph=create_graph
        )
        return product
