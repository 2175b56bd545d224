"""The loss of free-form injective flows (Sorrenson et al. 2024, eq. 7), on plain callables."""

__all__ = ["FIFLoss", "fif_loss", "squared_error"]

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.volume_change.surrogates import Map, Surrogate, volume_surrogate


class FIFLoss(NamedTuple):
    """The loss, ``nll + beta * reconstruction``, and its terms, one number a sample or reduced.

    `volume` is the surrogate, and `nll` the negative log-likelihood with it in place of the
    log-volume: their gradients are meant, their values say nothing about the fit. `z` (B, d) and
    `x_hat` are f(x) and g(f(x)).
    """

    loss: Tensor
    nll: Tensor
    reconstruction: Tensor
    volume: Tensor
    z: Tensor
    x_hat: Tensor


def fif_loss(
    encode: Map,
    decode: Map,
    latent_log_prob: Map,
    x: Tensor,
    eps: Tensor,
    beta: float | Tensor,
    *,
    surrogate: Surrogate = volume_surrogate,
    reduce: Map | None = None,
) -> FIFLoss:
    r"""The loss of a free-form injective flow (eq. 7).

    .. math::
        \mathcal{L}(x) = -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(f(x)) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    At a stationary point, with a standard normal prior and without weight decay,
    :math:`E[z z^\top] = E[f'(x) \, g'(z)]` and so
    :math:`E \lVert z \rVert^2 = E[\operatorname{tr} f'(x) \, g'(z)]`. For let f become (I + tA) f
    and g become :math:`g \circ (I + tA)^{-1}`: the reconstruction stays, and the derivative of the
    loss at t = 0 is :math:`E[z^\top A z] - E[\operatorname{tr} A f'(x) g'(z)]`, zero for every A.

    Arguments:
        encode, decode, x, eps: As of :func:`volume_surrogate`.
        latent_log_prob: log p_Z, from (B, d) to (B,).
        beta: Weight of the squared error; a number for each member in an ensemble.
        surrogate: The second term.
        reduce: To what each term's samples are reduced before the terms are added, such as
            ``torch.mean``; None keeps one number a sample.

    Raises:
        ValueError: Terms that have not one number a data point.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> x, eps = torch.randn(7, 5), sample_hutchinson(7, 2)
        >>> fif_loss(encode, decode, normal.log_prob, x, eps, beta=10.0).loss.shape
        torch.Size([7])
    """
    out = surrogate(encode, decode, x, eps)
    log_prior = latent_log_prob(out.z.to(x.dtype))
    reconstruction = squared_error(out.x_hat, x, out.z.dim() - 1)
    volume = out.surrogate
    shapes = [tuple(term.shape) for term in (log_prior, volume, reconstruction)]
    if shapes[0] != shapes[2] or (reduce is None and shapes[1] != shapes[2]):
        raise ValueError(
            "log-priors, volumes and squared errors of shapes {}, {} and {}: one number for each "
            "data point is needed; volumes of a part need reduce".format(*shapes)
        )
    if reduce is not None:
        volume, log_prior, reconstruction = map(reduce, (volume, log_prior, reconstruction))
    nll = volume - log_prior
    return FIFLoss(nll + beta * reconstruction, nll, reconstruction, volume, out.z, out.x_hat)


def squared_error(x_hat: Tensor, x: Tensor, batch_dims: int = 1) -> Tensor:
    """`|x_hat - x|^2` of every data point.

    Arguments:
        x_hat, x: (B, ...), or with more dimensions before those of one data point.
        batch_dims: How many come before, and stay.

    Raises:
        DataError: A data point and its reconstruction differ in shape.
    """
    if x_hat.shape[x_hat.dim() - x.dim() :] != x.shape:
        raise DataError(
            f"reconstructions of shape {tuple(x_hat.shape)} for data of shape {tuple(x.shape)}"
        )
    x_hat, x = torch.broadcast_tensors(x_hat, x)
    return F.mse_loss(x_hat, x, reduction="none").flatten(batch_dims).sum(-1)
