"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

__all__ = ["FIF"]

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
from pythae_fif.volume_change import (
    UnsupportedOperationError,
    decoder_log_volume,
    decoder_singular_values,
    sample_hutchinson,
    surrogate,
)
from pythae_fif.volume_change.replay import record
from pythae_fif.volume_change.surrogate import differentiates_forward

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

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None.

    Raises:
        ConfigError: The configuration differentiates forward-mode products, which PyTorch does
            not do rightly for BatchNorm in training mode, and a network has BatchNorm.

    Example:
        >>> from pythae_fif.models import FIF, FIFConfig
        >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=4)).eval()
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        model_config: FIFConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config=model_config, decoder=decoder)
        self.model_name = "FIF"
        self.model_config.uses_default_encoder = encoder is None
        self.set_encoder(Encoder_AE_MLP(model_config) if encoder is None else encoder)
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
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...).
            epoch (int): In the keyword arguments that Pythae's trainers send; drives the schedule
                of beta.
            share_done (float): Likewise, of this package's trainers: the part of the training that
                is done, which drives a schedule without ``beta_epochs``.
            dataset_size (int): Likewise; the size of the evaluation set over which
                ``eval_nll_samples`` are spread.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode the two
            losses that need the exact likelihood are computed when they are first read, so that
            samplers, which only want ``z``, do not pay for them.
        """
        x = inputs["data"]
        if self.training:
            beta = self.beta(kwargs.get("epoch", 1), kwargs.get("share_done"))
            return self._training_output(x, beta)
        z = self._encode(x)
        x_hat = self._decode(z)
        recon_loss = _squared_error(x_hat, x).mean()
        share = self.model_config.eval_nll_samples / kwargs.get("dataset_size", len(x))
        counted = min(len(x), math.ceil(share * len(x)))

        def losses() -> dict[str, Tensor]:
            nll_loss = -self._log_prob(z[:counted]).mean()
            return {"loss": self.beta() * recon_loss + nll_loss, "nll_loss": nll_loss}

        return _EvaluationOutput(losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    def _training_output(self, x: Tensor, beta: float) -> ModelOutput:
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
            self._encode,
            self._decode,
            x,
            eps,
            jacobian_at=config.jacobian_at,
            gradient_to=config.gradient_to,
            trace_space=config.trace_space,
            mode=self._resolve_mode(x),
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

    def _resolve_mode(self, x: Tensor) -> str:
        if self._surrogate_mode is None:
            self._surrogate_mode = self.model_config.mode
            if self.model_config.mode == "replay":
                try:  # dry, in evaluation mode: failing in training would move BatchNorm twice
                    self._in_evaluation_mode(lambda: self._replay(x[:1]))
                except UnsupportedOperationError as error:
                    self._surrogate_mode = "backward"
                    if self.model_config.needs_replay:
                        raise ConfigError(
                            f"FIFConfig surrogate_fraction or surrogate_precision: {error}"
                        ) from error
        return self._surrogate_mode

    def _replay(self, x: Tensor) -> Tensor:
        """g' f' x, which an operation refuses that cannot be replayed as it is used."""
        encoder = record(self._encode, x)
        decoder = record(self._decode, encoder.value)
        return decoder.jvps(encoder.jvps(x[None]))

    def beta(self, epoch: int | None = None, share_done: float | None = None) -> float:
        """The reconstruction weight of an epoch (counted from 1), or the final one.

        Args:
            epoch: For a schedule of ``beta_epochs``.
            share_done: Part of the training that is done, in [0, 1], for one without.

        Raises:
            ConfigError: A schedule without ``beta_epochs``, and no ``share_done``.
        """
        config = self.model_config
        if config.beta_final is None:
            return config.beta
        if epoch is None:
            return config.beta_final
        if config.beta_epochs is not None:
            done = min(1.0, (epoch - 1) / max(1, config.beta_epochs - 1))
        elif share_done is not None:
            done = share_done
        else:
            raise ConfigError(
                "FIFConfig beta_final without beta_epochs follows the length of the training, "
                "which this trainer does not tell: give beta_epochs, or use FIFTrainer"
            )
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

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Exact log-likelihood on the manifold, in nats: eq. 2 at the projection of x.

        :math:`\log p_Z(f(x)) - \frac12 \log\det g'(f(x))^\top g'(f(x))`, a density with respect
        to the volume of the d-dimensional manifold. Memory is bounded by chunking.

        Args:
            x (Tensor): Data, (B, ...). Evaluation mode is used whatever the mode of the model.

        Returns:
            Tensor: (B,).

        Raises:
            NonFiniteError: The decoder's Jacobian is not finite; the message names the samples.
        """
        return self._in_evaluation_mode(lambda: self._log_prob(self._encode(x)))

    def log_volume(self, x: Tensor) -> Tensor:
        """1/2 log det g'(z)^T g'(z) at z = f(x), in nats, (B,); see :meth:`log_prob`."""
        return self._in_evaluation_mode(lambda: decoder_log_volume(self._decode, self._encode(x)))

    def singular_values(self, x: Tensor) -> Tensor:
        """Singular values of g'(f(x)) in descending order, (B, d); see :meth:`log_prob`."""
        return self._in_evaluation_mode(
            lambda: decoder_singular_values(self._decode, self._encode(x))
        )

    def sample(self, num_samples: int, *, temperature: float = 1.0) -> Tensor:
        """Decodes codes from the model's own latent distribution.

        Args:
            num_samples (int): n.
            temperature (float): Factor on the codes.

        Returns:
            Tensor: (n, ...), on the device of the model.
        """
        like = next(self.parameters())
        z = temperature * self.latent_distribution(like).sample((num_samples,))
        return self._in_evaluation_mode(lambda: self._decode(z))

    # ------------------------------------------------------------------ Pythae's interface

    def embed(self, inputs: Tensor) -> Tensor:
        """Codes f(x), (B, d), by the encoder alone."""
        return self._encode(inputs)

    def reconstruct(self, inputs: Tensor) -> Tensor:
        """g(f(x)) without noise, the shape of the input."""
        return self._decode(self._encode(inputs))

    def interpolate(
        self, starting_inputs: Tensor, ending_inputs: Tensor, granularity: int = 10
    ) -> Tensor:
        """Decodes straight lines in latent space, (B, granularity, ...)."""
        if len(starting_inputs) != len(ending_inputs):
            raise ValueError(
                f"{len(starting_inputs)} starting and {len(ending_inputs)} ending inputs: as many "
                f"of one as of the other are needed"
            )
        start, end = self._encode(starting_inputs), self._encode(ending_inputs)
        steps = torch.linspace(0, 1, granularity, device=start.device, dtype=start.dtype)
        lines = torch.lerp(start[:, None], end[:, None], steps[None, :, None])
        return self._decode(lines.flatten(0, 1)).unflatten(0, lines.shape[:2])

    @classmethod
    def _load_model_config_from_folder(cls, dir_path: str) -> FIFConfig:
        return FIFConfig.from_json_file(f"{dir_path}/model_config.json")

    # ------------------------------------------------------------------ inside

    def _encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).embedding

    def _decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)["reconstruction"]

    def _log_prob(self, z: Tensor) -> Tensor:
        z = z.detach()
        return self.latent_distribution(z).log_prob(z) - decoder_log_volume(self._decode, z)

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
