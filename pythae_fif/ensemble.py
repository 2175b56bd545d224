"""Many small FIFs of one architecture, trained together: `torch.vmap` over their weights."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF
from pythae_fif.volume_change import fif_loss, log_volume, sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.exact import decoder_jacobian

TRACE_FROM_STEPS = 200  # a graph halves a small step, and takes half a second to trace
CHUNK = 50  # members that are evaluated at once

Weights = dict[str, Tensor]
"""Those of a member by their names in its model; where they are stacked, of all, (M, ...)."""


class Ensemble:
    """M FIFs of one architecture, trained in one process.

    The networks have no buffers, as BatchNorm has. Members may differ in weights, `beta` and
    `noise`. They move to the GPU, if any; what they compute comes back. A member ends, up to
    rounding, where its model would have ended in a loop of its own with the same draws: a
    permutation in every epoch, noise and Hutchinson vectors in every step.

    Args:
        models: The members; their present weights are where training starts.
        seeds: One a member, for its draws.

    Attributes:
        models: The members. They have the trained weights when a training has ended.

    Raises:
        ConfigError: Models that cannot be stacked.

    Example:
        >>> from pythae_fif import FIFConfig, nn
        >>> config = FIFConfig(input_dim=(3,), latent_dim=2)
        >>> nets = [(nn.ResidualEncoder(3, 2), nn.ResidualDecoder(3, 2)) for _ in range(5)]
        >>> ensemble = Ensemble([FIF(config, *pair) for pair in nets], seeds=range(5))
        >>> ensemble.train(torch.randn(50, 3), epochs=1, batch_size=25)
        >>> ensemble.log_prob(torch.randn(7, 3)).shape
        torch.Size([5, 7])
    """

    def __init__(self, models: Sequence[FIF], seeds: Sequence[int]) -> None:
        plain = {"surrogate_fraction": 1.0, "condition_dim": 0, "beta_final": None}
        configs = [{**vars(model.model_config), "beta": None, "noise": None} for model in models]
        betas: list[Any] = [model.model_config.beta for model in models]
        if "auto" in betas or any(config != {**configs[0], **plain} for config in configs):
            told = ", ".join(f"{key}={value}" for key, value in plain.items())
            raise ConfigError(f"an ensemble needs models alike but for beta and noise, with {told}")
        self.models = [model.to(default_device()) for model in models]
        stacked, buffers = torch.func.stack_module_state(self.models)
        if len(stacked) < len([*models[0].named_parameters(remove_duplicate=False)]):
            raise ConfigError("an ensemble needs networks that share no weights")
        if buffers:
            raise ConfigError(f"an ensemble needs networks without buffers, not {[*buffers]}")
        self._weights = {name: weight.detach() for name, weight in stacked.items()}
        self._nets = copy.deepcopy(models[0]).train()
        self._like = next(iter(self._weights.values()))
        self._rngs = [torch.Generator(self._like.device).manual_seed(seed) for seed in seeds]
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
        optimizer = torch.optim.Adam(self._weights.values(), lr=learning_rate, fused=True)
        scheduler = OneCycleLR(optimizer, learning_rate, total_steps=steps) if one_cycle else None
        gradients = self._step(steps, size, data.shape[1])
        for weight in self._weights.values():  # of its strides: fused Adam reads others wrongly
            weight.grad = torch.empty_like(weight)
        for epoch in range(1, epochs + 1):
            count, device = len(data), data.device
            orders = [torch.randperm(count, generator=g, device=device) for g in self._rngs]
            for rows in torch.stack(orders)[:, :used].split(size, 1):
                x, eps = self._draw(data[rows])
                found = gradients(self._weights, x, eps, self._betas)
                for weight, gradient in zip(self._weights.values(), found, strict=True):
                    weight.grad.copy_(gradient)
                optimizer.step()
                if scheduler:
                    scheduler.step()
            on_epoch(epoch)
        for member, model in enumerate(self.models):
            for name, own in model.named_parameters():
                own.data.copy_(self._weights[name][member])

    def _draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy batch, and Hutchinson vectors (K, M, B, d), of each member's generator."""
        config, eps = self._nets.model_config, []
        shape = x.shape[1], config.latent_dim, config.hutchinson_samples
        options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        for of_member, model, generator in zip(x, self.models, self._rngs, strict=True):
            options["generator"] = generator
            if noise := model.model_config.noise:
                of_member += noise * torch.randn(of_member.shape, **options)
            eps.append(sample_hutchinson(*shape, kind=config.hutchinson_kind, **options))
        return x, torch.stack(eps, 1)

    def _loss(self, weights: Weights, x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
        """The loss of one member."""
        encode, decode = (partial(of, weights) for of in (self._encode, self._decode))
        prior, at = self._nets.latent_distribution(x), self._nets.model_config.jacobian_at
        how: dict[str, Any] = {"surrogate": partial(volume_surrogate, jacobian_at=at)}
        return fif_loss(encode, decode, prior.log_prob, x, eps, beta, **how).loss.mean()

    def _gradients(
        self, weights: Weights, x: Tensor, eps: Tensor, betas: Tensor
    ) -> tuple[Tensor, ...]:
        """Every member's gradients: those of the summed loss, as no weight is shared."""
        with torch.enable_grad():
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            losses = torch.vmap(self._loss, (0, 0, 1, 0))(leaves, x, eps, betas)
            return torch.autograd.grad(losses.sum(), [*leaves.values()], materialize_grads=True)

    def _encode(self, weights: Weights, x: Tensor) -> Tensor:
        return self._network("encoder", weights, x)["embedding"]

    def _decode(self, weights: Weights, z: Tensor) -> Tensor:
        return self._network("decoder", weights, z)["reconstruction"]

    def _network(self, side: str, weights: Weights, x: Tensor) -> Any:
        """The output of one member's encoder or decoder."""
        own = {n.partition(".")[2]: of for n, of in weights.items() if n.startswith(f"{side}.")}
        return torch.func.functional_call(getattr(self._nets, side), own, (x,))

    def _step(self, steps: int, size: int, dim: int) -> Callable[..., tuple[Tensor, ...]]:
        """The gradients, traced to one graph where that pays."""
        if steps < TRACE_FROM_STEPS:
            return self._gradients
        config, members = self._nets.model_config, len(self.models)
        x = self._like.new_zeros(members, size, dim)
        eps = x.new_zeros(config.hutchinson_samples, members, size, config.latent_dim)
        return make_fx(partial(self._gradients))(self._weights, x, eps, self._betas)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes of every member, (M, N, d), of data (N, D) or (M, N, D)."""
        return self._of_each(self._encode, x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Decoded codes of every member, (M, N, D), of codes (N, d) or (M, N, d)."""
        return self._of_each(self._decode, z)

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """`|g(f(x)) - x|^2`, (M, N), of data (N, D) or (M, N, D)."""
        return (self.decode(self.encode(x)) - x).square().sum(-1)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-likelihood on each member's manifold (eq. 2), (M, N); NaN where it diverged."""
        z = self.encode(x)
        jacobian = self._of_each(lambda w, z: decoder_jacobian(partial(self._decode, w), z), z)
        finite = jacobian.isfinite().flatten(2).all(2)
        volume = z.new_full(finite.shape, torch.nan)
        volume[finite] = log_volume(jacobian[finite])
        return self.models[0].latent_distribution(z).log_prob(z) - volume

    def _of_each(self, function: Callable[..., Tensor], x: Tensor) -> Tensor:
        """A function of each member's weights and of what all share, (N, ...), or each its own."""
        each = x.to(self._like).expand(len(self.models), *x.shape[-2:])
        return torch.vmap(function, chunk_size=CHUNK)(self._weights, each).to(x.device)
