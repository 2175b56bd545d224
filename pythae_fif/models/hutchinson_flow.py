"""The base class of models that estimate volume changes with Hutchinson vectors."""

import math
from typing import Any, ClassVar

import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor
from torch._compile import _disable_dynamo

from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError
from pythae_fif.models.config import HutchinsonConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import LazyOutput, as_data
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.volume_change import (
    decoder_log_volume,
    encoder_log_volume,
    sample_hutchinson,
    squared_error,
)
from pythae_fif.volume_change.exact import warn_if_singular
from pythae_fif.volume_change.loss import FIFLoss, LossTerms, Map, Surrogate, fif_terms

EVALUATED_POINTS = 64
"""Points of an evaluation set that get the exact volume change in the evaluation loss."""
MIN_EVALUATED_POINTS = 16
"""The same for codes of 64 dimensions or more."""
EVALUATED_CODE_DIMS = 1024
"""Largest number of points times latent dimensions, if that leaves `MIN_EVALUATED_POINTS`. Each
dimension of a code costs a pass of a network."""

# beta='auto' moves towards (D - d) / (2 E), for the mean squared error E of an epoch, which is the
# fixed point of probabilistic PCA. It falls slowly: a large beta does no harm, because the model
# then trains as an autoencoder first, but with a small one it may never learn to reconstruct, and
# its error then keeps beta small. The errors of the first epochs are those of an untrained model.
AUTO_BETA_START = 10.0
AUTO_BETA_FALL = 0.9
"""Smallest factor of beta='auto' from one epoch to the next."""
AUTO_BETA_RISE = 2.0
"""Largest factor of beta='auto' from one epoch to the next."""
AUTO_BETA_MAX = 1e6
"""Largest value of beta='auto'. Without noise, an exact reconstruction asks for infinity."""


def evaluated_points(latent_dim: int) -> int:
    """Returns how many points get the exact volume change in an evaluation: 16 to 64.

    Args:
        latent_dim: d. The cost of a point is proportional to it.
    """
    return min(EVALUATED_POINTS, max(MIN_EVALUATED_POINTS, EVALUATED_CODE_DIMS // latent_dim))


class HutchinsonFlow(InjectiveFlow):
    """An injective flow with a volume term that is estimated by Hutchinson vectors in training.

    A subclass says how: `_surrogate` computes the volume term. The other terms, the weights, noise
    and evaluation are here. In evaluation mode the loss is exact, so that trainers can choose the
    best model; :class:`FIF` has its formula.
    """

    config_class: ClassVar[Any] = HutchinsonConfig
    beta: Tensor
    errors: Tensor
    _epoch: int | None = None

    def __init__(
        self,
        model_config: Any,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        if model_config.beta == "auto":
            self.register_buffer("beta", torch.tensor(AUTO_BETA_START))
            # In this epoch: the sum of squared errors over D - d, and the number of data points.
            self.register_buffer("errors", torch.zeros(2))

    def set_encoder(self, encoder: BaseEncoder) -> None:
        """Replaces f."""
        super().set_encoder(encoder)
        self.model_config.uses_default_encoder = False

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g."""
        super().set_decoder(decoder)
        self.model_config.uses_default_decoder = False

    @_disable_dynamo  # a compiled step would leave a tape on PyTorch's stack
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            kwargs: What trainers pass. ``share_done``, from this package's trainers, is the share
                of the training that is done, for a schedule of beta. ``epoch`` is needed for
                ``beta="auto"``. ``nll_weight`` weights the negative log-likelihood in training.
                ``dataset_size`` is the size of the evaluation set: the exact volume change is
                computed for some of its points, spread evenly over it, see
                :func:`evaluated_points`. They are exactly that many if ``position``, from this
                package's trainers, says how many of its points came in earlier batches. Without it
                every batch has one of them at least.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode ``loss`` and
            ``nll_loss`` are computed when one is first read, without gradient.
        """
        x = as_data(inputs["data"], self)
        labels = inputs.get("labels") if self.condition_dim else None
        condition = self.condition(labels, x)
        if not self.training:
            return self._evaluation_output(
                x, condition, kwargs.get("dataset_size"), kwargs.get("position")
            )

        x = self._noisy(x)
        eps = self._sample_hutchinson(x)
        beta = self._training_beta(**kwargs)
        loss = self._training_loss(x, eps, beta, kwargs.get("nll_weight", 1.0), *condition)
        if self.model_config.beta == "auto":
            self._record_error(loss.reconstruction.detach(), x)
        return ModelOutput(
            loss=loss.loss,
            recon_loss=loss.reconstruction,
            nll_loss=loss.nll,
            recon_x=loss.x_hat,
            z=loss.z,
        )

    def loss_terms(
        self,
        x: Tensor,
        eps: Tensor,
        beta: float | Tensor,
        *condition: Tensor,
        networks: tuple[Map, Map] | None = None,
        nll_weight: float = 1.0,
        reduce: Map | None = None,
    ) -> FIFLoss:
        """Computes the loss of training and its terms.

        Args:
            x: Data with noise, (B, ...).
            eps: Hutchinson vectors, (K, b, d), as for
                :func:`~pythae_fif.volume_change.volume_surrogate`.
            beta: Weight of the squared error.
            *condition: The condition (B, c) of a conditional model.
            networks: f and g, such as the model's networks with other weights; its own if None.
            nll_weight: Weight of the negative log-likelihood.
            reduce: Applied to each term; None keeps one number for each data point.
        """
        prior = self.latent_distribution(x)
        terms = fif_terms(
            *(networks or self.networks_at(*condition)),
            lambda z: prior.log_prob(z, *condition),
            x,
            eps,
            surrogate=self._surrogate(x, *condition),
            reduce=reduce,
        )
        return FIFLoss(self.total_loss(x, terms, beta, nll_weight), *terms)

    def total_loss(
        self, x: Tensor, terms: LossTerms, beta: float | Tensor, nll_weight: float = 1.0
    ) -> Tensor:
        """Adds up the terms of the loss, in training and in evaluation.

        Args:
            x: Data, (B, ...), with noise in training.
            terms: The terms, for each data point or means over the batch.
            beta: Weight of the squared error.
            nll_weight: Weight of the negative log-likelihood.

        Returns:
            The loss of each data point, or its mean over the batch.
        """
        return nll_weight * terms.nll + beta * terms.reconstruction

    def networks_at(self, condition: Tensor | None = None) -> tuple[Map, Map]:
        """Returns f(., c) and g(., c) as functions of x and z, for a condition c (B, c) if any."""
        return lambda x: self._encode(x, condition), lambda z: self._decode(z, condition)

    # ------------------------------------------------------------------ training

    def _training_loss(
        self,
        x: Tensor,
        eps: Tensor,
        beta: float | Tensor,
        nll_weight: float,
        *condition: Tensor,
    ) -> FIFLoss:
        """Computes the means of the loss and its terms over a batch; see :meth:`loss_terms`."""
        return self.loss_terms(x, eps, beta, *condition, nll_weight=nll_weight, reduce=torch.mean)

    def _training_beta(
        self, epoch: int | None = None, share_done: float | None = None, **_: Any
    ) -> float | Tensor:
        """Returns the weight of the reconstruction; 'auto' updates it when an epoch begins."""
        config = self.model_config
        if config.beta != "auto":
            return float(config.beta_at(share_done))

        epoch = -1 if epoch is None else epoch  # Pythae's trainers try one batch without an epoch
        if epoch == self._epoch == -1:
            raise ConfigError(f"{self.model_name}: beta='auto' needs `epoch` with each batch")
        if epoch != self._epoch:
            error_sum, count = self.errors
            if self._epoch != -1 and count > 0:
                target = count / (2 * error_sum)  # infinite for an exact reconstruction
                target = target.clamp(AUTO_BETA_FALL * self.beta, AUTO_BETA_RISE * self.beta)
                self.beta.copy_(target.clamp(max=AUTO_BETA_MAX))
            self.errors.zero_()
        self._epoch = epoch
        return self.beta

    def _record_error(self, error: Tensor, x: Tensor) -> None:
        """Adds the mean squared error of a batch x to the errors of the epoch."""
        data_dim = x[0].numel()
        if data_dim == self.latent_dim:
            raise ConfigError(
                f"{self.model_name}: beta='auto' needs a latent_dim below {data_dim}, the "
                "dimension of the data"
            )
        error = error / (data_dim - self.latent_dim)
        self.errors += len(x) * torch.stack([error, torch.ones_like(error)])

    def _surrogate(self, x: Tensor, *condition: Tensor) -> Surrogate:
        """Returns the function that computes the volume term of a batch."""
        raise NotImplementedError

    def _sample_hutchinson(self, x: Tensor) -> Tensor:
        """Draws Hutchinson vectors, (K, B, d), for data points (B, ...)."""
        config = self.model_config
        return sample_hutchinson(
            len(x),
            config.latent_dim,
            config.hutchinson_samples,
            kind=config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )

    # ------------------------------------------------------------------ evaluation

    def _evaluation_output(
        self,
        x: Tensor,
        condition: tuple[Tensor, ...],
        dataset_size: int | None,
        position: int | None,
    ) -> Any:
        """Returns the output of evaluation mode, with the exact loss computed when it is read."""
        z = self._encode(x, *condition)
        x_hat = self._decode(z, *condition)
        recon_loss = squared_error(x_hat, x).mean()

        # The exact volume is computed for `total` points spread evenly over the data set;
        # `count` of them fall into this batch, which begins at point `start`.
        size = dataset_size or len(x)
        total = min(size, evaluated_points(self.latent_dim))
        start = position or 0
        count = math.ceil(total * (start + len(x)) / size) - math.ceil(total * start / size)
        # Without a position, any batch counts its points as the first one does.
        weight = 1 / count if position is None else size / (total * len(x))

        def compute_losses() -> dict[str, Tensor]:
            is_auto = self.model_config.beta == "auto"
            beta = self.beta if is_auto else self.model_config.beta_at(1.0)
            nll = volume = z.new_zeros(())
            with evaluation_mode(self):
                if count:
                    inputs = (x, z.to(x.dtype), *condition)
                    nll, volume = self._exact_nll(*(tensor[:count] for tensor in inputs))
                nll = nll.sum() * weight
                terms = LossTerms(nll, recon_loss, volume.sum() * weight, z, x_hat)
                loss = self.total_loss(x, terms, beta)
                if is_auto:
                    # The normal likelihood's constant changes with beta between epochs.
                    loss = loss - (x[0].numel() - z.shape[1]) / 2 * (beta / math.pi).log()
            return {"loss": loss, "nll_loss": nll}

        return LazyOutput(compute_losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    @full_float32()
    def _exact_nll(self, x: Tensor, z: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the exact negative log-likelihood and its volume term of data x with codes z.

        Both are (B,).
        """
        if self.model_config.jacobian_at == "data":
            volume = -encoder_log_volume(self._encode, x, *condition)
        else:
            volume = decoder_log_volume(self._decode, z, *condition)
            warn_if_singular(volume)
        return volume - self.latent_distribution(z).log_prob(z, *condition), volume
