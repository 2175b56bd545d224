"""The FIF surrogate of the log-volume: its gradient is meant, its value means nothing."""

__all__ = [
    "GRADIENT_TO",
    "JACOBIAN_AT",
    "MODES",
    "TRACE_SPACES",
    "SurrogateOutput",
    "differentiates_forward",
    "eps_meets_inner",
    "surrogate",
]

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from pythae_fif.volume_change.replay import Tape, record

JACOBIAN_AT = ("data", "reconstruction")
GRADIENT_TO = ("encoder", "decoder")
TRACE_SPACES = ("latent", "data")
MODES = ("replay", "mixed", "backward", "forward")


class SurrogateOutput(NamedTuple):
    """What one pass of encoder and decoder yields.

    Attributes:
        surrogate: (b,), of the first b samples, b = B unless fewer Hutchinson vectors were given;
            to be added to the loss.
        z: Codes f(x), (B, d).
        x_hat: Reconstructions g(f(x)), the shape of x.
    """

    surrogate: Tensor
    z: Tensor
    x_hat: Tensor


def surrogate(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: str = "data",
    gradient_to: str = "encoder",
    trace_space: str = "latent",
    mode: str = "replay",
    dtype: torch.dtype | None = None,
) -> SurrogateOutput:
    r"""The volume term of the loss (eq. 7), whose gradient estimates that of the log-volume.

    With the default options, for every sample,

    .. math:: -\frac{1}{K} \sum_k \epsilon_k^\top f'(x) \, \text{stop\_gradient}(g'(z) \epsilon_k)

    which is eq. 15. The options are the choices of appendix D. Its value means nothing.

    The estimate takes g' for the pseudo-inverse of f' (eqs. 47 and 48), which the reconstruction
    brings about, and f' for continuous in the parameters. A network with kinks (ReLU) has a
    Jacobian that jumps where a kink passes, which no automatic differentiation sees: the gradient
    is biased then, and on tables of numbers the codes come out narrower than the prior, while with
    SiLU they do not.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...); images and vectors alike.
        eps: Hutchinson vectors, (K, b, d), or (K, b, D) when the trace is taken in data space.
            b < B takes the surrogate of the first b samples alone, each by itself: statistics of
            BatchNorm in training mode are constants then. Only with mode ``replay``.
        jacobian_at: Where f' is taken: at the ``data`` (off-manifold, eq. 15) or at the
            ``reconstruction`` (on-manifold, eq. 10), which costs a second encoder pass.
        gradient_to: Whose Jacobian carries the gradient: ``encoder`` (eqs. 10, 15) or ``decoder``
            (eq. 9, with the opposite sign).
        trace_space: ``latent`` for the trace of f' g' (d x d) or ``data`` for g' f' (D x D), of
            much higher variance (appendix D.1).
        dtype: Precision of the Jacobian products, that of eps if None; ``torch.bfloat16`` halves
            their memory traffic. Only with mode ``replay``.
        mode: How the two Jacobian products are computed. ``replay`` records the linear map of the
            one pass and applies it to tangents (:mod:`~pythae_fif.volume_change.replay`): the
            fastest, for functions made of known operations. Of appendix D.2: ``mixed`` forward and
            backward differentiation, one product each; ``backward`` only (Jacobian-vector products
            by differentiating a vector-Jacobian product); ``forward`` only, where the product
            without gradient is a Jacobian-vector product. All agree, except that PyTorch treats
            the statistics of BatchNorm in training mode as constants when it differentiates a
            forward-mode product: :func:`differentiates_forward` tells when that would matter.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: An unknown option, ``eps`` of the wrong shape, ``forward`` where a
            vector-Jacobian product is needed, ``forward`` or ``mixed`` under autocast, or a part of
            the batch or another precision where the products are not those of ``replay`` alone.
        UnsupportedOperationError: ``replay`` of an operation that it does not know.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> out = surrogate(encode, decode, torch.randn(7, 5), sample_hutchinson(7, 2))
        >>> out.surrogate.shape, out.z.shape, out.x_hat.shape
        (torch.Size([7]), torch.Size([7, 2]), torch.Size([7, 5]))
    """
    _check("jacobian_at", jacobian_at, JACOBIAN_AT)
    _check("gradient_to", gradient_to, GRADIENT_TO)
    _check("trace_space", trace_space, TRACE_SPACES)
    _check("mode", mode, MODES)
    eps_first = eps_meets_inner(gradient_to, trace_space)
    if mode == "forward" and not eps_first:
        raise ValueError(
            f"mode 'forward' needs a vector-Jacobian product for gradient_to {gradient_to!r} with "
            f"trace_space {trace_space!r}; valid: 'mixed' or 'backward'"
        )

    if mode in ("mixed", "forward") and torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"mode {mode!r}: PyTorch has no forward-mode products under autocast; valid: 'replay' "
            "or 'backward'"
        )
    replayed = mode == "replay" and eps_first
    if not replayed and (eps.shape[1] != len(x) or dtype is not None):
        raise ValueError(
            f"a part of the batch, or a dtype: not with mode {mode!r}, gradient_to "
            f"{gradient_to!r} and trace_space {trace_space!r}; valid: mode 'replay' with "
            "encoder and latent, or decoder and data"
        )

    with torch.enable_grad():
        x = x.detach().requires_grad_(mode != "replay" or not eps_first)
        encoder = _Map.run(encode, x, mode)
        z = encoder.value
        space = z if trace_space == "latent" else x
        rows = eps.shape[1]
        if eps.shape[2:] != (space[0].numel(),) or not 1 <= rows <= len(x):
            raise ValueError(
                f"eps of shape {tuple(eps.shape)}: (K, {len(x)} or fewer, {space[0].numel()}) is "
                f"needed for the trace in {trace_space} space"
            )
        eps = eps.view(-1, rows, *space.shape[1:])

        pushed = None
        if gradient_to == "encoder" and eps_first and mode in ("mixed", "forward"):
            x_hat, pushed = _jvps(decode, z, eps)  # the tangents ride on the one decoder pass
            decoder = _Map(decode, z, x_hat)
        else:
            decoder = _Map.run(decode, z, mode)
        x_hat = decoder.value
        if jacobian_at == "reconstruction":
            encoder = _Map.run(encode, x_hat, mode)
        outer, inner = (encoder, decoder) if gradient_to == "encoder" else (decoder, encoder)

        if eps_first:  # eps^T [outer' stop_gradient(inner' eps)]
            low = eps if dtype is None else eps.to(dtype)
            right = pushed if pushed is not None else inner.jvps(low, forward=mode == "forward")
            value = outer.bilinear(eps, right.detach(), forward=mode == "forward")
        else:  # [stop_gradient(eps^T inner') outer'] eps
            left = inner.vjps(eps, create_graph=False)
            value = outer.bilinear(left, eps, forward=mode == "mixed")

    return SurrogateOutput(-value if gradient_to == "encoder" else value, z, x_hat)


def differentiates_forward(gradient_to: str, trace_space: str, mode: str) -> bool:
    """Whether the gradient flows through a forward-mode product.

    PyTorch's gradient of such a product is wrong where BatchNorm is in training mode (it misses
    the dependence of the batch statistics on the parameters), so such networks need another mode.
    """
    return mode == ("forward" if eps_meets_inner(gradient_to, trace_space) else "mixed")


def eps_meets_inner(gradient_to: str, trace_space: str) -> bool:
    """Whether eps lives where the Jacobian without gradient takes its input."""
    return (gradient_to == "encoder") == (trace_space == "latent")


def _check(option: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {option} {value!r}; valid: {', '.join(valid)}")


class _Map(NamedTuple):
    """A function with the recorded pass ``value = function(point)``."""

    function: Callable[[Tensor], Tensor]
    point: Tensor
    value: Tensor
    tape: Tape | None = None

    @classmethod
    def run(cls, function: Callable[[Tensor], Tensor], point: Tensor, mode: str) -> "_Map":
        """The one pass of a function, taped for ``replay``."""
        if mode == "replay":
            tape = record(function, point)
            return cls(function, point, tape.value, tape)
        return cls(function, point, function(point))

    def vjps(self, cotangents: Tensor, create_graph: bool) -> Tensor:
        """cotangents^T J, (K, *point.shape)."""
        products = [
            torch.autograd.grad(
                self.value, self.point, cotangent, create_graph=create_graph, retain_graph=True
            )[0]
            for cotangent in cotangents
        ]
        return torch.stack(products)

    def jvps(self, tangents: Tensor, forward: bool) -> Tensor:
        """J tangents, (K, *value.shape), without gradient; a second pass only if ``forward``."""
        if self.tape is not None:
            with torch.no_grad():
                return self.tape.jvps(tangents)
        if forward:
            return _jvps(self.function, self.point, tangents)[1]
        # u -> u^T J is linear: its own transpose is u -> J u.
        u = torch.zeros_like(self.value, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.value, self.point, u, create_graph=True)
        products = [
            torch.autograd.grad(pulled, u, tangent, retain_graph=True)[0] for tangent in tangents
        ]
        return torch.stack(products)

    def bilinear(self, left: Tensor, right: Tensor, forward: bool) -> Tensor:
        """Mean over k of left_k^T J right_k, (B,), with gradient through J."""
        if self.tape is not None:
            products = left * self.tape.jvps(right)
        elif forward:
            products = left * _jvps(self.function, self.point, right)[1]
        else:
            products = self.vjps(left, create_graph=True) * right
        return products.flatten(2).sum(-1).mean(0)


def _jvps(
    function: Callable[[Tensor], Tensor], point: Tensor, tangents: Tensor
) -> tuple[Tensor, Tensor]:
    """The value and J tangents, (K, ...), by forward mode, one pass a tangent."""
    values, products = [], []
    for tangent in tangents:
        with forward_ad.dual_level():
            dual = function(forward_ad.make_dual(point, tangent))
            value, product = forward_ad.unpack_dual(dual)
        values.append(value)
        products.append(torch.zeros_like(value) if product is None else product)
    return values[0], torch.stack(products)
