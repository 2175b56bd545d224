"""The base class of this package's models: an autoencoder with a density on its manifold."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError, check_choice
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.explained_entropy import ExplainedEntropy, explain_entropy
from pythae_fif.models.fitted_priors import fit_new_prior, new_prior
from pythae_fif.models.marginal_likelihood import MARGINAL_SAMPLES, MarginalLikelihood
from pythae_fif.models.outputs import (
    Labels,
    as_codes,
    as_condition,
    as_data,
    as_shape,
    batches,
    class_indices,
    get_output,
    warn_if_large,
)
from pythae_fif.models.priors import Prior, PriorKind, standard_prior, wide_normal
from pythae_fif.models.saved import SavedModel, require_columns
from pythae_fif.names import CodeSource
from pythae_fif.nn.base import evaluation_mode, join
from pythae_fif.volume_change import decoder_log_volume, decoder_singular_values, squared_error
from pythae_fif.volume_change.exact import decoder_gram, warn_if_singular
from pythae_fif.volume_change.loss import Map

MAX_SEARCHES = 4
"""Maximum number of searches of modes, each with the noise's scale of the last one."""
ACCEPTED_FALL = 0.75
"""Scale of the noise after a search, divided by the one before, above which it is the last."""


class InjectiveFlow(SavedModel):
    r"""An injective flow: encoder f, decoder g, and a density on the manifold of the points g(z).

    A subclass names its configuration class, builds the networks that are not passed, and computes
    its loss in ``forward``. The class itself serves as a trained model without a loss, see
    :func:`~pythae_fif.models.as_density`. With d = D it is a full-dimensional flow, with a density
    in data space.

    Every method sets evaluation mode and then restores the mode of each module. Data (B, ...)
    are tensors, numpy arrays or DataFrames of floating-point numbers. If the model has ``columns``,
    a DataFrame is in original units, and its columns are found by their names. Tensors and arrays
    are standardised, also those that are returned. If codes are much larger than those of training
    data, as for images in 0..255, a warning says so. A conditional model has
    networks f(x, c) and g(z, c) and needs labels: class indices (B,), one index for all samples,
    or condition vectors (B, c). If it has ``class_names``, names are labels, too.

    Args:
        model_config (InjectiveFlowConfig): The configuration.
        encoder (BaseEncoder): f. The model's default encoder if None.
        decoder (BaseDecoder): g. The model's default decoder if None.

    Attributes:
        prior: The prior that :meth:`fit_prior` fitted, saved with the weights; None before.
        columns: The columns of the table that the model was trained on, saved with the weights:
            set it to ``columns`` of :func:`~pythae_fif.data.load_table`.
        class_names: Names of the classes of a conditional model, saved with the weights: set it to
            ``class_names`` of the data.
        code_mean, code_std, noise_std: See :meth:`calibrate`; saved with the weights.

    Raises:
        ConfigError: The configuration belongs to another model. From all methods: labels are
            missing, or the model takes none.
        DataError: From all methods: the data or labels do not fit the model.
    """

    config_class: ClassVar[Any] = InjectiveFlowConfig
    prior: Prior | None

    def __init__(
        self,
        model_config: InjectiveFlowConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        if not isinstance(model_config, self.config_class):
            raise ConfigError(
                f"{type(self).__name__} needs a {self.config_class.__name__}, "
                f"not {type(model_config).__name__}"
            )

        config = copy.copy(model_config)  # the caller may use it for a model with other networks
        uses_default_encoder = encoder is None
        uses_default_decoder = decoder is None
        encoder, decoder = self._networks(config, encoder, decoder)
        super().__init__(model_config=config, decoder=decoder)
        self.set_encoder(encoder)
        self.model_name = type(self).__name__
        config.uses_default_encoder = uses_default_encoder
        config.uses_default_decoder = uses_default_decoder

        self.prior = None
        if config.fitted_prior is not None:  # of a saved model: the prior's weights are loaded next
            self.prior = new_prior(config.fitted_prior, config.latent_dim, self.condition_dim)

    @property
    def condition_dim(self) -> int:
        """Length c of a conditional model's condition; 0 for other models."""
        return int(getattr(self.model_config, "condition_dim", 0))

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        """Returns both networks: the given ones, and the model's defaults in place of None."""
        if encoder is None or decoder is None:
            raise ConfigError(f"{cls.__name__} has no default networks: pass encoder and decoder")
        return encoder, decoder

    def set_encoder(self, encoder: BaseEncoder) -> None:
        """Replaces f."""
        super().set_encoder(encoder)
        self.model_config.uses_default_encoder = False

    def set_decoder(self, decoder: BaseDecoder) -> None:
        """Replaces g."""
        super().set_decoder(decoder)
        self.model_config.uses_default_decoder = False

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Returns ``z`` (B, d) and ``recon_x`` (B, ...) of ``inputs["data"]``, without a loss."""
        output = self.predict(inputs["data"])
        return ModelOutput(z=output.embedding, recon_x=output.recon_x)

    def fit_prior(
        self,
        data: Any,
        kind: PriorKind = "mixture",
        labels: Labels = None,
        *,
        codes: CodeSource | Tensor = "encoder",
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        """Fits p_Z, or p(z | c) of a conditional model, to the codes of training data.

        :meth:`sample` and :meth:`log_prob` then use it, and it is saved with the weights.

        Args:
            data: Training data (N, ...).
            kind: 'gaussian', 'mixture', 'flow' or 'flow_matching', see
                :func:`~pythae_fif.models.fitted_priors.fit_new_prior`.
            labels: The data's labels, for a conditional model.
            codes: Codes of the data, (N, d), or their name: 'encoder' for f(x), or 'mode' for
                :meth:`find_modes`, so that :meth:`marginal_log_prob` depends on the decoder and the
                prior alone, if its s does, too.
            seed: Random seed of the fit.
            steps: Training steps of a flow; None for a number that follows the codes.

        Raises:
            ConfigError: The kind is unknown, or does not fit the labels.
            NonFiniteError: A code is NaN or infinite.
        """
        x = as_data(data, self)
        condition = self.condition(labels, x)
        z = self._codes_of(codes, None, x, *condition)
        self.prior = fit_new_prior(kind, z, *condition, seed=seed, steps=steps)
        self.model_config.fitted_prior = kind
        self.note_codes(z)

    def calibrate(self, data: Any, labels: Labels = None) -> None:
        """Sets moments of codes, for warnings, and the noise of a table's rows; trainers call it.

        Args:
            data: Validation data (N, ...).
            labels: Labels of a conditional model.
        """
        x = as_data(data, self)
        self.note_codes(self._encode_all(x, *self.condition(labels, x)))
        if x[0].numel() > self.latent_dim:
            self.noise_std = self.estimate_noise_std(x, labels)

    def latent_distribution(self, like: Tensor) -> Prior:
        """Returns p_Z, on the device and with the type of ``like``."""
        if self.prior is not None:
            return self.prior
        config = self.model_config
        zeros = torch.zeros(self.latent_dim, device=like.device, dtype=like.dtype)
        return standard_prior(config.latent_distribution, zeros, df=config.student_t_df)

    def log_prob(self, x: Any, labels: Labels = None, *, original_units: bool = False) -> Tensor:
        r"""Computes the exact log-likelihood on the manifold, at the projection of x.

        It is eq. 2 of Sorrenson et al. 2024,
        :math:`\log p_Z(f(x)) - \frac12 \log\det g'(f(x))^\top g'(f(x))`, a density with respect to
        the manifold's volume. Where g' is rank-deficient it is +inf, with a warning, or very large.

        Args:
            x: Data (B, ...).
            labels: Labels of a conditional model.
            original_units: Whether the density is with respect to the manifold in the original
                units of a table. For d = D it subtracts the sum of the log standard deviations.

        Returns:
            Log-likelihoods in nats, (B,).

        Raises:
            NonFiniteError: The decoder's Jacobian is not finite; the message names the samples.
        """
        decode = self._decode_to_original_units if original_units else self._decode
        return self._evaluate_at_codes(partial(self._log_prob, decode), x, labels)

    def estimate_noise_std(
        self, data: Any, labels: Labels = None, *, codes: CodeSource | Tensor = "encoder"
    ) -> float:
        r"""Estimates s of :meth:`marginal_log_prob`, as probabilistic PCA does.

        Args:
            data: Validation data (N, ...).
            labels: Labels of a conditional model.
            codes: Codes z of the data, (N, d), or their name: 'encoder' for z = f(x), or 'mode' for
                :meth:`find_modes` with the model's prior, so that s depends on the decoder and the
                prior alone.

        Returns:
            The root of the mean of :math:`\lVert x - g(z) \rVert^2 / (D - d)`.

        Raises:
            ConfigError: d = D, so that no dimension is left for the noise.
        """
        x = as_data(data, self)
        condition = self.condition(labels, x)
        data_dim = x[0].numel()
        if data_dim == self.latent_dim:
            raise ConfigError(
                f"{self.model_name}: noise around the manifold needs a latent_dim below {data_dim}"
            )
        z = self._codes_of(codes, self.latent_distribution(x), x, *condition)
        errors = []
        with evaluation_mode(self):
            for batch, codes_of_batch, *labels_of_batch in batches(x, z, *condition):
                errors.append(squared_error(self._decode(codes_of_batch, *labels_of_batch), batch))
        return math.sqrt(torch.cat(errors).mean().item() / (data_dim - self.latent_dim))

    def find_modes(
        self,
        data: Any,
        labels: Labels = None,
        prior: Prior | None = None,
        *,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> Tensor:
        r"""Finds the codes of highest density :math:`p_Z(z)\, \mathcal N(x; g(z), s^2 I)`.

        s is :meth:`estimate_noise_std` at f(x). If it is much smaller at the codes that are found,
        the encoder is wrong, and the search is repeated with the smaller one.

        Args:
            data: Data (N, ...).
            labels: Labels of a conditional model.
            prior: p_Z. None for a normal distribution that is wider than the f(x).
            on_batch: Called with the number of points after each batch of a search.

        Returns:
            Codes (N, d).

        Raises:
            ConfigError: d = D, so that no dimension is left for the noise.
        """
        x = as_data(data, self)
        condition = self.condition(labels, x)
        z = self._encode_all(x, *condition)
        prior = prior or wide_normal(z)

        noise_std = self.estimate_noise_std(x, *condition, codes=z)
        for _ in range(MAX_SEARCHES):
            modes = []
            for batch, *labels_of_batch in batches(x, *condition):
                likelihood = self.marginal_likelihood(batch, noise_std, *labels_of_batch)
                modes.append(likelihood.find_modes(prior))
                on_batch(len(batch))
            z = torch.cat(modes)
            previous_std = noise_std
            noise_std = self.estimate_noise_std(x, *condition, codes=z)
            if noise_std > ACCEPTED_FALL * previous_std:
                break
        return z

    def marginal_log_prob(
        self,
        x: Any,
        noise_std: float,
        labels: Labels = None,
        *,
        samples: int = MARGINAL_SAMPLES,
        original_units: bool = False,
    ) -> Tensor:
        r"""Computes the log-density in data space, with normal noise around the manifold,

        .. math:: \log \int p_Z(z)\, \mathcal N(x; g(z), s^2 I)\, dz.

        All autoencoders can be compared by it. It is estimated by importance sampling (Wu et al.,
        ICLR 2017) around the mode of p(z | x): a lower bound in expectation, which is low if there
        are several modes, and exact where g is linear and p_Z normal. To leading order in s it is,
        for an f that projects,

        .. math:: \log p_Z(z) - \tfrac12 \log\det g'(z)^\top g'(z)
            - \frac{\lVert x - g(z) \rVert^2}{2 s^2} - \frac{D - d}{2} \log 2 \pi s^2,
            \quad z = f(x):

        with :math:`s^2 = 1 / (2 \beta)` minus eq. 7 with the exact volume, up to a constant.

        Args:
            x: Data (B, ...).
            noise_std: s, see :meth:`estimate_noise_std`.
            labels: Labels of a conditional model.
            samples: Codes drawn for each data point, from torch's global random state.
            original_units: Whether the density is in the original units of a table. It subtracts
                the sum of the log standard deviations. ``noise_std`` is in standardised units.

        Returns:
            Log-densities in nats, (B,).
        """
        likelihood = self.marginal_likelihood(x, noise_std, labels)
        log_prob = likelihood.log_prob(self.latent_distribution(likelihood.x), samples)
        if original_units:
            log_prob -= require_columns(self).log_scale(likelihood.x)
        return log_prob.to(likelihood.x)

    def marginal_likelihood(
        self, x: Any, noise_std: float, labels: Labels = None
    ) -> MarginalLikelihood:
        """Computes the part of :meth:`marginal_log_prob` that does not depend on the prior.

        Args:
            x: Data (B, ...).
            noise_std: s, see :meth:`estimate_noise_std`.
            labels: Labels of a conditional model.

        Raises:
            ConfigError: ``noise_std`` is not above 0.
        """
        if not noise_std > 0:
            raise ConfigError(f"noise_std={noise_std}: a number above 0 is needed")
        x = as_data(x, self)
        condition = self.condition(labels, x)

        def compute_gram(z: Tensor, rows: Any = ...) -> Tensor:
            inputs = x[rows], *(tensor[rows] for tensor in condition)
            with evaluation_mode(self):
                return decoder_gram(self._decode, z, *inputs)

        with evaluation_mode(self):
            z = self._encode_checked(x, *condition)
        decode = partial(self.decode, labels=labels)
        return MarginalLikelihood(decode, x, z, condition, compute_gram(z), compute_gram, noise_std)

    def log_volume(self, x: Any, labels: Labels = None) -> Tensor:
        """Computes 1/2 log det g'(z)^T g'(z) at z = f(x), in nats, (B,); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_log_volume, self._decode), x, labels)

    def explained_entropy(self, data: Any, labels: Labels = None) -> ExplainedEntropy:
        """Computes the entropy that each direction of the codes explains.

        It shows how many latent dimensions the model uses, see
        :func:`~pythae_fif.models.explained_entropy.explain_entropy`.

        Args:
            data: Data (N, ...), more than d points.
            labels: Labels of a conditional model.
        """
        x = as_data(data, self)
        condition = self.condition(labels, x)
        z = self._encode_all(x, *condition)
        with evaluation_mode(self):
            gram = decoder_gram(self._decode, z, x, *condition)
        return explain_entropy(z, gram[:, : self.latent_dim, : self.latent_dim])

    def singular_values(self, x: Any, labels: Labels = None) -> Tensor:
        """Computes the singular values of g'(f(x)), descending, (B, d); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_singular_values, self._decode), x, labels)

    def sample(
        self,
        num_samples: int | Sequence[int],
        *,
        labels: Labels = None,
        generator: torch.Generator | None = None,
        noise_std: float | None = None,
        as_frame: bool = False,
        raw: bool = False,
    ) -> Any:
        """Draws codes from the latent distribution and decodes them.

        Args:
            num_samples: n, or a shape such as (n, m).
            labels: Class indices (n,), one index for all, or condition vectors (n, c).
            generator: Makes the draw repeatable; it must be on the model's device.
            noise_std: s, to add normal noise; the density is then :meth:`marginal_log_prob`. By
                default it is ``self.noise_std`` for a DataFrame, and otherwise 0.
            as_frame: Whether to return a table's samples as a DataFrame in original units, rounded
                and clipped as the training rows, with their class in a conditional model.
            raw: Whether a DataFrame has the decoder's numbers: not rounded, without noise.

        Returns:
            Samples (n, ...).

        Raises:
            ConfigError: n is not a positive integer, or the model has no ``columns``.
        """
        x = self.decode(self._sample_codes(num_samples, labels, generator), labels)
        if noise_std is None:
            noise_std = self.noise_std if as_frame and not raw else 0.0
        if noise_std > 0:
            x = torch.normal(x, noise_std, generator=generator)
        if not as_frame:
            return x
        classes = class_indices(*self.condition(labels, x.flatten(0, -2)))
        return require_columns(self).to_frame(x, classes, raw=raw)

    def sample_and_log_prob(
        self,
        num_samples: int | Sequence[int],
        *,
        labels: Labels = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws samples and computes the log-likelihoods of their codes; see :meth:`sample`.

        Returns:
            Samples (n, ...) and log-likelihoods in nats, (n,).
        """
        z = self._sample_codes(num_samples, labels, generator)
        codes = z.flatten(0, -2)
        condition = self.condition(labels, codes)
        with evaluation_mode(self):
            log_prob = self._log_prob(self._decode, codes, *condition)
        return self.decode(z, labels), log_prob.view(z.shape[:-1])

    def encode(self, x: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """Computes the codes f(x).

        Args:
            x: Data (B, ...).
            labels: Labels of a conditional model.
            gradients: Whether the result has a graph.

        Returns:
            Codes (B, d).
        """
        x = as_data(x, self)
        with evaluation_mode(self, gradients):
            return self._encode_checked(x, *self.condition(labels, x))

    def decode(self, z: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """Computes the points g(z) of the manifold.

        Args:
            z: Codes (..., d).
            labels: Labels of a conditional model.
            gradients: Whether the result has a graph.

        Returns:
            Points `(..., *input_dim)`.
        """
        z = as_codes(z, self)
        codes = z.flatten(0, -2)
        with evaluation_mode(self, gradients):
            x = self._decode(codes, *self.condition(labels, codes))
        return x.view(*z.shape[:-1], *x.shape[1:])

    def reconstruct(self, inputs: Any, labels: Labels = None, *, gradients: bool = False) -> Tensor:
        """Computes g(f(x)) without noise, in the input's shape; arguments as for :meth:`encode`."""
        z = self.encode(inputs, labels, gradients=gradients)
        return self.decode(z, labels, gradients=gradients)

    def embed(self, inputs: Any, labels: Labels = None) -> Tensor:
        """Pythae's name of :meth:`encode`; the result has a graph if gradients are enabled."""
        return self.encode(inputs, labels, gradients=torch.is_grad_enabled())

    def predict(self, inputs: Any, labels: Labels = None) -> ModelOutput:
        """Returns ``embedding`` (B, d) and ``recon_x`` (B, ...); see :meth:`embed`."""
        z = self.embed(inputs, labels)
        x_hat = self.decode(z, labels, gradients=torch.is_grad_enabled())
        return ModelOutput(recon_x=x_hat, embedding=z)

    def interpolate(
        self, starting_inputs: Any, ending_inputs: Any, granularity: int = 10
    ) -> Tensor:
        """Runs Pythae's ``interpolate``, which documents the arguments, in evaluation mode."""
        ends = as_data(starting_inputs, self), as_data(ending_inputs, self)
        with evaluation_mode(self, torch.is_grad_enabled()):
            return super().interpolate(*ends, granularity)

    def read_batch(self, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Checks a batch of a trainer.

        Args:
            inputs: The batch, with "data" (B, ...) and, for a conditional model, "labels".

        Returns:
            The data x (B, ...), and the condition (B, c) of a conditional model.
        """
        x = as_data(inputs["data"], self)
        labels = inputs.get("labels") if self.condition_dim else None
        return x, *self.condition(labels, x)

    def add_noise(self, x: Tensor) -> Tensor:
        """Adds the noise of training to data."""
        noise = self.model_config.noise
        return x + noise * torch.randn_like(x) if noise > 0 else x

    def networks_at(self, condition: Tensor | None = None) -> tuple[Map, Map]:
        """Returns f(., c) and g(., c) as functions of x and z, for a condition c (B, c) if any."""
        return lambda x: self._encode(x, condition), lambda z: self._decode(z, condition)

    def condition(self, labels: Labels, like: Tensor) -> tuple[Tensor, ...]:
        """Returns the networks' further arguments: (condition (B, c),), or () if unconditional.

        Args:
            labels: Labels of a conditional model.
            like: A tensor (B, ...) with the condition's device and type.
        """
        condition = as_condition(labels, self.condition_dim, like, self.class_names)
        return () if condition is None else (condition,)

    # ------------------------------------------------------------------ internal

    def _encode_all(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Computes f(x) of all data points (N, ...), (N, d)."""
        with evaluation_mode(self):
            return torch.cat([self._encode(*batch) for batch in batches(x, *condition)])

    def _codes_of(
        self, codes: CodeSource | Tensor, prior: Prior | None, x: Tensor, *condition: Tensor
    ) -> Tensor:
        """Returns the codes (N, d) of data (N, ...) that have a name, or the given ones."""
        if isinstance(codes, Tensor):
            return as_codes(codes, self)
        check_choice(codes, get_args(CodeSource), f"codes={codes!r}")
        if codes == "mode":
            return self.find_modes(x, condition[0] if condition else None, prior)
        return self._encode_all(x, *condition)

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Computes codes (B, d) in the current mode."""
        inputs = x.clone() if condition is None else join(x, condition)  # f may overwrite them
        return get_output(self.encoder(inputs), "embedding", self)

    def _encode_checked(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Computes codes, and warns if they are much larger than the codes of training data."""
        z = self._encode(x, *condition)
        if self.code_mean is not None or type(self) is not InjectiveFlow:
            warn_if_large(z, self)
        return z

    def _decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Computes points (B, ...) in the current mode."""
        inputs = z.clone() if condition is None else join(z, condition)  # g may overwrite them
        return get_output(self.decoder(inputs), "reconstruction", self)

    def _sample_codes(
        self, num_samples: int | Sequence[int], labels: Labels, generator: torch.Generator | None
    ) -> Tensor:
        """Draws codes from the latent distribution, (n, d), or (n, m, d) for a shape (n, m)."""
        shape = as_shape(num_samples, self)
        count = math.prod(shape)
        like = next(self.parameters())
        condition = self.condition(labels, like.new_empty(count))
        codes = self.latent_distribution(like).sample(count, generator, *condition)
        return codes.view(*shape, -1)

    def _decode_to_original_units(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Computes rows (B, D) of a table in original units, in the current mode."""
        return require_columns(self).to_original_units(self._decode(z, *condition))

    def _log_prob(self, decode: Callable[..., Tensor], z: Tensor, *condition: Tensor) -> Tensor:
        """Computes the log-likelihoods (B,) of codes, and warns where they are infinite."""
        volume = decoder_log_volume(decode, z, *condition)
        warn_if_singular(volume)
        return self.latent_distribution(z).log_prob(z, *condition) - volume

    @full_float32()
    def _evaluate_at_codes(self, score: Callable[..., Tensor], x: Any, labels: Labels) -> Tensor:
        """Computes a score of the codes of data."""
        x = as_data(x, self)
        condition = self.condition(labels, x)
        with evaluation_mode(self):
            return score(self._encode_checked(x, *condition), *condition)
