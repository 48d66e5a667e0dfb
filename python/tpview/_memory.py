"""Destinations: from what callers have to a pointer, a length and what keeps it alive."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING, Any, List, Mapping, NamedTuple, Sequence, Tuple, Union

from ._bindings import Destination
from .dtypes import ML_DTYPES, NUMPY, TORCH
from .errors import UsageError

if TYPE_CHECKING:
    from .plan import Output, Plan

ADDRESS_LIMIT = 1 << (8 * ctypes.sizeof(ctypes.c_void_p))


class Memory(NamedTuple):
    """Writable host memory; `owner` keeps it alive and in place."""

    pointer: int
    bytes: int
    owner: Any


def allocate(length: int) -> Tuple[mmap.mmap, Memory]:
    """`length` bytes of anonymous memory, page-aligned, and the same as a Memory."""
    block = mmap.mmap(-1, max(length, 1))
    return block, _of_buffer(block)


def _of_buffer(buffer: Any) -> Memory:
    try:
        view = memoryview(buffer)
    except TypeError:
        raise UsageError(f"a destination of type {type(buffer).__name__}: expected a writable buffer, a CPU tensor or "
                         "(pointer, bytes, keep_alive)", stage="fetch") from None
    if view.readonly or not view.c_contiguous:
        raise UsageError(f"the destination is {'read-only' if view.readonly else 'not contiguous'}: expected a writable, "
                         "C-contiguous buffer", stage="fetch")
    # The ctypes object holds the buffer's export: a bytearray cannot be resized under a running fetch.
    held = (ctypes.c_char * view.nbytes).from_buffer(view.cast("B")) if view.nbytes else view
    return Memory(ctypes.addressof(held) if view.nbytes else 0, view.nbytes, held)


def _of_tensor(tensor: Any) -> Memory:
    if tensor.device.type != "cpu":
        raise UsageError(f"a destination on {tensor.device}: expected a CPU tensor", stage="fetch")
    if not tensor.is_contiguous():
        raise UsageError("the destination tensor is not contiguous", stage="fetch")
    return Memory(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor)


def memory_of(destination: Union[Any, Tuple[int, int, Any]], needed: int) -> Memory:
    """The memory of a destination that must have at least `needed` bytes: an object with a writable C-contiguous buffer,
    a contiguous CPU torch tensor, or (pointer, bytes, keep_alive). Raises UsageError."""
    if isinstance(destination, tuple):
        if len(destination) != 3 or not all(isinstance(part, int) for part in destination[:2]):
            raise UsageError("a destination tuple must be (pointer, bytes, keep_alive)", stage="fetch")
        memory = Memory(*destination)
        if not 0 < memory.pointer < ADDRESS_LIMIT or not 0 <= memory.bytes <= ADDRESS_LIMIT - memory.pointer:
            raise UsageError(f"a destination of {memory.bytes} bytes at {memory.pointer}: no such memory", stage="fetch")
    elif hasattr(destination, "data_ptr") and hasattr(destination, "is_contiguous"):
        memory = _of_tensor(destination)
    else:
        memory = _of_buffer(destination)
    if memory.bytes < needed:
        raise UsageError(f"the destination has {memory.bytes} bytes, the plan needs {needed}", stage="fetch")
    return memory


class Tensors(NamedTuple):
    """A destination for each output of a plan, in its order; `owners` keep them alive and in place."""

    table: Any  # an array of Destination
    owners: List[Any]


def _strided(tensor: Any, name: str) -> Tuple[str, Sequence[int], int, Sequence[int]]:
    """(dtype as the tensor's library calls it, shape, address of its first element, strides in elements)."""
    if hasattr(tensor, "data_ptr") and hasattr(tensor, "stride"):
        if tensor.device.type != "cpu":
            raise UsageError(f"{name}: a destination on {tensor.device}: expected a CPU tensor", stage="fetch", tensor=name)
        return str(tensor.dtype), tensor.shape, tensor.data_ptr(), tensor.stride()
    interface = getattr(tensor, "__array_interface__", None)
    if interface is None:
        raise UsageError(f"{name}: a destination of type {type(tensor).__name__}: expected a CPU torch tensor or a numpy "
                         "array", stage="fetch", tensor=name)
    address, readonly = interface["data"]
    if readonly:
        raise UsageError(f"{name}: the destination is read-only", stage="fetch", tensor=name)
    size = tensor.dtype.itemsize
    if any(stride % size for stride in tensor.strides):
        raise UsageError(f"{name}: strides of {tensor.strides} bytes are no whole elements", stage="fetch", tensor=name)
    if not tensor.dtype.isnative:
        raise UsageError(f"{name}: a destination in another byte order", stage="fetch", tensor=name)
    return str(tensor.dtype), tensor.shape, address, [stride // size for stride in tensor.strides]


def _destination(output: "Output", tensor: Any) -> Destination:
    name = output.name
    dtype, shape, address, strides = _strided(tensor, name)
    known = (f"torch.{TORCH.get(output.dtype)}", NUMPY.get(output.dtype), ML_DTYPES.get(output.dtype))
    if dtype not in known or tuple(shape) != output.shape:
        raise UsageError(f"{name}: the destination is {dtype} {list(shape)}, the plan's output {output.dtype} "
                         f"{list(output.shape)}", stage="fetch", tensor=name)
    made = Destination(address if output.bytes else None)
    for dim, stride in enumerate(strides):
        if output.shape[dim] > 1 and not -(1 << 63) <= stride < 1 << 63:
            raise UsageError(f"{name}: stride {stride}", stage="fetch", tensor=name)
        made.strides[dim] = stride
    return made


def _check_apart(plan: "Plan", table: Any) -> None:
    """Dense destinations must not overlap; strided ones may lie between each other, which is the caller's to know."""
    dense = []
    for index, output in enumerate(plan.outputs.values()):
        expected = 1
        for dim in reversed(range(len(output.shape))):
            if output.shape[dim] > 1 and table[index].strides[dim] != expected:
                break
            expected *= output.shape[dim]
        else:
            if output.bytes:
                dense.append((table[index].data, output))
    dense.sort(key=lambda item: item[0])
    for (begin, output), (next_begin, other) in zip(dense, dense[1:]):
        if begin + output.bytes > next_begin:
            raise UsageError(f"the destinations of {output.name} and {other.name} overlap", stage="fetch", tensor=other.name)


def tensors_of(destinations: Mapping[str, Any], plan: "Plan") -> Tensors:
    """The memory of a mapping from each output's name to a writable CPU torch tensor or numpy array of its dtype and shape,
    with any strides. Raises UsageError naming the tensor."""
    unknown = [name for name in destinations if name not in plan.outputs]
    missing = [name for name in plan.outputs if name not in destinations]
    if missing or unknown:
        raise UsageError(f"{missing[0]}: the plan has this output and `into` does not" if missing else
                         f"{unknown[0]}: the plan has no such output", stage="fetch", tensor=(missing or unknown)[0])
    table = (Destination * max(len(plan.outputs), 1))()
    for index, (name, output) in enumerate(plan.outputs.items()):
        table[index] = _destination(output, destinations[name])
    _check_apart(plan, table)
    return Tensors(table, list(destinations.values()))
