"""The log-volume term of rectangular flows: Hutchinson vectors with conjugate gradients."""

__all__ = ["RectangularAt", "RectangularOutput", "conjugate_gradient", "rectangular_surrogate"]

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pythae_fif.volume_change.surrogates import Map, differentiable_kernels, pushing

RectangularAt = Literal["data", "reconstruction"]


class RectangularOutput(NamedTuple):
    """What one pass of encoder and decoder yields: a surrogate (B,) with the gradient of the
    log-volume, z = f(x), (B, d), g(z), the shape of x, and the conjugate gradient steps of every
    Hutchinson vector, (K, B)."""

    log_volume: Tensor
    z: Tensor
    x_hat: Tensor
    iterations: Tensor


@torch.no_grad()
def conjugate_gradient(matvec: Map, b: Tensor, *, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Solves A s = b for many right-hand sides at once (Hestenes and Stiefel 1952).

    Arguments:
        matvec: v -> A v on the last axis, symmetric positive definite, each system its own A.
        b: Right-hand sides, (..., d).
        tolerance: Length of the residual, in units of that of b, at which a system stops. All stop
            after d steps, which in exact arithmetic solve them.

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
    for _ in range(b.shape[-1]):
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
    jacobian_at: RectangularAt = "reconstruction",
    tolerance: float = 1e-3,
) -> RectangularOutput:
    r"""The log-volume term of a rectangular flow (Caterini et al. 2021).

    It solves for (J^T J)^-1 where FIF takes f' for the inverse of g'. With J = g'(f(x)) it is eq. 6
    of Sorrenson et al. 2024,

    .. math:: \frac{1}{2K} \sum_k \text{stop\_gradient}(\text{CG}(J^\top J; \epsilon_k))^\top
        J^\top J \epsilon_k,

    whose gradient is on average that of :math:`\frac12 \log\det J^\top J` and whose value is not.

    Arguments:
        encode, decode, x, eps: As of :func:`~pythae_fif.volume_change.volume_surrogate`.
        jacobian_at: ``reconstruction`` is the published loss: the volume change of the decoder, at
            the projection of x. ``data`` is the off-manifold variant: that of the encoder at x
            itself, :math:`-\frac12 \log\det f'(x) f'(x)^\top`, estimated the same way.
        tolerance: See :func:`conjugate_gradient`.
    """
    of_encoder = jacobian_at == "data"
    with torch.enable_grad(), differentiable_kernels():
        # The map whose Jacobian is taken runs once, on one copy of the batch for each vector.
        point = x.detach()
        if of_encoder:
            point = point.repeat(len(eps), *[1] * (x.dim() - 1)).requires_grad_()
        value = codes = encode(point)
        z = codes[: len(x)]
        if not of_encoder:
            point = z.repeat(len(eps), 1)
            value = decode(point)
        x_hat = decode(z) if of_encoder else value[: len(x)]

        push = pushing(value, point)

        def pull(u: Tensor, create_graph: bool = False) -> Tensor:
            options = {"retain_graph": True, "create_graph": create_graph}
            return torch.autograd.grad(value, point, u, **options)[0]

        # M is g'(z) or f'(x)^T, of shape D x d. Both products come from the one pass by backward
        # mode: forward mode would run the flow anew for every product, in twice the time.
        tall, transposed = (pull, push) if of_encoder else (push, pull)
        solution, iterations = conjugate_gradient(
            lambda v: transposed(tall(v.flatten(0, 1))).unflatten(0, eps.shape[:2]),
            eps,
            tolerance=tolerance,
        )
        left, right = (tall(v.flatten(0, 1), create_graph=True) for v in (solution, eps))
        products = (left * right).flatten(1).sum(1).unflatten(0, eps.shape[:2])
        volume = products.mean(0) / 2
    return RectangularOutput(-volume if of_encoder else volume, z, x_hat, iterations)
