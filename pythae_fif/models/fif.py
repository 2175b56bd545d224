"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_AE_MLP
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from typing_extensions import deprecated

from pythae_fif.device import fork_rng, full_float32
from pythae_fif.errors import ConfigError, UnsupportedOperationError
from pythae_fif.models.config import FIFConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.integers import ceil_div
from pythae_fif.models.outputs import LazyOutput, as_data
from pythae_fif.nn.base import AtCondition
from pythae_fif.volume_change import (
    autograd_surrogate,
    encoder_log_volume,
    fif_loss,
    sample_hutchinson,
    squared_error,
    volume_surrogate,
)
from pythae_fif.volume_change.loss import Map, Surrogate, SurrogateOutput
from pythae_fif.volume_change.replay import Tape, check_parts, check_replay

EVALUATED_POINTS = 64
"""Points of an evaluation set that get the exact volume change in the evaluation loss."""

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

SurrogateMode = Literal["replay", "published", "double backward"]
SURROGATES: dict[SurrogateMode, Callable[..., SurrogateOutput]] = {
    "replay": volume_surrogate,
    "published": autograd_surrogate,
    "double backward": partial(autograd_surrogate, forward_mode=False),
}


class SlowerSurrogateWarning(UserWarning):
    """Training is slower because a network cannot be replayed; the message says why."""


class FIF(InjectiveFlow):
    r"""Free-form injective flow (Sorrenson, Draxler et al., ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss is eq. 7, see
    :func:`~pythae_fif.volume_change.fif_loss`; only its gradient is meaningful, its *value* says
    nothing about the fit. In evaluation mode it is the exact loss that training descends
    (approximately, if g' is near the pseudo-inverse of f'), so that trainers can choose the best
    model. Off the manifold that is

    .. math:: -\log p_Z(f(x)) - \frac12 \log\det f'(x) f'(x)^\top
        + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 46 and the reconstruction error), on the manifold the negative of :meth:`log_prob` plus the
    same squared error (eq. 3). With ``condition_dim`` above 0 the model is conditional, and its
    methods need ``labels``.

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None. In a conditional model its input
            has c further channels or columns.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None, with values in [0, 1] only. In a
            conditional model its input has d + c columns.

    Attributes:
        surrogate_mode: How the volume term is computed. The first training step chooses 'replay',
            or 'double backward' if a network cannot be replayed, with a
            :class:`SlowerSurrogateWarning`. 'published', which uses PyTorch's forward mode, can be
            set by hand.

    Raises:
        ConfigError: Default networks are needed without ``input_dim``, or the encoder has BatchNorm
            and runs twice in a step, as with ``jacobian_at="reconstruction"``.

    Example:
        >>> model, x = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4)), torch.rand(5, 1, 8, 8)
        >>> z = model.encode(x)
        >>> z.shape, model.decode(z).shape, model.log_prob(x.numpy()).shape
        (torch.Size([5, 4]), torch.Size([5, 1, 8, 8]), torch.Size([5]))
        >>> model.sample((2, 3), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 1, 8, 8])
        >>> [tensor.shape for tensor in model.sample_and_log_prob(3)]
        [torch.Size([3, 1, 8, 8]), torch.Size([3])]
    """

    config_class: ClassVar[Any] = FIFConfig
    surrogate_mode: SurrogateMode | None = None
    beta: Tensor
    errors: Tensor
    _epoch: int | None = None
    _position = 0  # in a pass over an evaluation set: the data points of earlier batches

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

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None and decoder is not None:
            return encoder, decoder
        if config.input_dim is None:
            raise ConfigError(f"{config.name}: input_dim is needed for the default networks")

        channels, *sides = config.input_dim
        code_dim = config.latent_dim + config.condition_dim
        # The decoder comes first because Pythae draws its first weights before the encoder's.
        if decoder is None:
            decoder = Decoder_AE_MLP(BaseAEConfig((channels, *sides), code_dim))
        if encoder is None:
            data_shape = (channels + config.condition_dim, *sides)
            encoder = Encoder_AE_MLP(BaseAEConfig(data_shape, config.latent_dim))
        return encoder, decoder

    def set_encoder(self, encoder: BaseEncoder) -> None:
        """Replaces f; the next training step chooses anew how the volume term is computed."""
        super().set_encoder(encoder)
        jacobian_at = self.model_config.jacobian_at
        batch_norm = nn.modules.batchnorm._BatchNorm
        has_batch_norm = any(isinstance(module, batch_norm) for module in encoder.modules())
        if has_batch_norm and jacobian_at != "data":
            raise ConfigError(
                f"FIFConfig jacobian_at={jacobian_at!r} with BatchNorm in the encoder gives wrong "
                "running statistics; use jacobian_at='data', or GroupNorm"
            )
        self.surrogate_mode = None
        self.model_config.uses_default_encoder = False

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g; see :meth:`set_encoder`."""
        super().set_decoder(decoder)
        self.surrogate_mode = None
        self.model_config.uses_default_decoder = False

    @_disable_dynamo  # a compiled step would leave a tape on PyTorch's stack
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            kwargs: What trainers pass. ``share_done``, from this package's trainers, is the share
                of the training that is done, for a schedule of beta. ``epoch`` is needed for
                ``beta="auto"``. ``dataset_size`` is the size of the evaluation set: the exact
                volume change is computed for 64 points spread evenly over it.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode ``loss`` and
            ``nll_loss`` are computed when one is first read, without gradient.
        """
        x = as_data(inputs["data"], self)
        labels = inputs.get("labels") if self.condition_dim else None
        condition = self.condition(labels, x)
        if not self.training:
            return self._evaluation_output(x, condition, kwargs.get("dataset_size"))

        x = self._noisy(x)
        prior = self.latent_distribution(x)
        loss = fif_loss(
            *self.networks_at(*condition),
            lambda z: prior.log_prob(z, *condition),
            x,
            self._sample_hutchinson(x),
            self._training_beta(**kwargs),
            surrogate=self._surrogate(x, *condition),
            reduce=torch.mean,
        )

        if self.model_config.beta == "auto":
            self._record_error(loss.reconstruction.detach(), x)
        return ModelOutput(
            loss=loss.loss,
            recon_loss=loss.reconstruction,
            nll_loss=loss.nll,
            recon_x=loss.x_hat,
            z=loss.z,
        )

    def networks_at(self, condition: Tensor | None = None) -> tuple[Map, Map]:
        """Returns f(., c) and g(., c) as functions of x and z, for a condition c (B, c) if any."""
        return lambda x: self._encode(x, condition), lambda z: self._decode(z, condition)

    def conditioned_on(self, label: int | Tensor) -> "FIF":
        """Turns a conditional model into an unconditional one, for a single label.

        Pythae's samplers, which do not take labels, can sample from it.

        Args:
            label: A class index or a condition vector (c,).

        Returns:
            A model that shares this model's weights. It has no fitted prior.

        Example:
            >>> from pythae.samplers import NormalSampler
            >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=10))
            >>> NormalSampler(model.conditioned_on(3)).sample(5).shape
            torch.Size([5, 1, 8, 8])
        """
        labels = torch.as_tensor(label)[None]
        (condition,) = self.condition(labels, next(self.parameters()).new_ones(1))
        encoder = AtCondition(self.encoder, condition[0])
        decoder = AtCondition(self.decoder, condition[0])
        config = dataclasses.replace(self.model_config, condition_dim=0, fitted_prior=None)
        model = FIF(config, encoder, decoder)
        model.train(self.training)
        return model

    @deprecated("renamed to conditioned_on")
    def given(self, label: int | Tensor) -> "FIF":
        """Deprecated name of :meth:`conditioned_on`."""
        return self.conditioned_on(label)

    # ------------------------------------------------------------------ training

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
        """Returns the volume term of the loss; the first batch decides how it is computed."""
        if self.surrogate_mode is None:
            self.surrogate_mode = self._choose_surrogate(x, *condition)
        return partial(SURROGATES[self.surrogate_mode], jacobian_at=self.model_config.jacobian_at)

    def _choose_surrogate(self, x: Tensor, *condition: Tensor) -> SurrogateMode:
        """Returns 'replay' if both networks can be replayed; the trial changes no state."""
        with fork_rng(), full_float32(), _restore_buffers(self):
            try:
                self._try_replay(x, *condition)
                return "replay"
            except UnsupportedOperationError as error:
                reason = str(error)
        warnings.warn(
            f"{self.model_name} falls back to double backward, which is slower: {reason}",
            SlowerSurrogateWarning,
            stacklevel=2,
        )
        return "double backward"

    def _try_replay(self, x: Tensor, *condition: Tensor) -> None:
        """Raises UnsupportedOperationError if a network cannot be replayed."""
        encode, decode = self.networks_at(*condition)
        parts = self.model_config.surrogate_fraction < 1
        with self._in_evaluation_mode():  # so that two passes give equal values
            check_replay(encode, x, parts=parts)
            check_replay(decode, encode(x), parts=parts)

        # With a gradient, operations that the tape does not see leave a graph, which it detects.
        f = Tape(encode, x.detach().requires_grad_())
        g = Tape(decode, f.value)
        if parts:
            check_parts(f, x)
            check_parts(g, f.value)

    def _sample_hutchinson(self, x: Tensor) -> Tensor:
        """Draws Hutchinson vectors, (K, b, d), for the first b data points of a batch."""
        config = self.model_config
        fraction = getattr(config, "surrogate_fraction", 1)
        return sample_hutchinson(
            math.ceil(fraction * len(x)),
            config.latent_dim,
            config.hutchinson_samples,
            kind=config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )

    # ------------------------------------------------------------------ evaluation

    def _evaluation_output(
        self, x: Tensor, condition: tuple[Tensor, ...], dataset_size: int | None
    ) -> Any:
        """Returns the output of evaluation mode, with the exact loss computed when it is read."""
        z = self._encode(x, *condition)
        x_hat = self._decode(z, *condition)
        recon_loss = squared_error(x_hat, x).mean()

        # The exact volume is computed for `total` points spread evenly over the data set;
        # `count` of them fall into this batch, which holds points start to stop.
        size = dataset_size or len(x)
        total = min(size, EVALUATED_POINTS)
        start = self._position if dataset_size else 0
        stop = start + len(x)
        count = ceil_div(total * stop, size) - ceil_div(total * start, size)
        if dataset_size:  # one batch of a pass over the data set, not a single call
            self._position = stop % size

        def compute_losses() -> dict[str, Tensor]:
            nll_loss = z.new_zeros(())
            if count:
                inputs = (x, z.to(x.dtype), *condition)
                with self._in_evaluation_mode():
                    nll = self._exact_nll(*(tensor[:count] for tensor in inputs))
                nll_loss = nll.sum() * (size / (total * len(x)))

            config = self.model_config
            beta = self.beta if config.beta == "auto" else config.beta_at(1.0)
            loss = beta * recon_loss.detach() + nll_loss
            if config.beta == "auto":
                # The normal likelihood's constant depends on beta, which changes between epochs.
                loss -= (x[0].numel() - z.shape[1]) / 2 * (beta / math.pi).log()
            return {"loss": loss, "nll_loss": nll_loss}

        return LazyOutput(compute_losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    @full_float32()
    def _exact_nll(self, x: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        """Computes the exact negative log-likelihood, (B,), of data x with codes z."""
        if self.model_config.jacobian_at != "data":
            return -self._log_prob(z.detach(), *condition)
        log_prior = self.latent_distribution(z).log_prob(z.detach(), *condition)
        return -log_prior - encoder_log_volume(self._encode, x, *condition)


@contextmanager
def _restore_buffers(model: nn.Module) -> Iterator[None]:
    """Restores all buffers of a model, and their values, after the block."""
    saved_buffers = []  # the module, the buffer's name, the buffer, a copy of its values
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                saved_buffers.append((module, name, buffer, buffer.clone()))
    try:
        yield
    finally:
        for module, name, buffer, values in saved_buffers:
            module._buffers[name] = buffer  # a module may have assigned another tensor
            buffer.data.copy_(values)
