"""What FIF and RectangularFlow share: training by a surrogate of the volume change, and evaluation
by the exact one."""

__all__ = ["SurrogateConfig", "SurrogateModel"]

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.models.manifold import BetaConfig, ManifoldModel, squared_error
from pythae_fif.volume_change import HUTCHINSON_KINDS, sample_hutchinson
from pythae_fif.volume_change.surrogate import JACOBIAN_AT


@dataclass
class SurrogateConfig(BetaConfig):
    """The part of their configurations that FIF and RectangularFlow share.

    Parameters:
        noise (float): Standard deviation of the Gaussian noise added to the data in training; the
            noisy data are the target of the reconstruction. Default: 0.01.
        hutchinson_samples (int): K, Hutchinson vectors a data point. Default: 1.
        hutchinson_kind (str): Their distribution, see
            :func:`~pythae_fif.volume_change.sample_hutchinson`. Default: 'orthogonal'.
        jacobian_at (str): 'data', the encoder's volume change at the data point (off-manifold), or
            'reconstruction', that at its projection (on-manifold). Default: 'data'.
        eval_nll_samples (int): Number of data points of an evaluation set whose exact volume
            change enters the evaluation loss, always the same ones. Default: 64.
        Others: As of :class:`~pythae_fif.models.manifold.BetaConfig` and
            :class:`~pythae_fif.models.manifold.ManifoldConfig`.
    """

    hutchinson_samples: int = 1
    hutchinson_kind: str = "orthogonal"
    jacobian_at: str = "data"
    eval_nll_samples: int = 64
    # Without an annotation these are no options; FIF makes them some.
    gradient_to = "encoder"
    trace_space = "latent"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "hutchinson_samples", "eval_nll_samples")
        self._require_one_of(hutchinson_kind=HUTCHINSON_KINDS, jacobian_at=JACOBIAN_AT)
        if self.trace_space == "latent":
            self._require(
                self.hutchinson_samples <= self.latent_dim,
                "hutchinson_samples",
                f"at most latent_dim={self.latent_dim}, where the trace is exact",
            )

    @property
    def off_manifold(self) -> bool:
        """Whether the loss has the encoder's volume change at the data (eq. 46), as the published
        FIF, or that on the manifold (eq. 3)."""
        return self.jacobian_at == "data" and self.gradient_to == "encoder"


class SurrogateModel(ManifoldModel):
    r"""A model whose training loss has a surrogate of the log-volume, for its gradient alone.

    Its *value* says nothing about the fit. In evaluation mode the loss is the exact value of what
    the gradient descends (for FIF approximately, where g' is near the pseudo-inverse of f'): off
    the manifold

    .. math:: -\log p_Z(f(x)) - \frac12 \log\det f'(x) f'(x)^\top
        + \beta \lVert g(f(x)) - x \rVert^2

    (eq. 46 and the reconstruction; it also counts directions of f' that no data constrain, so that
    it may lie below the entropy and ranks epochs of one training only), on it the negative of
    :meth:`log_prob` plus the same squared error (eq. 3). So Pythae's trainers can tell which model
    to keep, and its schedulers see progress. (The likelihood on the manifold favours manifolds that
    curve, which is why the published FIF is not trained by it.) The training loss is the
    subclass's.
    """

    @torch.compiler.disable
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
            batch in nats, ``recon_x`` (B, ...) and ``z`` (B, d). In evaluation mode the two
            losses that need the exact volume are computed when they are first read, so that
            samplers, which only want ``z``, do not pay for them; they have no gradient.

        Raises:
            ConfigError: A conditional model without labels.
            DataError: Labels that do not fit.
        """
        x = inputs["data"]
        # Pythae's data sets always have labels, which mean nothing to an unconditional model.
        labels = inputs.get("labels") if self.condition_dim else None
        condition = self._condition(labels, x)
        if self.training:
            beta = self.beta(kwargs.get("epoch", 1), kwargs.get("share_done"))
            return self._training_output(x, beta, condition)
        z = self._encode(x, condition)
        x_hat = self._decode(z, condition)
        recon_loss = squared_error(x_hat, x).mean()
        share = self.model_config.eval_nll_samples / max(1, kwargs.get("dataset_size", len(x)))
        counted = min(len(x), math.ceil(share * len(x)))

        def losses() -> dict[str, Tensor]:
            of_counted = None if condition is None else condition[:counted]
            nll_loss = self._in_evaluation_mode(
                lambda: self._nll(x[:counted], z[:counted], of_counted).mean()
            )
            loss = self.beta() * recon_loss.detach() + nll_loss
            return {"loss": loss, "nll_loss": nll_loss}

        return _EvaluationOutput(losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    def _training_output(self, x: Tensor, beta: float, condition: Tensor | None) -> ModelOutput:
        raise NotImplementedError

    def _nll(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """The likelihood's part of the loss, exactly, (B,), of data x and their codes z."""
        if not self.model_config.off_manifold:
            return -self._log_prob(z, condition)
        volume = self._encoder_log_volume(x, condition)
        return -self.latent_distribution(z).log_prob(z.detach()) - volume

    def beta(self, epoch: int | None = None, share_done: float | None = None) -> float:
        """See :meth:`~pythae_fif.models.manifold.BetaConfig.beta_at` of the configuration."""
        return self.model_config.beta_at(epoch, share_done)

    def _hutchinson(self, rows: int, dim: int, like: Tensor) -> Tensor:
        """Hutchinson vectors of as many data points, (K, rows, dim)."""
        return sample_hutchinson(
            rows,
            dim,
            self.model_config.hutchinson_samples,
            kind=self.model_config.hutchinson_kind,
            device=like.device,
            dtype=like.dtype,
        )


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
