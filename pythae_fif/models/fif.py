"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

__all__ = ["FIF", "FIFConfig", "SlowerModeWarning"]

import dataclasses
import warnings
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pythae.data.datasets import BaseDataset
from pythae.models import BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_AE_MLP
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, first_line
from pythae_fif.models.hutchinson import HutchinsonConfig, HutchinsonModel, has_batch_norm
from pythae_fif.models.outputs import check_no_script, uncompiled
from pythae_fif.models.whitening import add_code_maps
from pythae_fif.nn.conditional import GivenDecoder, GivenEncoder, joined_dim
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import (
    FIFLoss,
    SurrogateOutput,
    UnsupportedOperationError,
    fif_loss,
    surrogate,
)
from pythae_fif.volume_change.loss import Map, Surrogate
from pythae_fif.volume_change.replay import check_replay
from pythae_fif.volume_change.variants import (
    GradientTo,
    Mode,
    TraceSpace,
    differentiates_forward,
    eps_meets_inner,
)


class SlowerModeWarning(UserWarning):
    """A network cannot be replayed; the message names the operation."""


@config_dataclass
class FIFConfig(HutchinsonConfig):
    """Free-form injective flow (FIF) config class.

    The defaults are the choices of the paper (Sorrenson et al., ICLR 2024, appendix D, and E.2 for
    beta, K and noise), but for ``mode``: ``replay`` is ours and computes the same gradient.

    Parameters:
        input_dim, latent_dim, noise, latent_distribution, student_t_df: As of
            :class:`~pythae_fif.models.injective_flow.InjectiveFlowConfig`.
        beta, beta_final, beta_epochs: The weight of the reconstruction (eq. 7), as of
            :class:`~pythae_fif.models.injective_flow.BetaConfig`.
        hutchinson_samples, hutchinson_kind, jacobian_at, eval_nll_samples: As of
            :class:`~pythae_fif.models.hutchinson.HutchinsonConfig`.
        surrogate_fraction (float): Part of every batch, in (0, 1], whose data points carry the
            surrogate of the volume change: the first ``ceil(surrogate_fraction * B)``, averaged
            over themselves, which is unbiased as batches come shuffled. Below 1 they are B - 1 at
            most, and BatchNorm's batch statistics are constants for a data point, as in evaluation
            mode; at 1 the Jacobian is that of the whole-batch map. Needs mode 'replay'. Default: 1,
            as the paper.
        surrogate_precision (str): 'float32' (that of the model), or 'bfloat16' for the Jacobian
            products of the surrogate alone. Needs mode 'replay'. Default: 'float32'.
        gradient_to, trace_space, mode: With ``jacobian_at`` the choices of appendix D, see
            :func:`~pythae_fif.volume_change.variants.surrogate`. Networks that cannot be replayed
            are differentiated in mode 'backward' (``FIF.surrogate_mode`` and a
            :class:`SlowerModeWarning` tell).
        whiten (bool): Whether ``FIFTrainer`` ends with :meth:`FIF.whiten` on the training data.
            Pythae's own trainers do not. Needs a normal latent distribution. Default: False.
        condition_dim (int): Number of classes, or length c of a condition vector, of a conditional
            model; 0 for none. Data sets then give "labels": class indices (B,), which are joined as
            one-hot vectors, or condition vectors (B, c). The encoder takes them as further channels
            or columns of its input, the decoder behind z. (Pythae labels plain tensors 1 all over:
            give a data set.) Default: 0.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    surrogate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    surrogate_precision: Literal["float32", "bfloat16"] = "float32"
    gradient_to: GradientTo = "encoder"
    trace_space: TraceSpace = "latent"
    mode: Mode = "replay"
    whiten: bool = False
    condition_dim: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        meets = eps_meets_inner(self.gradient_to, self.trace_space)
        pairs = (
            "gradient_to='encoder', trace_space='latent' or gradient_to='decoder', "
            "trace_space='data'"
        )
        if self.needs_replay and not (self.mode == "replay" and meets):
            raise ConfigError(
                f"{self.name}: surrogate_fraction and surrogate_precision need mode='replay' with "
                f"{pairs}"
            )
        if self.mode == "forward" and not meets:
            raise ConfigError(f"{self.name}: mode='forward' needs {pairs}")
        if self.whiten and self.latent_distribution != "normal":
            raise ConfigError(f"{self.name}: whiten needs latent_distribution='normal'")

    def trace_dim(self, data_dim: int) -> int:
        return self.latent_dim if self.trace_space == "latent" else data_dim

    @property
    def off_manifold(self) -> bool:
        return super().off_manifold and self.gradient_to == "encoder"

    @property
    def needs_replay(self) -> bool:
        """Whether the surrogate is one that mode 'replay' alone can compute."""
        return self.surrogate_fraction < 1 or self.surrogate_precision != "float32"


class FIF(HutchinsonModel):
    r"""Free-form injective flow (Sorrenson et al., 'Lifting Architectural Constraints of Injective
    Flows', ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss of a data point is

    .. math::
        -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(z) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 7), whose *value* says nothing about the fit. In evaluation mode the loss is the exact one
    (eq. 46), see :class:`~pythae_fif.models.hutchinson.HutchinsonModel`.

    With ``condition_dim`` it is a conditional model, of f(x, c) and g(z, c): every method takes
    ``labels``, class indices or condition vectors, and Jacobians are those by x and by z.

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None. A conditional model's takes data
            of shape :func:`~pythae_fif.nn.conditional.joined_dim`.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None. A conditional model's takes codes
            of d + c columns.

    Raises:
        ConfigError: Default networks without ``input_dim``. Or a network has BatchNorm and the
            configuration differentiates forward-mode products (wrong gradients), or moves running
            statistics several times a step: differences, mode 'mixed' with several vectors, the
            encoder's Jacobian at the reconstruction. Or it has dropout and the configuration takes
            differences. Or it is TorchScript in forward mode.

    Attributes:
        surrogate_mode: The mode that the surrogate is differentiated in: the configuration's, or
            'backward' where that is 'replay' and a network has an operation that cannot be
            replayed. None before the first training step.

    Example:
        >>> from pythae_fif.models import FIF, FIFConfig
        >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4)).eval()
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
        >>> config = FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=10)
        >>> model = FIF(config).eval()
        >>> model.sample(3, labels=7).shape, model.log_prob(torch.rand(2, 1, 8, 8), [0, 9]).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([2]))
    """

    config_class = FIFConfig

    def __init__(
        self,
        model_config: FIFConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        self.condition_dim = model_config.condition_dim
        if model_config.whiten:  # from the start, so that weights have one form
            add_code_maps(self)
        options = (model_config.gradient_to, model_config.trace_space, model_config.mode)
        forward = differentiates_forward(*options)
        several = model_config.hutchinson_samples > 1 and model_config.gradient_to == "encoder"
        again = options[2] == "central_difference" or (options[2] == "mixed" and several)
        if (forward or again) and has_batch_norm(self):
            what = "wrong gradients" if forward else "wrong running statistics"
            raise ConfigError(
                f"FIFConfig mode={model_config.mode!r} with BatchNorm networks gives {what} "
                f"for gradient_to={options[0]!r}, trace_space={options[1]!r}; use mode='backward'"
            )
        drops = (m.p > 0 for m in self.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
        if model_config.mode == "central_difference" and any(drops):
            raise ConfigError(
                "FIFConfig mode='central_difference' with dropout: the difference is that of two "
                "masks; use mode='backward'"
            )
        if model_config.jacobian_at != "data" and has_batch_norm(self.encoder):
            raise ConfigError(
                f"FIFConfig jacobian_at={model_config.jacobian_at!r} with BatchNorm in the encoder "
                "gives wrong running statistics; use jacobian_at='data', or GroupNorm"
            )
        if forward:
            check_no_script(self, f"FIFConfig mode={model_config.mode!r}")
        self.surrogate_mode: Mode | None = None

    @classmethod
    def _networks(
        cls, config: FIFConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None and decoder is not None:
            return encoder, decoder
        if config.input_dim is None:
            raise ConfigError(f"{config.name} input_dim: is needed for the default networks")
        shape, d, c = tuple(config.input_dim), config.latent_dim, config.condition_dim
        if decoder is None:  # before the encoder, as Pythae draws the first weights
            decoder = Decoder_AE_MLP(BaseAEConfig(shape, d + c))
        if encoder is None:
            encoder = Encoder_AE_MLP(BaseAEConfig(joined_dim(shape, c), d))
        return encoder, decoder

    @uncompiled
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            epoch (int): In the keyword arguments that Pythae's trainers send; drives the schedule
                of beta.
            share_done (float): Likewise, of this package's trainers: the part of the training that
                is done, which drives a schedule without ``beta_epochs``.
            dataset_size (int): Likewise; the size of the evaluation set over which
                ``eval_nll_samples`` are spread.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In training mode also
            ``code_square``, the mean of `|z|^2 / d`, and ``code_trace``, the estimate of
            tr f'(x) g'(z) / d: with a normal prior the two are equal on average where training
            rests, see :func:`~pythae_fif.volume_change.fif_loss`. In evaluation mode the two losses
            that need the exact volume are computed when they are first read, so that samplers,
            which only want ``z``, do not pay for them; they have no gradient.

        Raises:
            ConfigError: A conditional model without labels, or, in training, a network whose output
                does not depend on its input, or that the mode cannot differentiate.
            DataError: Labels that do not fit, an empty batch, or no floating-point numbers.
        """
        x, condition = self._batch(inputs)
        if not self.training:
            return self._evaluated(x, condition, kwargs.get("dataset_size"))
        eps = self._hutchinson(x, self.model_config.surrogate_fraction)
        beta = self.beta(kwargs.get("epoch", 1), kwargs.get("share_done"))
        if self.surrogate_mode is None:
            self.surrogate_mode = self._mode_for(x, condition)
        loss = self.training_loss(x, condition, eps, beta)
        z = loss.z.detach().to(x.dtype)
        to_encoder = self.model_config.gradient_to == "encoder"
        return ModelOutput(
            loss=loss.loss,
            recon_loss=loss.reconstruction,
            nll_loss=loss.nll,
            code_square=z.square().mean(),
            code_trace=loss.volume.detach() * (-1 if to_encoder else 1) / z.shape[1],
            recon_x=loss.x_hat,
            z=loss.z,
        )

    def training_loss(
        self, x: Tensor, condition: Tensor | None, eps: Tensor, beta: float | Tensor
    ) -> FIFLoss:
        """The loss of noisy data: all of a step that draws no random numbers.

        Args:
            x: Data, (B, ...).
            condition: (B, c), or None.
            eps: Hutchinson vectors, (K, b, d).
            beta: Weight of the reconstruction.
        """
        return fif_loss(
            *self.networks_at(condition),
            self.latent_distribution(x).log_prob,
            x,
            eps,
            beta,
            surrogate=self._surrogate,  # volume_surrogate, by default
            reduce=torch.mean,
        )

    def given(self, label: int | Tensor) -> "FIF":
        """A conditional model at one fixed label: an unconditional one that shares its weights.

        Pythae's samplers know nothing of labels; they take this model as any other.

        Args:
            label: A class index, or a condition vector (c,).

        Returns:
            FIF: Of ``condition_dim`` 0, in the same mode.

        Example:
            >>> from pythae.samplers import NormalSampler
            >>> from pythae_fif.models import FIF, FIFConfig
            >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4, condition_dim=10))
            >>> NormalSampler(model.given(3)).sample(5).shape
            torch.Size([5, 1, 8, 8])
        """
        condition = self._condition(torch.as_tensor(label)[None], next(self.parameters())[None])
        assert condition is not None  # without labels it has been refused
        config = dataclasses.replace(self.model_config, condition_dim=0, whiten=False)
        networks = (
            GivenEncoder(self.encoder, condition[0]),
            GivenDecoder(self.decoder, condition[0]),
        )
        model = FIF(config, *networks)
        for module in (model, *networks):  # not the networks inside, which are this model's own
            module.training = self.training
        return model

    # ------------------------------------------------------------------ other surrogates

    def networks_at(self, condition: Tensor | None) -> tuple[Map, Map]:
        """f and g at a condition (B, c), or None, as functions of x and of z alone."""
        return lambda x: self._encode(x, condition), lambda z: self._decode(z, condition)

    def _mode_for(self, x: Tensor, condition: Tensor | None) -> Mode:
        """The configuration's mode, unless that is 'replay' and the networks cannot be."""
        mode: Mode = self.model_config.mode
        rows = slice(0, 1 if self.model_config.surrogate_fraction == 1 else 3)
        few = x[rows].nan_to_num(0, 0, 0), None if condition is None else condition[rows]
        if mode == "replay":
            try:  # dry, in evaluation mode: failing in training moves BatchNorm twice
                with self._in_evaluation_mode():
                    encode, decode = self.networks_at(few[1])
                    check_replay(encode, few[0], gradient=True)
                    check_replay(decode, encode(few[0]), gradient=True)
            except UnsupportedOperationError as error:
                mode = self._instead_of_replay(error)
            except ValueError as error:  # BatchNorm of one item, by statistics of the batch
                raise ConfigError(
                    f"{self.model_name} of one item in evaluation mode: {first_line(error)}"
                ) from error
        if mode != "replay":
            with self._in_evaluation_mode():
                self._check_mode(mode, *few)
        return mode

    def _surrogate(self, encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
        """The volume term in the way that the configuration asks for."""
        mode = self.surrogate_mode or self.model_config.mode
        try:
            return self.surrogate_in(mode)(encode, decode, x, eps)
        except UnsupportedOperationError as error:  # an operation of training mode alone
            self.surrogate_mode = self._instead_of_replay(error)
            return self.surrogate_in(self.surrogate_mode)(encode, decode, x, eps)

    def surrogate_in(self, mode: Mode) -> Surrogate:
        """The configuration's estimate of the volume term, differentiated in a mode."""
        config = self.model_config
        return partial(
            surrogate,
            jacobian_at=config.jacobian_at,
            gradient_to=config.gradient_to,
            trace_space=config.trace_space,
            mode=mode,
            dtype=torch.bfloat16 if config.surrogate_precision == "bfloat16" else None,
        )

    def _instead_of_replay(self, error: UnsupportedOperationError) -> Mode:
        if self.model_config.needs_replay:
            raise ConfigError(
                f"FIFConfig surrogate_fraction or surrogate_precision: {error}"
            ) from error
        warnings.warn(
            f"FIF trains in mode 'backward', which is slower than 'replay': {error}",
            SlowerModeWarning,
            stacklevel=2,
        )
        return "backward"

    def _check_mode(self, mode: Mode, x: Tensor, condition: Tensor | None) -> None:
        """Raises ConfigError where PyTorch cannot differentiate the networks in a mode."""
        with torch.inference_mode(False), torch.enable_grad():
            eps = x.new_ones(1, len(x), self.model_config.trace_dim(x[0].numel()))
            eps.requires_grad_()  # that of a frozen encoder has no other gradient
            weights = [weight for weight in self.parameters() if weight.requires_grad]
            if not weights:
                return
            try:
                out = self.surrogate_in(mode)(*self.networks_at(condition), x.clone(), eps)
                torch.autograd.grad(out.surrogate.sum(), weights, allow_unused=True)
            except torch.cuda.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:
                other = "central_difference" if mode == "backward" else "backward"
                raise ConfigError(
                    f"FIFConfig mode={mode!r}: PyTorch cannot differentiate a network so "
                    f"({first_line(error)}); use mode={other!r}"
                ) from error
