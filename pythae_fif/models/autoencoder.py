"""An encoder and a decoder: codes, reconstructions, and the decoder's Jacobian."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.explained_entropy import ExplainedEntropy, explain_entropy
from pythae_fif.models.outputs import (
    Labels,
    as_codes,
    as_condition,
    as_data,
    batches,
    get_output,
    warn_if_large,
)
from pythae_fif.models.saved import SavedModel
from pythae_fif.nn.base import evaluation_mode, join
from pythae_fif.volume_change import decoder_log_volume, decoder_singular_values
from pythae_fif.volume_change.exact import decoder_gram
from pythae_fif.volume_change.loss import Map


class Autoencoder(SavedModel):
    """An encoder f and a decoder g, without a density; see :class:`InjectiveFlow`.

    A subclass names its configuration class, builds the networks that are not passed, and computes
    its loss in ``forward``.

    Args:
        model_config (InjectiveFlowConfig): The configuration.
        encoder (BaseEncoder): f. The model's default encoder if None.
        decoder (BaseDecoder): g. The model's default decoder if None.

    Raises:
        ConfigError: The configuration belongs to another model. From all methods: labels are
            missing, or the model takes none.
        DataError: From all methods: the data or labels do not fit the model.
    """

    config_class: ClassVar[Any] = InjectiveFlowConfig

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

    def log_volume(self, x: Any, labels: Labels = None) -> Tensor:
        """Computes 1/2 log det g'(z)^T g'(z) at z = f(x), in nats, (B,); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_log_volume, self._decode), x, labels)

    def singular_values(self, x: Any, labels: Labels = None) -> Tensor:
        """Computes the singular values of g'(f(x)), descending, (B, d); see :meth:`log_prob`."""
        return self._evaluate_at_codes(partial(decoder_singular_values, self._decode), x, labels)

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

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Computes codes (B, d) in the current mode."""
        inputs = x.clone() if condition is None else join(x, condition)  # f may overwrite them
        return get_output(self.encoder(inputs), "embedding", self)

    def _encode_checked(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Computes codes, and warns if they are much larger than the codes of training data."""
        z = self._encode(x, *condition)
        warn_if_large(z, self)
        return z

    def _decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Computes points (B, ...) in the current mode."""
        inputs = z.clone() if condition is None else join(z, condition)  # g may overwrite them
        return get_output(self.decoder(inputs), "reconstruction", self)

    @full_float32()
    def _evaluate_at_codes(self, score: Callable[..., Tensor], x: Any, labels: Labels) -> Tensor:
        """Computes a score of the codes of data."""
        x = as_data(x, self)
        condition = self.condition(labels, x)
        with evaluation_mode(self):
            return score(self._encode_checked(x, *condition), *condition)
