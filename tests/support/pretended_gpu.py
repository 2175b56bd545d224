"""A pretended GPU: a device of PyTorch in Python, whose tensors keep their numbers on the CPU.
Within `pretended()` the name `cuda` means it. As CUDA does, it refuses to mix its tensors with the
CPU's, to hand them to numpy, and to draw by a generator of the CPU. It counts the operations that
would be kernels, and each time that the host would wait for the device. It says nothing of
autocast, TF32, NCCL, memory or time."""

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

# Neither a kernel nor a wait: they make views, or memory that nothing is written to.
NO_KERNEL = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "is_same_size", "lift_fresh", "new_empty",
    "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip
# On CUDA their result, its shape or an error is known to the host alone when the device is done.
WAITS = {
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_local_scalar_dense", "_unique2",
    "bincount", "equal", "masked_select", "nonzero", "repeat_interleave", "unique_consecutive",
    "unique_dim",
}  # fmt: skip
INDEXING = {"_index_put_impl_", "_unsafe_index", "index", "index_put", "index_put_"}
COPIES = {"_copy_from", "_to_copy", "copy_"}
NOT_THE_PLACE = (str(Path(torch.__file__).parent), __file__)


@dataclass
class Counts:
    """What a part of a program asks of the device.

    Attributes:
        operations: Name of an operation -> how often it would be a kernel.
        waits: Reason and place -> how often the host would wait for the device.
        copied: Bytes from the host to the device and back.
    """

    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copied: int = 0


class GpuTensor(Tensor):
    """A tensor of the pretended GPU; `host` is the tensor of the CPU that has its numbers."""

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
        return _call(func, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.host})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "GpuTensor":
        if id(self) not in memo:
            copied = GpuTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().clone().__reduce_ex__(protocol)  # a file holds it as the CPU's


_of_gpu: dict[int, torch.Generator] = {}
"""Address of a generator that was made for the device -> it, which keeps the address its own."""


class _Generator(torch.Generator):
    """One of the CPU, which may have been made for the device."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        generator = super().__new__(cls)
        if torch.device(_renamed(device)).type == NAME:
            _of_gpu[generator._cdata] = generator
        return generator


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Does an operation on the CPU, after what CUDA would refuse, and counts it."""
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
    ours = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if not ours and wanted != NAME:
        return func(*args, **kwargs)

    if name not in NO_KERNEL:
        _counts.operations[name] += 1
    if name in WAITS:
        _wait(name)
    if name in COPIES:
        _count_copy(name, args, wanted)
    else:
        _refuse_mixture(name, args, tensors)
    if any(generator._cdata not in _of_gpu for generator in generators):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

    if wanted == NAME:
        host_kwargs["device"] = torch.device("cpu")
    if name == "_copy_from":
        host_args[1].copy_(host_args[0])
        return args[1]
    result = func(*host_args, **host_kwargs)
    if name == "copy_":
        return args[0]
    on_gpu = wanted in (NAME, None)
    wrappers = {id(tensor.host): tensor for tensor in ours}

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not on_gpu:
            return value.clone() if id(value) in wrappers else value
        return wrappers[id(value)] if id(value) in wrappers else GpuTensor(value)

    return tree_map(to_device, result)


def _count_copy(name: str, args: Any, wanted: str | None) -> None:
    source, target = (args[1], args[0]) if name == "copy_" else (args[0], args[-1])
    before = isinstance(source, GpuTensor)
    after = isinstance(target, GpuTensor) if wanted is None else wanted == NAME
    if before != after:
        _counts.copied += source.nbytes
        _wait("copy to the device" if after else "copy from the device")


def _refuse_mixture(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Raises RuntimeError where CUDA would: for tensors of the CPU, but numbers and indices."""
    others = [t for t in tensors if not isinstance(t, GpuTensor) and t.dim() > 0]
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if isinstance(args[0], GpuTensor):
            others = [t for t in others if all(t is not index for index in indices)]
            if any(not isinstance(index, GpuTensor) for index in indices):
                _wait("indices of the CPU")
            elif any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                _wait("a mask as index")
        else:
            others = [args[0]]
    if others:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({name})"
        )


def _wait(reason: str) -> None:
    """Counts one, with the innermost line of code that is not torch's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(NOT_THE_PLACE):
        frame = frame.f_back
    place = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    _counts.waits[f"{reason}, {place}:{frame.f_lineno}"] += 1


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _renamed(device: Any) -> Any:
    """The pretended device for the name of the real one."""
    named = isinstance(device, str) and device.partition(":")[0] == "cuda"
    if named or (isinstance(device, torch.device) and device.type == "cuda"):
        return torch.device(NAME, 0)
    return device


class _Names(TorchFunctionMode):
    """Lets `cuda` mean the pretended device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(map(_renamed, args))
        kwargs = {key: _renamed(value) for key, value in (kwargs or {}).items()}
        first = args[0] if args else None
        if func is Tensor.cuda:
            return first.to(NAME)
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(first, GpuTensor):
            return first.numpy()
        if func is Tensor.tolist and isinstance(first, GpuTensor):
            return first.cpu().tolist()
        if func in (torch.tensor, torch.as_tensor):
            return _made(func, first, kwargs)
        return func(*args, **kwargs)


def _made(func: Any, data: Any, kwargs: dict[str, Any]) -> Any:
    """`torch.tensor` and `torch.as_tensor`, which would read the numbers of a wrapper."""
    if isinstance(data, GpuTensor):
        return data.to(**kwargs) if func is torch.as_tensor else data.detach().clone().to(**kwargs)
    if isinstance(data, list | tuple):
        data = [value.item() if isinstance(value, GpuTensor) else value for value in data]
    if kwargs.get("device") is None:
        return func(data, **kwargs)
    return func(data, **{**kwargs, "device": "cpu"}).to(kwargs["device"])


class _Backend:
    """What torch asks of a device's module."""

    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)  # it draws by the CPU's generator
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: torch.empty(0, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda state, device=None: None)
    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)


_counts = Counts()


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Counts anew within the block."""
    global _counts
    before, _counts = _counts, Counts()
    try:
        yield _counts
    finally:
        _counts = before


def register() -> None:
    """Registers the device, once in a process of its own; ImportError: this torch has no devices in
    Python."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def there(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives on the device, in a process that has registered it."""
    torch.manual_seed(0)
    with pretended():
        return function(*arguments)


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Lets the process see one GPU within the block."""
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
        # Else backward passes have a thread of their own, where an error ends the process.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Operations())
        stack.enter_context(_Names())
        yield
