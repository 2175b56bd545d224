"""The base class of this package's models: an autoencoder with a density on its manifold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError, check_choice
from pythae_fif.models.autoencoder import Autoencoder
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.fitted_priors import fit_new_prior, new_prior
from pythae_fif.models.marginal_likelihood import MARGINAL_SAMPLES, MarginalLikelihood
from pythae_fif.models.outlier_scores import OutlierScores
from pythae_fif.models.outputs import (
    Labels,
    as_codes,
    as_data,
    as_shape,
    batches,
    class_indices,
)
from pythae_fif.models.priors import Prior, PriorKind, standard_prior, wide_normal
from pythae_fif.models.saved import require_columns
from pythae_fif.names import CodeSource
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.volume_change import decoder_log_volume, squared_error
from pythae_fif.volume_change.exact import warn_if_singular

MAX_SEARCHES = 4
"""Maximum number of searches of modes, each with the noise's scale of the last one."""
ACCEPTED_FALL = 0.75
"""Scale of the noise after a search, divided by the one before, above which it is the last."""


class InjectiveFlow(Autoencoder):
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

    prior: Prior | None

    def __init__(
        self,
        model_config: InjectiveFlowConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        self.prior = None
        kind = self.model_config.fitted_prior
        if kind is not None:  # of a saved model: the prior's weights are loaded next
            self.prior = new_prior(kind, self.latent_dim, self.condition_dim)

    def fit_prior(
        self,
        data: Any,
        kind: PriorKind = "mixture",
        labels: Labels = None,
        *,
        codes: CodeSource = "encoder",
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
            codes: 'encoder' for f(x), or 'mode' for :meth:`find_modes`. With 'mode', also in
                :meth:`estimate_noise_std`, :meth:`marginal_log_prob` depends on the decoder and
                the prior alone.
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
            for batch, start, *labels_of_batch in batches(x, z, *condition):
                likelihood = self.marginal_likelihood(batch, *labels_of_batch, start=start)
                modes.append(likelihood.find_modes(prior, noise_std))
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

        Raises:
            ConfigError: ``noise_std`` is not above 0.
        """
        if not noise_std > 0:
            raise ConfigError(f"noise_std={noise_std}: a number above 0 is needed")
        likelihood = self.marginal_likelihood(x, labels)
        prior = self.latent_distribution(likelihood.x)
        log_prob = likelihood.log_prob(prior, noise_std, samples)
        if original_units:
            log_prob -= require_columns(self).log_scale(likelihood.x)
        return log_prob.to(likelihood.x)

    def marginal_likelihood(
        self, x: Any, labels: Labels = None, *, start: Tensor | None = None
    ) -> MarginalLikelihood:
        """Returns the part of :meth:`marginal_log_prob` that depends on neither prior nor noise.

        Args:
            x: Data (B, ...).
            labels: Labels of a conditional model.
            start: Codes (B, d) at which the search of modes starts; f(x) if None.
        """
        x = as_data(x, self)
        condition = self.condition(labels, x)

        def decode(z: Tensor, rows: Tensor) -> Tensor:
            with evaluation_mode(self, torch.is_grad_enabled()):
                return self._decode(z, *(tensor[rows] for tensor in condition))

        if start is None:
            with evaluation_mode(self):
                start = self._encode_checked(x, *condition)
        return MarginalLikelihood(decode, x, start, condition)

    def outlier_scores(
        self, data: Any, labels: Labels = None, *, original_units: bool = False
    ) -> OutlierScores:
        """Computes how unusual data are to the model, by three numbers.

        :meth:`OutlierScores.quantiles` compares them with those of validation data. The scores of a
        data point do not depend on the other points, nor on torch's random state.

        Args:
            data: Data (N, ...).
            labels: Labels of a conditional model.
            original_units: Whether likelihoods are in the original units of a table, see
                :meth:`log_prob`. Distances are those of standardised rows.
        """
        x = as_data(data, self)
        condition = self.condition(labels, x)
        log_probs = []
        distances = []
        marginals = []
        for batch, *labels_of_batch in batches(x, *condition):
            log_probs.append(self.log_prob(batch, *labels_of_batch, original_units=original_units))
            projection = self.reconstruct(batch, *labels_of_batch)
            distances.append(squared_error(projection, batch).sqrt())
            if self.noise_std > 0:
                marginals.append(self._repeatable_marginal(batch, *labels_of_batch))

        marginal = torch.cat(marginals) if marginals else None
        if marginal is not None and original_units:
            marginal = marginal - require_columns(self).log_scale(x)
        return OutlierScores(torch.cat(log_probs), torch.cat(distances), marginal)

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

    # ------------------------------------------------------------------ internal

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

    def _repeatable_marginal(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Estimates marginal log-likelihoods (B,), each of which depends on its point alone."""
        likelihood = replace(self.marginal_likelihood(x, *condition), shared_draws=True)
        with fork_rng():
            torch.manual_seed(0)
            return likelihood.log_prob(self.latent_distribution(x), self.noise_std).to(x)

    def _encode_checked(self, x: Tensor, *condition: Tensor) -> Tensor:
        if self.code_mean is None and type(self) is InjectiveFlow:
            return self._encode(x, *condition)  # the scale of an autoencoder's codes is unknown
        return super()._encode_checked(x, *condition)

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
