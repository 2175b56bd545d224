"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

import dataclasses
import math
import warnings
from collections.abc import Callable
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
"""Data points of an evaluation set whose exact volume change enters the evaluation loss."""

SurrogateMode = Literal["replay", "published", "double backward"]
SURROGATES: dict[SurrogateMode, Callable[..., SurrogateOutput]] = {
    "replay": volume_surrogate,
    "published": autograd_surrogate,
    "double backward": partial(autograd_surrogate, forward_mode=False),
}


class SlowerSurrogateWarning(UserWarning):
    """A network cannot be replayed; the message says why."""


class FIF(InjectiveFlow):
    r"""Free-form injective flow (Sorrenson, Draxler et al., ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss is that of eq. 7, see
    :func:`~pythae_fif.volume_change.fif_loss`, whose *value* says nothing about the fit. In
    evaluation mode it is the exact loss that training descends (approximately, where g' is near the
    pseudo-inverse of f'), so that trainers can tell which model to keep: off the manifold

    .. math:: -\log p_Z(f(x)) - \frac12 \log\det f'(x) f'(x)^\top
        + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 46 and the reconstruction), on it the negative of :meth:`log_prob` plus the same squared
    error (eq. 3). With ``condition_dim`` it is a conditional model: methods take ``labels``.

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None. A conditional model's takes data
            of c further channels, or columns.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None, which gives values in [0, 1] alone.
            A conditional model's takes codes of d + c columns.

    Raises:
        ConfigError: Default networks without ``input_dim``, or BatchNorm in an encoder that runs
            twice a step, as at the reconstruction.

    Attributes:
        surrogate_mode: How the volume term is computed, which the first training step chooses:
            'replay', or 'double backward' where a network cannot be replayed (a
            :class:`SlowerSurrogateWarning` tells why). 'published', with PyTorch's forward mode,
            can be set.

    Example:
        >>> model, x = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4)), torch.rand(5, 1, 8, 8)
        >>> z = model.encode(x)
        >>> z.shape, model.decode(z).shape, model.log_prob(x.numpy()).shape
        (torch.Size([5, 4]), torch.Size([5, 1, 8, 8]), torch.Size([5]))
        >>> model.sample((2, 3), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 1, 8, 8])
        >>> [of.shape for of in model.sample_and_log_prob(3)]
        [torch.Size([3, 1, 8, 8]), torch.Size([3])]
    """

    config_class: ClassVar[Any] = FIFConfig
    surrogate_mode: SurrogateMode | None = None
    beta: Tensor
    errors: Tensor
    _epoch: int | None = None
    _evaluated_before = 0

    def __init__(
        self,
        model_config: Any,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        if model_config.beta == "auto":  # what it is in this epoch, and errors and points in it
            self.register_buffer("beta", torch.tensor(10.0))
            self.register_buffer("errors", torch.zeros(2))

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None and decoder is not None:
            return encoder, decoder
        if config.input_dim is None:
            raise ConfigError(f"{config.name} input_dim: is needed for the default networks")
        shape, d, c = tuple(config.input_dim), config.latent_dim, config.condition_dim
        if decoder is None:  # before the encoder, as Pythae draws the first weights
            decoder = Decoder_AE_MLP(BaseAEConfig(shape, d + c))
        if encoder is None:
            encoder = Encoder_AE_MLP(BaseAEConfig((shape[0] + c, *shape[1:]), d))
        return encoder, decoder

    def set_encoder(self, encoder: BaseEncoder) -> None:
        """Replaces f; the next step chooses how the volume term is computed."""
        super().set_encoder(encoder)
        at, batch_norm = self.model_config.jacobian_at, nn.modules.batchnorm._BatchNorm
        if at != "data" and any(isinstance(module, batch_norm) for module in encoder.modules()):
            raise ConfigError(
                f"FIFConfig jacobian_at={at!r} with BatchNorm in the encoder gives wrong running "
                "statistics; use jacobian_at='data', or GroupNorm"
            )
        self.surrogate_mode, self.model_config.uses_default_encoder = None, False

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g; see :meth:`set_encoder`."""
        super().set_decoder(decoder)
        self.surrogate_mode, self.model_config.uses_default_decoder = None, False

    @_disable_dynamo  # of a compiled step a tape would stay on PyTorch's stack
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            kwargs: ``share_done`` of this package's trainers, the part of the training that is
                done, for a schedule of beta; of all trainers ``epoch``, for ``beta="auto"``, and
                ``dataset_size``, the size of the evaluation set, of which 64 points spread over it
                carry the exact volume change.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode ``loss`` and
            ``nll_loss`` are computed when they are first read, without gradient.
        """
        x = as_data(inputs["data"], self)
        given = self.condition(inputs.get("labels") if self.condition_dim else None, x)
        if not self.training:
            return self._evaluation_output(x, given, kwargs.get("dataset_size"))
        x = self._noisy(x)
        prior = self.latent_distribution(x)
        loss = fif_loss(
            *self.networks_at(*given),
            lambda z: prior.log_prob(z, *given),
            x,
            self._hutchinson(x),
            self._beta(**kwargs),
            surrogate=self._surrogate(x, *given),
            reduce=torch.mean,
        )
        if self.model_config.beta == "auto":
            error = loss.reconstruction.detach() / (x[0].numel() - self.latent_dim)
            self.errors += len(x) * torch.stack([error, torch.ones_like(error)])
        values = {"loss": loss.loss, "recon_loss": loss.reconstruction, "nll_loss": loss.nll}
        return ModelOutput(**values, recon_x=loss.x_hat, z=loss.z)

    def networks_at(self, condition: Tensor | None = None) -> tuple[Map, Map]:
        """f and g at a condition (B, c), if any, as functions of x and of z alone."""
        return lambda x: self._encode(x, condition), lambda z: self._decode(z, condition)

    def conditioned_on(self, label: int | Tensor) -> "FIF":
        """A conditional model at a class index or condition vector (c,): an unconditional one that
        shares its weights but no fitted prior, for Pythae's samplers, which know nothing of labels.

        Example:
            >>> from pythae.samplers import NormalSampler
            >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=10))
            >>> NormalSampler(model.conditioned_on(3)).sample(5).shape
            torch.Size([5, 1, 8, 8])
        """
        ones = next(self.parameters()).new_ones(1)
        (condition,) = self.condition(torch.as_tensor(label)[None], ones)
        networks = (AtCondition(network, condition[0]) for network in (self.encoder, self.decoder))
        config = dataclasses.replace(self.model_config, condition_dim=0, fitted_prior=None)
        model = FIF(config, *networks)
        model.train(self.training)
        return model

    @deprecated("renamed to conditioned_on")
    def given(self, label: int | Tensor) -> "FIF":
        """Deprecated name of :meth:`conditioned_on`."""
        return self.conditioned_on(label)

    # ------------------------------------------------------------------ of a training step

    def _beta(
        self, epoch: int | None = None, share_done: float | None = None, **_: Any
    ) -> float | Tensor:
        """The reconstruction weight, which is chosen anew when an epoch begins if it is 'auto'."""
        config = self.model_config
        if config.beta != "auto":
            return float(config.beta_at(share_done))
        epoch = -1 if epoch is None else epoch  # of the batch that Pythae's trainers try first
        if epoch == self._epoch == -1:
            raise ConfigError(f"{self.model_name}: beta='auto' needs `epoch` with each batch")
        if epoch != self._epoch:
            if self._epoch != -1 and self.errors[1] > 0:
                self.beta.copy_(self.errors[1] / (2 * self.errors[0]))
            self.errors.zero_()
        self._epoch = epoch
        return self.beta

    def _surrogate(self, x: Tensor, *given: Tensor) -> Surrogate:
        """The second term of the loss, in the way that is chosen by the first batch."""
        if self.surrogate_mode is None:
            self.surrogate_mode = self._choose_surrogate(x, *given)
        return partial(SURROGATES[self.surrogate_mode], jacobian_at=self.model_config.jacobian_at)

    def _choose_surrogate(self, x: Tensor, *given: Tensor) -> SurrogateMode:
        """Passes are compared in evaluation mode; one in training mode leaves no trace."""
        encode, decode = self.networks_at(*given)
        parts = self.model_config.surrogate_fraction < 1
        held = ((m._buffers, *of) for m in self.modules() for of in m._buffers.items())
        buffers = [(*of, of[2].clone()) for of in held if of[2] is not None]
        with fork_rng(), full_float32():
            try:
                with self._in_evaluation_mode():
                    check_replay(encode, x, parts=parts)
                    check_replay(decode, encode(x), parts=parts)
                f = Tape(encode, x.detach().requires_grad_())  # without a graph nothing is hidden
                g = Tape(decode, f.value)
                if parts:
                    check_parts(f, x)
                    check_parts(g, f.value)
                return "replay"
            except UnsupportedOperationError as error:
                why = f"trains by double backward, which is slower: {error}"
            finally:
                for owner, name, buffer, before in buffers:
                    owner[name] = buffer  # a module may have assigned another
                    buffer.data.copy_(before)
            warnings.warn(f"{self.model_name} {why}", SlowerSurrogateWarning, stacklevel=2)
            return "double backward"

    def _hutchinson(self, x: Tensor) -> Tensor:
        """Hutchinson vectors, (K, b, d), of a share of the batch."""
        config, share = self.model_config, getattr(self.model_config, "surrogate_fraction", 1)
        size = math.ceil(share * len(x)), config.latent_dim, config.hutchinson_samples
        kind: Any = config.hutchinson_kind
        return sample_hutchinson(*size, kind=kind, device=x.device, dtype=x.dtype)

    # ------------------------------------------------------------------ of an evaluation

    def _evaluation_output(
        self, x: Tensor, given: tuple[Tensor, ...], dataset_size: int | None
    ) -> Any:
        """The output of evaluation mode; the exact volume is computed when it is first read."""
        z = self._encode(x, *given)
        x_hat = self._decode(z, *given)
        recon_loss = squared_error(x_hat, x).mean()
        # Of the first i points of the set, wanted * i / size count, rounded up.
        size = dataset_size or len(x)
        wanted, first = min(size, EVALUATED_POINTS), self._evaluated_before if dataset_size else 0
        counted = -(-wanted * (first + len(x)) // size) + -wanted * first // size
        if dataset_size:  # a batch of a pass over the set, and not a call by itself
            self._evaluated_before = (first + len(x)) % size

        def losses() -> dict[str, Tensor]:
            nll_loss = z.new_zeros(())
            if counted:
                with self._in_evaluation_mode():
                    nll = self._nll(*(part[:counted] for part in (x, z.to(x.dtype), *given)))
                nll_loss = nll.sum() * (size / (wanted * len(x)))
            config = self.model_config
            beta = self.beta if config.beta == "auto" else config.beta_at(1.0)
            loss = beta * recon_loss.detach() + nll_loss
            if isinstance(beta, Tensor):  # of which each has its own constant
                loss -= (x[0].numel() - z.shape[1]) / 2 * (beta / math.pi).log()
            return {"loss": loss, "nll_loss": nll_loss}

        return LazyOutput(losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    @full_float32()
    def _nll(self, x: Tensor, z: Tensor, *given: Tensor) -> Tensor:
        """The likelihood's part of the loss, exactly, (B,), of data x and their codes z."""
        if self.model_config.jacobian_at != "data":
            return -self._log_prob(z.detach(), *given)
        volume = encoder_log_volume(self._encode, x, *given)
        return -self.latent_distribution(z).log_prob(z.detach(), *given) - volume
