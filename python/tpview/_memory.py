"""Destinations: from what callers have to a pointer, a length and what keeps it alive."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, NamedTuple, Tuple, Union

from .errors import UsageError

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
