"""Ensembles of any estimator, and of nets that share blocks."""

__all__ = ["StackedFlows"]

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.ensemble.group import Group
from pythae_fif.ensemble.stacking import Nets
from pythae_fif.models import FIF, RectangularFlow
from pythae_fif.volume_change import fif_loss, surrogate
from pythae_fif.volume_change.loss import Surrogate


class StackedFlows(Ensemble):
    """M models of one kind and architecture, FIF or RectangularFlow, trained in one process.

    Each linear layer of all members is one batched matrix product, whichever blocks encoder and
    decoder share; members never mix, and end up to rounding where each would have ended alone
    with the same seed. :class:`~pythae_fif.ensemble.ensemble.Ensemble` is the faster one for FIF
    on nets of its own kind.

    Args:
        models: The members; their present weights are where training starts.
        seeds: One a member, for data order, noise and Hutchinson vectors, drawn in that order.

    Raises:
        ConfigError: No models, another number of seeds, different configurations or a beta that
            changes, or nets with other parameters than those of linear layers.

    Attributes:
        cg_iterations: Mean number of conjugate gradient steps in the last training, if any.
    """

    may_differ = ()
    fixed: ClassVar[dict[str, Any]] = {
        "mode": "replay",
        "beta_final": None,
        "gradient_to": "encoder",
        "trace_space": "latent",
        "surrogate_fraction": 1.0,
        "surrogate_precision": "float32",
        "condition_dim": 0,
    }
    group_numel = 2**62  # all members at once

    def __init__(self, models: Sequence[FIF], seeds: Sequence[int]) -> None:
        self._iterations: list[float] = []
        super().__init__(models, seeds, compile=False)

    @property
    def cg_iterations(self) -> float | None:
        """See the class."""
        steps = self._iterations
        return sum(steps) / len(steps) if steps else None

    def _set_steps(self, groups: Sequence[Group], compiles: bool) -> None:
        self._iterations = []
        super()._set_steps(groups, compiles)

    def _loss(self, nets: Nets, x: Tensor, eps: Tensor, terms: Tensor) -> Tensor:
        """As the ensemble's; to the estimators, the rows of all members are one batch."""
        model, size = self.models[0], x.shape[:2]
        x, eps = x.flatten(0, 1), eps.flatten(1, 2)

        def encode(x: Tensor) -> Tensor:
            return nets.encode(x.unflatten(0, (-1, *size[1:]))).flatten(0, -2)

        def decode(z: Tensor) -> Tensor:
            return nets.decode(z.unflatten(0, (-1, *size[1:]))).flatten(0, -2)

        if isinstance(model, RectangularFlow):
            estimate: Surrogate = model.log_volume_estimate
        else:
            estimate = partial(surrogate, jacobian_at=self._config.jacobian_at, mode="backward")
        loss = fif_loss(
            encode,
            decode,
            model.latent_distribution(x).log_prob,
            x,
            eps,
            terms[1],
            surrogate=estimate,
            reduce=lambda of_samples: of_samples.view(size).mean(1),
            likelihood_weight=terms[0],
        )
        if isinstance(model, RectangularFlow) and model.cg_iterations is not None:
            self._iterations.append(model.cg_iterations.double().mean().item())
        return loss.loss
