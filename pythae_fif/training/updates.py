"""Which optimizers train a model, on which losses and in which order."""

__all__ = ["BatchLosses", "Optimizers", "UpdateRule", "config_type", "rule_of", "wanted_config"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import (
    AdversarialTrainerConfig,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainerConfig,
    CoupledOptimizerTrainerConfig,
)
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pythae_fif.errors import ConfigError, first_line

WATCHED = ("code_square", "code_trace")
"""What is logged beside the losses, of models whose output in training has it."""


@dataclass(frozen=True)
class BatchLosses:
    """The losses of a batch.

    Attributes:
        values: Scalars by their names in the log: `loss`, which is the sum where there are several
            optimizers, the loss of each, and those of `WATCHED` that the model gives.
        active: Prefixes of the optimizers that take part in a step on them.
    """

    values: dict[str, Tensor]
    active: list[str]

    def detached(self) -> Tensor:
        """The values, (number of names,)."""
        return torch.stack([value.detach() for value in self.values.values()])


@dataclass(frozen=True)
class UpdateRule:
    """All optimizers of a kind of training, in the order of their backward passes and steps.

    In a step the gradients of each are set to zero and its loss is differentiated, one after
    another; then all step. So a loss also leaves gradients in the networks of the optimizers
    before it, as in Pythae, whose trainings are the reference here. An optimizer sits out a step
    for which the model's output says so, as VAEGAN's `update_decoder` does.

    Attributes:
        networks: Prefix of an optimizer's keys in Pythae's configurations and outputs
            (`encoder_learning_rate`, `encoder_loss`) -> the model's networks that it trains. Where
            one optimizer trains all of the model, the prefix is empty and no network is named.
    """

    networks: dict[str, tuple[str, ...]]

    @property
    def single(self) -> bool:
        """Whether one optimizer trains all: it may be fused, and rarely looks at its loss."""
        return len(self.networks) == 1

    def losses(self, output: ModelOutput, weight: float) -> BatchLosses:
        """The losses of a batch.

        Args:
            output: Of the model.
            weight: A factor of all losses.
        """
        losses = {f"{prefix}loss": weight * output[f"{prefix}loss"] for prefix in self.networks}
        first, *others = (loss.detach() for loss in losses.values())
        active = [name for name in self.networks if output.get(f"update_{name[:-1]}", True)]
        watched = {name: weight * output[name] for name in WATCHED if name in output}
        return BatchLosses({"loss": sum(others, first)} | losses | watched, active)


RULES: dict[type[BaseTrainerConfig], UpdateRule] = {
    CoupledOptimizerTrainerConfig: UpdateRule({"encoder_": ("encoder",), "decoder_": ("decoder",)}),
    AdversarialTrainerConfig: UpdateRule(
        {"autoencoder_": ("encoder", "decoder"), "discriminator_": ("discriminator",)}
    ),
    CoupledOptimizerAdversarialTrainerConfig: UpdateRule(
        {"encoder_": ("encoder",), "decoder_": ("decoder",), "discriminator_": ("discriminator",)}
    ),
    BaseTrainerConfig: UpdateRule({"": ()}),  # the last, as it is the base class of the others
}

MODELS: dict[str, type[BaseTrainerConfig]] = {
    "RAE_L2": CoupledOptimizerTrainerConfig,
    "PIWAE": CoupledOptimizerTrainerConfig,
    "Adversarial_AE": AdversarialTrainerConfig,
    "FactorVAE": AdversarialTrainerConfig,
    "VAEGAN": CoupledOptimizerAdversarialTrainerConfig,
}
"""Pythae's models with several optimizers."""


def config_type(config: BaseTrainerConfig) -> type[BaseTrainerConfig]:
    """Which of Pythae's four types a training configuration is of."""
    return next(kind for kind in RULES if isinstance(config, kind))


def rule_of(config: BaseTrainerConfig) -> UpdateRule:
    """The rule that the type of a training configuration stands for."""
    return RULES[config_type(config)]


def wanted_config(model: BaseAE) -> type[BaseTrainerConfig] | None:
    """The type of the training configuration that a model needs; None where it may be any."""
    ours_or_pythaes = type(model).__module__.split(".")[0] in ("pythae", "pythae_fif")
    return MODELS.get(model.model_name, BaseTrainerConfig if ours_or_pythaes else None)


class Optimizers:
    """The optimizers and schedulers of one training.

    Args:
        rule: Which there are.
        model: What they train.
        config: Pythae's training configuration: classes, parameters and learning rates of them.
        max_grad_norm: The gradients of all parameters are scaled down to this norm before a step;
            None for never.
    """

    def __init__(
        self,
        rule: UpdateRule,
        model: BaseAE,
        config: BaseTrainerConfig,
        max_grad_norm: float | None = None,
    ) -> None:
        self._model = model
        self._max_grad_norm = max_grad_norm
        self._optimizers: dict[str, Optimizer] = {}
        self._schedulers: dict[str, LRScheduler] = {}
        for prefix, networks in rule.networks.items():
            name = getattr(config, f"{prefix}optimizer_cls")
            options = dict(getattr(config, f"{prefix}optimizer_params") or {})
            trained = [getattr(model, network) for network in networks] or [model]
            weights = [weight for network in trained for weight in network.parameters()]
            fused = rule.single and name in ("Adam", "AdamW") and not options.get("foreach")
            if fused and all(weight.is_floating_point() for weight in weights):
                options.setdefault("fused", True)
            optimizer = getattr(torch.optim, name)(
                weights,
                lr=getattr(config, f"{prefix}learning_rate"),
                **options,
            )
            self._optimizers[prefix] = optimizer
            name = getattr(config, f"{prefix}scheduler_cls")
            if name is not None:
                options = getattr(config, f"{prefix}scheduler_params") or {}
                try:
                    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
                except TypeError as error:
                    raise ConfigError(f"scheduler {name}: {first_line(error)}") from error
                self._schedulers[prefix] = scheduler

    def step(self, losses: BatchLosses) -> None:
        """One step of all optimizers that take part in it."""
        active = losses.active
        for prefix in active:
            self._optimizers[prefix].zero_grad()
            loss = losses.values[f"{prefix}loss"]
            torch.autograd.backward(loss, retain_graph=prefix != active[-1])
        if self._max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
        for prefix in active:
            self._optimizers[prefix].step()

    def step_schedulers(self, losses: Mapping[str, float]) -> None:
        """The end of an epoch, with the losses that a plateau is seen in."""
        for prefix, scheduler in self._schedulers.items():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(losses[f"{prefix}loss"])
            else:
                scheduler.step()

    def learning_rates(self) -> dict[str, float]:
        """The present ones, by the names of their configuration keys."""
        return {f"{p}learning_rate": o.param_groups[0]["lr"] for p, o in self._optimizers.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {
            "optimizers": {p: optimizer.state_dict() for p, optimizer in self._optimizers.items()},
            "schedulers": {p: scheduler.state_dict() for p, scheduler in self._schedulers.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state` gave.

        Raises:
            Exception: Of any type, if the state is of other optimizers.
        """
        for prefix, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][prefix])
        for prefix, scheduler in self._schedulers.items():
            scheduler.load_state_dict(state["schedulers"][prefix])
