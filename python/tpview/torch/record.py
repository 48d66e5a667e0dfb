"""Slices recorded from a model's own loader.

A loader that copies pure views (narrow, reshape, indexing, transpose, chunk, ...) of checkpoint tensors into parameters
says by that which bytes this rank needs and where they go. It is run once over tensors that are not there; what it
copies is noted, and becomes a Layout of exactly these slices: no rule of ours, whatever the model fuses or leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch

from ..errors import PlanError, UnsupportedError
from ..layout import Layout, Slice
from ..manifest import Manifest, TensorInfo
from .tensors import dtype_of

__all__ = ["Copy", "Recorded", "record"]

Loader = Callable[[Iterator[Tuple[str, torch.Tensor]]], Any]


@dataclass(frozen=True)
class Box:
    """A strided box: sizes, strides and offset in elements."""

    sizes: Tuple[int, ...]
    strides: Tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Box":
        return cls(tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset())


@dataclass(frozen=True)
class Copy:
    """One recorded copy: `source` of the artifact's tensor `tensor` into `destination` of the storage of parameter
    `parameter`. Both boxes have the same sizes."""

    tensor: str
    source: Box
    parameter: str
    destination: Box


@dataclass
class Recorded:
    """What a loader asked for.

    copies: slices copied as they are.
    whole:  tensors of which the loader needed values (another dtype, arithmetic, a copy that reorders), in the order in
            which it was given them: they are fetched whole and loaded the engine's way.
    unused: tensors that the loader let pass.
    """

    copies: List[Copy] = field(default_factory=list)
    whole: List[str] = field(default_factory=list)
    unused: List[str] = field(default_factory=list)

    def sources(self) -> Dict[Tuple[str, Box], str]:
        """Each different (tensor, box) that is fetched, with the name of its output."""
        names: Dict[Tuple[str, Box], str] = {}
        for copy in self.copies:
            key = (copy.tensor, copy.source)
            if key not in names:
                names[key] = f"{copy.tensor}#{len(names)}"
        return names

    def layout(self, manifest: Manifest, *, rank: int = 0, size: int = 1) -> Layout:
        """A layout with one dense output for each different slice, named "TENSOR#N", and one for each whole tensor, under
        its own name. PlanError when nothing is to be fetched."""
        outputs: List[tuple] = []
        for (tensor, box), name in self.sources().items():
            outputs.append((name, manifest[tensor].dtype, box.sizes,
                            [Slice(tensor, box.sizes, box.strides, box.offset)]))
        for tensor in self.whole:
            info = manifest[tensor]
            outputs.append((tensor, info.dtype, info.shape, [Slice(tensor, info.shape)]))
        if not outputs:
            raise PlanError("the loader asked for no tensor of the artifact", stage="plan")
        return Layout.slices(outputs, rank=rank, size=size)

    def places(self, parameters: Mapping[str, torch.Tensor]) -> List[Tuple[str, torch.Tensor]]:
        """Where each copy goes, in the loader's order: (output of layout(), view of a parameter). A slice that is copied
        twice has two. PlanError for a parameter that is not there any more or smaller."""
        names = self.sources()
        return [(names[copy.tensor, copy.source], _place(copy, parameters)) for copy in self.copies]

    def install(self, fetched: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor],
                load_weights: Optional[Loader] = None) -> None:
        """Copy fetched outputs (tensors() of a plan of layout()) to where the loader would have; then give `load_weights`
        the whole tensors, if any. Every name and size is checked before the first byte changes: PlanError."""
        if self.whole and load_weights is None:
            raise PlanError(f"{len(self.whole)} tensors must be loaded the engine's way, such as {self.whole[0]}: give "
                            "load_weights", stage="install", tensor=self.whole[0])
        places = self.places(parameters)
        with torch.no_grad():
            for name, destination in places:
                values = fetched[name]
                if not _same_place(destination, values):
                    destination.copy_(values)
        if self.whole:
            load_weights((name, fetched[name]) for name in self.whole)


def _same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.device == b.device


def _place(copy: Copy, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    parameter = parameters.get(copy.parameter)
    if parameter is None:
        raise PlanError(f"{copy.tensor}: the model has no parameter {copy.parameter} any more", stage="install",
                        tensor=copy.tensor)
    box, have = copy.destination, parameter.untyped_storage().nbytes() // parameter.itemsize
    last = box.offset + sum((size - 1) * stride for size, stride in zip(box.sizes, box.strides))
    if 0 not in box.sizes and last >= have:
        raise PlanError(f"{copy.tensor}: its place in {copy.parameter} ends at element {last}, but the parameter has "
                        f"{have}: record the slices again", stage="install", tensor=copy.tensor)
    return parameter.detach().as_strided(box.sizes, box.strides, box.offset)


class _Recorder:
    def __init__(self, parameters: Mapping[str, torch.Tensor]):
        # A parameter and its views share a storage, also on the meta device.
        self.names = {tensor.untyped_storage()._cdata: (name, tensor) for name, tensor in parameters.items()}
        self.copies: List[Copy] = []
        self.whole: Dict[str, None] = {}
        self.used: Dict[str, None] = {}

    def note_copy(self, destination: torch.Tensor, source: "_Absent") -> bool:
        """False when it is more than a copy of the same elements."""
        if destination.dtype != source.dtype or destination.shape != source.shape:
            return False
        name, _ = self.names.get(destination.untyped_storage()._cdata, (None, None))
        if name is None:
            return False
        self.copies.append(Copy(source.tpv_name, Box.of(source.tpv_meta), name, Box.of(destination)))
        return True


# The same values in the same shape: what they are called on goes on unchanged.
_SAME_VALUES = {torch.Tensor.contiguous, torch.Tensor.clone, torch.Tensor.detach, torch.Tensor.cpu, torch.Tensor.cuda,
                torch.clone, torch.detach}


# What gives another view of the same elements; anything else that gives a tensor may have changed them.
_VIEWS = {getattr(owner, name) for owner in (torch.Tensor, torch) for name in (
    "narrow", "view", "view_as", "reshape", "reshape_as", "__getitem__", "unsqueeze", "squeeze", "t", "transpose", "swapaxes",
    "swapdims", "chunk", "split", "tensor_split", "hsplit", "vsplit", "flatten", "unflatten", "ravel", "permute", "movedim",
    "moveaxis", "select", "unbind", "expand", "expand_as", "diagonal") if hasattr(owner, name)}
_VIEWS |= {getattr(torch.Tensor, name).__get__ for name in ("data", "T", "mT")}


def _writes(function: Any, keywords: Mapping) -> bool:
    """Whether it may change its first argument or one given as out=."""
    name = getattr(function, "__name__", "")
    return "out" in keywords or name in ("__setitem__", "__set__", "__delitem__") or (
        name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")) or (
        name.endswith("_") and not name.endswith("__"))


class _Absent(torch.Tensor):
    """A checkpoint tensor, or a view of one, that has no values."""

    tpv_name: str
    tpv_meta: torch.Tensor
    tpv_recorder: _Recorder

    @staticmethod
    def __new__(cls, name: str, meta: torch.Tensor, recorder: _Recorder):
        made = torch.Tensor._make_wrapper_subclass(cls, meta.shape, strides=meta.stride(),
                                                   storage_offset=meta.storage_offset(), dtype=meta.dtype, device="cpu")
        made.tpv_name, made.tpv_meta, made.tpv_recorder = name, meta, recorder
        return made

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        absent = [value for value in _flat(arguments, keywords) if isinstance(value, _Absent)]
        first = absent[0]
        recorder = first.tpv_recorder
        for value in absent:
            recorder.used[value.tpv_name] = None

        if function is torch.Tensor.copy_ and not isinstance(arguments[0], _Absent):
            if isinstance(arguments[1], _Absent) and recorder.note_copy(arguments[0], arguments[1]):
                return arguments[0]
        elif function is torch.Tensor.__setitem__ and not isinstance(arguments[0], _Absent):
            if isinstance(arguments[2], _Absent) and len(absent) == 1:
                place = arguments[0][arguments[1]]
                if place.untyped_storage()._cdata == arguments[0].untyped_storage()._cdata:
                    if recorder.note_copy(place, arguments[2]):
                        return None
        elif function in _SAME_VALUES and len(absent) == 1 and isinstance(arguments[0], _Absent):
            return first
        elif function is torch.Tensor.to and len(absent) == 1 and _keeps_dtype(first, arguments[1:], keywords):
            return first
        elif len(absent) == 1 and not _writes(function, keywords):
            viewed, answer = _as_view(function, first, arguments, keywords)
            if viewed:
                return answer
        # It needs values. Zeros stand in for them, and the tensor is loaded for real later.
        for value in absent:
            recorder.whole[value.tpv_name] = None
        with torch._C.DisableTorchFunctionSubclass():
            return function(*_replace(arguments, _zeros), **_replace(keywords, _zeros))

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        raise UnsupportedError(f"{function} on a tensor that is not there", stage="plan")


def _zeros(value: "_Absent") -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return torch.zeros(value.tpv_meta.shape, dtype=value.tpv_meta.dtype, device="cpu")


def _as_view(function, first: "_Absent", arguments, keywords) -> Tuple[bool, Any]:
    """Run the function on the meta tensor. (True, answer) when that is a view of it, or no tensor and no value."""
    meta = first.tpv_meta
    with torch._C.DisableTorchFunctionSubclass():
        try:
            answer = function(*_replace(arguments, lambda value: value.tpv_meta),
                              **_replace(keywords, lambda value: value.tpv_meta))
        except (RuntimeError, NotImplementedError):
            return False, None
    storage = meta.untyped_storage()._cdata

    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        if function not in _VIEWS or value.untyped_storage()._cdata != storage or value.dtype != meta.dtype:
            raise _NoView
        return _Absent(first.tpv_name, value, first.tpv_recorder)

    try:
        if isinstance(answer, (tuple, list)) and not isinstance(answer, torch.Size):
            return True, type(answer)(map(wrap, answer))
        if isinstance(answer, torch.device):
            return True, torch.device("cpu")
        return True, wrap(answer)
    except _NoView:
        return False, None


class _NoView(Exception):
    pass


def _keeps_dtype(value: "_Absent", arguments: Sequence, keywords: Mapping) -> bool:
    wanted = [argument for argument in (*arguments, *keywords.values()) if isinstance(argument, (torch.dtype, torch.Tensor))]
    return all((other if isinstance(other, torch.dtype) else other.dtype) == value.tpv_meta.dtype for other in wanted)


def _flat(*values: Any) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(*value)
        elif isinstance(value, dict):
            yield from _flat(*value.values())
        else:
            yield value


def _replace(value: Any, made: Callable[["_Absent"], Any]) -> Any:
    if isinstance(value, _Absent):
        return made(value)
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(_replace(part, made) for part in value)
    if isinstance(value, dict):
        return {key: _replace(part, made) for key, part in value.items()}
    return value


def record(load_weights: Loader, manifest: Mapping[str, TensorInfo], parameters: Mapping[str, torch.Tensor], *,
           order: Optional[Iterable[str]] = None) -> Recorded:
    """Run `load_weights` over the tensors of `manifest`, none of which is there, and return what it copied where.

    load_weights: takes an iterator of (name, tensor), such as a vLLM model's own method.
    parameters:   name -> tensor of all that it may write to (parameters and buffers), on any device: "meta" costs no
                  memory. Parameters on another device are written to (with zeros) where the loader needs values: record
                  before the model is in use.
    order:        names in the order in which the loader shall see them; None: the manifest's.

    Raises what the loader raises; UnsupportedError for a dtype that torch lacks."""
    recorder = _Recorder(parameters)
    names = list(manifest) if order is None else list(order)

    def absent() -> Iterator[Tuple[str, torch.Tensor]]:
        for name in names:
            info = manifest[name]
            yield name, _Absent(name, torch.empty(info.shape, dtype=dtype_of(info.dtype, name), device="meta"), recorder)

    with torch.no_grad():
        load_weights(absent())
    copies = [copy for copy in recorder.copies if copy.tensor not in recorder.whole and 0 not in copy.source.sizes]
    return Recorded(copies, [name for name in names if name in recorder.whole],
                    [name for name in names if name not in recorder.used])
