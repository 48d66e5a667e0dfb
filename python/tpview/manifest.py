"""The index of an artifact: names, dtypes and shapes of its tensors, and its identity."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Iterator, Optional, Union

from ._bindings import PlanOptions, byref, check, library
from ._handle import Handle
from .layout import Layout
from .plan import Plan

__all__ = ["Manifest", "TensorInfo"]


@dataclass(frozen=True)
class TensorInfo:
    """name; dtype (a safetensors name, such as "BF16"); shape in elements; bytes of its values."""

    name: str
    dtype: str
    shape: tuple
    bytes: int


class Manifest(Mapping):
    """A read-only mapping of tensor names to TensorInfo, in bytewise order of the names.

    label:        "name@version", as the source calls it.
    artifact_id:  32 hex digits over names, dtypes, shapes and values: two versions with equal values have the same.
    index_digest: 32 hex digits over names, dtypes and shapes.
    bytes:        of all tensors.
    """

    def __init__(self, pointer: int, label: str, peer: Optional[str]):
        lib = library()
        self._handle = Handle(pointer, lib.tpv_artifact_close, "manifest")
        self.label, self.peer = label, peer
        self.artifact_id: str = lib.tpv_artifact_id(pointer).decode()
        self.index_digest: str = lib.tpv_artifact_index_digest(pointer).decode()
        self.bytes: int = lib.tpv_artifact_bytes(pointer)
        self._tensors = {}
        for index in range(lib.tpv_artifact_tensor_count(pointer)):
            raw = lib.tpv_artifact_tensor(pointer, index).contents
            name = raw.name.decode()
            self._tensors[name] = TensorInfo(name, lib.tpv_dtype_name(raw.dtype).decode(),
                                             tuple(raw.shape[:raw.dims]), raw.bytes)

    @property
    def version(self) -> str:
        return self.label.rpartition("@")[2]

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Manifest {self.label}: {len(self)} tensors, {self.bytes} bytes>"

    def plan(self, layout: Layout) -> Plan:
        """What `layout` needs of this artifact; a pure function of both. Raises PlanError, FormatError (of a plan's
        text), OutOfMemoryError."""
        lib, view = library(), ctypes.c_void_p()
        if layout._explicit:
            status = lib.tpv_view_from_json(self._handle.pointer, layout._text, len(layout._text), byref(view))
        else:
            options = PlanOptions(layout.size, layout.rank, layout.fuse, layout._text, len(layout._text or b""),
                                  *layout._experts)
            status = lib.tpv_view_plan(self._handle.pointer, byref(options), byref(view))
        check(status, stage="plan", peer=self.peer)
        return Plan(view.value, self, layout)
