"""What FIF and RectangularFlow share: training by Hutchinson's estimate of how the volume changes,
and evaluation by the exact volume."""

__all__ = ["HutchinsonConfig", "HutchinsonModel", "has_batch_norm"]

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from typing_extensions import Self

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.condition import Labels
from pythae_fif.models.injective_flow import BetaConfig, Count, InjectiveFlow
from pythae_fif.models.whitening import Batches, add_code_maps, codes_of, whiten_codes
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import sample_hutchinson, squared_error
from pythae_fif.volume_change.hutchinson import HutchinsonKind
from pythae_fif.volume_change.loss import JacobianAt
from pythae_fif.volume_change.precision import full_float32


@config_dataclass
class HutchinsonConfig(BetaConfig):
    """The part of their configurations that FIF and RectangularFlow share.

    Parameters:
        noise (float): Standard deviation of the Gaussian noise added to the data in training; the
            noisy data are the target of the reconstruction. Default: 0.01.
        hutchinson_samples (int): K, Hutchinson vectors a data point. Default: 1.
        hutchinson_kind (str): Their distribution, see
            :func:`~pythae_fif.volume_change.sample_hutchinson`. Default: 'orthogonal'.
        jacobian_at (str): 'data', the encoder's volume change at the data point (off-manifold), or
            'reconstruction', that at its projection (on-manifold); FIF also takes
            'detached_reconstruction', the projection as a constant. Default: 'data'.
        eval_nll_samples (int): Number of data points of an evaluation set whose exact volume
            change enters the evaluation loss, spread over the set: the same ones in each pass
            where the set's order is fixed, as an ``ImageDataset``'s is. A batch without any has an
            ``nll_loss`` of 0; where all batches are of one size, the mean over the batches is that
            over the counted points. For several processes give a multiple of their number: each
            rounds its share up, so that more points would count than were asked for. Default: 64.
        Others: As of :class:`~pythae_fif.models.injective_flow.BetaConfig` and
            :class:`~pythae_fif.models.injective_flow.InjectiveFlowConfig`.
    """

    hutchinson_samples: Count = 1
    hutchinson_kind: HutchinsonKind = "orthogonal"
    jacobian_at: JacobianAt = "data"
    eval_nll_samples: Count = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.trace_dim(math.prod(self.input_dim or (self.hutchinson_samples,)))
        if self.hutchinson_samples > most:
            raise ConfigError(
                f"{self.name}: hutchinson_samples={self.hutchinson_samples}: at most {most}, "
                "at which orthogonal vectors make the trace exact"
            )

    def trace_dim(self, data_dim: int) -> int:
        """Dimension of the space in which the trace is taken, for data of D dimensions."""
        return self.latent_dim

    @property
    def off_manifold(self) -> bool:
        """Whether the loss has the encoder's volume change at the data (eq. 46), as the published
        FIF, or that on the manifold (eq. 3)."""
        return self.jacobian_at == "data"


class HutchinsonModel(InjectiveFlow):
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

    _evaluated_before = 0
    _networks_checked = False

    def train(self, mode: bool = True) -> Self:
        """As of any module; after training, a new pass over the evaluation set begins."""
        if mode:
            self._evaluated_before = 0
        super().train(mode)
        return self

    def beta(self, epoch: int | None = None, share_done: float | None = None) -> float:
        """See :meth:`~pythae_fif.models.injective_flow.BetaConfig.beta_at` of the configuration."""
        return float(self.model_config.beta_at(epoch, share_done))

    def whiten(self, data: Tensor | Batches, labels: Labels = None) -> Self:
        r"""Gives the codes of data mean 0 and covariance 1, the best affine map of the code.

        With :math:`f_A = A (f - m)` and :math:`g_A(z) = g(A^{-1} z + m)` the points g(f(x)) stay
        where they are, and :math:`\det g_A'^\top g_A' = \det g'^\top g' / (\det A)^2`. So of the
        mean of :meth:`log_prob` over data only

        .. math:: \log|\det A| - \tfrac12 \, \text{mean} \lvert A (z - m) \rvert^2

        depends on A and m: the log-likelihood of one Gaussian of mean m and covariance
        :math:`(A^\top A)^{-1}` on the codes, which is largest where these are the codes' own. It
        never falls therefore on these data; reconstructions change by rounding alone. The map is
        saved with the model.

        Args:
            data: (B, ...), or batches such as a data loader gives, ``batch["data"]`` and, of a
                conditional model, ``batch["labels"]``.
            labels: Of a tensor, as for :meth:`log_prob`. The map is one for all conditions.

        Returns:
            Self: This model.

        Raises:
            ConfigError: The latent distribution is not normal.
            DataError: The codes do not span the latent space: too few data, or codes that vary in
                fewer dimensions.
            NonFiniteError: A code is NaN or infinite.

        Example:
            >>> from pythae_fif.models import FIF, FIFConfig
            >>> model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2))
            >>> images = torch.rand(100, 1, 4, 4)
            >>> model.whiten(images).embed(images).std(0, correction=0).detach().round(decimals=2)
            tensor([1., 1.])
        """
        if self.model_config.latent_distribution != "normal":
            raise ConfigError(f"{self.model_name}.whiten: needs latent_distribution='normal'")
        codes = codes_of(self, data, labels)
        add_code_maps(self)
        whiten_codes(self, codes)
        return self

    def _batch(self, inputs: BaseDataset) -> tuple[Tensor, Tensor | None]:
        """Data (B, ...) in the type of the weights, noisy in training, and condition (B, c).

        That is None of an unconditional model, to which labels mean nothing.

        Raises:
            ConfigError: The output of a network does not depend on its input, in training.
            DataError: No data, or some that are no floating-point numbers.
        """
        if not isinstance(inputs, Mapping) or "data" not in inputs:
            given = type(inputs).__name__
            raise DataError(f'{self.model_name}: a {given} without "data": give {{"data": x}}')
        x = self._typed(inputs["data"])
        if not len(x):
            raise DataError(f"{self.model_name}: an empty batch has no loss")
        condition = self._condition(inputs.get("labels") if self.condition_dim else None, x)
        if not self.training:
            return x, condition
        if not self._networks_checked:
            one = None if condition is None else condition[:1]
            with self._in_evaluation_mode():
                self._check_networks(x[:1], one)
            self._networks_checked = True
        return self._noisy(x), condition

    def _check_networks(self, x: Tensor, condition: Tensor | None) -> None:
        norms = (m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        if any(norm.running_mean is None for norm in norms):
            raise ConfigError(
                f"{self.model_name}: with track_running_stats=False BatchNorm makes codes depend "
                "on the batch in evaluation, too: use True, or another norm"
            )
        networks, shape = {"encoder": self._encode, "decoder": self._decode}, x.shape
        with torch.inference_mode(False), torch.enable_grad():
            for name, network in networks.items():
                point = x.detach().clone().requires_grad_()
                x = network(point, condition)
                grads: tuple[Tensor | None, ...] = (None,)
                if x.requires_grad:
                    grads = torch.autograd.grad(x.sum(), point, allow_unused=True)
                if grads[0] is None:
                    raise ConfigError(
                        f"{self.model_name}: the output of the {name} does not depend on its "
                        "input: its volume change is zero and cannot be trained"
                    )
        if x.shape != shape:
            raise ConfigError(
                f"{self.model_name}: reconstructions of shape {tuple(x.shape)} for data of shape "
                f"{tuple(shape)}"
            )

    def _hutchinson(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Hutchinson vectors, (K, b, d), of a share of the batch; b = B > 1 only for all of it."""
        most = len(x) if share == 1 else max(1, len(x) - 1)
        return sample_hutchinson(
            min(most, math.ceil(share * len(x))),
            self.model_config.trace_dim(x[0].numel()),
            self.model_config.hutchinson_samples,
            kind=self.model_config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )

    def _evaluated(
        self, x: Tensor, condition: Tensor | None, dataset_size: int | None
    ) -> ModelOutput:
        """The output of evaluation mode; the exact volume is computed when it is first read."""
        z = self._encode(x, condition)
        x_hat = self._decode(z, condition)
        recon_loss = squared_error(x_hat, x).mean()
        size = dataset_size or len(x)
        wanted = min(size, self.model_config.eval_nll_samples)
        first = 0
        if dataset_size:  # a batch of a pass over the set, and not a call by itself
            first = self._evaluated_before % size
            self._evaluated_before = first + len(x)
        # Of the first i points of the set, wanted * i / size count, rounded up.
        counted = -(-wanted * (first + len(x)) // size) + -wanted * first // size

        def losses() -> dict[str, Tensor]:
            nll_loss = z.new_zeros(())
            if counted:
                of_counted = None if condition is None else condition[:counted]
                with self._in_evaluation_mode():
                    nll = self._nll(x[:counted], z[:counted].to(x.dtype), of_counted)
                nll_loss = nll.sum() * (size / (wanted * len(x)))
            return {"loss": self.beta() * recon_loss.detach() + nll_loss, "nll_loss": nll_loss}

        return _EvaluationOutput(losses, recon_loss=recon_loss, recon_x=x_hat, z=z)

    @full_float32()
    def _nll(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """The likelihood's part of the loss, exactly, (B,), of data x and their codes z."""
        if not self.model_config.off_manifold:
            return -self._log_prob(z, condition)
        volume = self._encoder_log_volume(x, condition)
        return -self.latent_distribution(z).log_prob(z.detach()) - volume


def has_batch_norm(model: nn.Module) -> bool:
    """Whether samples of a batch depend on each other in training mode."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


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
        loss: Tensor = self.__dict__[name]
        return loss

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if key in self._LAZY else super().__getitem__(key)
