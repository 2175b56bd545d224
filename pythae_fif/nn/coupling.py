"""An injective coupling flow (eq. 1): encoder and decoder are the two directions of one flow.

The coupling blocks are zuko's, which gives a transformation without its log-determinant.
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


def _bounded_affine(shift: Tensor, scale: Tensor) -> MonotonicAffineTransform:
    """x exp(s) + t with |s| below 2, FrEIA's bound: with zuko's own of 7 in every block, a few
    samples of a young flow lie many orders of magnitude outside the data."""
    return MonotonicAffineTransform(shift, scale, slope=math.exp(-2))


class _AlternatingSplit(CouplingTransform):
    """zuko's looks for the indices in its mask in every pass; on a GPU the host waits for these."""

    def __init__(self, meta: Any, first: int) -> None:
        Transform.__init__(self)
        self.meta, self.idx_a, self.idx_b = meta, slice(first, None, 2), slice(1 - first, None, 2)


class _Coupling(GeneralCouplingTransform):
    """zuko's, of a mask that holds for every other column."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = 0 if self.mask[0] else 1

    def forward(self, c: Tensor | None = None) -> Transform:
        return _AlternatingSplit(partial(self.meta, c), self.first)


def affine_couplings(
    features: int, blocks: int, hidden: Sequence[int], activation: str = "ReLU"
) -> LazyComposedTransform:
    """The transformation of zuko's RealNVP, its log-scales bounded to 2.

    Args:
        features: d; with d = 1 each block is affine.
        blocks: Number of couplings.
        hidden: Widths of the hidden layers of every block's net.
        activation: Of each of them, a class of `torch.nn`.
    """
    options: dict[str, Any] = {"activation": getattr(nn, activation), "univariate": _bounded_affine}
    options["hidden_features"] = list(hidden)
    masks = (torch.arange(features) % 2 == i % 2 for i in range(blocks))
    return LazyComposedTransform(*(_Coupling(features, mask=mask, **options) for mask in masks))


class CouplingFlow(nn.Module):
    r"""g = w ∘ pad ∘ h and f = h^{-1} ∘ slice ∘ w^{-1}, with invertible w and h (eq. 1).

    Args:
        columns: D.
        latent_dim: d, at most D.
        data_blocks: Affine coupling blocks of w, in data space.
        latent_blocks: Those of h, in latent space.
        data_hidden, latent_hidden: Widths of the hidden layers of every block's net in w and in h.
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
        self.padding, self.latent_dim = columns - latent_dim, latent_dim
        self.w = affine_couplings(columns, data_blocks, data_hidden, activation)
        self.h = affine_couplings(latent_dim, latent_blocks, latent_hidden, activation)

    def encode(self, x: Tensor) -> Tensor:
        """f, from (..., D) to (..., d)."""
        return self.h().inv(self.w().inv(x)[..., : self.latent_dim])

    def decode(self, z: Tensor) -> Tensor:
        """g, from (..., d) to (..., D)."""
        return self.w()(F.pad(self.h()(z), (0, self.padding)))


class FlowEncoder(BaseEncoder):
    """The way from data (..., D) to codes (..., d) of a flow that a :class:`FlowDecoder` shares.

    Args:
        flow: A module with `encode` and `decode`, such as :class:`CouplingFlow`.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow: Any = flow

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=self.flow.encode(x))


class FlowDecoder(BaseDecoder):
    """The way from codes to data of a flow that a :class:`FlowEncoder` shares."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow: Any = flow

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.flow.decode(z))


@records_recipe
def build_coupling(
    input_dim: tuple[int, ...], latent_dim: int, **sizes: Any
) -> tuple[FlowEncoder, FlowDecoder]:
    """Encoder and decoder that share one :class:`CouplingFlow`, of rows of shape (D,).

    With the default sizes it has ten blocks in data space and five in latent space, as rectangular
    flows (Caterini et al. 2021), and within 10% of the parameters of the free-form nets.
    """
    flow = CouplingFlow(input_dim[0], latent_dim, **sizes)
    return FlowEncoder(flow), FlowDecoder(flow)
