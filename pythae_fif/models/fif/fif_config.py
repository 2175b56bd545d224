"""Configuration of a free-form injective flow."""

__all__ = ["FIFConfig"]

import dataclasses
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs
from pythae.models.base.base_config import BaseAEConfig

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.volume_change import HUTCHINSON_KINDS
from pythae_fif.volume_change.surrogate import (
    GRADIENT_TO,
    JACOBIAN_AT,
    MODES,
    TRACE_SPACES,
    eps_meets_inner,
)


@dataclass
class FIFConfig(BaseAEConfig):
    """Free-form injective flow (FIF) config class.

    The defaults are the choices of the paper (Sorrenson et al., ICLR 2024, appendices D and E).

    Parameters:
        input_dim (tuple): Shape of one data point (C, H, W) or (D,).
        latent_dim (int): Latent dimension d. Default: 10.
        beta (float): Weight of the reconstruction loss (eq. 7). Default: 10.
        beta_final (float): If given, beta moves linearly from ``beta`` in the first epoch to
            ``beta_final`` in epoch ``beta_epochs`` (appendix E.3). Default: None.
        beta_epochs (int): Length of that schedule in epochs. Default: None.
        hutchinson_samples (int): K, Hutchinson vectors a data point. Default: 1.
        surrogate_fraction (float): Part of every batch, in (0, 1], whose data points carry the
            surrogate of the volume change: the first ``ceil(surrogate_fraction * B)``, averaged
            over themselves, which is unbiased as batches come shuffled. Below 1 BatchNorm's batch
            statistics are constants for a data point, as in evaluation mode; at 1 the Jacobian is
            that of the whole-batch map. Needs mode 'replay'. Default: 1, as the paper.
        surrogate_precision (str): 'float32' (that of the model), or 'bfloat16' for the Jacobian
            products of the surrogate alone. Needs mode 'replay'. Default: 'float32'.
        hutchinson_kind (str): Their distribution, see
            :func:`~pythae_fif.volume_change.sample_hutchinson`. Default: 'orthogonal'.
        noise (float): Standard deviation of the Gaussian noise added to the data in training; the
            noisy data are the target of the reconstruction. Default: 0.01.
        latent_distribution (str): 'normal' or 'student_t' (independent coordinates).
        student_t_df (float): Degrees of freedom of 'student_t'. Default: 5.
        jacobian_at, gradient_to, trace_space, mode: The choices of appendix D, see
            :func:`~pythae_fif.volume_change.surrogate`. Networks with operations that 'replay' does
            not know are differentiated in mode 'backward' (``FIF.surrogate_mode`` tells).
        condition_dim (int): Number of classes, or length c of a condition vector, of a conditional
            model; 0 for none. Data sets then give "labels": class indices (B,), which are joined as
            one-hot vectors, or condition vectors (B, c). The encoder takes them as further channels
            or columns of its input, the decoder behind z. Default: 0.
        eval_nll_samples (int): Number of data points of an evaluation set whose exact
            log-likelihood enters the evaluation loss, always the same ones. Default: 64.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    beta: float = 10.0
    beta_final: float | None = None
    beta_epochs: int | None = None
    hutchinson_samples: int = 1
    surrogate_fraction: float = 1.0
    surrogate_precision: Literal["float32", "bfloat16"] = "float32"
    hutchinson_kind: str = "orthogonal"
    noise: float = 0.01
    latent_distribution: Literal["normal", "student_t"] = "normal"
    student_t_df: float = 5.0
    jacobian_at: str = "data"
    gradient_to: str = "encoder"
    trace_space: str = "latent"
    mode: str = "replay"
    condition_dim: int = 0
    eval_nll_samples: int = 64

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, values: Any) -> Any:
        keys = (values.kwargs or {}) if isinstance(values, ArgsKwargs) else values
        valid = [field.name for field in dataclasses.fields(cls) if field.init]
        for key in keys:
            if key not in valid:
                raise ConfigError(f"unknown FIFConfig key {key!r}: {did_you_mean(key, valid)}")
        return values

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("beta", "beta_final", "noise"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"FIFConfig {key}={value}: a number of at least 0 is needed")
        if self.student_t_df <= 0:
            raise ConfigError(f"FIFConfig student_t_df={self.student_t_df}: must be above 0")
        for key in ("latent_dim", "hutchinson_samples", "eval_nll_samples", "beta_epochs"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"FIFConfig {key}={value}: at least 1 is needed")
        if self.condition_dim < 0:
            raise ConfigError(f"FIFConfig condition_dim={self.condition_dim}: at least 0 is needed")
        if not 0 < self.surrogate_fraction <= 1:
            raise ConfigError(
                f"FIFConfig surrogate_fraction={self.surrogate_fraction}: above 0, at most 1"
            )
        if (self.beta_final is None) != (self.beta_epochs is None):
            raise ConfigError("FIFConfig beta_final and beta_epochs: give both or neither")
        if self.trace_space == "latent" and self.hutchinson_samples > self.latent_dim:
            raise ConfigError(
                f"FIFConfig hutchinson_samples={self.hutchinson_samples}: at most "
                f"latent_dim={self.latent_dim}, where the trace is exact"
            )
        for key, choices in (
            ("hutchinson_kind", HUTCHINSON_KINDS),
            ("jacobian_at", JACOBIAN_AT),
            ("gradient_to", GRADIENT_TO),
            ("trace_space", TRACE_SPACES),
            ("mode", MODES),
        ):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(f"FIFConfig {key}={value!r}: {did_you_mean(value, choices)}")
        if self.needs_replay and (
            self.mode != "replay" or not eps_meets_inner(self.gradient_to, self.trace_space)
        ):
            raise ConfigError(
                "FIFConfig surrogate_fraction and surrogate_precision need mode='replay' with "
                "gradient_to='encoder', trace_space='latent' or gradient_to='decoder', "
                "trace_space='data'"
            )

    @property
    def needs_replay(self) -> bool:
        """Whether the surrogate is one that mode 'replay' alone can compute."""
        return self.surrogate_fraction < 1 or self.surrogate_precision != "float32"
