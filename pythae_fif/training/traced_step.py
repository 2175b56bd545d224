"""Training steps of a model that run as a graph, which is traced from an eager step.

The graph repeats the operations of the step, so that both give equal numbers. It saves the time
that Python and autograd need between the operations.
"""

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from pythae_fif.device import fork_rng, full_float32, random_state, set_random_state
from pythae_fif.errors import SlowerTrainingWarning, UnsupportedOperationError, format_error
from pythae_fif.training.graph import trace
from pythae_fif.training.model_state import PLAIN_TYPES, ModelState

MIN_STEPS_TO_TRACE = 200
"""Number of steps from which a graph pays for its tracing and its comparisons with eager steps."""
EAGER_STEPS = 3
"""Steps that are always eager: in the first ones a model chooses what it computes."""

Batch = dict[str, Tensor]


class TracedStep:
    """Calls a model in training, eagerly at first, later by a graph.

    It is called like the model and returns the same output::

        step = TracedStep(model)
        step({"data": x}).loss.backward()

    A graph is traced when more than `min_steps` further steps with batches of the same shapes are
    expected, so that it pays: early in a long training, and never in a short one. If the length of
    the training is not known, as many are expected as there have been. A graph computes the output
    and the gradients of `loss`, draws the same random numbers, and writes the same buffers.
    Before each step the attributes of the modules and the plain values that their methods read are
    compared; after a change all graphs are traced anew
    (:class:`~pythae_fif.training.model_state.ModelState`). What this does not see (a clock, a file,
    an array that changes in place) is found by a comparison with an eager step, after tracing and
    then at doubling intervals: at the first difference, all further steps are eager, with a
    warning.

    Threads that share the object compute their steps one after the other.

    Steps are eager, too, in evaluation mode, without gradients, under autocast, and where tracing
    fails, because the code branches on values or changes its module in each step.

    Args:
        model: A model that takes a dictionary of tensors and returns a `ModelOutput` with a `loss`.
            If it has a method `read_batch`, its batches are checked and converted outside of the
            graph.
        min_steps: Number of steps from which a graph pays.
        total_steps: Number of steps of the training; None if it is not known.

    Attributes:
        uses_graph: Whether the last step came from a graph.

    Warns:
        SlowerTrainingWarning: The steps cannot be traced, or a graph was wrong.

    Example:
        >>> from pythae_fif import FIF, FIFConfig
        >>> step = TracedStep(FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2)), min_steps=1)
        >>> for _ in range(3):
        ...     step({"data": torch.rand(5, 1, 8, 8)}).loss.backward()
        >>> step.uses_graph
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        min_steps: int = MIN_STEPS_TO_TRACE,
        total_steps: int | None = None,
    ) -> None:
        self._model: Any = model
        self._min_steps = min_steps
        self._total_steps = total_steps
        self._steps_done = 0
        self.uses_graph = False
        self._is_stopped = False
        self._state: ModelState | None = None
        self._changes_in_a_row = 0
        self._steps: Counter[Any] = Counter()  # shapes of a batch -> number of steps
        self._graphs: dict[Any, _StepGraph] = {}
        self._lock = threading.Lock()  # tracing replaces the model's weights for a moment

    def __call__(self, inputs: Mapping[str, Any], **progress: Any) -> ModelOutput:
        """Calls the model.

        Args:
            inputs: The batch, with "data" (B, ...).
            **progress: Further arguments of the model. Numbers may change from step to step.

        Returns:
            The model's output.
        """
        with self._lock:
            return self._run(inputs, progress)

    def _run(self, inputs: Mapping[str, Any], progress: Mapping[str, Any]) -> ModelOutput:
        """Returns the output of a step, by a graph if there can be one."""
        self.uses_graph = False
        if self._is_stopped or not self._model.training or not torch.is_grad_enabled():
            return self._model(inputs, **progress)

        batch = self._read_batch(inputs)
        if not _is_plain(batch, progress):
            return self._model(inputs, **progress)

        state = self._read_state()
        step = _Step(self._model, state, batch, progress)
        self._steps[step.key] += 1
        self._steps_done += 1
        if not self._is_stopped and (step.key in self._graphs or self._pays(step.key)):
            return self._run_graph(step)
        return self._model(inputs, **progress)

    def _pays(self, key: Any) -> bool:
        """Whether so many further steps with these shapes are expected that a graph pays."""
        steps = self._steps[key]
        if self._total_steps is None:
            return steps > self._min_steps

        share = steps / self._steps.total()
        expected_steps = share * (self._total_steps - self._steps_done)
        return steps > EAGER_STEPS and expected_steps > self._min_steps

    def _read_batch(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the items of a batch; checks of their values are no part of a graph."""
        batch = dict(inputs)
        if hasattr(self._model, "read_batch"):
            batch |= zip(("data", "labels"), self._model.read_batch(inputs), strict=False)
        return batch

    def _read_state(self) -> ModelState:
        """Returns the state of the model; forgets all graphs if it has changed.

        A model that changes in each step is given up.
        """
        if self._state is not None and self._state.is_current():
            self._changes_in_a_row = 0
            return self._state

        if self._steps_done > EAGER_STEPS:  # what has changed may change again
            self._total_steps = None
        self._state = ModelState(self._model)
        self._steps.clear()
        self._graphs.clear()
        self._changes_in_a_row += 1
        if self._state.obstacle is not None:
            self._stop(self._state.obstacle)
        elif self._changes_in_a_row > max(self._min_steps, 2):
            self._stop("its attributes change in every step")
        return self._state

    def _run_graph(self, step: "_Step") -> ModelOutput:
        """Returns the output of a step by its graph, which is traced and compared when it is due.

        A step that cannot be traced, or differs from its graph, is eager.
        """
        graph = self._graphs.get(step.key)
        try:
            if graph is None:
                graph = self._graphs[step.key] = _StepGraph(step)
            if graph.runs & (graph.runs - 1) == 0:  # 0, 1, 2, 4, 8, ...
                graph.compare(step)
        except Exception as error:  # tracing fails in many ways
            self._stop(format_error(error))
            return self._model(step.batch, **step.progress)

        graph.runs += 1
        self.uses_graph = True
        function: Any = _GraphFunction.apply
        outputs = function(graph, step, *step.state.weights.values())
        return ModelOutput(**dict(zip(graph.output_names, outputs, strict=True)))

    def _stop(self, reason: str) -> None:
        """Makes all further steps eager, and says why."""
        self._is_stopped = True
        self._graphs.clear()
        warnings.warn(
            f"{type(self._model).__name__} trains without a graph, which is slower: {reason}",
            SlowerTrainingWarning,
            stacklevel=5,
        )


def _is_plain(batch: Mapping[str, Any], progress: Mapping[str, Any]) -> bool:
    """Whether a graph can have the inputs of a step: tensors without gradient, and plain values."""
    tensors = batch.values()
    has_tensors = all(isinstance(x, Tensor) and not x.requires_grad for x in tensors)
    has_plain_values = all(isinstance(value, PLAIN_TYPES) for value in progress.values())
    return (
        has_tensors
        and has_plain_values
        and not torch.is_autocast_enabled(batch["data"].device.type)
    )


class _Step:
    """The inputs of a step.

    Args:
        model: The model.
        state: Its weights and buffers.
        batch: The tensors of the batch.
        progress: Further arguments of the model.

    Attributes:
        numbers: The arguments that may change from step to step, as tensors.
        key: What is constant in a graph.
    """

    def __init__(
        self, model: nn.Module, state: ModelState, batch: Batch, progress: Mapping[str, Any]
    ) -> None:
        self.model: Any = model
        self.state = state
        self.batch = batch
        self.progress = progress

        self.numbers: Batch = {}
        constants = []
        for name, value in progress.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.numbers[name] = torch.full(
                    (), value, dtype=torch.float64, device=batch["data"].device
                )
            else:
                constants.append((name, value))
        shapes = [(name, x.shape, x.stride(), x.dtype, x.device) for name, x in batch.items()]
        self.key = (*shapes, *self.numbers, *constants)

    @property
    def tensors(self) -> list[Tensor]:
        """All inputs, in the order of a graph's arguments."""
        return [
            *self.state.weights.values(),
            *self.state.buffers.values(),
            *self.batch.values(),
            *self.numbers.values(),
        ]

    def compute(self, *tensors: Tensor) -> tuple[ModelOutput, list[Tensor | None]]:
        """Computes the model's output and the gradients of its loss, from other tensors.

        Args:
            *tensors: See :attr:`tensors`.

        Raises:
            UnsupportedOperationError: The output is nothing that a graph can have, or the step
                replaces a buffer.
        """
        values = iter(tensors)
        leaves = [next(values).detach().requires_grad_() for _ in self.state.weights]
        buffers = {name: next(values) for name in self.state.buffers}
        batch = {name: next(values) for name in self.batch}
        numbers = {name: next(values) for name in self.numbers}

        state = {**dict(zip(self.state.weights, leaves, strict=True)), **buffers}
        # A shared module is stacked: its weights are replaced under each of its names.
        with (
            torch.enable_grad(),
            _reparametrize_module(self.model, state, tie_weights=True, stack_weights=True),
        ):
            output = self.model(batch, **{**self.progress, **numbers})
            for name, buffer in self.model.named_buffers():
                if buffer is not buffers.get(name, buffer):
                    raise UnsupportedOperationError(f"it replaces buffer {name} in each step")
        if not all(isinstance(value, Tensor) for value in output.values()):
            raise UnsupportedOperationError("its output is not only tensors")
        gradients = torch.autograd.grad(output["loss"], leaves, allow_unused=True)
        return output, list(gradients)


class _StepGraph:
    """The graph of a step.

    Args:
        step: A step with inputs of the shapes, types and devices that the graph is for.

    Attributes:
        output_names: The keys of the model's output.
        written_buffers: Names of the buffers that the step writes.
        runs: Number of steps that were computed by the graph.
    """

    def __init__(self, step: _Step) -> None:
        self.output_names: list[str] = []
        self.written_buffers: list[str] = []
        self.runs = 0
        with _restore_random_states(step.state):
            self._run = trace(partial(self._compute_flat, step), *step.tensors)

    def _compute_flat(self, step: _Step, *tensors: Tensor) -> list[Tensor | None]:
        """Computes the gradients of a step and its outputs, in one list."""
        output, gradients = step.compute(*tensors)
        self.output_names = list(output)
        return [*gradients, *output.values()]

    def run(self, step: _Step) -> tuple[list[Tensor | None], list[Tensor]]:
        """Returns the gradients of a step by its weights, and its outputs."""
        results = self._run(*step.tensors)
        count = len(step.state.weights)
        return results[:count], results[count:]

    @full_float32()
    def compare(self, step: _Step) -> None:
        """Compares the graph with the eager step, for the same random numbers and buffers.

        Neither changes anything.

        Raises:
            UnsupportedOperationError: They differ, or the step draws random numbers that are not
                torch's.
        """
        graph_tensors = _copy_buffers(step)
        eager_tensors = _copy_buffers(step)
        with _restore_random_states(step.state), torch.no_grad():
            results = self._run(*graph_tensors)
        with _restore_random_states(step.state):
            expected_results = self._compute_flat(step, *eager_tensors)

        buffers = slice(len(step.state.weights), len(step.state.weights) + len(step.state.buffers))
        results += graph_tensors[buffers]
        expected_results += eager_tensors[buffers]
        if not all(map(_is_close, results, expected_results)):
            since = f"; those since step {self.runs // 2} of its graph may be wrong"
            raise UnsupportedOperationError(
                "its steps are not always the same operations" + (since if self.runs else "")
            )
        copies = zip(step.state.buffers, eager_tensors[buffers], strict=True)
        self.written_buffers = [name for name, buffer in copies if buffer._version > 0]


def _copy_buffers(step: _Step) -> list[Tensor]:
    """Returns the inputs of a step with copies of its buffers, of version 0."""
    first = len(step.state.weights)
    tensors = step.tensors
    for index in range(first, first + len(step.state.buffers)):
        tensors[index] = tensors[index].detach().clone()
    return tensors


@contextmanager
def _restore_random_states(state: ModelState) -> Iterator[None]:
    """Restores all random states after the block; only torch's global one may change in it.

    Raises:
        UnsupportedOperationError: Another one has changed: a graph would repeat its numbers.
    """
    before = random_state()
    generator_states = [generator.get_state() for generator in state.generators]
    try:
        with fork_rng():
            yield
        after = random_state()
    finally:
        set_random_state(before)
        for generator, generator_state in zip(state.generators, generator_states, strict=True):
            generator.set_state(generator_state)
    if (before["python"], before["numpy"]) != (after["python"], after["numpy"]):
        raise UnsupportedOperationError("it draws random numbers of Python or NumPy")


def _is_close(result: Tensor | None, expected: Tensor | None) -> bool:
    """Whether two results are equal up to rounding."""
    if result is None or expected is None:
        return result is expected
    if not result.is_floating_point():
        return torch.equal(result, expected)
    tolerance = 100 * torch.finfo(result.dtype).eps
    error = (result - expected).norm()
    is_equal = torch.equal(result, expected)  # also where both are infinite
    return is_equal or bool(error <= tolerance * expected.norm())


class _GraphFunction(torch.autograd.Function):
    """The outputs of a graph, with the gradients of the loss that it computed.

    An eager step computes all other derivatives: of other outputs, of second order, and in a second
    backward pass.
    """

    @staticmethod
    def forward(ctx: Any, graph: _StepGraph, step: _Step, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        device = step.batch["data"].device
        if device.type == "cuda":
            set_generator = partial(
                torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device
            )
        else:
            set_generator = partial(torch.set_rng_state, torch.get_rng_state())
        written_buffers = {name: step.state.buffers[name].clone() for name in graph.written_buffers}
        ctx.eager_step = step, weights, written_buffers, set_generator
        ctx.loss_index = graph.output_names.index("loss")
        ctx.gradients, outputs = graph.run(step)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Any) -> Any:
        # Without another reference, the gradients become those of the weights without a copy.
        gradients = ctx.gradients
        ctx.gradients = None
        further_gradients = [*output_gradients]
        scale = further_gradients.pop(ctx.loss_index)
        has_further = any(gradient is not None for gradient in further_gradients)
        if gradients is None or has_further or torch.is_grad_enabled():
            gradients = _differentiate(ctx.eager_step, output_gradients)
        elif scale.device.type != "cpu" or scale != 1:  # a GPU would have to wait
            gradients = [None if g is None else g * scale for g in gradients]
        return None, None, *gradients


def _differentiate(eager_step: Any, output_gradients: Sequence[Any]) -> Sequence[Tensor | None]:
    """Returns the gradients of weighted outputs, by an eager step with the same random numbers."""
    step, weights, written_buffers, set_generator = eager_step
    buffers = {name: buffer.clone() for name, buffer in written_buffers.items()}
    with fork_rng(), torch.enable_grad(), _reparametrize_module(step.model, buffers):
        set_generator()
        outputs = step.model(step.batch, **step.progress).values()
    pairs = zip(outputs, output_gradients, strict=True)
    roots, root_gradients = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
    return torch.autograd.grad(
        roots,
        weights,
        root_gradients,
        create_graph=torch.is_grad_enabled(),
        allow_unused=True,
    )
