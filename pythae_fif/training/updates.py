"""Which optimizers train a model, on which losses and in which order."""

from collections.abc import Mapping
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

NETWORK_NAMES = {
    "encoder_": ["encoder"],
    "decoder_": ["decoder"],
    "autoencoder_": ["encoder", "decoder"],
    "discriminator_": ["discriminator"],
}
"""Prefix of an optimizer's keys in Pythae's configurations and outputs (`encoder_learning_rate`,
`encoder_loss`) -> the model's networks that it trains, in the order of backward passes."""


def network_prefixes(config: type[BaseTrainerConfig] | BaseTrainerConfig) -> list[str]:
    """The prefixes of a configuration or its class; '' alone for one optimizer of all weights."""
    return [prefix for prefix in NETWORK_NAMES if hasattr(config, f"{prefix}learning_rate")] or [""]


class Optimizers:
    """The optimizers and schedulers of one training, one of each for a prefix.

    In a step the gradients of each are set to zero and its loss is differentiated, one after
    another; then all step. So a loss also leaves gradients in the networks of the optimizers
    before it, as in Pythae. An optimizer sits out a step for which the model's output says so, as
    VAEGAN's `update_decoder` does. Adam is PyTorch's fused one, unless parameters say otherwise.

    Args:
        model: What they train.
        config: Pythae's training configuration: classes, parameters and learning rates of them.
    """

    def __init__(self, model: BaseAE, config: BaseTrainerConfig) -> None:
        self._optimizers: dict[str, Optimizer] = {}
        self._schedulers: dict[str, LRScheduler] = {}
        for prefix in network_prefixes(config):
            name = getattr(config, f"{prefix}optimizer_cls")
            options = dict(getattr(config, f"{prefix}optimizer_params") or {})
            trained = [getattr(model, part) for part in NETWORK_NAMES.get(prefix, [])] or [model]
            weights = [weight for network in trained for weight in network.parameters()]
            if name in ("Adam", "AdamW") and "foreach" not in options:
                dense = (w.stride() == torch.empty_like(w).stride() for w in weights)
                options.setdefault("fused", all(dense))  # of a slice it would write beside it
            rate = getattr(config, f"{prefix}learning_rate")
            optimizer = getattr(torch.optim, name)(weights, lr=rate, **options)
            self._optimizers[prefix] = optimizer
            name = getattr(config, f"{prefix}scheduler_cls")
            if name is not None:
                scheduler = getattr(torch.optim.lr_scheduler, name)
                options = getattr(config, f"{prefix}scheduler_params") or {}
                self._schedulers[prefix] = scheduler(optimizer, **options)

    def losses(self, output: ModelOutput) -> dict[str, Tensor]:
        """The detached losses of a batch by their names in the log, see `EpochRow`."""
        values = {f"{prefix}loss": output[f"{prefix}loss"].detach() for prefix in self._optimizers}
        first, *others = values.values()
        return {"loss": sum(others, first)} | values

    def step(self, output: ModelOutput) -> None:
        """One step of all optimizers that take part in it, on the losses of a batch."""
        active = [name for name in self._optimizers if output.get(f"update_{name[:-1]}", True)]
        losses = [output[f"{prefix}loss"] for prefix in active]
        same = len(losses) > 1 and all(loss is losses[0] for loss in losses)
        for prefix, loss in zip(active, losses, strict=True):
            self._optimizers[prefix].zero_grad()
            if not same:
                torch.autograd.backward(loss, retain_graph=prefix != active[-1])
        if same:  # one pass is enough, and those before the last had it once for each after them
            torch.autograd.backward(losses[0])
            for times, prefix in enumerate(active[-2::-1], 2):
                groups = self._optimizers[prefix].param_groups
                grads = [w.grad for group in groups for w in group["params"] if w.grad is not None]
                torch._foreach_mul_(grads, times)
        for prefix in active:
            self._optimizers[prefix].step()

    def step_schedulers(self, losses: Mapping[str, float]) -> None:
        """Ends an epoch, with the losses by which a plateau is seen."""
        for prefix, scheduler in self._schedulers.items():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(losses[f"{prefix}loss"])
            else:
                scheduler.step()

    def learning_rates(self) -> dict[str, float]:
        """The present learning rates, by the names of their configuration keys."""
        return {f"{p}learning_rate": o.param_groups[0]["lr"] for p, o in self._optimizers.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {
            "optimizers": {p: optimizer.state_dict() for p, optimizer in self._optimizers.items()},
            "schedulers": {p: scheduler.state_dict() for p, scheduler in self._schedulers.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state` gave; that of other optimizers raises some error of torch."""
        for prefix, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][prefix])
        for prefix, scheduler in self._schedulers.items():
            scheduler.load_state_dict(state["schedulers"][prefix])
