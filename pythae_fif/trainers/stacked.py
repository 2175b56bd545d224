"""Injective flows of any estimator and of nets that share blocks, several trained together."""

__all__ = ["StackedFlows"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, RectangularFlow
from pythae_fif.trainers.stacking import StackedAdam, common_config, stack_linear
from pythae_fif.volume_change import sample_hutchinson, surrogate
from pythae_fif.volume_change.conjugate_gradient import rectangular_surrogate

FIXED = {
    "beta_final": None,
    "gradient_to": "encoder",
    "trace_space": "latent",
    "surrogate_fraction": 1.0,
    "surrogate_precision": "float32",
}


class StackedFlows:
    """M models of one kind and architecture, FIF or RectangularFlow, trained in one process.

    Each linear layer of all members is one batched matrix product, whichever blocks encoder and
    decoder share; members never mix, and end up to rounding where each would have ended alone
    with the same seed. :class:`~pythae_fif.trainers.ensemble.Ensemble` is the faster one for FIF
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

    def __init__(self, models: Sequence[FIF], seeds: Sequence[int]) -> None:
        if not models or len(models) != len(seeds):
            raise ConfigError(
                f"{len(models)} models with {len(seeds)} seeds: as many as models are needed"
            )
        self.cg_iterations: float | None = None
        self.models = list(models)
        self._config = common_config(models, fixed=FIXED)
        self._nets: Any = stack_linear([nn.ModuleList([m.encoder, m.decoder]) for m in models])
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def train(
        self,
        data: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float | Sequence[float] = 1e-3,
        weight_decay: float = 0.0,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        on_epoch: Callable[[int], None] | None = None,
    ) -> None:
        """Trains all members with Adam on the CPU; see ``Ensemble.train``.

        Args:
            data: (N, D).
            epochs, batch_size, learning_rate, weight_decay, schedule, on_epoch: As there.
        """
        batch_size = min(batch_size, len(data))
        batches = len(data) // batch_size
        optimizer = StackedAdam(self._nets.parameters(), learning_rate, weight_decay)
        scheduler = schedule(optimizer, epochs * batches) if schedule else None
        steps: list[float] = []
        for epoch in range(1, epochs + 1):
            orders = torch.stack([torch.randperm(len(data), generator=g) for g in self._generators])
            for rows in orders.split(batch_size, 1)[:batches]:
                optimizer.zero_grad()
                loss, iterations = self._loss(data[rows])
                loss.backward()
                optimizer.step()
                if scheduler:
                    scheduler.step()
                if iterations is not None:
                    steps.append(iterations.double().mean().item())
            if on_epoch:
                on_epoch(epoch)
        self.cg_iterations = sum(steps) / len(steps) if steps else None

    def members(self) -> list[FIF]:
        """The models, with the trained weights, in evaluation mode."""
        stacked = dict(self._nets.named_parameters())
        for member, model in enumerate(self.models):
            nets = nn.ModuleList([model.encoder, model.decoder])
            for name, parameter in nets.named_parameters():
                parameter.data.copy_(stacked[name][member].view_as(parameter))
            model.eval()
        return self.models

    def _loss(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The sum of the members' mean losses on x (M, B, D), and iterations where there are any.

        To the estimators, the rows of all members are one batch.
        """
        model, config = self.models[0], self._config
        size = (len(x), x.shape[1])
        noise, vectors = [], []
        for generator in self._generators:
            noise.append(torch.randn(x.shape[1:], generator=generator, dtype=x.dtype))
            vectors.append(
                sample_hutchinson(
                    size[1],
                    config.latent_dim,
                    config.hutchinson_samples,
                    kind=config.hutchinson_kind,
                    generator=generator,
                    dtype=x.dtype,
                )
            )
        x = (x + config.noise * torch.stack(noise)).flatten(0, 1)
        eps = torch.stack(vectors, 1).flatten(1, 2)
        encoder, decoder = self._nets[0], self._nets[1]

        def encode(x: Tensor) -> Tensor:
            return encoder(x.unflatten(0, (-1, *size))).embedding.flatten(0, -2)

        def decode(z: Tensor) -> Tensor:
            return decoder(z.unflatten(0, (-1, *size))).reconstruction.flatten(0, -2)

        iterations = None
        if isinstance(model, RectangularFlow):
            volume, z, x_hat, iterations = rectangular_surrogate(
                encode,
                decode,
                x,
                eps,
                estimator=config.estimator,
                jacobian_at=config.jacobian_at,
                tolerance=config.cg_tolerance,
                max_iterations=config.cg_max_iterations,
            )
        else:
            volume, z, x_hat = surrogate(
                encode, decode, x, eps, jacobian_at=config.jacobian_at, mode="backward"
            )
        prior = model.latent_distribution(z).log_prob(z)
        losses = volume - prior + config.beta * (x_hat - x).square().sum(-1)
        return losses.sum() / size[1], iterations
