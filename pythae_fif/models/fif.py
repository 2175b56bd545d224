"""Free-form injective flow: an autoencoder trained by maximum likelihood on its manifold."""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_AE_MLP
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from pythae_fif.errors import ConfigError, MissingInputDimError
from pythae_fif.models.adaptive_beta import AdaptiveBeta
from pythae_fif.models.config import FIFConfig
from pythae_fif.models.evaluation_loss import evaluation_output, noise_nll
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import Labels
from pythae_fif.models.saved import DataDescription
from pythae_fif.models.surrogate_choice import SURROGATES, choose_surrogate
from pythae_fif.nn.base import AtCondition
from pythae_fif.volume_change import fif_loss, sample_hutchinson
from pythae_fif.volume_change.loss import FIFLoss, Surrogate


class FIF(InjectiveFlow):
    r"""Free-form injective flow (Sorrenson, Draxler et al., ICLR 2024).

    Encoder f and decoder g are unconstrained networks. In training the loss is eq. 7, see
    :func:`~pythae_fif.volume_change.fif_loss`; only its gradient is meaningful, its *value* says
    nothing about the fit. In evaluation mode it is the exact loss that training descends
    (approximately, if g' is near the pseudo-inverse of f'), so that trainers can choose the best
    model, see :func:`~pythae_fif.models.evaluation_loss.evaluation_output`. With ``condition_dim``
    above 0 the model is conditional, and its methods need ``labels``.

    Args:
        model_config (FIFConfig): The configuration.
        encoder (BaseEncoder): f. Pythae's MLP encoder if None. In a conditional model its input
            has c further channels or columns.
        decoder (BaseDecoder): g. Pythae's MLP decoder if None, with values in [0, 1] only. In a
            conditional model its input has d + c columns.

    Attributes:
        surrogate_mode: How the volume term is computed. The first training step chooses 'replay',
            or 'double backward' if a network cannot be replayed, with a
            :class:`~pythae_fif.errors.SlowerTrainingWarning`. 'published', which
            uses PyTorch's forward mode, can be set by hand.
        adaptive_beta: The value of ``beta="auto"``; None for another beta.
        has_fixed_operations: Whether a training step of the class has the same operations for all
            values of the data.

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
    has_fixed_operations: ClassVar[bool] = True
    surrogate_mode: str | None = None

    def __init__(
        self,
        model_config: FIFConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        self.adaptive_beta = AdaptiveBeta(self) if model_config.beta == "auto" else None

    @_disable_dynamo  # a compiled step would leave a tape on PyTorch's stack
    def forward(self, inputs: BaseDataset, **progress: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, ...), and for a conditional model
                ``inputs["labels"]``, class indices (B,) or condition vectors (B, c).
            progress: What trainers pass. ``share_done``, from this package's trainers, is the share
                of the training that is done, for a schedule of beta. ``dataset_size`` and
                ``position`` of an evaluation: see
                :func:`~pythae_fif.models.evaluation_loss.evaluation_output`.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss``, means over the
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d).
        """
        x, *condition = self.read_batch(inputs)
        if not self.training:
            size, position = progress.get("dataset_size"), progress.get("position")
            return evaluation_output(self, x, *condition, dataset_size=size, position=position)

        x = self.add_noise(x)
        eps = self.sample_hutchinson(x)
        encode, decode = self.networks_at(*condition)
        prior = self.latent_distribution(x)
        loss = fif_loss(
            encode,
            decode,
            lambda z: prior.log_prob(z, *condition),
            x,
            eps,
            self.current_beta(x, progress.get("share_done")),
            surrogate=self.surrogate(x, *condition),
            reduce=torch.mean,
        )
        if self.adaptive_beta is not None:
            self.adaptive_beta.record(loss.reconstruction, x)
        return ModelOutput(
            loss=self.total_loss(x, loss),
            recon_loss=loss.reconstruction,
            nll_loss=loss.nll,
            recon_x=loss.x_hat,
            z=loss.z,
        )

    def total_loss(self, x: Tensor, terms: FIFLoss) -> Tensor:
        """Returns the loss of training and evaluation; a subclass may add terms of its own.

        Args:
            x: Data, (B, ...), with noise in training.
            terms: The loss of a FIF and its terms, means over the batch.

        Returns:
            The loss, ().
        """
        return terms.loss

    def current_beta(self, x: Tensor, share_done: float | Tensor | None = None) -> float | Tensor:
        """Returns the weight of the reconstruction error.

        Args:
            x: Data; a weight that is a tensor has their type.
            share_done: Share of the training that is done, in [0, 1], for a schedule.
        """
        if self.adaptive_beta is not None:
            return self.adaptive_beta.value
        beta = self.model_config.beta_at(share_done)
        return beta.to(x.dtype) if isinstance(beta, Tensor) else beta

    def evaluation_loss(self, means: Mapping[str, float], data_dim: int) -> float:
        """Returns the loss of a whole evaluation set, by which trainers compare epochs.

        With ``beta="auto"`` it has one noise for the whole set, not one for each batch.

        Args:
            means: The means of ``loss`` and of the output's other losses over the batches.
            data_dim: D.
        """
        if self.adaptive_beta is None:
            return means["loss"]
        reconstruction = torch.tensor(means["recon_loss"])
        whole = noise_nll(reconstruction, data_dim - self.latent_dim).item()
        return means["loss"] - means["noise_nll"] + whole

    def surrogate(self, x: Tensor, *condition: Tensor) -> Surrogate:
        """Returns the function that computes the volume term; the first batch decides which.

        Args:
            x: A batch of data, (B, ...).
            *condition: The condition (B, c) of a conditional model.

        Raises:
            ConfigError: In inference mode, in which nothing can be differentiated.
        """
        if torch.is_inference_mode_enabled():
            raise ConfigError(
                f"{self.model_name}: the training loss differentiates the networks: use "
                "torch.no_grad() in place of torch.inference_mode()"
            )
        if self.surrogate_mode is None:
            self.surrogate_mode = choose_surrogate(self, x, *condition)
        function = SURROGATES[self.surrogate_mode]
        return partial(function, jacobian_at=self.model_config.jacobian_at)

    def sample_hutchinson(self, x: Tensor) -> Tensor:
        """Draws Hutchinson vectors, (K, b, d), for the first b data points of a batch x."""
        config = self.model_config
        return sample_hutchinson(
            math.ceil(config.surrogate_fraction * len(x)),
            config.latent_dim,
            config.hutchinson_samples,
            kind=config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )

    def update(self) -> None:
        """Ends an epoch: ``beta="auto"`` follows its errors. Trainers call this."""
        if self.adaptive_beta is not None:
            self.adaptive_beta.end_epoch()

    @classmethod
    def _networks(
        cls, config: Any, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None and decoder is not None:
            return encoder, decoder
        if config.input_dim is None:
            raise MissingInputDimError(
                f"{config.name}: input_dim is needed for the default networks"
            )

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

    def get_nll(
        self, data: Tensor, n_samples: int = 50, batch_size: int = 100, labels: Labels = None
    ) -> float:
        """Estimates the mean log-likelihood of data by :meth:`marginal_log_prob`.

        Pythae's VAEs have a method of this name, which also returns the mean of log p(x), and not
        of its negative. Their noise has the standard deviation 1. Here it is ``noise_std``, and 1
        for a model that is not calibrated.

        Args:
            data: Data, (N, ...).
            n_samples: Codes drawn for each data point.
            batch_size: Data points that are evaluated at once.
            labels: Labels (N,) or (N, c) of a conditional model.
        """
        log_probs = []
        for start in range(0, len(data), batch_size):
            part = slice(start, start + batch_size)
            part_labels = labels if labels is None else torch.as_tensor(labels)[part]
            log_probs.append(
                self.marginal_log_prob(
                    data[part], self.noise_std or 1.0, part_labels, samples=n_samples
                )
            )
        return torch.cat(log_probs).mean().item()

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
        model = type(self)(config, encoder, decoder)
        DataDescription.of(self).set_on(model)
        model.class_names = None
        model._buffers.update(self._buffers)  # the present value of beta="auto"
        model.train(self.training)
        return model
