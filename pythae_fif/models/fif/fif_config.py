"""Configuration of a free-form injective flow."""

__all__ = ["FIFConfig"]

from typing import Annotated, Literal

from pydantic import Field

from pythae_fif.errors import ConfigError
from pythae_fif.models.hutchinson import HutchinsonConfig
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change.variants import GradientTo, Mode, TraceSpace, eps_meets_inner


@config_dataclass
class FIFConfig(HutchinsonConfig):
    """Free-form injective flow (FIF) config class.

    The defaults are the choices of the paper (Sorrenson et al., ICLR 2024, appendices D and E).

    Parameters:
        input_dim, latent_dim, noise, latent_distribution, student_t_df: As of
            :class:`~pythae_fif.models.manifold.ManifoldConfig`.
        beta, beta_final, beta_epochs: The weight of the reconstruction (eq. 7), as of
            :class:`~pythae_fif.models.manifold.BetaConfig`.
        hutchinson_samples, hutchinson_kind, jacobian_at, eval_nll_samples: As of
            :class:`~pythae_fif.models.hutchinson.HutchinsonConfig`.
        surrogate_fraction (float): Part of every batch, in (0, 1], whose data points carry the
            surrogate of the volume change: the first ``ceil(surrogate_fraction * B)``, averaged
            over themselves, which is unbiased as batches come shuffled. Below 1 BatchNorm's batch
            statistics are constants for a data point, as in evaluation mode; at 1 the Jacobian is
            that of the whole-batch map. Needs mode 'replay'. Default: 1, as the paper.
        surrogate_precision (str): 'float32' (that of the model), or 'bfloat16' for the Jacobian
            products of the surrogate alone. Needs mode 'replay'. Default: 'float32'.
        gradient_to, trace_space, mode: With ``jacobian_at`` the choices of appendix D, see
            :func:`~pythae_fif.volume_change.variants.surrogate`. Networks with operations that
            'replay' does not know are differentiated in mode 'backward' (``FIF.surrogate_mode``
            tells).
        condition_dim (int): Number of classes, or length c of a condition vector, of a conditional
            model; 0 for none. Data sets then give "labels": class indices (B,), which are joined as
            one-hot vectors, or condition vectors (B, c). The encoder takes them as further channels
            or columns of its input, the decoder behind z. (Pythae labels plain tensors 1 all over:
            give a data set.) Default: 0.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    surrogate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    surrogate_precision: Literal["float32", "bfloat16"] = "float32"
    gradient_to: GradientTo = "encoder"
    trace_space: TraceSpace = "latent"
    mode: Mode = "replay"
    condition_dim: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs_replay and (
            self.mode != "replay" or not eps_meets_inner(self.gradient_to, self.trace_space)
        ):
            raise ConfigError(
                f"{self.name}: surrogate_fraction and surrogate_precision need mode='replay' with "
                "gradient_to='encoder', trace_space='latent' or gradient_to='decoder', "
                "trace_space='data'"
            )

    def trace_dim(self, data_dim: int) -> int:
        return self.latent_dim if self.trace_space == "latent" else data_dim

    @property
    def off_manifold(self) -> bool:
        return super().off_manifold and self.gradient_to == "encoder"

    @property
    def needs_replay(self) -> bool:
        """Whether the surrogate is one that mode 'replay' alone can compute."""
        return self.surrogate_fraction < 1 or self.surrogate_precision != "float32"
