"""Many small FIFs of one architecture, trained together by batched matrix products."""

__all__ = ["Ensemble", "StackedLinear", "one_cycle"]

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, one_line
from pythae_fif.models import FIF
from pythae_fif.nn.base import replace_layer
from pythae_fif.volume_change import (
    fif_loss,
    log_volume,
    sample_hutchinson,
    squared_error,
    volume_surrogate,
)

COMPILE_FROM_STEPS = 20_000  # of one model each: torch.compile takes half a minute
CHUNK = 1024  # rows of every member whose Jacobians are computed at once
NEEDED = {"surrogate_fraction": 1.0, "condition_dim": 0, "beta_final": None}


class StackedLinear(nn.Module):
    """M linear layers at once, of an input that all share, (N, in), or one for each, (M, N, in).

    Args:
        layers: M linear layers of one shape, with biases.

    Example:
        >>> StackedLinear([nn.Linear(3, 4) for _ in range(5)])(torch.ones(7, 3)).shape
        torch.Size([5, 7, 4])
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """(M, N, out)."""
        return x @ self.weight.mT + self.bias


class _Stack(nn.Module):
    """The encoders and decoders of all members as one each, on plain tensors."""

    def __init__(self, models: Sequence[FIF]) -> None:
        super().__init__()
        self.encoder, self.decoder = _stacked(models)
        self._prior = models[0].latent_distribution
        at = models[0].model_config.jacobian_at
        self._surrogate = functools.partial(volume_surrogate, jacobian_at=at)

    def encode(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.encoder(x)["embedding"])

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(z)["reconstruction"])

    def forward(self, x: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
        """The loss of every member, (M,)."""
        how: dict[str, Any] = {"surrogate": self._surrogate, "reduce": lambda of: of.mean(1)}
        prior = self._prior(x).log_prob
        return fif_loss(self.encode, self.decode, prior, x, eps, betas, **how).loss


class Ensemble:
    """M FIFs of one architecture, trained in one process.

    The networks are made of `torch.nn.Linear` and of operations on each sample by itself. Weights
    are stacked, so that a layer of all members is one batched matrix product. Members may differ in
    weights, `beta` and `noise`. They move to the GPU, if any; what they compute comes back.

    A member ends, up to rounding, where its model would have ended in a loop of its own with the
    same draws: a permutation in every epoch, noise and Hutchinson vectors in every step.

    Args:
        models: The members; their present weights are where training starts.
        seeds: One a member, for its draws.

    Attributes:
        backend: How the last training ran: ``compiled`` where members times steps are at least
            20,000, ``eager``, or ``eager: <why compiling failed>``.

    Raises:
        ConfigError: Models that cannot be stacked.

    Example:
        >>> from pythae_fif import FIFConfig, nn
        >>> config = FIFConfig(input_dim=(3,), latent_dim=2)
        >>> nets = [(nn.ResidualEncoder(3, 2), nn.ResidualDecoder(3, 2)) for _ in range(5)]
        >>> ensemble = Ensemble([FIF(config, *pair) for pair in nets], seeds=range(5))
        >>> ensemble.train(torch.randn(50, 3), epochs=1, batch_size=25)
        >>> ensemble.log_prob(torch.randn(7, 3)).shape, ensemble.backend
        (torch.Size([5, 7]), 'eager')
    """

    def __init__(self, models: Sequence[FIF], seeds: Sequence[int]) -> None:
        self._config = _common_config(models)
        self.models = [model.to(default_device()) for model in models]
        self.backend = "eager"
        self._nets = _Stack(self.models)
        self._weights = list(self._nets.parameters())
        self._like = like = self._weights[0].detach()
        self._members = [
            (torch.Generator(like.device).manual_seed(seed), model.model_config.noise)
            for model, seed in zip(models, seeds, strict=True)
        ]
        betas = [model.model_config.beta for model in models]
        self._betas = torch.tensor(betas, dtype=torch.float64).to(like)

    def train(
        self,
        data: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float = 1e-3,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        on_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """Trains all members with Adam; an epoch's last rows that fill no batch are left out.

        Args:
            data: (N, D).
            epochs, batch_size, learning_rate: Of each member.
            schedule: Makes a learning rate schedule of optimizer and steps, as :func:`one_cycle`.
            on_epoch: Called after every epoch with its number, from 1.
        """
        data, size = data.to(self._like), min(batch_size, len(data))
        used = len(data) // size * size
        optimizer = torch.optim.Adam(self._weights, lr=learning_rate, fused=True)
        scheduler = schedule(optimizer, epochs * used // size) if schedule else None
        gradients = self._step(epochs * used // size, size)
        weights = [weight.detach() for weight in self._weights]
        for weight in self._weights:  # of its strides: fused Adam reads others wrongly
            weight.grad = torch.empty_like(weight)
        where: dict[str, Any] = {"device": data.device}
        for epoch in range(1, epochs + 1):
            orders = [torch.randperm(len(data), generator=g, **where) for g, _ in self._members]
            for rows in torch.stack(orders)[:, :used].split(size, 1):
                x, eps = self._draw(data[rows])
                found = gradients(weights, x, eps, self._betas)
                for weight, gradient in zip(self._weights, found, strict=True):
                    cast(Tensor, weight.grad).copy_(gradient)
                optimizer.step()
                if scheduler:
                    scheduler.step()
            on_epoch(epoch)

    def _draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy batch, and Hutchinson vectors (K, M, B, d), of each member's generator."""
        config, eps = self._config, []
        options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        for of_member, (generator, noise) in zip(x, self._members, strict=True):
            options["generator"] = generator
            if noise:
                of_member += noise * torch.randn(of_member.shape, **options)
            shape = x.shape[1], config.latent_dim, config.hutchinson_samples
            eps.append(sample_hutchinson(*shape, kind=config.hutchinson_kind, **options))
        return x, torch.stack(eps, 1)

    def _gradients(
        self, weights: list[Tensor], x: Tensor, eps: Tensor, betas: Tensor
    ) -> list[Tensor]:
        """Gradients of every member's loss: their sum's, since no member sees another's weights."""
        with torch.enable_grad():
            leaves = [weight.detach().requires_grad_() for weight in weights]
            named = dict(zip(dict(self._nets.named_parameters()), leaves, strict=True))
            losses = torch.func.functional_call(self._nets, named, (x, eps, betas))
            return list(torch.autograd.grad(losses.sum(), leaves, materialize_grads=True))

    def _step(self, steps: int, size: int) -> Callable[..., list[Tensor]]:
        """The gradients, traced to one graph and compiled where that pays and succeeds."""
        self.backend = "eager"
        config, members = self._config, len(self.models)
        if steps * members < COMPILE_FROM_STEPS:
            return self._gradients
        x = self._like.new_zeros(members, size, *config.input_dim)
        eps = x.new_zeros(config.hutchinson_samples, members, size, config.latent_dim)
        example = [weight.detach() for weight in self._weights], x, eps, self._betas
        try:
            graph = make_fx(functools.partial(self._gradients))(*example)
            step: Any = torch.compile(graph)
            step(*example)
        except Exception as error:  # whatever a compiler may stumble on, such as having no C++
            self.backend = f"eager: torch.compile failed: {one_line(error)}"
            return self._gradients
        self.backend = "compiled"
        return cast(Callable[..., list[Tensor]], step)

    def members(self) -> list[FIF]:
        """The models, with the trained weights, in evaluation mode."""
        for member, model in enumerate(self.models):
            own = _networks(model).eval().parameters()
            for values, parameter in zip(self._weights, own, strict=True):
                parameter.data.copy_(values[member].view_as(parameter))
        return self.models

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes of every member, (M, N, d), of data (N, D) or (M, N, D)."""
        return self._nets.encode(self._of_each(x)).to(x.device)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Decoded codes of every member, (M, N, D), of codes (N, d) or (M, N, d)."""
        return self._nets.decode(self._of_each(z)).to(z.device)

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """`|g(f(x)) - x|^2`, (M, N), of data (N, D) or (M, N, D)."""
        return squared_error(self.decode(self.encode(x)), x.to(self._like.dtype), 2)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-likelihood on each member's manifold (eq. 2), (M, N); NaN where it diverged."""
        z = self._nets.encode(self._of_each(x))
        prior = self.models[0].latent_distribution(z).log_prob(z)
        volume = torch.cat([self._log_volume(chunk) for chunk in z.split(CHUNK, 1)], 1)
        return cast(Tensor, (prior - volume).to(x.device))

    def _log_volume(self, z: Tensor) -> Tensor:
        """1/2 log det g'(z)^T g'(z), (M, n), at codes (M, n, d)."""

        def column(direction: Tensor) -> Tensor:
            pushed = torch.func.jvp(self._nets.decode, (z,), (direction.expand_as(z),))
            return cast(Tensor, pushed[1])

        jacobian = torch.func.vmap(column, out_dims=-1)(torch.eye(z.shape[2]).to(z)).flatten(0, 1)
        finite = torch.isfinite(jacobian).flatten(1).all(1)
        volume = torch.full_like(jacobian[:, 0, 0], torch.nan)
        volume[finite] = log_volume(jacobian[finite])
        return volume.view(z.shape[:2])

    def _of_each(self, x: Tensor) -> Tensor:
        """(M, N, ...), of what all members share or of their own."""
        return x.to(self._like).expand(len(self.models), *x.shape[-2:])


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """A schedule for an ensemble: up to the optimizer's rate and down (appendix E.2)."""
    return OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=steps)


def _networks(model: FIF) -> nn.ModuleList:
    return nn.ModuleList([model.encoder, model.decoder])


def _stacked(models: Sequence[FIF]) -> nn.ModuleList:
    """A copy of the first encoder and decoder, every linear layer the stack of all."""
    networks = [_networks(model) for model in models]
    stacked = copy.deepcopy(networks[0])
    # Of exactly this class: a subclass may do something else with its weights.
    linear = [name for name, module in stacked.named_modules() if type(module) is nn.Linear]
    if {name.rpartition(".")[0] for name, _ in stacked.named_parameters()} != {*linear}:
        raise ConfigError("only linear layers can be stacked: others have weights here")
    for name in linear:
        layers: list[Any] = [network.get_submodule(name) for network in networks]
        replace_layer(stacked, name, StackedLinear(layers))
    return stacked.train()


def _common_config(models: Sequence[FIF]) -> Any:
    """The configuration of all members."""
    first = models[0].model_config
    for model in models:
        for key, value in {**vars(first), **NEEDED}.items():
            given = getattr(model.model_config, key)
            if key not in ("beta", "noise") and given != value:
                raise ConfigError(
                    f"an ensemble needs {key}={value!r} of all its models, not {given!r}; they may "
                    "differ in beta and noise"
                )
    return first
