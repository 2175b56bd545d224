"""Many small models of one architecture, trained together by batched matrix products."""

__all__ = ["Ensemble"]

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pythae_fif.device import default_device, fork_rng
from pythae_fif.ensemble.group import Group, Step, split_members, train_epoch, workers
from pythae_fif.ensemble.stacking import (
    THIN_PRODUCTS,
    Nets,
    StackedAdam,
    common_config,
    stack_linear,
)
from pythae_fif.ensemble.state import Progress, TrainingState
from pythae_fif.errors import ConfigError, DataError, first_line
from pythae_fif.models import FIF, RectangularFlow
from pythae_fif.volume_change import fif_loss, log_volume, squared_error
from pythae_fif.volume_change.loss import Map, Surrogate
from pythae_fif.volume_change.precision import full_float32
from pythae_fif.volume_change.replay import record

COMPILE_FROM_STEPS = 20_000  # of one model each: torch.compile takes half a minute
CHUNK_NUMEL = 2**24  # numbers in the largest tensor of an evaluation
TURNS = 8  # of each group in an epoch


class Ensemble:
    """M models of one kind and architecture, FIF or RectangularFlow, trained in one process.

    The networks are made of `torch.nn.Linear` and of operations that treat every sample by itself
    (activations, sums, skip connections); encoder and decoder may share blocks. Weights are
    stacked, so that a layer of all members is one batched matrix product. Members may differ in
    their weights and in `beta`, `beta_final`, `beta_epochs` and `noise`.

    They move to the GPU where there is one; what they compute comes back to where the data are. On
    a CPU they are trained in groups that fit the cache, compiled ones by one thread a core.

    A member does not know of the others: it ends, up to rounding, where its model would have ended
    in a loop of its own with the same draws. Those come from one generator a member, seeded with
    its seed: in every epoch a permutation of the data, in every step the noise (where there is any)
    and then the Hutchinson vectors, which is the order in which the model draws them.

    Args:
        models: The members; their present weights are where training starts.
        seeds: One a member, for data order, noise and Hutchinson vectors.
        compile: Whether a replayed step goes through `torch.compile`; by default if members times
            steps are at least 20,000. Where compiling fails (no C++ compiler), it runs
            eagerly.

    Attributes:
        cg_iterations: Mean number of conjugate gradient steps in the last training, if it had any.
        backend: How the last training ran: ``compiled``, ``eager``, or ``eager: <why>``.

    Raises:
        ConfigError: No models, another number of seeds, or models that cannot be stacked.
    """

    group_numel = 2**19
    """Numbers in the largest tensor of a training step, which then stays in the cache."""

    def __init__(
        self,
        models: Sequence[FIF | RectangularFlow],
        seeds: Sequence[int],
        *,
        compile: bool | None = None,
    ) -> None:
        if not models or len(models) != len(seeds):
            raise ConfigError(
                f"an ensemble of {len(models)} models with {len(seeds)} seeds: as many seeds as "
                f"models are needed, at least 1"
            )
        self.models = [model.to(default_device()) for model in models]
        self.backend, self._compile = "eager", compile
        self._groups, self._progress = list[Group](), Progress()
        self._config = common_config(self.models)
        if not all(p.requires_grad for model in self.models for p in model.parameters()):
            raise ConfigError("an ensemble trains all weights: some of a member's are frozen")
        both: Any = stack_linear([_networks(model) for model in self.models])
        self._nets = Nets(*both)
        like = next(self._nets.parameters())
        self._device, self._dtype = like.device, like.dtype
        self._generators = [
            torch.Generator(device=self._device).manual_seed(seed) for seed in seeds
        ]
        self._check_stack()

    @classmethod
    def build(
        cls,
        build: Callable[[float], FIF | RectangularFlow],
        betas: Sequence[float],
        seeds: Sequence[int],
        *,
        compile: bool | None = None,
    ) -> "Ensemble":
        """An ensemble with a member for every pair of a beta and a seed.

        Args:
            build: Makes a freshly initialised model of a given beta; it is called after
                `torch.manual_seed` of the member's seed. The global random state is kept.
            betas: M reconstruction weights.
            seeds: M seeds, which need not be different.
            compile: See :class:`Ensemble`.

        Example:
            >>> from pythae_fif import FIFConfig
            >>> from pythae_fif.nn import ResidualDecoder, ResidualEncoder
            >>> def build(beta):
            ...     config = FIFConfig(input_dim=(3,), latent_dim=2, beta=beta)
            ...     return FIF(config, ResidualEncoder(3, 2), ResidualDecoder(3, 2))
            >>> ensemble = Ensemble.build(build, betas=[0.1, 1.0, 10.0], seeds=[0, 0, 0])
            >>> ensemble.train(torch.randn(50, 3), epochs=1, batch_size=25)
            >>> ensemble.log_prob(torch.randn(7, 3)).shape, ensemble.backend
            (torch.Size([3, 7]), 'eager')
        """
        models = []
        with fork_rng():
            for beta, seed in zip(betas, seeds, strict=True):
                torch.manual_seed(seed)
                models.append(build(beta))
        return cls(models, seeds, compile=compile)

    # ------------------------------------------------------------------ training

    def train(
        self,
        data: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float | Sequence[float] = 1e-3,
        weight_decay: float = 0.0,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        likelihood_weight: Callable[[int], float] = lambda epoch: 1.0,
        on_epoch: Callable[[int], None] | None = None,
        state: TrainingState | None = None,
    ) -> None:
        """Trains all members with Adam.

        Each member sees the data in an order of its own; what is left of an epoch when no whole
        batch remains is left out.

        Args:
            data: (N, D), or (M, N, D) for data of each member's own.
            epochs: Passes over the data.
            batch_size: B, of each member.
            learning_rate: Adam's, of all members or one a member; a schedule scales all alike.
            weight_decay: Adam's (L2 in the gradient).
            schedule: Makes a learning rate schedule of the optimizer and the number of steps; it
                is stepped after every step.
            likelihood_weight: The likelihood's factor in the loss of an epoch, from 1.
            on_epoch: Called after every epoch with its number, from 1.
            state: Of :meth:`training_state`, to go on from; of these members and arguments.

        Raises:
            ConfigError: An argument that does not fit the members or the data.
        """
        data = self._here(data)
        count, (dim,) = len(self.models), self._config.input_dim
        if isinstance(learning_rate, float | int):
            learning_rate = [learning_rate] * count
        rates = list(map(float, learning_rate))
        fits = data.dim() > 1 and data.shape[-1] == dim and data.shape[:-2] in ((), (count,))
        if len(rates) != count or not fits or not data.numel() or batch_size < 1:
            raise ConfigError(
                f"an ensemble of {count} with {len(rates)} learning rates, batch_size={batch_size} "
                f"and data of shape {tuple(data.shape)}: one rate or {count}, batches of at "
                f"least 1, and rows (N, {dim}) or ({count}, N, {dim}) are needed"
            )
        batch_size = min(batch_size, data.shape[-2])
        batches = data.shape[-2] // batch_size
        compiles = self._compiles(epochs * batches)
        threads, largest = 1, len(self.models)
        if self._device.type == "cpu":  # where every core has a cache of its own
            # Steps that are not compiled would wait for each other at the interpreter's lock.
            threads = torch.get_num_threads() if compiles else 1
            largest = self.group_numel // (batch_size * self._width)
        groups = self._groups = []
        for members in split_members(len(self.models), largest, threads):
            group = Group(
                self._nets,
                members,
                self.models[members],
                self._generators[members],
                data if data.dim() == 2 else data[members],
                batch_size,
            )
            optimizer = StackedAdam(group.parameters, rates[members], weight_decay, max(rates))
            group.optimizer, group.likelihood_weight = optimizer, likelihood_weight
            group.schedule = schedule(optimizer, epochs * batches) if schedule else None
            groups.append(group)
        self._progress = state.restore(groups, self._nets) if state else Progress()
        with workers(min(threads, len(groups))) as pool:
            pool.submit(self._set_steps, groups, compiles).result()
            for epoch in range(self._progress.epoch + 1, epochs + 1):
                train_epoch(pool, groups, epoch, math.ceil(batches / TURNS))
                self._progress.epoch = epoch
                if on_epoch:
                    on_epoch(epoch)
        self._groups = []

    def training_state(self) -> TrainingState:
        """What :meth:`train` can go on from, to the same weights; to be asked in `on_epoch`."""
        return TrainingState.of(self._groups, self._progress)

    def _gradients(
        self, nets: Nets, parameters: list[Tensor], x: Tensor, eps: Tensor, terms: Tensor
    ) -> list[Tensor]:
        """Gradients of every member's loss: their sum's, since no member sees another's weights."""
        names = [name for name, _ in nets.named_parameters()]
        with torch.enable_grad():
            leaves = [parameter.detach().requires_grad_() for parameter in parameters]
            named = dict(zip(names, leaves, strict=True))
            loss = torch.func.functional_call(nets, named, (self._loss, x, eps, terms))
            found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            return [
                torch.zeros_like(leaf) if gradient is None else gradient
                for leaf, gradient in zip(leaves, found, strict=True)
            ]

    def _loss(self, nets: Nets, x: Tensor, eps: Tensor, terms: Tensor) -> Tensor:
        """The loss of every member, (M,)."""
        model, config, size = self.models[0], self._config, x.shape[:2]
        encode: Map = nets.encode
        decode: Map = nets.decode
        if isinstance(model, RectangularFlow):  # to its estimator the rows of all are one batch
            x, eps = x.flatten(0, 1), eps.flatten(1, 2)
            encode, decode = _on_rows(encode, size), _on_rows(decode, size)
            estimate: Surrogate = model.log_volume_estimate
        else:
            estimate = model.surrogate_in(config.mode)
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
            self._progress.iterations += model.cg_iterations.double().mean().item() * size[0]
            self._progress.systems += size[0]  # those of this group's members
        return loss.loss

    def _compiles(self, steps: int) -> bool:
        """Whether the step is to be compiled, by the user's word or where it pays."""
        if getattr(self._config, "mode", None) != "replay":
            return False
        pays = steps * len(self.models) >= COMPILE_FROM_STEPS
        return pays if self._compile is None else self._compile

    def _set_steps(self, groups: Sequence[Group], compiles: bool) -> None:
        """The gradients, traced to one graph and compiled where that is wanted and succeeds."""
        self.backend = "eager"
        for group in groups:
            group.step = partial(self._gradients, group.nets)
        if not compiles:
            return
        compiled: dict[int, Step] = {}  # groups of one size share theirs
        try:
            for group in groups:
                if len(group.models) not in compiled:
                    compiled[len(group.models)] = self._compiled(group)
        except Exception as error:  # whatever a compiler may stumble on
            self.backend = f"eager: torch.compile failed: {first_line(error)}"
            return
        for group in groups:
            group.step = compiled[len(group.models)]
        self.backend = "compiled"

    def _compiled(self, group: Group) -> Step:
        example = group.example()
        # The C++ wrapper holds no lock of the interpreter; a GPU has one thread, and needs none.
        options: dict[str, Any] = {"cpp_wrapper": self._device.type == "cpu"}
        graph = make_fx(group.step, decomposition_table=THIN_PRODUCTS)(*example)
        compiled = torch.compile(graph, dynamic=False, options=options)
        compiled(*example)
        return compiled

    # ------------------------------------------------------------------ what was trained

    @property
    def cg_iterations(self) -> float | None:
        """See the class."""
        done = self._progress
        return done.iterations / done.systems if done.systems else None

    def members(self) -> list[FIF | RectangularFlow]:
        """The models, with the trained weights, in evaluation mode."""
        stacked = list(self._nets.parameters())
        for member, model in enumerate(self.models):
            for values, parameter in zip(stacked, _networks(model).parameters(), strict=True):
                parameter.data.copy_(values[member].view_as(parameter))
            model.eval()
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
        x_hat = self.decode(self.encode(x))
        return squared_error(x_hat, self._here(x), 2).to(x.device)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-likelihood on each member's manifold (eq. 2), in nats, (M, N).

        Args:
            x: (N, D) or (M, N, D).

        Returns:
            NaN where the Jacobian of a member is not finite.
        """
        z = self.encode(self._here(x))
        prior = self.models[0].latent_distribution(z).log_prob(z)
        size = max(1, CHUNK_NUMEL // (z.shape[0] * z.shape[2] * self._width))
        volume = torch.cat([self._log_volume(chunk) for chunk in z.split(size, 1)], 1)
        density: Tensor = (prior - volume).to(x.device)
        return density

    def _log_volume(self, z: Tensor) -> Tensor:
        """1/2 log det g'(z)^T g'(z), (M, n), at codes (M, n, d)."""
        basis = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
        columns = record(self._nets.decode, z).jvps(basis[:, None, None].expand(-1, *z.shape))
        jacobian = columns.permute(1, 2, 3, 0).flatten(0, 1)
        finite = torch.isfinite(jacobian).flatten(1).all(1)
        volume = torch.full((len(jacobian),), torch.nan, dtype=z.dtype, device=z.device)
        volume[finite] = log_volume(jacobian[finite])
        return volume.view(z.shape[:2])

    # ------------------------------------------------------------------ inside

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self._device, self._dtype)

    def _of_each(self, x: Tensor) -> Tensor:
        """(M, N, ...), of what all members share or of their own."""
        if x.dim() not in (2, 3):
            raise DataError(f"an ensemble takes rows (N, D) or (M, N, D), not {tuple(x.shape)}")
        return self._here(x).expand(len(self.models), *x.shape[-2:])

    @property
    def _width(self) -> int:
        """Of the widest layer."""
        return max(weight.shape[1] for weight in self._nets.parameters() if weight.dim() == 3)

    @full_float32()
    def _check_stack(self) -> None:
        """The stacked networks must do to every member what its own networks do."""
        if len(self._config.input_dim or ()) != 1:
            raise ConfigError("an ensemble needs models with input_dim=(D,)")
        x = torch.randn(3, *self._config.input_dim, generator=torch.Generator().manual_seed(0))
        x = self._here(x)
        with torch.no_grad():
            alone = torch.stack([m.eval().reconstruct(x) for m in self.models])
        try:
            stacked = self.decode(self.encode(x))
            same = stacked.shape == alone.shape and torch.allclose(
                stacked, alone, rtol=1e-3, atol=1e-4
            )
        except RuntimeError:
            same = False
        if not same:
            raise ConfigError(
                "these networks cannot be stacked: an ensemble takes vectors of shape (B, D) "
                "through nn.Linear and operations on each sample by itself, without reshapes"
            )


def _on_rows(net: Map, size: torch.Size) -> Map:
    """A stacked network on rows of all members, perhaps K times as many: (K M B, D)."""
    return lambda x: net(x.unflatten(0, (-1, *size))).flatten(0, -2)


def _networks(model: FIF | RectangularFlow) -> nn.ModuleList:
    """Encoder and decoder together: a block that both share is one."""
    return nn.ModuleList([model.encoder, model.decoder])
