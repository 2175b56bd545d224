"""Traces a training step to a graph, which computes the loss and its gradients.

The graph repeats the operations of the step, so that both give equal numbers. It saves the time
that Python and autograd need between the operations.
"""

import operator
import types
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.graph import CodeGen, Graph
from torch.nn.utils.stateless import _reparametrize_module

from pythae_fif.device import fork_rng
from pythae_fif.errors import UnsupportedOperationError, format_error

MIN_STEPS_TO_TRACE = 200
"""Number of steps from which a graph pays for its tracing, which takes 0.3 to 1.2 s."""

MAX_RELATIVE_ERROR = 1e-3
"""Largest error of a graph's first results, which is zero unless the graph is wrong."""

LIBRARIES = ("torch.nn.", "pythae.", "pythae_fif.", "zuko.")
"""Packages with modules that do the same operations in every step: they have no hidden state."""

ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
"""Operations that return their argument, if nothing is differentiated."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Step = Callable[..., tuple[Tensor, ...]]
"""Computes the loss and further outputs from the inputs of a step, by a model's weights."""


class SlowerSurrogateWarning(UserWarning):
    """Training is slower because of a network; the message says why."""


def trace(
    function: Callable[..., Sequence[Tensor | None]], *inputs: Tensor
) -> Callable[..., list[Any]]:
    """Traces a function to a graph of its operations.

    Args:
        function: A function of tensors that returns several tensors.
        *inputs: Inputs of the shapes, types and devices that the graph will be used with.

    Returns:
        A function that runs the graph, without gradient.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes long to import

    # Tracing is faster without values. Frozen weights and buffers are not inputs.
    tracer = make_fx(partial(function), tracing_mode="fake", _allow_non_fake_inputs=True)
    module = tracer(*inputs)
    _skip_aliases(module.graph)
    _merge_transposes(module.graph)
    module.graph.eliminate_dead_code()

    for node in module.graph.nodes:
        node.target = _find_binding(node.target)
    module.graph.set_codegen(CodeGen())  # which does not look for containers in the inputs
    module.recompile()
    return module.forward


def _skip_aliases(graph: Graph) -> None:
    """Uses the arguments of `ALIASES` in place of their results, except as outputs."""
    (output,) = graph.find_nodes(op="output")
    for node in graph.nodes:
        if node.target in ALIASES and output not in node.users:
            node.replace_all_uses_with(node.args[0])


def _merge_transposes(graph: Graph) -> None:
    """Uses one transpose of each matrix, and the matrix itself as the transpose of that one."""
    (output,) = graph.find_nodes(op="output")
    transposes: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.target != torch.ops.aten.t.default:
            continue

        matrix = node.args[0]
        same = transposes.get(matrix)
        if same is None:
            transposes[matrix] = node
            transposes[node] = matrix
        elif output not in node.users or output not in same.users:  # outputs have own memory
            node.replace_all_uses_with(same)


def _find_binding(operation: Any) -> Any:
    """Returns PyTorch's own binding of an operation, which is faster to call than the operation."""
    if isinstance(operation, torch._ops.OpOverload) and operation.namespace == "aten":
        for owner in (torch, torch._C._nn, Tensor):
            binding = getattr(owner, operation.overloadpacket.__name__, None)
            if isinstance(binding, types.BuiltinFunctionType | types.MethodDescriptorType):
                return binding
    return operation


class TracedStep:
    """Computes the outputs of a training step: eagerly at first, later by a graph.

    A graph is traced after `MIN_STEPS_TO_TRACE` steps with inputs of the same shapes. It is used as
    long as the model has the same modules and weights, in the same modes. A step that is copied or
    pickled with its model begins anew.
    """

    def __init__(self) -> None:
        self._structure: _Structure | None = None
        self._steps: Counter[Any] = Counter()
        self._graphs: dict[Any, Callable[..., Any] | None] = {}

    def __reduce__(self) -> Any:
        return TracedStep, ()

    def run(
        self,
        model: Any,
        compute: Step,
        inputs: Sequence[Any],
        *,
        settings: Any,
        trust: bool | None,
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Computes the outputs of a step.

        Args:
            model: The model.
            compute: The step.
            inputs: Its inputs, tensors and numbers. The first one is a tensor.
            settings: What else the outputs depend on. When it changes, all graphs are traced anew.
            trust: Whether to trace modules outside `LIBRARIES`, too. False traces nothing.

        Returns:
            The outputs, and whether they come from a graph.
        """
        needs_gradient = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        uses_autocast = torch.is_autocast_enabled(inputs[0].device.type)
        is_plain = torch.is_grad_enabled() and not needs_gradient and not uses_autocast
        if trust is False or not is_plain:
            return compute(*inputs), False

        if self._structure is None or not self._structure.is_current(settings):
            self._structure = _Structure(model, settings, bool(trust))
            self._steps.clear()
            self._graphs.clear()

        weights = self._structure.weights
        tensors = [x if isinstance(x, Tensor) else _as_scalar(x, inputs[0]) for x in inputs]
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
        self._steps[key] += 1
        if weights and self._steps[key] == MIN_STEPS_TO_TRACE + 1:
            self._graphs[key] = _trace_step(model, compute, weights, tensors)

        graph = self._graphs.get(key)
        if graph is None:
            return compute(*inputs), False
        run_graph: Any = _GraphStep.apply
        return run_graph(graph, compute, tensors, *weights), True


def _as_scalar(number: float, like: Tensor) -> Tensor:
    """Returns a number as a tensor; beyond the range of the type it is infinite."""
    return like.new_full((), number, dtype=torch.float64).to(like.dtype)


class _Structure:
    """The modules, weights and modes of a model, and what else its steps depend on.

    Attributes:
        weights: The weights to train; none if the model cannot be traced.
    """

    def __init__(self, model: nn.Module, settings: Any, trust: bool) -> None:
        modules = [*model.modules()]
        inner_modules = modules[1:]  # the model's own buffers and hooks are not part of the step
        hooks = [getattr(module, name) for module in inner_modules for name in HOOKS]
        groups: Any = [module._buffers for module in inner_modules]
        for module in modules:
            groups += [module._modules, module._parameters]

        self._settings = settings
        self._dictionaries = [*hooks, *groups]
        self._entries = [(group, name, group[name]) for group in groups for name in group]
        self._entries += [(vars(module), "training", module.training) for module in inner_modules]
        self._parameters = [*model.parameters()]
        self._buffers = [buffer for module in inner_modules for buffer in module.buffers(False)]
        self._state = self._read_state()

        can_be_traced = (trust or _are_of_libraries(modules)) and not any(hooks)
        trained_weights = filter(operator.attrgetter("requires_grad"), self._parameters)
        self.weights = [*trained_weights] if can_be_traced else []

    def is_current(self, settings: Any) -> bool:
        """Whether the model and the settings are the same.

        They are not after a step that writes into buffers, as BatchNorm's does.
        """
        same_objects = all(group.get(name) is value for group, name, value in self._entries)
        same_state = self._state == self._read_state()
        return same_objects and same_state and self._settings == settings

    def _read_state(self) -> list[Any]:
        return [
            *map(len, self._dictionaries),
            *((weight.requires_grad, weight.dtype, weight.stride()) for weight in self._parameters),
            *(buffer._version for buffer in self._buffers),
        ]


def _are_of_libraries(modules: Sequence[nn.Module]) -> bool:
    """Whether all modules belong to `LIBRARIES`."""
    return all(type(module).__module__.startswith(LIBRARIES) for module in modules)


def _trace_step(
    model: Any, compute: Step, weights: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Callable[..., Any] | None:
    """Traces the gradients and the outputs of a step, and compares them with an eager step's.

    Returns:
        The graph, a function of weights and inputs; None, with a warning, if it is not the step.
    """
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]

    def step(*values: Tensor) -> list[Tensor | None]:
        with torch.enable_grad():
            leaves = [value.detach().requires_grad_() for value in values[: len(names)]]
            state = dict(zip(names, leaves, strict=True))
            # A shared module is stacked: its weights are replaced under each of its names.
            with _reparametrize_module(model, state, tie_weights=True, stack_weights=True):
                outputs = compute(*values[len(names) :])
            gradients = torch.autograd.grad(outputs[0], leaves, allow_unused=True)
            return [*gradients, *outputs]

    try:
        with fork_rng():
            graph = trace(step, *weights, *inputs)
        with fork_rng(), torch.no_grad():
            results = graph(*weights, *inputs)
        with fork_rng():
            expected_results = step(*weights, *inputs)
        for result, expected in zip(results, expected_results, strict=True):
            if expected is not None and not _is_close(result, expected):
                raise UnsupportedOperationError("its steps are not always the same operations")
        return graph
    except Exception as error:  # tracing fails in many ways
        warnings.warn(
            f"{model.model_name} trains without a graph, which is slower: {format_error(error)}",
            SlowerSurrogateWarning,
            stacklevel=2,
        )
        return None


def _is_close(result: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding."""
    return bool((result - expected).norm() <= MAX_RELATIVE_ERROR * expected.norm())


class _GraphStep(torch.autograd.Function):
    """The outputs of a graph, with the gradients of the first one that it computed.

    An eager step computes all other derivatives: of other outputs, of second order, and in a second
    backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, graph: Any, compute: Step, inputs: list[Tensor], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        generators: Any = torch.cuda if inputs[0].is_cuda else torch
        set_random_state = partial(generators.set_rng_state, generators.get_rng_state())
        ctx.eager_step = compute, inputs, weights, set_random_state
        results = graph(*weights, *inputs)
        ctx.gradients = results[: len(weights)]
        return tuple(results[len(weights) :])

    @staticmethod
    def backward(ctx: Any, *output_gradients: Any) -> Any:
        # Without another reference, the gradients become those of the weights without a copy.
        gradients = ctx.gradients
        ctx.gradients = None
        scale, *further_gradients = output_gradients
        has_further = any(gradient is not None for gradient in further_gradients)
        if gradients is None or has_further or torch.is_grad_enabled():
            compute, inputs, weights, set_random_state = ctx.eager_step
            with fork_rng(), torch.enable_grad():
                set_random_state()
                outputs = compute(*inputs)
            pairs = zip(outputs, output_gradients, strict=True)
            roots, root_gradients = zip(*(p for p in pairs if p[1] is not None), strict=True)
            gradients = torch.autograd.grad(
                roots,
                weights,
                root_gradients,
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        elif scale.device.type != "cpu" or scale != 1:  # a GPU would have to wait
            gradients = [None if g is None else g * scale for g in gradients]
        return None, None, None, *gradients
