"""Fetched tensors as torch tensors, without a copy."""

from __future__ import annotations

from typing import Any, Dict

import torch

from ..dtypes import TORCH
from ..errors import UnsupportedError
from ..plan import Plan

_NAMES = {getattr(torch, attribute): name for name, attribute in TORCH.items() if hasattr(torch, attribute)}


def dtype_of(name: str, tensor: str = "") -> torch.dtype:
    """torch's dtype for a safetensors name. UnsupportedError for those that this torch lacks (F4, F6)."""
    dtype = getattr(torch, TORCH.get(name, ""), None)
    if dtype is None:
        raise UnsupportedError(f"{tensor}: torch has no dtype {name}", tensor=tensor or None)
    return dtype


def dtype_name(dtype: torch.dtype, tensor: str = "") -> str:
    """The safetensors name of a torch dtype. UnsupportedError for those that the format lacks."""
    name = _NAMES.get(dtype)
    if name is None:
        raise UnsupportedError(f"{tensor}: safetensors has no dtype for {dtype}", tensor=tensor or None)
    return name


def empty(plan: Plan) -> torch.Tensor:
    """A destination for the dense form of `plan`: uint8, on the CPU, not filled."""
    return torch.empty(plan.bytes, dtype=torch.uint8)


def tensors(plan: Plan, buffer: Any) -> Dict[str, torch.Tensor]:
    """The outputs and aliases of `plan` as tensors that share `buffer`: what empty() gave, or any object with a writable
    C-contiguous buffer. An alias is the very tensor of its output.

    An output whose place in the dense form is no multiple of its element's size, behind an output of an odd number of
    bytes, is a copy: torch has no such tensors."""
    data = buffer if isinstance(buffer, torch.Tensor) else torch.frombuffer(buffer, dtype=torch.uint8)
    made = {}
    for name, output in plan.outputs.items():
        part = data[output.offset:output.offset + output.bytes]
        dtype = dtype_of(output.dtype, name)
        if part.storage_offset() % dtype.itemsize or part.data_ptr() % dtype.itemsize:
            part = part.clone()
        made[name] = part.view(dtype).reshape(output.shape)
    made.update({name: made[target] for name, target in plan.aliases.items()})
    return made
