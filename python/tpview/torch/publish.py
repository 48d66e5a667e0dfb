"""Offering the weights of a trainer: from its memory, without a checkpoint on a disk."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import struct
from typing import Any, Dict, Mapping, Optional

import torch

from .._bindings import byref, check, library
from .._handle import Handle
from ..errors import Error, PeerLost, UsageError
from ..source import Source
from .tensors import dtype_name

__all__ = ["publish_state_dict"]

_ALIGNMENT = 8  # of the first value, as the safetensors package has it
# From linux/fcntl.h; the fcntl module has them since Python 3.8 on Linux only where the C library had them.
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE


def publish_state_dict(source: Source, label: str, state_dict: Mapping[str, torch.Tensor], *,
                       timeout: Optional[float] = None) -> str:
    """Have the source offer "NAME@VERSION" with the tensors of `state_dict` as they are now; returns its artifact_id.

    source:     a service on this host, by its Unix socket, that runs as the same user (or as root) and sees the same
                processes: it opens the memory through /proc.
    state_dict: CPU tensors or tensors that are copied to the CPU one by one; no DTensors of several ranks. Names that share
                all of their memory (tied weights) are offered once, under the first name.
    timeout:    seconds for the service's digest; None: the source's.

    The tensors are copied once into memory that nobody can change any more; they may change as soon as this returns. The
    service holds that memory (as many bytes as the tensors have, beside its budget) until the version is retired and its
    last fetch has ended. No config.json goes with it: ranks plan with layouts of slices, as tpview.transformers and the vLLM
    load format do, or with a plan that needs no head counts.

    Raises UsageError for a label that is taken and for tensors that cannot be offered, PermissionDenied, and NotFoundError
    where the service does not see this process."""
    tensors = _distinct(state_dict)
    descriptor = os.memfd_create(f"tpview {label}"[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(descriptor, tensors)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        pointer = ctypes.c_void_p()
        check(library().tpv_artifact_open(path.encode(), byref(pointer)), stage="publish")
        mine = Handle(pointer.value, library().tpv_artifact_close, "artifact")
        check(library().tpv_artifact_digest(mine.pointer, 0, None, None), stage="publish")
        identity = library().tpv_artifact_id(mine.pointer).decode()
        mine.close()
        source.publish(label, path, timeout=timeout)
    finally:
        os.close(descriptor)
    try:
        if source.manifest(label).artifact_id != identity:
            raise PeerLost(f"{label}: the service found other tensors at {path}: it does not see this process (another pid "
                           "namespace)", stage="publish", peer=source.address)
    except BaseException:  # nobody may take for ours what nobody has compared
        with contextlib.suppress(Error):
            source.retire(label)
        raise
    return identity


def _distinct(state_dict: Mapping[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    tensors: Dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in state_dict.items():
        if hasattr(tensor, "to_local"):
            raise UsageError(f"{name} is a DTensor: give whole tensors", stage="publish", tensor=name)
        tensor = tensor.detach()
        place = (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor
    if not tensors:
        raise UsageError("no tensors to offer", stage="publish")
    # As the safetensors package orders them, so that every value lies on a multiple of its element's size.
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))


def _write(descriptor: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """A safetensors file (github.com/huggingface/safetensors, "Format")."""
    header: Dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": dtype_name(tensor.dtype, name), "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    _write_all(descriptor, memoryview(struct.pack("<Q", len(text)) + text))
    for tensor in tensors.values():
        values = tensor.cpu().contiguous()
        size = values.numel() * values.element_size()
        if size:
            _write_all(descriptor, memoryview((ctypes.c_char * size).from_address(values.data_ptr())).cast("B"))


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data):]
