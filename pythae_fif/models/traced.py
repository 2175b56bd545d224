"""Traces a training step to a graph, which computes the loss and its gradients.

The graph repeats the operations of the step, so that both give equal numbers. It saves the time
that Python and autograd need between the operations, up to half of a small step.
"""

import types
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pythae_fif.device import fork_rng
from pythae_fif.errors import UnsupportedOperationError

MIN_STEPS_TO_TRACE = 200
"""Number of steps from which a graph pays for its tracing, which takes 0.5 to 2 s."""

MAX_RELATIVE_ERROR = 1e-3
"""Largest error of a graph's gradients, which is zero unless the graph is wrong."""

LIBRARIES = ("torch.nn.", "pythae.", "pythae_fif.", "zuko.")
"""Packages whose modules do the same operations in every step: they have no hidden state."""

ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
"""Operations that return their argument, if nothing is differentiated."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SlowerSurrogateWarning(UserWarning):
    """Training is slower because of a network; the message says why."""


def trace(function: Callable[..., Any], *inputs: Any) -> Any:
    """Traces a function to a graph of its operations.

    Args:
        function: A function of tensors, or of nested containers of them.
        *inputs: Inputs of the shapes, types and devices that the graph will be used with.

    Returns:
        A module. Its `forward` runs the graph without gradient, and its attribute
        `draws_random_numbers` says whether that draws any.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes long to import

    module: Any = make_fx(partial(function))(*inputs)
    (output,) = module.graph.find_nodes(op="output")
    for node in module.graph.nodes:
        if node.target in ALIASES and output not in node.users:
            node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()

    random_operation = torch.Tag.nondeterministic_seeded
    module.draws_random_numbers = any(
        random_operation in getattr(node.target, "tags", ()) for node in module.graph.nodes
    )
    for node in module.graph.nodes:
        node.target = _find_binding(node.target)
    module.recompile()
    return module


def _find_binding(operation: Any) -> Any:
    """Returns PyTorch's own binding of an operation, which is faster to call than the operation."""
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace != "aten":
        return operation

    name = operation.overloadpacket.__name__
    for owner in (torch, torch._C._nn, Tensor):
        binding = getattr(owner, name, None)
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
        self._settings: Any = None
        self._steps: Counter[Any] = Counter()
        self._graphs: dict[Any, Any] = {}

    def __reduce__(self) -> Any:
        return TracedStep, ()

    def run(
        self,
        model: Any,
        compute: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Any],
        *,
        settings: Any,
        trust: bool | None,
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Computes the outputs of a step.

        Args:
            model: The model.
            compute: Computes the outputs, of which the first is the loss, from the inputs and the
                model's weights.
            inputs: Tensors and numbers; the first one is a tensor.
            settings: What else the outputs depend on. When it changes, graphs are traced anew.
            trust: Whether to trace modules outside `LIBRARIES` and networks that draw random
                numbers. None traces all others, False nothing.

        Returns:
            The outputs, and whether they come from a graph.
        """
        if trust is False or not _has_plain_gradient(inputs):
            return compute(*inputs), False

        structure = self._structure
        if structure is None or not structure.is_current() or settings != self._settings:
            structure = _Structure(model)
            self._structure = structure
            self._settings = settings
            self._steps.clear()
            self._graphs.clear()

        graph = None
        if structure.is_traceable(bool(trust)):
            graph = self._find_graph(model, compute, inputs, bool(trust))
        if graph is None:
            return compute(*inputs), False
        run_graph: Any = _GraphStep.apply
        return run_graph(graph, compute, _as_tensors(inputs), *structure.weights), True

    def _find_graph(
        self, model: Any, compute: Callable[..., Any], inputs: Sequence[Any], trust: bool
    ) -> Any:
        """Returns the graph for inputs of these shapes, traced if it is time; None without one."""
        key = tuple(map(_describe_input, inputs))
        if key not in self._graphs:
            self._steps[key] += 1
            if self._steps[key] <= MIN_STEPS_TO_TRACE:
                return None

            self._graphs[key] = None
            try:
                graph = _trace_step(model, compute, _as_tensors(inputs))
            except UnsupportedOperationError as error:
                warnings.warn(
                    f"{model.model_name} trains without a graph, which is slower: {error}",
                    SlowerSurrogateWarning,
                    stacklevel=2,
                )
            else:
                self._graphs[key] = graph if trust or not graph.draws_random_numbers else None
        return self._graphs[key]


class _Structure:
    """The modules and weights of a model, to notice if they change.

    Attributes:
        weights: The weights that are trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        modules = [*model.modules()]
        self._is_of_libraries = all(type(m).__module__.startswith(LIBRARIES) for m in modules)
        inner_modules = modules[1:]  # the model's own buffers and hooks are not part of the step

        hooks = [module.__dict__[name] for module in inner_modules for name in HOOKS]
        self._has_hooks = any(hooks)
        groups: list[dict[str, Any]] = [module._buffers for module in inner_modules]
        for module in modules:
            groups += [module._modules, module._parameters]
        self._entries = [(group, name, group[name]) for group in groups for name in group]
        self._entries += [(m.__dict__, "training", m.training) for m in inner_modules]

        self._dictionaries = [*hooks, *groups]
        self._parameters = [*model.parameters()]
        self._buffers = [buffer for module in inner_modules for buffer in module.buffers(False)]
        self._state = self._read_state()

    def is_traceable(self, trust: bool) -> bool:
        """Whether a step of the model may be traced; see :class:`TracedStep`."""
        return bool(self.weights) and not self._has_hooks and (trust or self._is_of_libraries)

    def is_current(self) -> bool:
        """Whether the model still has these modules, weights, buffers and modes.

        A step that writes into buffers, such as BatchNorm's, changes the structure.
        """
        same_objects = all(group.get(name) is value for group, name, value in self._entries)
        return same_objects and self._state == self._read_state()

    def _read_state(self) -> list[Any]:
        return [
            *map(len, self._dictionaries),
            *((w.requires_grad, w.dtype, w.stride()) for w in self._parameters),
            *(buffer._version for buffer in self._buffers),
        ]


def _has_plain_gradient(inputs: Sequence[Any]) -> bool:
    """Whether only weights have a gradient, in the precision of the weights."""
    needs_gradient = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    uses_autocast = torch.is_autocast_enabled(inputs[0].device.type)
    return torch.is_grad_enabled() and not needs_gradient and not uses_autocast


def _describe_input(value: Any) -> Any:
    """What a graph assumes of an input: the layout of a tensor, and nothing of a number."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return None


def _as_tensors(inputs: Sequence[Any]) -> list[Tensor]:
    """Makes tensors of numbers, which would otherwise be constants of the graph."""
    like = inputs[0]
    return [x if isinstance(x, Tensor) else like.new_full((), x) for x in inputs]


class _Method(nn.Module):
    """A method of a model as a module, to call it with other weights."""

    def __init__(self, model: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, *inputs: Any) -> Any:
        return self.method(*inputs)


def _trace_step(model: nn.Module, compute: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """Traces the gradients and outputs of a step, and compares them with those of an eager step.

    Returns:
        The graph, a function of the weights and inputs.

    Raises:
        UnsupportedOperationError: If the step cannot be traced.
    """
    module = _Method(model, compute)
    weights = {name: w for name, w in module.named_parameters() if w.requires_grad}

    def step(weight_values: Sequence[Tensor], *inputs: Tensor) -> Any:
        with torch.enable_grad():
            leaves = [weight.detach().requires_grad_() for weight in weight_values]
            state = dict(zip(weights, leaves, strict=True))
            outputs = torch.func.functional_call(module, state, inputs)
            gradients = torch.autograd.grad(outputs[0], leaves, allow_unused=True)
        return gradients, tuple(outputs)

    arguments: Any = ([*weights.values()], *inputs)
    try:
        with fork_rng():
            graph = trace(step, *arguments)
        with fork_rng(), torch.no_grad():
            results = graph.forward(*arguments)
    except Exception as error:  # tracing fails in many ways
        raise UnsupportedOperationError(f"it cannot be traced: {error}") from error

    with fork_rng():
        expected_results = step(*arguments)
    pairs = zip(tree_leaves(results), tree_leaves(expected_results), strict=True)
    for result, expected in pairs:
        if expected is None:
            continue
        if not (result - expected).norm() <= MAX_RELATIVE_ERROR * expected.norm():
            raise UnsupportedOperationError("its step changes in ways that a graph cannot follow")
    return graph


class _GraphStep(torch.autograd.Function):
    """The outputs of a graph, with the gradients of the first one that it computed.

    An eager step computes all other derivatives: those of other outputs, second derivatives, and
    those of a second backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        graph: Any,
        compute: Callable[..., Any],
        inputs: list[Tensor],
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        gradients, outputs = graph.forward([*weights], *inputs)
        ctx.set_materialize_grads(False)
        ctx.gradients = gradients
        ctx.eager_step = compute, inputs, weights
        ctx.can_repeat = not graph.draws_random_numbers
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Any) -> Any:
        # Without another reference, the gradients become those of the weights without a copy.
        gradients = ctx.gradients
        ctx.gradients = None
        scale, *further_gradients = output_gradients
        is_of_loss = all(gradient is None for gradient in further_gradients)
        if gradients is None or not is_of_loss or torch.is_grad_enabled():
            if not ctx.can_repeat:
                raise UnsupportedOperationError(
                    "the traced step of a network that draws random numbers has only the first "
                    "derivative of its loss: use FIFConfig(trace=False)"
                )
            compute, inputs, weights = ctx.eager_step
            gradients = _differentiate_eagerly(compute, inputs, weights, output_gradients)
        elif scale.device.type != "cpu" or scale != 1:  # a GPU would have to wait
            gradients = [None if g is None else g * scale for g in gradients]
        return None, None, None, *gradients


def _differentiate_eagerly(
    compute: Callable[..., Any],
    inputs: list[Tensor],
    weights: Sequence[Tensor],
    output_gradients: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of an eager step, from the gradients of its outputs."""
    needs_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = compute(*inputs)

    pairs = zip(outputs, output_gradients, strict=True)
    outputs, gradients = zip(*((o, g) for o, g in pairs if g is not None), strict=True)
    return torch.autograd.grad(
        outputs, weights, gradients, create_graph=needs_graph, allow_unused=True
    )
