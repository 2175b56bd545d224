"""What the training of an ensemble goes on from."""

__all__ = ["Progress", "TrainingState"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pythae_fif.ensemble.group import Group
from pythae_fif.ensemble.stacking import Nets
from pythae_fif.errors import ConfigError


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: The last that is done.
        iterations: Steps of conjugate gradients until then.
        systems: That these have solved.
    """

    epoch: int = 0
    iterations: float = 0.0
    systems: int = 0


@dataclass(frozen=True)
class TrainingState:
    """Of all members in their order, however they are grouped, after an epoch.

    Attributes:
        progress: Until then.
        weights: Stacks (M, ...), one a parameter of the stacked networks.
        optimizer: State of Adam, with moments of all members.
        schedule: State of the learning rate schedule; None without one.
        generators: State of each member's random numbers.
    """

    progress: Progress
    weights: list[Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any] | None
    generators: list[Tensor]

    @classmethod
    def of(cls, groups: Sequence[Group], progress: Progress) -> "TrainingState":
        """The present state, which goes on to change only in the groups.

        Raises:
            ConfigError: There are no groups.
        """
        if not groups:
            raise ConfigError("an ensemble has a training state while it trains: ask in on_epoch")
        optimizers = [group.optimizer.state_dict() for group in groups]
        of_each = [optimizer["state"] for optimizer in optimizers]

        def joined(index: int, key: str) -> Tensor:
            parts = [state[index][key] for state in of_each]
            return torch.cat(parts) if parts[0].dim() else parts[0].clone()  # the steps are of all

        moments = {i: {key: joined(i, key) for key in values} for i, values in of_each[0].items()}
        schedule = groups[0].schedule
        return cls(
            replace(progress),
            [torch.cat(parts) for parts in zip(*(group.weights for group in groups), strict=True)],
            {**optimizers[0], "state": moments},
            schedule.state_dict() if schedule else None,
            [generator.get_state() for group in groups for generator in group.generators],
        )

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values alone, so that `torch.load(weights_only=True)` reads them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "progress": asdict(self.progress)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingState":
        """The inverse of :meth:`to_dict`."""
        return cls(**{**values, "progress": Progress(**values["progress"])})

    def restore(self, groups: Sequence[Group], nets: Nets) -> Progress:
        """Puts the state back into the groups of an ensemble, which may be others than before.

        Raises:
            ConfigError: It is of other members; nothing is changed.
        """
        ours, theirs = ([w.shape for w in of] for of in (self.weights, nets.parameters()))
        if ours != theirs:
            raise ConfigError("this training state is of an ensemble of other members or networks")
        for group in groups:
            self._restore(group)
        return replace(self.progress)

    @torch.no_grad()
    def _restore(self, group: Group) -> None:
        for weight, values in zip(group.weights, self.weights, strict=True):
            weight.copy_(values[group.members])

        def own(parameter: Tensor, value: Tensor) -> Tensor:
            """Of the group, with the parameter's strides: fused Adam reads others wrongly."""
            if not value.dim():  # the number of steps, which Adam counts up in place
                return value.clone()
            return torch.empty_like(parameter).copy_(value[group.members])

        moments = {
            i: {key: own(group.parameters[i], value) for key, value in values.items()}
            for i, values in self.optimizer["state"].items()
        }
        group.optimizer.load_state_dict({**self.optimizer, "state": moments})
        if group.schedule and self.schedule:
            group.schedule.load_state_dict(self.schedule)
        drawn = self.generators[group.members]
        for generator, of_member in zip(group.generators, drawn, strict=True):
            generator.set_state(of_member)
