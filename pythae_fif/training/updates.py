"""The optimizers of a model, the losses that they minimise, and the order of their updates."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer, lr_scheduler

from pythae_fif.training.config import NETWORK_NAMES, TrainerOptions, network_prefixes


class Optimizers:
    """The optimizers and schedulers of a training, one of each per prefix.

    In a step the optimizers take turns: the gradients of one are set to zero and its loss is
    differentiated; after the last turn all of them step. As in Pythae, a loss therefore also adds
    gradients to the networks of earlier optimizers. An optimizer skips a step if the model's output
    says so, as VAEGAN's `update_decoder` does; a scheduler that counts steps does not count it.
    Adam is PyTorch's fused one, unless the optimizer's parameters say otherwise.

    Args:
        model: The model to train.
        config: Pythae's training configuration, with optimizers, schedulers and learning rates.
        options: The norm to which gradients are clipped, and what the schedulers count.

    Attributes:
        learning_rates: Learning rates of the last step, by their keys in the configuration.
    """

    learning_rates: dict[str, float]

    def __init__(
        self, model: BaseAE, config: BaseTrainerConfig, options: TrainerOptions | None = None
    ) -> None:
        self._options = options or TrainerOptions()
        self._optimizers = {
            prefix: _build_optimizer(model, config, prefix) for prefix in network_prefixes(config)
        }
        self._schedulers: dict[str, lr_scheduler.LRScheduler] = {}
        for prefix, optimizer in self._optimizers.items():
            scheduler_name = getattr(config, f"{prefix}scheduler_cls")
            if scheduler_name is not None:
                scheduler = getattr(lr_scheduler, scheduler_name)
                parameters = getattr(config, f"{prefix}scheduler_params") or {}
                self._schedulers[prefix] = scheduler(optimizer, **parameters)

    def losses(self, output: ModelOutput) -> dict[str, Tensor]:
        """Returns the detached losses of a batch, by their names in the log.

        See :class:`~pythae_fif.training.EpochRow`.
        """
        losses = {f"{prefix}loss": output[f"{prefix}loss"].detach() for prefix in self._optimizers}
        first_loss, *further_losses = losses.values()
        return {"loss": sum(further_losses, first_loss)} | losses

    def step(self, output: ModelOutput) -> None:
        """Updates the weights by the losses in a model's output for a batch."""
        active = [name for name in self._optimizers if output.get(f"update_{name[:-1]}", True)]
        losses = [output[f"{prefix}loss"] for prefix in active]

        if len(losses) > 1 and all(loss is losses[0] for loss in losses):
            self._differentiate_shared(losses[0], active)
        else:
            for prefix, loss in zip(active, losses, strict=True):
                self._optimizers[prefix].zero_grad()
                torch.autograd.backward(loss, retain_graph=prefix != active[-1])

        if self._options.gradient_clip_norm is not None:
            for prefix in active:
                clip_grad_norm_(self._weights(prefix), self._options.gradient_clip_norm)

        self.learning_rates = {
            f"{prefix}learning_rate": optimizer.param_groups[0]["lr"]
            for prefix, optimizer in self._optimizers.items()
        }
        for prefix in active:
            self._optimizers[prefix].step()
            if self._options.scheduler_interval == "step" and prefix in self._schedulers:
                _step_scheduler(self._schedulers[prefix])

    def _weights(self, prefix: str) -> list[Tensor]:
        """Returns the weights that an optimizer trains."""
        weights: list[Tensor] = self._optimizers[prefix].param_groups[0]["params"]
        return weights

    def _differentiate_shared(self, loss: Tensor, active: list[str]) -> None:
        """Computes the gradients of a loss that several optimizers share, in one backward pass.

        Separate passes would add the same gradients once for the optimizer's turn and once for each
        later turn, so the gradients of the second last optimizer are doubled, and so on.
        """
        for prefix in active:
            self._optimizers[prefix].zero_grad()
        torch.autograd.backward(loss)

        for passes, prefix in enumerate(reversed(active[:-1]), start=2):
            weights = self._weights(prefix)
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            torch._foreach_mul_(gradients, passes)

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Steps the schedulers that count epochs, given the losses that may show a plateau."""
        if self._options.scheduler_interval == "step":
            return

        for prefix, scheduler in self._schedulers.items():
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(losses[f"{prefix}loss"])
            else:
                _step_scheduler(scheduler)

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "optimizers": {
                prefix: optimizer.state_dict() for prefix, optimizer in self._optimizers.items()
            },
            "schedulers": {
                prefix: scheduler.state_dict() for prefix, scheduler in self._schedulers.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned; the state of other optimizers raises an error."""
        for prefix, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][prefix])
        for prefix, scheduler in self._schedulers.items():
            scheduler.load_state_dict(state["schedulers"][prefix])


def _step_scheduler(scheduler: lr_scheduler.LRScheduler) -> None:
    """Steps a scheduler. OneCycleLR would raise an error after its end; its last rate stays."""
    if scheduler.last_epoch + 1 < getattr(scheduler, "total_steps", math.inf):
        scheduler.step()


def _build_optimizer(model: BaseAE, config: BaseTrainerConfig, prefix: str) -> Optimizer:
    """Builds the optimizer of a prefix, of the networks that it trains."""
    networks = [getattr(model, name) for name in NETWORK_NAMES[prefix]] if prefix else [model]
    weights = [weight for network in networks for weight in network.parameters()]

    optimizer_name = getattr(config, f"{prefix}optimizer_cls")
    options = dict(getattr(config, f"{prefix}optimizer_params") or {})
    if optimizer_name in ("Adam", "AdamW") and "foreach" not in options:
        # The fused optimizer would write into the memory between the values of a slice.
        dense = all(w.stride() == torch.empty_like(w).stride() for w in weights)
        options.setdefault("fused", dense)

    optimizer: Optimizer = getattr(torch.optim, optimizer_name)(
        weights, lr=getattr(config, f"{prefix}learning_rate"), **options
    )
    return optimizer
