"""What all models of this package are: autoencoders whose decoder carries a density in latent space
to the manifold of its images, an injective flow."""

__all__ = [
    "BetaConfig",
    "Count",
    "InjectiveFlow",
    "InjectiveFlowConfig",
    "NonNegative",
    "Positive",
]

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from pythae.models.base.base_config import BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor
from torch.distributions import Distribution

from pythae_fif.errors import ConfigError, DataError, NonFiniteError
from pythae_fif.models.condition import Labels, as_condition
from pythae_fif.models.latent_distributions import LatentDistribution, latent_distribution
from pythae_fif.models.outputs import check_data, check_no_script, evaluated, output_of
from pythae_fif.models.saved import SavedModel
from pythae_fif.nn.conditional import join
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import (
    decoder_jacobian,
    decoder_log_volume,
    decoder_singular_values,
    encoder_log_volume,
    log_volume,
)
from pythae_fif.volume_change.exact import named_samples
from pythae_fif.volume_change.loss import Map
from pythae_fif.volume_change.precision import full_float32

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@config_dataclass
class InjectiveFlowConfig(BaseAEConfig):
    """The part of the configuration that all models of this package have.

    Parameters:
        input_dim (tuple): Shape of one data point (C, H, W) or (D,).
        latent_dim (int): Latent dimension d. Default: 10.
        noise (float): Standard deviation of the Gaussian noise added to the data in training.
            Default: 0.01.
        latent_distribution (str): 'normal', 'student_t' (independent coordinates) or
            'multivariate_student_t' (one density of `|z|`, as the authors' released code has it).
            Default: 'normal'.
        student_t_df (float): Degrees of freedom of the latter two. Default: 5.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    latent_dim: Count = 10
    noise: NonNegative = 0.01
    latent_distribution: LatentDistribution = "normal"
    student_t_df: Positive = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        most = math.prod(self.input_dim or (self.latent_dim,))
        if self.latent_dim > most:
            raise ConfigError(
                f"{self.name}: latent_dim={self.latent_dim}: at most {most}, that of the data"
            )


@config_dataclass
class BetaConfig(InjectiveFlowConfig):
    """Of a model whose loss is a likelihood plus the weighted squared reconstruction error.

    Parameters:
        beta (float): Weight of the squared reconstruction error. Default: 10.
        beta_final (float): If given, beta moves linearly from ``beta`` in the first epoch to
            ``beta_final`` in epoch ``beta_epochs`` (Sorrenson et al. 2024, appendix E.3).
            Default: None.
        beta_epochs (int): Length of that schedule in epochs; None for the whole training, step by
            step, whose length this package's trainers tell (Pythae's own do not). Default: None.
    """

    beta: NonNegative = 10.0
    beta_final: NonNegative | None = None
    beta_epochs: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_epochs is not None and self.beta_final is None:
            raise ConfigError(
                f"{self.name}: beta_epochs={self.beta_epochs}: is the length of a schedule to "
                "beta_final"
            )

    def beta_at(self, epoch: int | None = None, share_done: float | None = None) -> float:
        """The reconstruction weight of an epoch (counted from 1), or the final one.

        Args:
            epoch: For a schedule of ``beta_epochs``.
            share_done: Part of the training that is done, in [0, 1], for one without.

        Raises:
            ConfigError: A schedule without ``beta_epochs``, and no ``share_done``.
        """
        if self.beta_final is None:
            return self.beta
        if epoch is None:
            return self.beta_final
        if self.beta_epochs is not None:
            done = min(1.0, max(0, epoch - 1) / max(1, self.beta_epochs - 1))
        elif share_done is not None:
            done = share_done
        else:
            raise ConfigError(
                f"{self.name}: beta_final without beta_epochs follows the length of the training, "
                "which this trainer does not tell: give beta_epochs, or use FIFTrainer"
            )
        return self.beta + done * (self.beta_final - self.beta)


class InjectiveFlow(SavedModel):
    """An injective flow: encoder f, decoder g, and a density on the manifold of the points g(z).

    What a model is once it is trained: its density, samples and Pythae's interface. A subclass
    names its configuration, builds networks that are not given, and computes its loss in
    ``forward``. Decorate that with ``uncompiled``: a compiled one loses the attributes of Pythae's
    ModelOutput and hides the networks' operations from the recorder.

    Args:
        model_config (InjectiveFlowConfig): The configuration.
        encoder (BaseEncoder): f, by default that of the model.
        decoder (BaseDecoder): g, likewise.

    Attributes:
        condition_dim: Length c of the condition of a conditional model, 0 of any other. A
            conditional model is one of f(x, c) and g(z, c), whose methods take ``labels``;
            Jacobians are those by x and by z.
    """

    condition_dim: int = 0

    def __init__(
        self,
        model_config: InjectiveFlowConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        if not isinstance(model_config, self.config_class):
            given, needed = type(model_config).__name__, self.config_class.__name__
            raise ConfigError(f"{type(self).__name__} needs a {needed}, not {given}")
        config = copy.copy(model_config)  # another model of it may have other networks
        default = (encoder is None, decoder is None)
        encoder, decoder = self._networks(config, encoder, decoder)
        super().__init__(model_config=config, decoder=decoder)
        self.set_encoder(encoder)
        self.model_name = type(self).__name__
        config.uses_default_encoder, config.uses_default_decoder = default

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        """What is given, and the model's own networks where there is none."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the density

    def latent_distribution(self, like: Tensor) -> Distribution:
        """p_Z with event shape (d,), on the device and with the type of ``like``."""
        config = self.model_config
        zeros = torch.zeros(self.latent_dim, device=like.device, dtype=like.dtype)
        return latent_distribution(config.latent_distribution, config.student_t_df, zeros)

    @full_float32()
    def log_prob(self, x: Tensor, labels: Labels = None, *, create_graph: bool = False) -> Tensor:
        r"""Exact log-likelihood on the manifold, in nats, at the projection of x.

        Eq. 2 of Sorrenson et al. 2024,
        :math:`\log p_Z(f(x)) - \frac12 \log\det g'(f(x))^\top g'(f(x))`, a density with respect
        to the volume of the d-dimensional manifold. Memory is bounded by chunking.

        Args:
            x (Tensor): Data, (B, ...). Evaluation mode is used whatever the mode of the model.
            labels: Of a conditional model, for log p(x | c): class indices (B,), one index for
                all, or condition vectors (B, c).
            create_graph: Whether the result can be differentiated by x and the weights. All
                Jacobians are then kept in memory, (B, D, d) and what their graph needs.

        Returns:
            Tensor: (B,), float32 of a model of half precision; +inf where g' has not full rank.

        Raises:
            NonFiniteError: The decoder's Jacobian is not finite; the message names the samples.
            ConfigError: A conditional model without labels, or another with labels. Or a network in
                TorchScript with ``create_graph``: PyTorch's gradient of its layer norms is wrong.
            DataError: Labels that do not fit, or data that are no floating-point numbers.

        Warns:
            RuntimeWarning: g' has not full rank; the message names the samples.
        """
        if create_graph:
            check_no_script(self, "log_prob(create_graph=True)")
        x = self._typed(x)
        condition = self._condition(labels, x)
        with self._in_evaluation_mode(create_graph):
            return self._log_prob(self._encode(x, condition), condition, create_graph)

    def get_nll(
        self, data: Tensor, n_samples: int = 1, batch_size: int = 100, labels: Labels = None
    ) -> float:
        """Mean exact log-likelihood of data (N, ...), in nats, on the manifold.

        As that of Pythae's VAEs it is not negated, whatever the name says. Nothing is sampled;
        labels as for :meth:`log_prob`.
        """
        condition = self._condition(labels, self._typed(data))
        parts = None if condition is None else condition.split(batch_size)
        batches = enumerate(data.split(batch_size))
        found = [self.log_prob(x, parts[i] if parts else None) for i, x in batches]
        return float(torch.cat(found).mean())

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
        with self._in_evaluation_mode():
            return self._decode(z, condition)

    # ------------------------------------------------------------------ Pythae's interface,
    # in evaluation mode whatever the mode of the model, as the density

    @evaluated
    def embed(self, inputs: Tensor, labels: Labels = None) -> Tensor:
        """Codes f(x), (B, d), by the encoder alone; mode and labels as for :meth:`log_prob`."""
        inputs = self._typed(inputs)
        return self._encode(inputs, self._condition(labels, inputs))

    def reconstruct(self, inputs: Tensor, labels: Labels = None) -> Tensor:
        """g(f(x)) without noise, the shape of the input; all as for :meth:`log_prob`."""
        x_hat: Tensor = self.predict(inputs, labels).recon_x
        return x_hat

    @evaluated
    def predict(self, inputs: Tensor, labels: Labels = None) -> ModelOutput:
        """``embedding`` (B, d) and ``recon_x`` (B, ...), all as for :meth:`log_prob`."""
        inputs = self._typed(inputs)
        condition = self._condition(labels, inputs)
        z = self._encode(inputs, condition)
        return ModelOutput(recon_x=self._decode(z, condition), embedding=z)

    @evaluated
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
            starts, ends = len(starting_inputs), len(ending_inputs)
            raise DataError(f"{starts} starting and {ends} ending inputs: give as many of each")
        inputs = [self._typed(x) for x in (starting_inputs, ending_inputs)]
        condition = self._condition(labels, inputs[0])
        start, end = (self._encode(x, condition) for x in inputs)
        steps = torch.linspace(0, 1, granularity, device=start.device, dtype=start.dtype)
        lines = torch.lerp(start[:, None], end[:, None], steps[None, :, None])
        if condition is not None:
            condition = condition.repeat_interleave(granularity, 0)
        decoded = self._decode(lines.flatten(0, 1), condition)
        return decoded.view(*lines.shape[:2], *decoded.shape[1:])

    # ------------------------------------------------------------------ inside

    def _typed(self, x: Tensor) -> Tensor:
        """Data in the type of the weights."""
        check_data(x, self)
        return x.to(next(self.parameters(), x).dtype)

    def _noisy(self, x: Tensor) -> Tensor:
        """Data with the noise of training."""
        noise = self.model_config.noise
        return x + noise * torch.randn_like(x) if noise > 0 else x

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        output = self.encoder(x if condition is None else join(x, condition))
        return output_of(output, "embedding", self)

    def _decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        output = self.decoder(z if condition is None else join(z, condition))
        return output_of(output, "reconstruction", self)

    def _log_prob(self, z: Tensor, condition: Tensor | None, create_graph: bool = False) -> Tensor:
        z = z if create_graph else z.detach()
        score = _graphed_log_volume if create_graph else decoder_log_volume
        volume = self._of_codes(score, z, condition)
        if not len(z):  # torch's distributions take no empty batch
            return volume
        if (singular := volume.isneginf()).any():
            warnings.warn(
                f"log_prob is infinite for {named_samples(singular)}: the decoder's Jacobian has "
                "not full rank there",
                RuntimeWarning,
                stacklevel=2,
            )
        z = z.to(volume.dtype)
        return self.latent_distribution(z).log_prob(z) - volume

    def _encoder_log_volume(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """1/2 log det f'(x) f'(x)^T, (B,)."""
        joined = x if condition is None else join(x, condition)
        return encoder_log_volume(*_widened(self._encode, joined), data_dim=x[0].numel())

    @full_float32()
    def _of_decoder(self, score: Callable[..., Tensor], x: Tensor, labels: Labels) -> Tensor:
        """A score of g'(f(x))."""
        x = self._typed(x)
        condition = self._condition(labels, x)
        with self._in_evaluation_mode():
            return self._of_codes(score, self._encode(x, condition), condition)

    def _of_codes(
        self, score: Callable[..., Tensor], z: Tensor, condition: Tensor | None
    ) -> Tensor:
        """A score of g'(z), whose chunks of z take their condition along."""
        joined = z if condition is None else join(z, condition)
        found = score(*_widened(self._decode, joined), latent_dim=self.latent_dim)
        bad = found.isnan().reshape(len(found), -1).any(1) if len(found) else found.isnan()
        if bad.any():
            raise NonFiniteError(f"the decoder's Jacobian is too large for {named_samples(bad)}")
        return found

    def _condition(self, labels: Labels, like: Tensor) -> Tensor | None:
        return as_condition(labels, self.condition_dim, like)

    @contextmanager
    def _in_evaluation_mode(self, gradient: bool = False) -> Iterator[None]:
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.set_grad_enabled(gradient):
                yield
        finally:  # one by one: a user may have frozen some
            for module, training in modes.items():
                module.training = training


def _widened(network: Map, x: Tensor) -> tuple[Map, Tensor]:
    """A network and its input for decompositions, which know no half precision."""
    half, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)
    if half == wide:
        return network, x
    return lambda x: network(x.to(half)).to(wide), x.to(wide)


def _graphed_log_volume(decode: Callable[[Tensor], Tensor], z: Tensor, **options: int) -> Tensor:
    return log_volume(decoder_jacobian(decode, z, **options))
