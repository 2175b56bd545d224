"""The loss of evaluation mode: exact, and computed only if it is read."""

import math
from typing import Any

from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.models.adaptive_beta import MAX_BETA
from pythae_fif.models.outputs import LazyOutput
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.volume_change import decoder_log_volume, encoder_log_volume, squared_error
from pythae_fif.volume_change.exact import warn_if_singular
from pythae_fif.volume_change.loss import FIFLoss, weighted_sum

EVALUATED_POINTS = 64
"""Points of an evaluation set that get the exact volume change."""
MIN_EVALUATED_POINTS = 16
"""The same for codes of 64 dimensions or more."""
EVALUATED_CODE_DIMS = 1024
"""Largest number of points times latent dimensions, if that leaves `MIN_EVALUATED_POINTS`. Each
dimension of a code costs a pass of a network."""


def evaluated_points(latent_dim: int) -> int:
    """Returns how many points get the exact volume change in an evaluation: 16 to 64.

    Args:
        latent_dim: d. The cost of a point is proportional to it.
    """
    return min(EVALUATED_POINTS, max(MIN_EVALUATED_POINTS, EVALUATED_CODE_DIMS // latent_dim))


def noise_nll(reconstruction: Tensor, codimension: int) -> Tensor:
    r"""Computes the negative log-likelihood of the noise around the manifold, at its best scale.

    With normal noise of variance :math:`s^2 = E / (D - d)` it is

    .. math:: \frac{D - d}{2} \left(1 + \log 2 \pi s^2\right),

    the lowest value over all s. A variance below that of the largest beta counts as this one.

    Args:
        reconstruction: The mean squared error E of a data set, ().
        codimension: D - d.

    Returns:
        The mean over the data in nats, ().
    """
    variance = (reconstruction / codimension).clamp(min=1 / (2 * MAX_BETA))
    return codimension / 2 * (1 + (2 * math.pi * variance).log())


def evaluation_output(
    model: Any,
    x: Tensor,
    *condition: Tensor,
    dataset_size: int | None = None,
    position: int | None = None,
) -> LazyOutput:
    r"""Returns a model's output in evaluation mode, with the loss computed when it is read.

    Off the manifold the loss is

    .. math:: -\log p_Z(f(x)) - \frac12 \log\det f'(x) f'(x)^\top
        + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 46 and the reconstruction error), on the manifold the negative of `log_prob` plus the same
    squared error (eq. 3). Here beta is the last value of a schedule. With ``beta="auto"`` the last
    term is :func:`noise_nll`, which does not depend on the beta of training.

    The exact volume change is computed for :func:`evaluated_points` points of the evaluation set,
    spread evenly over it.

    Args:
        model: A :class:`~pythae_fif.models.FIF`, or a model with its methods.
        x: Data, (B, ...).
        *condition: The condition (B, c) of a conditional model.
        dataset_size: Number of points of the evaluation set; None for those of this batch.
        position: Number of points in earlier batches. Without it every batch has one of the
            evaluated points at least.

    Returns:
        ``loss`` and ``nll_loss``, means in nats without gradient, ``recon_loss`` (squared error),
        ``recon_x`` (B, ...) and ``z`` (B, d). With ``beta="auto"`` also ``noise_nll``, the last
        term of the loss.
    """
    z = model._encode(x, *condition)
    x_hat = model._decode(z, *condition)
    reconstruction = squared_error(x_hat, x).mean()

    # Of all evaluated points, `count` fall into this batch, which begins at point `start`.
    size = dataset_size or len(x)
    total = min(size, evaluated_points(model.latent_dim))
    start = position or 0
    count = math.ceil(total * (start + len(x)) / size) - math.ceil(total * start / size)
    # Without a position, any batch counts its points as the first one does.
    weight = 1 / count if position is None else size / (total * len(x))

    def compute_losses() -> dict[str, Tensor]:
        with evaluation_mode(model):
            nll = volume = z.new_zeros(())
            if count:
                inputs = (x, z.to(x.dtype), *condition)
                nll, volume = _exact_nll(model, *(tensor[:count] for tensor in inputs))
            nll = nll.sum() * weight

            losses = {"nll_loss": nll}
            if model.adaptive_beta is None:
                loss = weighted_sum(nll, reconstruction, model.current_beta(x, share_done=1.0))
            else:
                losses["noise_nll"] = noise_nll(reconstruction, x[0].numel() - z.shape[1])
                loss = nll + losses["noise_nll"]
            terms = FIFLoss(loss, nll, reconstruction, volume.sum() * weight, z, x_hat)
            return {"loss": model.total_loss(x, terms), **losses}

    return LazyOutput(compute_losses, recon_loss=reconstruction, recon_x=x_hat, z=z)


@full_float32()
def _exact_nll(model: Any, x: Tensor, z: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the exact negative log-likelihood and its volume term of data x with codes z.

    Both are (B,).
    """
    if model.model_config.jacobian_at == "data":
        volume = -encoder_log_volume(model._encode, x, *condition)
    else:
        volume = decoder_log_volume(model._decode, z, *condition)
        warn_if_singular(volume)
    return volume - model.latent_distribution(z).log_prob(z, *condition), volume
