"""Fetched tensors as numpy arrays (numpy, and ml_dtypes for bfloat16 and the 8-bit floats)."""

from __future__ import annotations

from typing import Any, Dict

import numpy

from .dtypes import ML_DTYPES, NUMPY
from .errors import UnsupportedError
from .plan import Plan

__all__ = ["tensors"]


def dtype_of(name: str, tensor: str = "") -> numpy.dtype:
    """numpy's dtype for a safetensors name. UnsupportedError for those that neither numpy nor ml_dtypes has."""
    if name in NUMPY:
        return numpy.dtype(NUMPY[name])
    if name in ML_DTYPES:
        import ml_dtypes

        return numpy.dtype(getattr(ml_dtypes, ML_DTYPES[name]))
    raise UnsupportedError(f"{tensor}: numpy has no dtype {name}", tensor=tensor or None)


def tensors(plan: Plan, buffer: Any) -> Dict[str, numpy.ndarray]:
    """The outputs and aliases of `plan` as arrays that share `buffer`, a finished fetch's destination (any object with
    a C-contiguous buffer). An alias is the very array of its output."""
    data = numpy.frombuffer(buffer, numpy.uint8, count=plan.bytes)
    made = {name: data[output.offset:output.offset + output.bytes].view(dtype_of(output.dtype, name)).reshape(output.shape)
            for name, output in plan.outputs.items()}
    made.update({name: made[target] for name, target in plan.aliases.items()})
    return made
