"""Traces functions of tensors to graphs of their operations."""

import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx.graph import CodeGen, Graph

ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
"""Operations that return their argument, if nothing is differentiated."""


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
