"""What all models of this package are: autoencoders whose decoder carries a density in latent space
to the manifold of its images, an injective flow."""

import copy
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor
from typing_extensions import deprecated

from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.fitted_priors import FIT_STEPS, fit_new_prior, new_prior
from pythae_fif.models.marginal_likelihood import MARGINAL_SAMPLES, MarginalLikelihood
from pythae_fif.models.outputs import Labels, as_condition, as_data, get_output
from pythae_fif.models.priors import Prior, PriorKind, StandardNormal, StudentT
from pythae_fif.models.saved import SavedModel
from pythae_fif.nn.base import join
from pythae_fif.volume_change import decoder_log_volume, decoder_singular_values, squared_error
from pythae_fif.volume_change.exact import decoder_gram, describe_samples

ENCODE_BATCH_SIZE = 500


class InjectiveFlow(SavedModel):
    r"""An injective flow: encoder f, decoder g, and a density on the manifold of the points g(z).

    A subclass names its configuration, builds networks that are not given, and computes its loss in
    ``forward``; by itself it is a trained model, see :func:`~pythae_fif.models.as_density`. With
    d = D it is a full-dimensional flow, and the density that of the data space.

    Methods run in evaluation mode whatever the mode of the model. Data may be tensors, numpy arrays
    or DataFrames of floating-point numbers, (B, ...); those whose codes are far from the prior's,
    such as images in 0..255, give a warning. Labels are those of a conditional model, of f(x, c)
    and g(z, c): class indices (B,), one index for all, or condition vectors (B, c).

    Args:
        model_config (InjectiveFlowConfig): The configuration.
        encoder (BaseEncoder): f, by default that of the model.
        decoder (BaseDecoder): g, likewise.

    Attributes:
        condition_dim: Length c of the condition of a conditional model, 0 of any other.
        prior: What :meth:`fit_prior` fitted, kept with the weights; None before.

    Raises:
        ConfigError: Another model's configuration; from all methods, labels missing or not taken.
        DataError: From all methods, data or labels that do not fit.
    """

    config_class: ClassVar[Any] = InjectiveFlowConfig
    condition_dim: int = 0
    prior: Prior | None

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
        self.condition_dim, kind = getattr(config, "condition_dim", 0), config.fitted_prior
        size = config.latent_dim, self.condition_dim
        self.prior = None if kind is None else new_prior(kind, *size)  # of a saved model

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        """What is given, and the model's own networks where there is none."""
        if encoder is None or decoder is None:
            raise ConfigError(f"{cls.__name__} has no networks of its own: give both")
        return encoder, decoder

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """``z`` (B, d) and ``recon_x`` (B, ...) of ``inputs["data"]``, without a loss."""
        output = self.predict(inputs["data"])
        return ModelOutput(z=output.embedding, recon_x=output.recon_x)

    # ------------------------------------------------------------------ the density

    def fit_prior(
        self,
        data: Any,
        kind: PriorKind = "mixture",
        labels: Labels = None,
        *,
        seed: int = 0,
        steps: int = FIT_STEPS,
    ) -> None:
        """Fits p_Z to the codes of training data (N, ...): :meth:`sample` and :meth:`log_prob` then
        use it, and it is saved with the weights. Of a conditional model it is p(z | c).

        Args: And errors, see :func:`~pythae_fif.models.fitted_priors.fit_new_prior`.
        """
        x = as_data(data, self)
        given = self.condition(labels, x)
        parts = zip(*(part.split(ENCODE_BATCH_SIZE) for part in (x, *given)), strict=True)
        with self._in_evaluation_mode():
            codes = torch.cat([self._encode(*part) for part in parts])
        self.prior = fit_new_prior(kind, codes, *given, seed=seed, steps=steps)
        self.model_config.fitted_prior = kind

    def latent_distribution(self, like: Tensor) -> Prior:
        """p_Z of codes (..., d), on the device and with the type of ``like``."""
        if self.prior is not None:
            return self.prior
        name, df = self.model_config.latent_distribution, self.model_config.student_t_df
        zeros = torch.zeros(self.latent_dim, device=like.device, dtype=like.dtype)
        if name == "normal":
            return StandardNormal(zeros)
        return StudentT(df, zeros, joint=name == "multivariate_student_t")

    def log_prob(self, x: Any, labels: Labels = None) -> Tensor:
        r"""Exact log-likelihood on the manifold, in nats, at the projection of x.

        Eq. 2 of Sorrenson et al. 2024,
        :math:`\log p_Z(f(x)) - \frac12 \log\det g'(f(x))^\top g'(f(x))`, (B,), a density by the
        manifold's volume; +inf, with a RuntimeWarning, where g' has not full rank (or very large).

        Raises:
            NonFiniteError: The decoder's Jacobian is not finite; the message names the samples.
        """
        return self._evaluate_at_codes(self._log_prob, x, labels)

    def estimate_noise_std(self, data: Any, labels: Labels = None) -> float:
        r"""s of :meth:`marginal_log_prob`, by validation data (N, ...): the root of the mean of
        :math:`\lVert x - g(f(x)) \rVert^2 / (D - d)`, as in probabilistic PCA."""
        x = as_data(data, self)
        error = squared_error(self.reconstruct(x, labels), x).mean().item()
        if (across := x[0].numel() - self.latent_dim) == 0:
            raise ConfigError(
                f"{self.model_name}: a manifold of all D dimensions has Gaussian noise around it"
            )
        return math.sqrt(error / across)

    def marginal_log_prob(
        self, x: Any, noise_std: float, labels: Labels = None, *, samples: int = MARGINAL_SAMPLES
    ) -> Tensor:
        r"""Log-density of data with normal noise around the manifold, in nats, (B,),

        .. math:: \log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz,

        a density of the data space, by which all autoencoders compare. By importance sampling
        (Wu et al., ICLR 2017), it is a lower bound in expectation, and exact where g is linear and
        p_Z normal. To leading order in s, and where f projects, it is

        .. math:: \log p_Z(z) - \tfrac12 \log\det g'(z)^\top g'(z)
            - \frac{\lVert x - g(z) \rVert^2}{2 s^2} - \frac{D - d}{2} \log 2 \pi s^2,
            \quad z = f(x):

        with :math:`s^2 = 1 / (2 \beta)` minus eq. 7 with the exact volume, up to a constant.

        Args:
            noise_std: s, see :meth:`estimate_noise_std`.
            samples: Codes drawn for each data point, by torch's random state.
        """
        likelihood = self.marginal_likelihood(x, noise_std, labels)
        return likelihood.log_prob(self.latent_distribution(likelihood.x), samples)

    def marginal_likelihood(
        self, x: Any, noise_std: float, labels: Labels = None
    ) -> MarginalLikelihood:
        """What :meth:`marginal_log_prob` needs of data, whatever the prior."""
        if not noise_std > 0:
            raise ConfigError(f"noise_std={noise_std}: a number above 0 is needed")
        x = as_data(x, self)
        given = self.condition(labels, x)
        with self._in_evaluation_mode():
            z = self._encode_checked(x, *given)
            gram = decoder_gram(self._decode, z, x, *given)
        return MarginalLikelihood(lambda z: self.decode(z, labels), x, z, given, gram, noise_std)

    @deprecated("renamed to estimate_noise_std")
    def tube_scale(self, data: Any, labels: Labels = None) -> float:
        """Deprecated name of :meth:`estimate_noise_std`."""
        return self.estimate_noise_std(data, labels)

    @deprecated("renamed to marginal_log_prob")
    def tube_log_prob(
        self, x: Any, scale: float, labels: Labels = None, *, samples: int = MARGINAL_SAMPLES
    ) -> Tensor:
        """Deprecated name of :meth:`marginal_log_prob`."""
        return self.marginal_log_prob(x, scale, labels, samples=samples)

    @deprecated("renamed to marginal_likelihood")
    def tube(self, x: Any, scale: float, labels: Labels = None) -> MarginalLikelihood:
        """Deprecated name of :meth:`marginal_likelihood`."""
        return self.marginal_likelihood(x, scale, labels)

    def log_volume(self, x: Any, labels: Labels = None) -> Tensor:
        """1/2 log det g'(z)^T g'(z) at z = f(x), in nats, (B,); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_log_volume, self._decode), x, labels)

    def singular_values(self, x: Any, labels: Labels = None) -> Tensor:
        """Singular values of g'(f(x)) in descending order, (B, d); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_singular_values, self._decode), x, labels)

    # ------------------------------------------------------------------ samples and codes

    def sample(
        self,
        num_samples: int | Sequence[int],
        *,
        labels: Labels = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Decodes codes from the model's own latent distribution, (n, ...).

        Args:
            num_samples: n, or a shape such as (n, m).
            labels: Class indices (n,), one index for all, or condition vectors (n, c).
            generator: Makes the draw repeatable; it must live on the device of the model.

        Raises:
            ConfigError: n is no whole number from 1 up.
        """
        return self.decode(self._sample_codes(num_samples, labels, generator), labels)

    def sample_and_log_prob(
        self,
        num_samples: int | Sequence[int],
        *,
        labels: Labels = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples (n, ...), see :meth:`sample`, with the log-likelihoods of their codes, (n,)."""
        z = self._sample_codes(num_samples, labels, generator)
        given = self.condition(labels, z.flatten(0, -2))
        with self._in_evaluation_mode():
            density = self._log_prob(z.flatten(0, -2), *given)
        return self.decode(z, labels), density.view(z.shape[:-1])

    def encode(self, x: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """Codes f(x), (B, d), of data (B, ...); with a graph if ``gradients`` are wanted."""
        x = as_data(x, self)
        with self._in_evaluation_mode(gradients):
            return self._encode_checked(x, *self.condition(labels, x))

    def decode(self, z: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """Points `(..., *input_dim)` of the manifold, g(z), of codes (..., d), likewise."""
        like = next(self.parameters())
        z = torch.as_tensor(z if isinstance(z, Tensor) else np.array(z), device=like.device)
        if z.dim() < 2 or z.shape[-1] != self.latent_dim:
            needed = f"(B, {self.latent_dim}) is needed"
            raise DataError(f"{self.model_name}: codes of shape {tuple(z.shape)}: {needed}")
        codes = z.flatten(0, -2).to(like.dtype)
        with self._in_evaluation_mode(gradients):
            x = self._decode(codes, *self.condition(labels, codes))
        return x.view(*z.shape[:-1], *x.shape[1:])

    def reconstruct(self, inputs: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """g(f(x)) without noise, the shape of the input; as :meth:`encode`."""
        z = self.encode(inputs, labels, gradients=gradients)
        return self.decode(z, labels, gradients=gradients)

    def embed(self, inputs: Any, labels: Labels = None) -> Tensor:
        """:meth:`encode`, as Pythae calls it, with gradients where they are on."""
        return self.encode(inputs, labels, gradients=torch.is_grad_enabled())

    def predict(self, inputs: Any, labels: Labels = None) -> ModelOutput:
        """``embedding`` (B, d) and ``recon_x`` (B, ...), with gradients where they are on."""
        z = self.embed(inputs, labels)
        x_hat = self.decode(z, labels, gradients=torch.is_grad_enabled())
        return ModelOutput(recon_x=x_hat, embedding=z)

    def interpolate(self, *inputs: Any, **options: Any) -> Tensor:
        """Pythae's, in evaluation mode."""
        with self._in_evaluation_mode(torch.is_grad_enabled()):
            ends = (as_data(of, self) for of in inputs[:2])
            return super().interpolate(*ends, *inputs[2:], **options)

    # ------------------------------------------------------------------ inside

    def _noisy(self, x: Tensor) -> Tensor:
        """Data with the noise of training."""
        noise = self.model_config.noise
        return x + noise * torch.randn_like(x) if noise > 0 else x

    def condition(self, labels: Labels, like: Tensor) -> tuple[Tensor, ...]:
        """What the networks take beside their input: a conditional model's condition (B, c)."""
        condition = as_condition(labels, self.condition_dim, like)
        return () if condition is None else (condition,)

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        joined = x.clone() if condition is None else join(x, condition)  # f may overwrite it
        return get_output(self.encoder(joined), "embedding", self)

    def _encode_checked(self, x: Tensor, *given: Tensor) -> Tensor:
        z = self._encode(x, *given)
        unfitted = self.prior is None and type(self) is not InjectiveFlow  # trained without a prior
        if unfitted and (size := z.abs().median()) > 10:
            ask = "are these data as in training, such as images in [0, 1]?"
            warnings.warn(f"codes are of size {size:.0f}, the prior's of 1: {ask}", stacklevel=3)
        return z

    def _decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        joined = z.clone() if condition is None else join(z, condition)
        return get_output(self.decoder(joined), "reconstruction", self)

    def _sample_codes(
        self, size: int | Sequence[int], labels: Labels, generator: torch.Generator | None
    ) -> Tensor:
        """Codes from the latent distribution, (*size, d)."""
        try:
            shape = tuple(map(operator.index, size if isinstance(size, Sequence) else [size]))
        except TypeError:
            shape = ()
        if not shape or min(shape) < 1:
            raise ConfigError(
                f"{self.model_name}: {size!r} samples: a number from 1 up, or a shape of such, is "
                "needed"
            )
        like, count = next(self.parameters()), math.prod(shape)
        given = self.condition(labels, like.new_empty(count))
        return self.latent_distribution(like).sample(count, generator, *given).view(*shape, -1)

    def _log_prob(self, z: Tensor, *given: Tensor) -> Tensor:
        volume = decoder_log_volume(self._decode, z, *given)
        if (singular := volume.isneginf()).any():
            warnings.warn(
                f"log_prob is infinite for {describe_samples(singular)}: the decoder's Jacobian "
                "is rank-deficient there",
                RuntimeWarning,
                stacklevel=3,
            )
        return self.latent_distribution(z).log_prob(z, *given) - volume

    @full_float32()
    def _evaluate_at_codes(self, score: Callable[..., Tensor], x: Any, labels: Labels) -> Tensor:
        """A score of the codes of data."""
        x = as_data(x, self)
        given = self.condition(labels, x)
        with self._in_evaluation_mode():
            return score(self._encode_checked(x, *given), *given)

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
