"""What ensembles share: networks whose linear layers are stacks, and one configuration of all."""

__all__ = [
    "THIN_PRODUCTS",
    "Nets",
    "StackedAdam",
    "StackedLinear",
    "common_config",
    "one_cycle",
    "stack_linear",
]

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from zuko.nn import Linear

from pythae_fif.errors import ConfigError
from pythae_fif.models.hutchinson import HutchinsonModel

THIN = 3  # columns
_LINEAR = (nn.Linear, Linear)  # zuko has a linear layer of its own
MAY_DIFFER = ("beta", "beta_final", "beta_epochs", "noise")
VALID: dict[str, tuple[Any, ...]] = {
    "mode": ("replay", "backward"),
    "surrogate_fraction": (1.0,),
    "surrogate_precision": ("float32",),
    "condition_dim": (0,),
    "whiten": (False,),
}
"""What members may have, of the options that their kind has."""


class StackedLinear(nn.Module):
    """M linear layers at once, of an input that all share, (N, in), or one for each, (M, N, in).

    Args:
        layers: M linear layers of one shape.

    Example:
        >>> StackedLinear([nn.Linear(3, 4) for _ in range(5)])(torch.ones(7, 3)).shape
        torch.Size([5, 7, 4])
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = torch.stack([layer.weight.detach() for layer in layers])
        if layers[0].in_features <= layers[0].out_features:
            # The longer side lies together in memory: compiled loops over it then load vectors.
            weight = weight.mT.contiguous().mT
        self.weight = nn.Parameter(weight)
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """(M, N, out); products and sums that `volume_change.replay` knows."""
        y = x @ self.weight.mT
        return y if self.bias is None else y + self.bias


class Nets(nn.Module):
    """The stacked encoder and decoder, on plain tensors."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x).embedding
        return z

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(z)["reconstruction"]
        return x

    def forward(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """What a function makes of the networks, e.g. with the weights of `functional_call`."""
        return function(self, *tensors)


def _thin_product(a: Tensor, b: Tensor) -> Any:
    """A batched matrix product of few columns, as sums that a compiler joins with its neighbours.

    A call of a matrix product would write what the next activation reads again, and is slow at
    matrices of two columns.
    """
    if 1 <= a.shape[-1] <= THIN:
        terms = [a[:, :, k : k + 1] * b[:, k : k + 1, :] for k in range(a.shape[-1])]
        return functools.reduce(torch.add, terms)
    if b.shape[-1] <= THIN:
        columns = b.mT.split(1, 1)
        return torch.cat([(a * column).sum(-1, keepdim=True) for column in columns], -1)
    return NotImplemented


THIN_PRODUCTS = {torch.ops.aten.bmm.default: _thin_product}
"""For `make_fx`."""


class StackedAdam(torch.optim.Adam):
    """Fused Adam on stacks of parameters (M, ...), with a learning rate for each of M members.

    Adam's step is proportional to the learning rate and its state does not depend on it: the step
    at the highest rate, of which a member takes its part, is the step at the member's own rate. A
    schedule acts on the highest rate, and so on all alike.

    Args:
        parameters: The stacks.
        rates: M learning rates.
        weight_decay: L2 in the gradient.
        highest: The rate that a schedule acts on: the highest of these and of any other members.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rates: Sequence[float],
        weight_decay: float,
        highest: float,
    ) -> None:
        super().__init__(parameters, lr=highest, weight_decay=weight_decay, fused=True)
        self._relative: Tensor | None = None
        if set(rates) != {highest}:
            device = self.param_groups[0]["params"][0].device
            self._relative = torch.tensor(rates, dtype=torch.float64, device=device) / highest

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; see :class:`torch.optim.Adam`."""
        if self._relative is None:
            return super().step(closure)
        stacks = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in stacks]
        loss = super().step(closure)
        for stack, old in zip(stacks, before, strict=True):
            relative = self._relative.to(stack).view(-1, *[1] * (stack.dim() - 1))
            stack.copy_(torch.lerp(old, stack, relative))
        return loss


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """A schedule for an ensemble: up to the optimizer's rate and down (appendix E.2)."""
    return OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=steps)


def stack_linear(networks: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first network with every linear layer replaced by the stack of all.

    A block that occurs twice in a network stays one block.

    Raises:
        ConfigError: Different layers, or other parameters than those of linear layers.
    """
    if len({tuple((n, p.shape) for n, p in net.named_parameters()) for net in networks}) > 1:
        raise ConfigError("the networks of an ensemble must all have the same layers")
    stacked = copy.deepcopy(networks[0])
    # Of exactly these classes: a subclass may do something else with its weights.
    linear = [name for name, module in stacked.named_modules() if type(module) in _LINEAR]
    inside = {f"{name}.{kind}" for name in linear for kind in ("weight", "bias")}
    others = [name for name, _ in stacked.named_parameters() if name not in inside]
    if others or not linear:
        raise ConfigError(
            f"only linear layers can be stacked: parameters {', '.join(others) or 'are missing'}"
        )
    for name in linear:
        layers: list[Any] = [network.get_submodule(name) for network in networks]
        parent, _, child = name.rpartition(".")
        setattr(stacked.get_submodule(parent), child, StackedLinear(layers))
    return stacked.train()


def common_config(models: Sequence[HutchinsonModel]) -> Any:
    """The configuration of all members.

    Raises:
        ConfigError: Options that differ and may not, or a value that is not valid here.
    """
    first = models[0].model_config
    if len(set(map(id, models))) < len(models):
        raise ConfigError("one model stands for two members: an ensemble needs one for each")
    for model in models[1:]:
        for field in dataclasses.fields(first):
            ours, theirs = (getattr(m.model_config, field.name, None) for m in (models[0], model))
            if ours != theirs and field.name not in MAY_DIFFER:
                raise ConfigError(
                    f"the models of an ensemble must agree in {field.name}, not {ours!r} and "
                    f"{theirs!r}; they may differ in {', '.join(MAY_DIFFER)}"
                )
    for key, values in VALID.items():
        found = getattr(first, key, values[0])
        if found not in values:
            valid = " or ".join(map(repr, values))
            raise ConfigError(f"an ensemble is trained with {key}={valid}, not {found!r}")
    return first
