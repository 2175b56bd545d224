"""Many small FIFs of one architecture, trained together by batched matrix products."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.lr_scheduler import OneCycleLR

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

TRACE_FROM_STEPS = 200  # a graph halves a small step, and takes half a second to trace
COMPILE_FROM_STEPS = 20_000  # of one model each: torch.compile takes half a minute
CHUNK = 1024  # rows of every member whose Jacobians are computed at once


class StackedLinear(nn.Module):
    """M linear layers at once, of an input that all share, (N, in), or one for each, (M, N, in).

    Args:
        layers: M linear layers of one shape, with biases.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """(M, N, out)."""
        return x @ self.weight.mT + self.bias


class _Stack(nn.Module):
    """A copy of the first model, every linear layer the stack of those of all."""

    def __init__(self, models: Sequence[FIF]) -> None:
        super().__init__()
        self.model = copy.deepcopy(models[0]).train()
        # Of exactly this class: a subclass may do something else with its weights.
        linear = [name for name, of in self.model.named_modules() if type(of) is nn.Linear]
        if {name.rpartition(".")[0] for name, _ in self.model.named_parameters()} != {*linear}:
            raise ConfigError("only linear layers can be stacked: others have weights here")
        for name in linear:
            layers: list[Any] = [model.get_submodule(name) for model in models]
            replace_layer(self.model, name, StackedLinear(layers))

    def encode(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model.encoder(x)["embedding"])

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.model.decoder(z)["reconstruction"])

    def forward(self, x: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
        """The loss of every member, (M,)."""
        prior, at = self.model.latent_distribution(x), self.model.model_config.jacobian_at
        how: dict[str, Any] = {"reduce": lambda of: of.mean(1)}
        how["surrogate"] = functools.partial(volume_surrogate, jacobian_at=at)
        return fif_loss(self.encode, self.decode, prior.log_prob, x, eps, betas, **how).loss


class Ensemble:
    """M FIFs of one architecture, trained in one process.

    The networks are made of `torch.nn.Linear` and of operations on each sample by itself. Members
    may differ in weights, `beta` and `noise`. They move to the GPU, if any; what they compute comes
    back. A member ends, up to rounding, where its model would have ended in a loop of its own with
    the same draws: a permutation in every epoch, noise and Hutchinson vectors in every step.

    Args:
        models: The members; their present weights are where training starts.
        seeds: One a member, for its draws.

    Attributes:
        models: The members. They have the trained weights when a training has ended.
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
        plain = {"surrogate_fraction": 1.0, "condition_dim": 0, "beta_final": None}
        configs = [{**vars(model.model_config), "beta": None, "noise": None} for model in models]
        if any(config != {**configs[0], **plain} for config in configs):
            told = ", ".join(f"{key}={value}" for key, value in plain.items())
            raise ConfigError(f"an ensemble needs models alike but for beta and noise, with {told}")
        self._config = models[0].model_config
        self.models = [model.to(default_device()) for model in models]
        self.backend = "eager"
        self._nets = _Stack(self.models)
        self._weights = list(self._nets.parameters())
        self._like = self._weights[0].detach()
        self._rngs = [torch.Generator(self._like.device).manual_seed(seed) for seed in seeds]
        betas = [model.model_config.beta for model in models]
        self._betas = torch.tensor(betas, dtype=torch.float64).to(self._like)

    def train(
        self,
        data: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float = 1e-3,
        one_cycle: bool = False,
        on_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """Trains all members with Adam; an epoch's last rows that fill no batch are left out.

        Args:
            data: (N, D).
            epochs, batch_size, learning_rate: Of each member.
            one_cycle: Whether the rate goes up to that one and down (appendix E.2), or is constant.
            on_epoch: Called after every epoch with its number, from 1.
        """
        data, size = data.to(self._like), min(batch_size, len(data))
        used = len(data) // size * size
        steps = epochs * used // size
        optimizer = torch.optim.Adam(self._weights, lr=learning_rate, fused=True)
        scheduler = OneCycleLR(optimizer, learning_rate, total_steps=steps) if one_cycle else None
        gradients = self._step(steps, size)
        weights = [weight.detach() for weight in self._weights]
        for weight in self._weights:  # of its strides: fused Adam reads others wrongly
            weight.grad = torch.empty_like(weight)
        for epoch in range(1, epochs + 1):
            count, device = len(data), data.device
            orders = [torch.randperm(count, generator=g, device=device) for g in self._rngs]
            for rows in torch.stack(orders)[:, :used].split(size, 1):
                x, eps = self._draw(data[rows])
                found = gradients(weights, x, eps, self._betas)
                for weight, gradient in zip(self._weights, found, strict=True):
                    cast(Tensor, weight.grad).copy_(gradient)
                optimizer.step()
                if scheduler:
                    scheduler.step()
            on_epoch(epoch)
        for member, model in enumerate(self.models):
            for stacked, own in zip(weights, model.parameters(), strict=True):
                own.data.copy_(stacked[member].view_as(own))

    def _draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy batch, and Hutchinson vectors (K, M, B, d), of each member's generator."""
        config, eps = self._config, []
        shape = x.shape[1], config.latent_dim, config.hutchinson_samples
        options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        for of_member, model, generator in zip(x, self.models, self._rngs, strict=True):
            options["generator"] = generator
            if noise := model.model_config.noise:
                of_member += noise * torch.randn(of_member.shape, **options)
            eps.append(sample_hutchinson(*shape, kind=config.hutchinson_kind, **options))
        return x, torch.stack(eps, 1)

    def _gradients(self, weights: list[Tensor], *given: Tensor) -> list[Tensor]:
        """Gradients of every member's loss: their sum's, since no member sees another's weights."""
        with torch.enable_grad():
            leaves = [weight.detach().requires_grad_() for weight in weights]
            named = dict(zip(dict(self._nets.named_parameters()), leaves, strict=True))
            losses = torch.func.functional_call(self._nets, named, given)
            return list(torch.autograd.grad(losses.sum(), leaves, materialize_grads=True))

    def _step(self, steps: int, size: int) -> Callable[..., list[Tensor]]:
        """The gradients, traced to one graph and compiled where that pays and succeeds."""
        self.backend = "eager"
        config, members = self._config, len(self.models)
        if steps < TRACE_FROM_STEPS and steps * members < COMPILE_FROM_STEPS:
            return self._gradients
        x = self._like.new_zeros(members, size, *config.input_dim)
        eps = x.new_zeros(config.hutchinson_samples, members, size, config.latent_dim)
        example = [weight.detach() for weight in self._weights], x, eps, self._betas
        traced: Any = make_fx(functools.partial(self._gradients))(*example)
        if steps * members < COMPILE_FROM_STEPS:
            return cast(Callable[..., list[Tensor]], traced)
        try:
            step: Any = torch.compile(traced)
            step(*example)
        except Exception as error:  # whatever a compiler may stumble on, such as having no C++
            self.backend = f"eager: torch.compile failed: {one_line(error)}"
            return cast(Callable[..., list[Tensor]], traced)
        self.backend = "compiled"
        return cast(Callable[..., list[Tensor]], step)

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
