"""Groups of an ensemble's members, which threads train side by side."""

__all__ = ["Group", "Step", "split_members", "train_epoch", "workers"]

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pythae_fif.ensemble.stacking import Nets, StackedAdam
from pythae_fif.models.hutchinson import HutchinsonModel
from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.hutchinson import hutchinson_of_gaussian

T = TypeVar("T")

Step = Callable[[list[Tensor], Tensor, Tensor, Tensor], list[Tensor]]
"""Parameters, data (M, B, D), eps (K, M, B, d) and the weights of likelihood and reconstruction,
(2, M), to the gradients."""


class Group:
    """Members that are trained together, by one thread at a time.

    Their weights, optimizer state and draws are theirs alone, so that no group waits for another.

    Args:
        nets: The stacked networks of all members; the group's parameters are views of theirs.
        members: Which of them; see :func:`split_members`.
        models, generators: Those of the group.
        data: (N, D), or (M, N, D) of the group.
        batch_size: B, of each member.

    Attributes:
        parameters, weights: The group's, with and without a gradient.
        optimizer, schedule, step: To be set before the first turn.
        likelihood_weight: Epoch -> weight of the likelihood.
    """

    optimizer: StackedAdam
    schedule: LRScheduler | None
    step: Step
    likelihood_weight: Callable[[int], float]

    def __init__(
        self,
        nets: Nets,
        members: slice,
        models: Sequence[HutchinsonModel],
        generators: Sequence[torch.Generator],
        data: Tensor,
        batch_size: int,
    ) -> None:
        views: dict[int, Any] = {id(p): nn.Parameter(p.data[members]) for p in nets.parameters()}
        self.nets = copy.deepcopy(nets, views)
        self.parameters = list(self.nets.parameters())
        self.weights = [parameter.detach() for parameter in self.parameters]
        self.members, self.models, self.generators = members, models, generators
        self.data, self.batch_size = data, batch_size
        self._noise = self.per_member([model.model_config.noise for model in models])

    def begin(self, epoch: int) -> None:
        """Draws the order of an epoch's data."""
        rows = self.data.shape[-2]
        likelihood = [self.likelihood_weight(epoch)] * len(self.models)
        betas = [model.beta(epoch) for model in self.models]
        self._terms = torch.stack([self.per_member(likelihood), self.per_member(betas)])
        device = self.data.device
        orders = [torch.randperm(rows, generator=g, device=device) for g in self.generators]
        order = torch.stack(orders)[:, : rows // self.batch_size * self.batch_size]
        self._batches = list(order.split(self.batch_size, 1))[::-1]

    def turn(self, steps: int) -> bool:
        """Makes a number of training steps; whether the epoch has more."""
        for _ in range(min(steps, len(self._batches))):
            batch = self.noisy(_rows(self.data, self._batches.pop()))
            found = self.step(self.weights, *batch, self._terms)
            for parameter, gradient in zip(self.parameters, found, strict=True):
                if gradient.stride() != parameter.stride():  # fused Adam reads others wrongly
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient
            self.optimizer.step()
            if self.schedule:
                self.schedule.step()
        return bool(self._batches)

    def example(self) -> tuple[Any, ...]:
        """Arguments of a step, laid out as those of every other; no draw is lost."""
        states = [generator.get_state() for generator in self.generators]
        size = len(self.models), self.batch_size
        rows = torch.zeros(size, dtype=torch.long, device=self.data.device)
        batch = self.noisy(_rows(self.data, rows))
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return self.weights, *batch, self.per_member([1.0] * len(self.models)).repeat(2, 1)

    def noisy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy batch, and Hutchinson vectors (K, M, B, d), of each member's generator."""
        config, (members, rows, dim) = self.models[0].model_config, x.shape
        dim = config.trace_dim(dim)
        scales = [model.model_config.noise for model in self.models]
        noise = torch.zeros_like(x) if any(scales) else None
        rademacher = config.hutchinson_kind == "rademacher"
        eps = x.new_empty(members, config.hutchinson_samples, rows, dim)
        options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        for member, generator in enumerate(self.generators):  # draws alone: the rest is at once
            if noise is not None and scales[member]:
                noise[member].normal_(generator=generator)
            if rademacher:
                eps[member] = sample_hutchinson(
                    rows, dim, len(eps[member]), kind="rademacher", generator=generator, **options
                )
            else:
                eps[member].normal_(generator=generator)
        if noise is not None:
            x = x + self._noise[:, None, None] * noise
        eps = eps.transpose(0, 1)
        return x, eps if rademacher else hutchinson_of_gaussian(eps, config.hutchinson_kind)

    def per_member(self, values: list[float]) -> Tensor:
        """One number a member, as a tensor."""
        return torch.tensor(values, device=self.data.device, dtype=self.data.dtype)


def split_members(members: int, largest: int, threads: int) -> list[slice]:
    """Slices that cover all members, none above the largest size, with equal work for all threads.

    The number of slices is a multiple of the threads where that makes slices of one size. Otherwise
    there is one slice more: with five members in two slices, one thread would wait while the other
    trains its third.
    """
    count = max(1, math.ceil(members / max(1, largest)))
    count = min(members, math.ceil(count / threads) * threads)
    if threads > 1 and members % count:
        count += 1
    ends = [members * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


@contextmanager
def workers(threads: int) -> Iterator[Executor]:
    """Threads that share the cores out: small matrices keep one core busy, not all of them.

    One has all cores, and is the calling thread: another would have a pool of memory of its own.
    """
    if threads == 1:
        yield _SameThread()
        return
    cores = torch.get_num_threads()

    def share_cores() -> None:
        torch.set_num_threads(max(1, cores // threads))

    with ThreadPoolExecutor(threads, initializer=share_cores) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(cores)


class _SameThread(Executor):
    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def train_epoch(pool: Executor, groups: Sequence[Group], epoch: int, steps: int) -> None:
    """Trains the groups for an epoch, in turns of some steps: no thread is idle for long."""

    def turn(group: Group) -> Group | None:
        return group if group.turn(steps) else None

    list(pool.map(lambda group: group.begin(epoch), groups))
    running = {pool.submit(turn, group) for group in groups}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        more = [group for future in done if (group := future.result())]
        running |= {pool.submit(turn, group) for group in more}


def _rows(data: Tensor, rows: Tensor) -> Tensor:
    """Rows (M, B) of data (N, D) or (M, N, D): (M, B, D)."""
    if data.dim() == 2:
        return data[rows]
    return data.gather(1, rows[..., None].expand(-1, -1, data.shape[2]))
