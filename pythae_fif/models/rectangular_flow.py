"""Rectangular flow: an injective flow trained by Hutchinson vectors with conjugate gradients."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import HutchinsonConfig
from pythae_fif.models.fif import FIF
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change.loss import (
    Map,
    Surrogate,
    SurrogateOutput,
    differentiable_kernels,
    make_jvp,
)

RectangularAt = Literal["data", "reconstruction"]


@config_dataclass
class RectangularFlowConfig(HutchinsonConfig):
    """Rectangular flow config class.

    Parameters:
        others: See :class:`~pythae_fif.models.FIFConfig`.
        jacobian_at (str): 'reconstruction', the decoder's volume change at the projection as
            published, or 'data', the encoder's at the data point (off-manifold).
            Default: 'reconstruction'.
        cg_tolerance (float): Relative residual at which conjugate gradients stop. Default: 1e-3.
    """

    jacobian_at: RectangularAt = "reconstruction"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3


class RectangularFlow(FIF):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6). All but this term is that of
    :class:`~pythae_fif.models.FIF`.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. If both are None, they are an injective coupling flow.
        decoder (BaseDecoder): g.

    Raises:
        ConfigError: Only one of the two nets is given, or none for data that are no rows, or a net
            has BatchNorm, by which no sample has a Jacobian of its own, or a Layer- or
            InstanceNorm, which PyTorch differentiates wrongly.

    Attributes:
        cg_iterations: Conjugate gradient steps of the last training batch, (K, B); None before.

    Example:
        >>> import torch
        >>> model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=3))
        >>> loss = model({"data": torch.randn(8, 6)}).loss
        >>> model.cg_iterations.shape
        torch.Size([1, 8])
    """

    config_class = RectangularFlowConfig
    cg_iterations: Tensor | None = None

    @classmethod
    def _networks(
        cls, config: RectangularFlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is None and decoder is None and len(config.input_dim or ()) == 1:
            return build_coupling(config.input_dim, config.latent_dim)
        if encoder is None or decoder is None:
            raise ConfigError(
                "RectangularFlow needs encoder and decoder, or neither for rows, input_dim (D,): "
                "they are one flow"
            )
        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm)
        for module in (*encoder.modules(), *decoder.modules()):
            if isinstance(module, norms):
                raise ConfigError(
                    "RectangularFlow: the gradient of a volume is wrong through "
                    f"{type(module).__name__}: use GroupNorm or RMSNorm"
                )
        if hasattr(encoder, "flow") and hasattr(decoder, "flow"):
            encoder.flow = decoder.flow  # two directions of one
        return encoder, decoder

    def _surrogate(self, x: Tensor, *given: Tensor) -> Surrogate:
        """The log-volume's surrogate, which notes the steps of conjugate gradients."""
        at, tolerance = self.model_config.jacobian_at, self.model_config.cg_tolerance

        def surrogate(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
            how: Any = {"jacobian_at": at, "tolerance": tolerance}
            out, self.cg_iterations = rectangular_surrogate(encode, decode, x, eps, **how)
            return out

        return surrogate


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
) -> tuple[SurrogateOutput, Tensor]:
    r"""The log-volume term of a rectangular flow (Caterini et al. 2021).

    It solves for (J^T J)^-1 where FIF takes f' for the inverse of g'. With J = g'(f(x)) it is eq. 6
    of Sorrenson et al. 2024,

    .. math:: \frac{1}{2K} \sum_k \text{stop\_gradient}(\text{CG}(J^\top J; \epsilon_k))^\top
        J^\top J \epsilon_k,

    whose gradient is on average that of :math:`\frac12 \log\det J^\top J` and whose value is not.

    Arguments:
        encode, decode, x, eps: See :func:`~pythae_fif.volume_change.volume_surrogate`.
        jacobian_at: ``reconstruction`` is the published loss: the volume change of the decoder, at
            the projection of x. ``data`` is the off-manifold variant: that of the encoder at x
            itself, :math:`-\frac12 \log\det f'(x) f'(x)^\top`, estimated the same way.
        tolerance: See :func:`conjugate_gradient`.

    Returns:
        A surrogate with the gradient of the log-volume, and the conjugate gradient steps of every
        Hutchinson vector, (K, B).
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
            if not point.requires_grad:  # of a frozen encoder
                point.requires_grad_()
            value = decode(point)
        x_hat = decode(z) if of_encoder else value[: len(x)]

        push = make_jvp(value, point)

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
    return SurrogateOutput(-volume if of_encoder else volume, z, x_hat), iterations
