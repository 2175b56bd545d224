"""An injective coupling flow (eq. 1): encoder and decoder are the two directions of one flow.

The coupling blocks are zuko's. Its transformations can be applied without their log-determinants.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform
from zuko.transforms import CouplingTransform, MonotonicAffineTransform, Transform

from pythae_fif.nn.recipe import records_recipe

SMALL_BLOCKS = {"data_blocks": 4, "latent_blocks": 2}
"""Numbers of coupling blocks of the architecture `tabular_small`."""


def _bounded_affine(shift: Tensor, scale: Tensor) -> MonotonicAffineTransform:
    """The map x exp(s) + t with |s| below 2, which is FrEIA's bound.

    With zuko's bound of 7 in every block, a few samples of a hardly trained flow are many orders
    of magnitude outside the data.
    """
    return MonotonicAffineTransform(shift, scale, slope=math.exp(-2))


class _AlternatingSplit(CouplingTransform):
    """A coupling that splits columns into even and odd ones by slices.

    zuko's class looks up indices in its mask in every pass, and on a GPU the host waits for them.
    """

    def __init__(self, meta: Any, first: int) -> None:
        Transform.__init__(self)
        self.meta = meta
        self.idx_a = slice(first, None, 2)
        self.idx_b = slice(1 - first, None, 2)


class _Coupling(GeneralCouplingTransform):
    """zuko's coupling with a mask that is true for every second column."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = 0 if self.mask[0] else 1

    def forward(self, c: Tensor | None = None) -> Transform:
        return _AlternatingSplit(partial(self.meta, c), self.first)


def affine_couplings(
    features: int, blocks: int, hidden: Sequence[int], activation: str = "ReLU"
) -> LazyComposedTransform:
    """Builds the transformation of zuko's RealNVP, with log-scales bounded to 2.

    Args:
        features: Dimension d. With d = 1 each block is affine.
        blocks: Number of couplings.
        hidden: Widths of the hidden layers of every block's network.
        activation: Activation of the hidden layers, a class of `torch.nn`.
    """
    options: dict[str, Any] = {
        "activation": getattr(nn, activation),
        "univariate": _bounded_affine,
        "hidden_features": list(hidden),
    }
    masks = (torch.arange(features) % 2 == i % 2 for i in range(blocks))
    return LazyComposedTransform(*(_Coupling(features, mask=mask, **options) for mask in masks))


class CouplingFlow(nn.Module):
    r"""The flow g = w ∘ pad ∘ h, f = h^{-1} ∘ slice ∘ w^{-1} with invertible w and h (eq. 1).

    Args:
        columns: D, the dimension of the data.
        latent_dim: d, at most D.
        data_blocks: Number of affine coupling blocks of w, in data space.
        latent_blocks: Number of affine coupling blocks of h, in latent space.
        data_hidden: Widths of the hidden layers of every block's network in w.
        latent_hidden: Widths of the hidden layers of every block's network in h.
        activation: See :func:`affine_couplings`.

    Example:
        >>> flow = CouplingFlow(6, 3)
        >>> z = torch.randn(5, 3)
        >>> torch.allclose(flow.encode(flow.decode(z)), z, atol=1e-5)
        True
    """

    def __init__(
        self,
        columns: int,
        latent_dim: int,
        data_blocks: int = 10,
        latent_blocks: int = 5,
        data_hidden: Sequence[int] = (160, 160),
        latent_hidden: Sequence[int] = (160, 160),
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        self.padding = columns - latent_dim
        self.latent_dim = latent_dim
        self.w = affine_couplings(columns, data_blocks, data_hidden, activation)
        self.h = affine_couplings(latent_dim, latent_blocks, latent_hidden, activation)

    def encode(self, x: Tensor) -> Tensor:
        """Encodes data (..., D) to codes (..., d)."""
        return self.h().inv(self.w().inv(x)[..., : self.latent_dim])

    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (..., d) to data (..., D)."""
        return self.w()(F.pad(self.h()(z), (0, self.padding)))


class FlowEncoder(BaseEncoder):
    """An encoder from data (..., D) to codes (..., d), sharing a flow with a :class:`FlowDecoder`.

    Args:
        flow: A module with `encode` and `decode`, such as :class:`CouplingFlow`.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow: Any = flow

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=self.flow.encode(x))


class FlowDecoder(BaseDecoder):
    """A decoder from codes to data, sharing a flow with a :class:`FlowEncoder`."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow: Any = flow

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.flow.decode(z))


@records_recipe
def build_coupling(
    input_dim: tuple[int, ...], latent_dim: int, **sizes: Any
) -> tuple[FlowEncoder, FlowDecoder]:
    """Builds an encoder and a decoder that share one :class:`CouplingFlow`.

    With the default sizes the flow has ten blocks in data space and five in latent space, as
    rectangular flows (Caterini et al. 2021), and within 10% of the parameters of the free-form
    networks.

    Args:
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
        **sizes: Further arguments of :class:`CouplingFlow`.
    """
    flow = CouplingFlow(input_dim[0], latent_dim, **sizes)
    return FlowEncoder(flow), FlowDecoder(flow)


def coupling_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[FlowEncoder, FlowDecoder]:
    """Builds the coupling flow of an architecture, for models of the benchmark.

    Args:
        arch: Name of the architecture. With `tabular_small` the flow has 6 blocks of half the
            width.
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
    """
    sizes: dict[str, Any] = {}
    if arch == "tabular_small":
        hidden = (80, 80)
        sizes = {**SMALL_BLOCKS, "data_hidden": hidden, "latent_hidden": hidden}
    return build_coupling(input_dim, latent_dim, **sizes)


def tanh_coupling_networks(
    arch: str, input_dim: tuple[int, ...], latent_dim: int
) -> tuple[FlowEncoder, FlowDecoder]:
    """Builds the coupling flow of rectangular flows' own code, as :func:`coupling_networks`.

    The blocks' networks have tanh, with four hidden layers in data space and two in latent space.
    """
    is_small = arch == "tabular_small"
    scale = 2 if is_small else 1
    return build_coupling(
        input_dim,
        latent_dim,
        data_hidden=(128 // scale,) * 4,
        latent_hidden=(32 // scale,) * 2,
        activation="Tanh",
        **(SMALL_BLOCKS if is_small else {}),
    )
