"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

__all__ = ["FIF"]

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.default_architectures import Encoder_AE_MLP
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, StudentT

from pythae_fif.errors import ConfigError
from pythae_fif.nn.conditional import GivenDecoder, GivenEncoder, join
from pythae_fif.volume_change import (
    UnsupportedOperationError,
    decoder_log_volume,
    decoder_singular_values,
    sample_hutchinson,
    surrogate,
)
from pythae_fif.volume_change.replay import record
from pythae_fif.volume_change.surrogate import differentiates_forward

from .condition import Labels, as_condition, conditional_networks
from .fif_config import FIFConfig


class FIF(BaseAE):
    r"""Free-form injective flow (Sorrenson et al., 'Lifting Architectural Constraints of Injective
    Flows', ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss of a data point is

    .. math::
        -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(z) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 7), whose *value* says nothing about the fit. In evaluation mode it is
    :math:`\beta \lVert g(f(x)) - x \rVert^2` plus the exact negative log-likelihood of eq. 11, so
    that Pythae's trainers keep the right model and its schedulers see progress.

    With ``condition_dim`` it is a conditional model, of f(x, c) and g(z, c): every method takes
    ``labels``, class indices or condition vectors, and Jacobians are those by x and by z.

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None. A conditional model's takes data
            of shape :func:`~pythae_fif.nn.conditional.joined_dim`.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None. A conditional model's takes codes
            of d + c columns.

    Raises:
        ConfigError: The configuration differentiates forward-mode products, which PyTorch does
            not do rightly for BatchNorm in training mode, and a network has BatchNorm.

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

    def __init__(
        self,
        model_config: FIFConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        given = (encoder, decoder)
        if model_config.condition_dim:
            encoder, decoder = conditional_networks(model_config, *given)
        super().__init__(model_config=model_config, decoder=decoder)
        self.model_name = "FIF"
        self.set_encoder(Encoder_AE_MLP(model_config) if encoder is None else encoder)
        model_config.uses_default_encoder = given[0] is None
        model_config.uses_default_decoder = given[1] is None
        options = (model_config.gradient_to, model_config.trace_space, model_config.mode)
        if differentiates_forward(*options) and any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()
        ):
            raise ConfigError(
                f"FIFConfig mode={model_config.mode!r} with BatchNorm networks gives wrong "
                f"gradients for gradient_to={options[0]!r}, trace_space={options[1]!r}; use "
                f"mode='backward'"
            )
        self._surrogate_mode: str | None = None

    # ------------------------------------------------------------------ the loss

    # The compiler loses the attributes of Pythae's ModelOutput, and would hide the operations of
    # the networks from the recorder.
    @torch.compiler.disable
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            epoch (int): In the keyword arguments that Pythae's trainers send; drives the schedule
                of beta.
            dataset_size (int): Likewise; the size of the evaluation set over which
                ``eval_nll_samples`` are spread.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode the two
            losses that need the exact likelihood are computed when they are first read, so that
            samplers, which only want ``z``, do not pay for them.

        Raises:
            ConfigError: A conditional model without labels.
            DataError: Labels that do not fit.
        """
        x = inputs["data"]
        # Pythae's data sets always have labels, which mean nothing to an unconditional model.
        labels = inputs.get("labels") if self.model_config.condition_dim else None
        condition = self._condition(labels, x)
        if self.training:
            return self._training_output(x, self.beta(kwargs.get("epoch", 1)), condition)
        z = self._encode(x, condition)
        x_hat = self._decode(z, condition)
        recon_loss = _squared_error(x_hat, x).mean()
        share = self.model_config.eval_nll_samples / kwargs.get("dataset_size", len(x))
        counted = min(len(x), math.ceil(share * len(x)))

        def losses() -> dict[str, Tensor]:
            part = slice(counted)
            nll_loss = -self._log_prob(
                z[part], None if condition is None else condition[part]
            ).mean()
            return {"loss": self.beta() * recon_loss + nll_loss, "nll_loss": nll_loss}

        return _EvaluationOutput(losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    def _training_output(self, x: Tensor, beta: float, condition: Tensor | None) -> ModelOutput:
        config = self.model_config
        if config.noise > 0:
            x = x + config.noise * torch.randn_like(x)
        dim = config.latent_dim if config.trace_space == "latent" else x[0].numel()
        eps = sample_hutchinson(
            math.ceil(config.surrogate_fraction * len(x)),
            dim,
            config.hutchinson_samples,
            kind=config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )
        volume, z, x_hat = surrogate(
            lambda x: self._encode(x, condition),
            lambda z: self._decode(z, condition),
            x,
            eps,
            jacobian_at=config.jacobian_at,
            gradient_to=config.gradient_to,
            trace_space=config.trace_space,
            mode=self._resolve_mode(x, condition),
            dtype=torch.bfloat16 if config.surrogate_precision == "bfloat16" else None,
        )
        recon_loss = _squared_error(x_hat, x).mean()
        nll_loss = volume.mean() - self.latent_distribution(x).log_prob(z.to(x.dtype)).mean()
        return ModelOutput(
            loss=nll_loss + beta * recon_loss,
            recon_loss=recon_loss,
            nll_loss=nll_loss,
            recon_x=x_hat,
            z=z,
        )

    @property
    def surrogate_mode(self) -> str | None:
        """The mode that the surrogate is differentiated in; None before the first training step.

        It is the configuration's, or 'backward' where that is 'replay' and a network has an
        operation that cannot be replayed.
        """
        return self._surrogate_mode

    def _resolve_mode(self, x: Tensor, condition: Tensor | None) -> str:
        if self._surrogate_mode is None:
            self._surrogate_mode = self.model_config.mode
            if self.model_config.mode == "replay":
                try:  # dry, in evaluation mode: failing in training would move BatchNorm twice
                    one = None if condition is None else condition[:1]
                    self._in_evaluation_mode(lambda: self._replay(x[:1], one))
                except UnsupportedOperationError as error:
                    self._surrogate_mode = "backward"
                    if self.model_config.needs_replay:
                        raise ConfigError(
                            f"FIFConfig surrogate_fraction or surrogate_precision: {error}"
                        ) from error
        return self._surrogate_mode

    def _replay(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """g' f' x, which an operation refuses that cannot be replayed as it is used."""
        encoder = record(lambda x: self._encode(x, condition), x)
        decoder = record(lambda z: self._decode(z, condition), encoder.value)
        return decoder.jvps(encoder.jvps(x[None]))

    def beta(self, epoch: int | None = None) -> float:
        """The reconstruction weight of an epoch (counted from 1), or the final one."""
        config = self.model_config
        if config.beta_final is None or config.beta_epochs is None:
            return config.beta
        if epoch is None:
            return config.beta_final
        done = min(1.0, (epoch - 1) / max(1, config.beta_epochs - 1))
        return config.beta + done * (config.beta_final - config.beta)

    # ------------------------------------------------------------------ the density

    def latent_distribution(self, like: Tensor) -> Distribution:
        """p_Z with event shape (d,), on the device and with the type of ``like``."""
        zeros = torch.zeros(self.latent_dim, device=like.device, dtype=like.dtype)
        # No validation: it costs a host synchronisation a call, and would turn the NaN of a
        # diverged training into a message about arguments.
        if self.model_config.latent_distribution == "student_t":
            df = self.model_config.student_t_df
            base: Distribution = StudentT(df, zeros, zeros + 1, validate_args=False)
        else:
            base = Normal(zeros, zeros + 1, validate_args=False)
        return Independent(base, 1, validate_args=False)

    def log_prob(self, x: Tensor, labels: Labels = None) -> Tensor:
        r"""Exact log-likelihood on the manifold, in nats: eq. 2 at the projection of x.

        :math:`\log p_Z(f(x)) - \frac12 \log\det g'(f(x))^\top g'(f(x))`, a density with respect
        to the volume of the d-dimensional manifold. Memory is bounded by chunking.

        Args:
            x (Tensor): Data, (B, ...). Evaluation mode is used whatever the mode of the model.
            labels: Of a conditional model, for log p(x | c): class indices (B,), one index for
                all, or condition vectors (B, c).

        Returns:
            Tensor: (B,).

        Raises:
            NonFiniteError: The decoder's Jacobian is not finite; the message names the samples.
            ConfigError: A conditional model without labels, or another with labels.
            DataError: Labels that do not fit.
        """
        condition = self._condition(labels, x)
        return self._in_evaluation_mode(
            lambda: self._log_prob(self._encode(x, condition), condition)
        )

    def log_volume(self, x: Tensor, labels: Labels = None) -> Tensor:
        """1/2 log det g'(z)^T g'(z) at z = f(x), in nats, (B,); see :meth:`log_prob`."""
        return self._of_decoder(decoder_log_volume, x, labels)

    def singular_values(self, x: Tensor, labels: Labels = None) -> Tensor:
        """Singular values of g'(f(x)) in descending order, (B, d); see :meth:`log_prob`."""
        return self._of_decoder(decoder_singular_values, x, labels)

    def sample(
        self, num_samples: int, *, labels: Labels = None, temperature: float = 1.0
    ) -> Tensor:
        """Decodes codes from the model's own latent distribution.

        Args:
            num_samples (int): n.
            labels: Of a conditional model: class indices (n,), one index for all, or condition
                vectors (n, c).
            temperature (float): Factor on the codes.

        Returns:
            Tensor: (n, ...), on the device of the model.
        """
        like = next(self.parameters())
        z = temperature * self.latent_distribution(like).sample((num_samples,))
        condition = self._condition(labels, z)
        return self._in_evaluation_mode(lambda: self._decode(z, condition))

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
        label = torch.as_tensor(label)
        condition = self._condition(label[None], next(self.parameters())[None])
        if condition is None:
            raise ConfigError("a FIF of condition_dim=0 is not conditional: it has no labels")
        config = dataclasses.replace(self.model_config, condition_dim=0)
        networks = (
            GivenEncoder(self.encoder, condition[0]),
            GivenDecoder(self.decoder, condition[0]),
        )
        return FIF(config, *networks).train(self.training)

    # ------------------------------------------------------------------ Pythae's interface

    def embed(self, inputs: Tensor, labels: Labels = None) -> Tensor:
        """Codes f(x), (B, d), by the encoder alone; labels as for :meth:`log_prob`."""
        return self._encode(inputs, self._condition(labels, inputs))

    def reconstruct(self, inputs: Tensor, labels: Labels = None) -> Tensor:
        """g(f(x)) without noise, the shape of the input; labels as for :meth:`log_prob`."""
        return self.predict(inputs, labels).recon_x

    def predict(self, inputs: Tensor, labels: Labels = None) -> ModelOutput:
        """``embedding`` (B, d) and ``recon_x`` (B, ...), labels as for :meth:`log_prob`."""
        condition = self._condition(labels, inputs)
        z = self._encode(inputs, condition)
        return ModelOutput(recon_x=self._decode(z, condition), embedding=z)

    def interpolate(
        self,
        starting_inputs: Tensor,
        ending_inputs: Tensor,
        granularity: int = 10,
        labels: Labels = None,
    ) -> Tensor:
        """Decodes straight lines in latent space, (B, granularity, ...).

        The labels, as for :meth:`log_prob`, are those of both ends: a line has one label.
        """
        if len(starting_inputs) != len(ending_inputs):
            raise ValueError(
                f"{len(starting_inputs)} starting and {len(ending_inputs)} ending inputs: as many "
                f"of one as of the other are needed"
            )
        condition = self._condition(labels, starting_inputs)
        start, end = (self._encode(x, condition) for x in (starting_inputs, ending_inputs))
        steps = torch.linspace(0, 1, granularity, device=start.device, dtype=start.dtype)
        lines = torch.lerp(start[:, None], end[:, None], steps[None, :, None])
        if condition is not None:
            condition = condition.repeat_interleave(granularity, 0)
        return self._decode(lines.flatten(0, 1), condition).unflatten(0, lines.shape[:2])

    @classmethod
    def _load_model_config_from_folder(cls, dir_path: str) -> FIFConfig:
        return FIFConfig.from_json_file(f"{dir_path}/model_config.json")

    # ------------------------------------------------------------------ inside

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.encoder(x if condition is None else join(x, condition)).embedding

    def _decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.decoder(z if condition is None else join(z, condition))["reconstruction"]

    def _log_prob(self, z: Tensor, condition: Tensor | None) -> Tensor:
        z = z.detach()
        volume = self._of_codes(decoder_log_volume, z, condition)
        return self.latent_distribution(z).log_prob(z) - volume

    def _of_decoder(self, score: Callable[..., Tensor], x: Tensor, labels: Labels) -> Tensor:
        """A score of g'(f(x))."""
        condition = self._condition(labels, x)
        return self._in_evaluation_mode(
            lambda: self._of_codes(score, self._encode(x, condition), condition)
        )

    def _of_codes(
        self, score: Callable[..., Tensor], z: Tensor, condition: Tensor | None
    ) -> Tensor:
        """A score of g'(z), whose chunks of z take their condition along."""
        joined = z if condition is None else join(z, condition)
        return score(self._decode, joined, latent_dim=self.latent_dim)

    def _condition(self, labels: Labels, like: Tensor) -> Tensor | None:
        return as_condition(labels, self.model_config.condition_dim, like)

    @torch.no_grad()
    def _in_evaluation_mode(self, compute: Callable[[], Tensor]) -> Tensor:
        was_training = self.training
        self.eval()
        try:
            return compute()
        finally:
            self.train(was_training)


class _EvaluationOutput(ModelOutput):
    """A ModelOutput whose likelihood-based losses are computed when they are first read."""

    _LAZY = ("loss", "nll_loss")

    def __init__(self, losses: Callable[[], dict[str, Tensor]], **values: Tensor) -> None:
        super().__init__(**values)
        for key, value in values.items():
            setattr(self, key, value)
        self.__dict__["_losses"] = losses

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._LAZY:
            raise AttributeError(name)
        for key, value in self.__dict__["_losses"]().items():
            setattr(self, key, value)
        return self.__dict__[name]

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if key in self._LAZY else super().__getitem__(key)


def _squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """|x_hat - x|^2 summed over one data point, (B,)."""
    return (x_hat - x).square().flatten(1).sum(1)
