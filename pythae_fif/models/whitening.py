"""The best affine map of a model's codes, in closed form."""

__all__ = ["Batches", "add_code_maps", "bare", "codes_of", "whiten_codes"]

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.nn.affine import AffineDecoder, AffineEncoder, CodeMap
from pythae_fif.volume_change.exact import named_samples

Batches = Iterable[Mapping[str, Any]]
"""Of a data loader: "data" (B, ...) and, for conditional models, "labels"."""

CHUNK = 1024  # data points that are encoded at a time


def add_code_maps(model: Any) -> None:
    """Puts a map behind the encoder of a model and one before its decoder, unless it has them."""
    for side, wrap in (("encoder", AffineEncoder), ("decoder", AffineDecoder)):
        network = getattr(model, side)
        if not _has_map(network):
            dim = model.latent_dim + (model.condition_dim if side == "decoder" else 0)
            wrapped = wrap(network, dim).train(network.training)
            wrapped.code_map.to(next(model.parameters()))
            setattr(model, side, wrapped)


def bare(network: Any) -> Any:
    """The network itself, without a map."""
    return network.network if _has_map(network) else network


def _has_map(network: Any) -> bool:
    return hasattr(network, "code_map")  # Pythae makes the class anew when it opens a pickle


def codes_of(model: Any, data: Tensor | Batches, labels: Any) -> Tensor:
    """The codes of all data, (N, d), in evaluation mode; arguments as of `whiten`."""
    pairs: Iterable[tuple[Tensor, Any]]
    if isinstance(data, Tensor):
        condition = model._condition(labels, data)
        conditions = [None] if condition is None else condition.split(CHUNK)
        pairs = zip(data.split(CHUNK), itertools.cycle(conditions))
    else:
        pairs = ((b["data"], b.get("labels") if model.condition_dim else None) for b in data)
    like = next(model.parameters())
    codes = [like.new_empty(0, model.latent_dim)]
    for x, given in pairs:
        with model._in_evaluation_mode():
            codes.append(model.embed(x.to(like.device), given).detach())
    return torch.cat(codes)


@torch.no_grad()
def whiten_codes(model: Any, codes: Tensor) -> None:
    """Folds z -> C^(-1/2) (z - m) into encoder and decoder; m and C are mean and covariance.

    Of all maps that whiten, the symmetric root moves the codes least.

    Raises:
        DataError: The codes do not span the latent space.
        NonFiniteError: Some are NaN or infinite.
    """
    dim = model.latent_dim
    if (bad := ~codes.isfinite().all(1)).any():
        raise NonFiniteError(f"codes are not finite of {named_samples(bad)}")
    if len(codes) <= dim:
        raise DataError(f"{len(codes)} codes of {dim} dimensions: at least {dim + 1} are needed")
    z = codes.double()
    mean = z.mean(0)
    z = z - mean
    # Divided by N: the covariance of which the likelihood has its maximum.
    variances, axes = torch.linalg.eigh(z.mT @ z / len(z))
    if not variances[0] > variances[-1] * dim * torch.finfo(model.encoder.code_map.shift.dtype).eps:
        raise DataError(
            f"the codes vary in fewer than {dim} dimensions (variances {variances[0]:.1e} to "
            f"{variances[-1]:.1e}): a smaller latent_dim would hold them"
        )
    whiten, colour = (axes * variances.pow(p) @ axes.mT for p in (-0.5, 0.5))
    _then(model.encoder.code_map, whiten, -whiten @ mean)
    # A condition's columns, behind those of the code, stay as they are.
    size = len(model.decoder.code_map.shift)
    matrix, shift = torch.eye(size).to(colour), torch.zeros(size).to(mean)
    matrix[:dim, :dim], shift[:dim] = colour, mean
    _before(model.decoder.code_map, matrix, shift)


def _then(code_map: CodeMap, matrix: Tensor, shift: Tensor) -> None:
    """The map, then another one."""
    code_map.set(matrix @ code_map.matrix.to(matrix), matrix @ code_map.shift.to(matrix) + shift)


def _before(code_map: CodeMap, matrix: Tensor, shift: Tensor) -> None:
    """Another one, then the map."""
    old = code_map.matrix.to(matrix)
    code_map.set(old @ matrix, old @ shift + code_map.shift.to(matrix))
