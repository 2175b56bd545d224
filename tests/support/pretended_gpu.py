"""A pretended GPU: a device of PyTorch in Python that keeps the numbers of its tensors on the CPU.

Within `pretended()` the name `cuda` means this device. As CUDA does, it refuses to mix its tensors
with the CPU's, to convert them to numpy, and to draw with a generator of the CPU. It counts the
operations that would be kernels, and each time that the host would wait for the device. It does not
pretend autocast, TF32, NCCL, memory or time.
"""

import contextlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "pretended"

# Operations that only make views or allocate memory: neither a kernel nor a wait.
NO_KERNEL = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "is_same_size", "lift_fresh", "new_empty",
    "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip
# The host knows their result, its shape or an error only when a CUDA device has finished them.
WAITING_OPERATIONS = {
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_local_scalar_dense", "_unique2",
    "bincount", "equal", "masked_select", "nonzero", "repeat_interleave", "unique_consecutive",
    "unique_dim",
}  # fmt: skip
INDEXING_OPERATIONS = {"_index_put_impl_", "_unsafe_index", "index", "index_put", "index_put_"}
COPY_OPERATIONS = {"_copy_from", "_to_copy", "copy_"}
INTERNAL_FILES = (str(Path(torch.__file__).parent), __file__)


@dataclass
class Counts:
    """Counts of what a part of a program does with the device.

    Attributes:
        operations: Name of an operation -> how often it would be a kernel.
        waits: Reason and place -> how often the host would wait for the device.
        copied_bytes: Bytes copied from the host to the device and back.
    """

    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copied_bytes: int = 0


class GpuTensor(Tensor):
    """A tensor of the pretended GPU.

    Attributes:
        host: The tensor on the CPU that has its numbers.
    """

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> "GpuTensor":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _execute(func, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.host})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "GpuTensor":
        if id(self) not in memo:
            copy = GpuTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copy._is_param = True
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file contains it as a tensor of the CPU.
        return self.host.detach().clone().__reduce_ex__(protocol)


_gpu_generators: dict[int, torch.Generator] = {}
"""Address -> generator that was made for the device, which keeps the address from being reused."""


class _Generator(torch.Generator):
    """A generator of the CPU, which may have been made for the device."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        generator = super().__new__(cls)
        if torch.device(_rename_device(device)).type == NAME:
            _gpu_generators[generator._cdata] = generator
        return generator


def _execute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Executes an operation on the CPU, counts it, and refuses what CUDA would refuse."""
    name = func._schema.name.removeprefix("aten::")
    tensors: list[Tensor] = []
    generators: list[torch.Generator] = []

    def to_host(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, torch._C.Generator):
            generators.append(value)
        return value.host if isinstance(value, GpuTensor) else value

    host_args, host_kwargs = tree_map(to_host, (args, kwargs))
    gpu_tensors = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
    target_device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if not gpu_tensors and target_device != NAME:
        return func(*args, **kwargs)

    if name not in NO_KERNEL:
        _counts.operations[name] += 1
    if name in WAITING_OPERATIONS:
        _count_wait(name)
    if name in COPY_OPERATIONS:
        _count_copy(name, args, target_device)
    else:
        _refuse_mixture(name, args, tensors)
    if any(generator._cdata not in _gpu_generators for generator in generators):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

    if target_device == NAME:
        host_kwargs["device"] = torch.device("cpu")
    if name == "_copy_from":
        host_args[1].copy_(host_args[0])
        return args[1]
    result = func(*host_args, **host_kwargs)
    if name == "copy_":
        return args[0]

    wrappers = {id(tensor.host): tensor for tensor in gpu_tensors}
    result_is_on_gpu = target_device in (NAME, None)

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not result_is_on_gpu:
            return value.clone() if id(value) in wrappers else value
        return wrappers[id(value)] if id(value) in wrappers else GpuTensor(value)

    return tree_map(to_device, result)


def _count_copy(name: str, args: Any, target_device: str | None) -> None:
    """Counts the bytes and the wait of a copy between the host and the device."""
    source, target = (args[1], args[0]) if name == "copy_" else (args[0], args[-1])
    from_gpu = isinstance(source, GpuTensor)
    to_gpu = isinstance(target, GpuTensor) if target_device is None else target_device == NAME
    if from_gpu != to_gpu:
        _counts.copied_bytes += source.nbytes
        _count_wait("copy to the device" if to_gpu else "copy from the device")


def _refuse_mixture(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Raises RuntimeError if CUDA would: for tensors of the CPU, except numbers and indices."""
    cpu_tensors = [
        tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim() > 0
    ]
    if name in INDEXING_OPERATIONS:
        indexed_tensor = args[0]
        indices = [index for index in args[1] if index is not None]
        if isinstance(indexed_tensor, GpuTensor):
            cpu_tensors = [
                tensor for tensor in cpu_tensors if all(tensor is not index for index in indices)
            ]
            _count_wait_for_indices(indices)
        else:
            cpu_tensors = [indexed_tensor]

    if cpu_tensors:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({name})"
        )


def _count_wait_for_indices(indices: list[Tensor]) -> None:
    """Counts the wait that indices of the CPU, or masks, cause."""
    if any(not isinstance(index, GpuTensor) for index in indices):
        _count_wait("indices of the CPU")
    elif any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        _count_wait("a mask as index")


def _count_wait(reason: str) -> None:
    """Counts a wait, with the innermost line of code outside of torch and this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INTERNAL_FILES):
        frame = frame.f_back
    place = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    _counts.waits[f"{reason}, {place}:{frame.f_lineno}"] += 1


class _Operations(TorchDispatchMode):
    """Executes the operations that have no tensor argument, as those that make a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _execute(func, args, kwargs or {})


def _rename_device(device: Any) -> Any:
    """Returns the pretended device for a CUDA device or its name, and anything else unchanged."""
    is_cuda_name = isinstance(device, str) and device.partition(":")[0] == "cuda"
    if is_cuda_name or (isinstance(device, torch.device) and device.type == "cuda"):
        return torch.device(NAME, 0)
    return device


class _Names(TorchFunctionMode):
    """Lets `cuda` mean the pretended device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(map(_rename_device, args))
        kwargs = {key: _rename_device(value) for key, value in (kwargs or {}).items()}

        first = args[0] if args else None
        if func is Tensor.cuda:
            return first.to(NAME)
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(first, GpuTensor):
            return first.numpy()
        if func is Tensor.tolist and isinstance(first, GpuTensor):
            return first.cpu().tolist()
        if func in (torch.tensor, torch.as_tensor):
            return _make_tensor(func, first, kwargs)
        return func(*args, **kwargs)


def _make_tensor(func: Any, data: Any, kwargs: dict[str, Any]) -> Any:
    """Replaces `torch.tensor` and `torch.as_tensor`, which would read the numbers of a wrapper."""
    if isinstance(data, GpuTensor):
        return data.to(**kwargs) if func is torch.as_tensor else data.detach().clone().to(**kwargs)
    if isinstance(data, list | tuple):
        data = [value.item() if isinstance(value, GpuTensor) else value for value in data]
    if kwargs.get("device") is None:
        return func(data, **kwargs)
    return func(data, **{**kwargs, "device": "cpu"}).to(kwargs["device"])


class _Backend:
    """The functions that torch needs of a device's module."""

    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)  # It draws with the CPU's generator.
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: torch.empty(0, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda state, device=None: None)
    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)


_counts = Counts()


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Yields counts that are counted only within the block."""
    global _counts
    outer_counts = _counts
    _counts = Counts()
    try:
        yield _counts
    finally:
        _counts = outer_counts


def register() -> None:
    """Registers the device, once in a process that is used for nothing else.

    Raises:
        ImportError: This version of torch does not support devices in Python.
    """
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def run_on_gpu(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function on the device, in a process that has registered it."""
    torch.manual_seed(0)
    with pretended():
        return function(*arguments)


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Makes the process see one GPU within the block."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "a pretended GPU",
        "max_memory_allocated": 0,
        "mem_get_info": (2**34, 2**34),
        "synchronize": None,
    }

    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, a=answer: a))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        # Otherwise backward passes run in another thread, where an error ends the process.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Operations())
        stack.enter_context(_Names())
        yield
