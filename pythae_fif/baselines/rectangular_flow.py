"""Rectangular flow: an injective flow trained with Hutchinson vectors and conjugate gradients."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig
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
class RectangularFlowConfig(FIFConfig):
    """Configuration of a rectangular flow.

    See :class:`~pythae_fif.models.FIFConfig` for the other arguments. A rectangular flow takes
    neither ``surrogate_fraction`` nor ``condition_dim``.

    Args:
        jacobian_at (str): 'reconstruction', the decoder's volume change at the projection, as
            published, or 'data', the encoder's volume change at the data point (off-manifold).
            Default: 'reconstruction'.
        cg_tolerance (float): Relative residual at which conjugate gradients stop. Default: 1e-3.
    """

    jacobian_at: RectangularAt = "reconstruction"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.surrogate_fraction != 1 or self.condition_dim != 0:
            raise ConfigError(
                f"{self.name}: surrogate_fraction and condition_dim are for FIFs: leave them out"
            )


class RectangularFlow(FIF):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6). Everything but this term is FIF's.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. If both networks are None, they are an injective coupling flow.
        decoder (BaseDecoder): g.

    Attributes:
        cg_iterations: Conjugate gradient steps of the last training batch, (K, B); None before.

    Raises:
        ConfigError: Only one network is given, or none although the data are not rows; or a
            network has BatchNorm, which mixes the samples of a batch in the Jacobian, or LayerNorm
            or InstanceNorm, which PyTorch differentiates wrongly.

    Example:
        >>> import torch
        >>> model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=3))
        >>> loss = model({"data": torch.randn(8, 6)}).loss
        >>> model.cg_iterations.shape
        torch.Size([1, 8])
    """

    config_class = RectangularFlowConfig
    has_fixed_operations = False  # conjugate gradients stop by their residuals
    cg_iterations: Tensor | None = None

    @classmethod
    def _networks(
        cls, config: RectangularFlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        has_rows = len(config.input_dim or ()) == 1
        if encoder is None and decoder is None and has_rows:
            return build_coupling(config.input_dim, config.latent_dim)
        if encoder is None or decoder is None:
            raise ConfigError(
                "RectangularFlow needs encoder and decoder, or neither for rows, input_dim (D,): "
                "they are two directions of one flow"
            )

        if hasattr(encoder, "flow") and hasattr(decoder, "flow"):
            encoder.flow = decoder.flow  # two directions of one flow share its weights
        return encoder, decoder

    def set_encoder(self, encoder: BaseEncoder) -> None:
        """Replaces f."""
        _check_norms(encoder)
        super().set_encoder(encoder)

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g."""
        _check_norms(decoder)
        super().set_decoder(decoder)

    def surrogate(self, x: Tensor, *condition: Tensor) -> Surrogate:
        """Returns the surrogate of the log-volume, which keeps the conjugate gradient steps."""

        def surrogate(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
            output, self.cg_iterations = rectangular_surrogate(
                encode,
                decode,
                x,
                eps,
                jacobian_at=self.model_config.jacobian_at,
                tolerance=self.model_config.cg_tolerance,
            )
            return output

        return surrogate


@torch.no_grad()
def conjugate_gradient(matvec: Map, b: Tensor, *, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Solves A s = b for many right-hand sides at once (Hestenes and Stiefel 1952).

    Args:
        matvec: v -> A v on the last axis; each system has a symmetric positive definite A.
        b: Right-hand sides, (..., d).
        tolerance: A system stops when its residual is at most this times as long as its b. All
            stop after d steps, which solve them in exact arithmetic.

    Returns:
        The solutions, (..., d), and the number of steps of each system, int64, (...).

    Example:
        >>> a, b = torch.diag(torch.tensor([1.0, 2.0, 4.0])), torch.ones(5, 3)
        >>> s, iterations = conjugate_gradient(lambda v: v @ a, b, tolerance=1e-6)
        >>> s[0], iterations.tolist()
        (tensor([1.0000, 0.5000, 0.2500]), [3, 3, 3, 3, 3])
    """
    solution = torch.zeros_like(b)
    residual = b
    direction = b
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

        new_square = residual.square().sum(-1)
        momentum = torch.where(active, new_square / square, 0.0)[..., None]
        direction = residual + momentum * direction
        square = torch.where(active, new_square, square)
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
    r"""Computes the log-volume term of a rectangular flow (Caterini et al. 2021).

    It solves for (J^T J)^-1, where FIF uses f' in place of the inverse of g'. With J = g'(f(x)) it
    is eq. 6 of Sorrenson et al. 2024,

    .. math:: \frac{1}{2K} \sum_k \text{stop\_gradient}(\text{CG}(J^\top J; \epsilon_k))^\top
        J^\top J \epsilon_k.

    In expectation its gradient equals the gradient of :math:`\frac12 \log\det J^\top J`; its value
    does not.

    Args:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, B, d).
        jacobian_at: ``reconstruction`` for the published loss, with the decoder's volume change at
            the projection of x. ``data`` for the off-manifold variant, with the encoder's volume
            change :math:`-\frac12 \log\det f'(x) f'(x)^\top` at x, estimated in the same way.
        tolerance: See :func:`conjugate_gradient`.

    Returns:
        A surrogate with the gradient of the log-volume, and the conjugate gradient steps for each
        Hutchinson vector, (K, B).
    """
    uses_encoder = jacobian_at == "data"
    with torch.enable_grad(), differentiable_kernels():
        # The map with the Jacobian runs once, on one copy of the batch for each Hutchinson vector.
        if uses_encoder:
            point = x.detach().repeat(len(eps), *[1] * (x.dim() - 1)).requires_grad_()
            value = encode(point)
            z = value[: len(x)]
            x_hat = decode(z)
        else:
            z = encode(x.detach())
            point = z.repeat(len(eps), 1)
            if not point.requires_grad:  # the encoder is frozen
                point.requires_grad_()
            value = decode(point)
            x_hat = value[: len(x)]

        push = make_jvp(value, point)

        def pull(cotangent: Tensor, create_graph: bool = False) -> Tensor:
            return torch.autograd.grad(
                value, point, cotangent, retain_graph=True, create_graph=create_graph
            )[0]

        # M is g'(z) or f'(x)^T, of shape D x d. Both products come from the one pass by backward
        # mode: forward mode would run the flow anew for every product, in twice the time.
        multiply, multiply_transposed = (pull, push) if uses_encoder else (push, pull)

        def multiply_gram(vectors: Tensor) -> Tensor:
            product = multiply_transposed(multiply(vectors.flatten(0, 1)))
            return product.unflatten(0, eps.shape[:2])

        solution, iterations = conjugate_gradient(multiply_gram, eps, tolerance=tolerance)
        left = multiply(solution.flatten(0, 1), create_graph=True)
        right = multiply(eps.flatten(0, 1), create_graph=True)
        products = (left * right).flatten(1).sum(1).unflatten(0, eps.shape[:2])
        volume = products.mean(0) / 2

    return SurrogateOutput(-volume if uses_encoder else volume, z, x_hat), iterations


def _check_norms(network: nn.Module) -> None:
    """Raises a ConfigError if a network has a layer with a wrong gradient of the volume."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm):
            raise ConfigError(
                "RectangularFlow: the gradient of a volume is wrong through "
                f"{type(module).__name__}: use GroupNorm or RMSNorm"
            )
