"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from pythae.models import BaseAEConfig
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_AE_MLP
from torch import Tensor, nn
from typing_extensions import deprecated

from pythae_fif.device import fork_rng, full_float32
from pythae_fif.errors import ConfigError, UnsupportedOperationError
from pythae_fif.models.config import FIFConfig
from pythae_fif.models.hutchinson_flow import HutchinsonFlow
from pythae_fif.models.traced import SlowerSurrogateWarning, TracedStep
from pythae_fif.nn.base import AtCondition, evaluation_mode
from pythae_fif.volume_change import autograd_surrogate, volume_surrogate
from pythae_fif.volume_change.loss import FIFLoss, Surrogate, SurrogateOutput
from pythae_fif.volume_change.replay import Tape, check_parts, check_replay

SURROGATES: dict[str, Callable[..., SurrogateOutput]] = {
    "replay": volume_surrogate,
    "published": autograd_surrogate,
    "double backward": partial(autograd_surrogate, forward_mode=False),
}
"""Surrogate mode -> the function that computes the volume term."""

TRACED = "traced "
"""First word of the surrogate mode of a traced step."""

INPUTS_OF_STEP = {"beta", "beta_final", "noise"}
"""Fields of the configuration that are not part of a traced step."""


class FIF(HutchinsonFlow):
    r"""Free-form injective flow (Sorrenson, Draxler et al., ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss is eq. 7, see
    :func:`~pythae_fif.volume_change.fif_loss`; only its gradient is meaningful, its *value* says
    nothing about the fit. In evaluation mode it is the exact loss that training descends
    (approximately, if g' is near the pseudo-inverse of f'), so that trainers can choose the best
    model. Off the manifold that is

    .. math:: -\log p_Z(f(x)) - \frac12 \log\det f'(x) f'(x)^\top
        + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 46 and the reconstruction error), on the manifold the negative of :meth:`log_prob` plus the
    same squared error (eq. 3). Here beta is the last value of a schedule. ``beta="auto"`` changes
    from epoch to epoch; the loss then also has the constant of a normal likelihood with this beta,
    -(D - d) / 2 log(beta / pi), so that epochs can be compared. With ``condition_dim`` above 0 the
    model is conditional, and its methods need ``labels``.

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
            set by hand. The word 'traced' comes first, as in 'traced replay', when a step is a
            graph; see ``trace`` in :class:`FIFConfig`.

    Raises:
        ConfigError: Default networks are needed without ``input_dim``, or the encoder has BatchNorm
            and runs twice in a step, as with ``jacobian_at="reconstruction"``.

    Example:
        >>> import torch
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
    surrogate_mode: str | None = None

    def __init__(
        self,
        model_config: FIFConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        self._step = TracedStep()

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

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g; see :meth:`set_encoder`."""
        super().set_decoder(decoder)
        self.surrogate_mode = None

    def conditioned_on(self, label: int | str | Tensor) -> "FIF":
        """Turns a conditional model into an unconditional one, for a single label.

        Pythae's samplers, which do not take labels, can sample from it.

        Args:
            label: A class index, a class name or a condition vector (c,).

        Returns:
            A model that shares this model's weights. It has no fitted prior.

        Example:
            >>> from pythae.samplers import NormalSampler
            >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=10))
            >>> NormalSampler(model.conditioned_on(3)).sample(5).shape
            torch.Size([5, 1, 8, 8])
        """
        labels = label[None] if isinstance(label, Tensor) else [label]
        (condition,) = self.condition(labels, next(self.parameters()).new_ones(1))
        encoder = AtCondition(self.encoder, condition[0])
        decoder = AtCondition(self.decoder, condition[0])
        config = dataclasses.replace(self.model_config, condition_dim=0, fitted_prior=None)
        model = FIF(config, encoder, decoder)
        model.columns = self.columns
        model._buffers.update(self._buffers)  # the present value of beta="auto"
        model.train(self.training)
        return model

    @deprecated("renamed to conditioned_on")
    def given(self, label: int | Tensor) -> "FIF":
        """Deprecated name of :meth:`conditioned_on`."""
        return self.conditioned_on(label)

    def _surrogate(self, x: Tensor, *condition: Tensor) -> Surrogate:
        """Returns the volume term of the loss; the first batch decides how it is computed."""
        if self.surrogate_mode is None:
            self.surrogate_mode = self._choose_surrogate(x, *condition)
        surrogate = SURROGATES[self.surrogate_mode.removeprefix(TRACED)]
        return partial(surrogate, jacobian_at=self.model_config.jacobian_at)

    def _training_loss(self, *inputs: Any) -> FIFLoss:
        config = vars(self.model_config)
        mode = (self.surrogate_mode or "").removeprefix(TRACED)
        settings = {name: value for name, value in config.items() if name not in INPUTS_OF_STEP}
        trust = False if self.prior is not None else self.model_config.trace

        compute = super()._training_loss
        outputs, is_traced = self._step.run(
            self, compute, inputs, settings=settings | {"mode": mode}, trust=trust
        )
        if is_traced:
            self.surrogate_mode = TRACED + mode
        return FIFLoss(*outputs)

    def _choose_surrogate(self, x: Tensor, *condition: Tensor) -> str:
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
        with evaluation_mode(self):  # so that two passes give equal values
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
        fraction = self.model_config.surrogate_fraction
        return super()._sample_hutchinson(x[: math.ceil(fraction * len(x))])


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
