"""A view: the tensors that one rank gets, and where each lies in the dense form."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bindings import byref, library
from ._handle import Handle

if TYPE_CHECKING:
    from .layout import Layout
    from .manifest import Manifest

__all__ = ["Output", "Plan"]


@dataclass(frozen=True)
class Output:
    """One tensor of a plan: dtype (a safetensors name), shape in elements, offset and bytes in the dense form."""

    name: str
    dtype: str
    shape: tuple
    offset: int
    bytes: int


class Plan:
    """Made by Manifest.plan or Source.plan.

    outputs:  name -> Output, in dense order.
    aliases:  further names of outputs (tied embeddings): name -> the output's name.
    bytes:    of the dense form: what travels and what a destination needs.
    view_id:  32 hex digits; equal plans of equal indexes have the same. What ranks of a group compare.
    """

    def __init__(self, pointer: int, manifest: "Manifest", layout: "Layout"):
        lib = library()
        self._handle = Handle(pointer, lib.tpv_view_free, "plan")
        self.manifest, self.layout = manifest, layout
        stats = lib.tpv_view_stats(pointer)
        self.bytes, self.zeros, self.records, self.runs = stats.bytes, stats.zeros, stats.records, stats.runs
        self.view_id: str = lib.tpv_view_id(pointer).decode()
        self.outputs = {}
        for index in range(lib.tpv_view_output_count(pointer)):
            raw = lib.tpv_view_output(pointer, index).contents
            name = raw.name.decode()
            self.outputs[name] = Output(name, lib.tpv_dtype_name(raw.dtype).decode(), tuple(raw.shape[:raw.dims]),
                                        raw.offset, raw.bytes)
        self.aliases = {}
        name, target = ctypes.c_char_p(), ctypes.c_char_p()
        while lib.tpv_view_alias(pointer, len(self.aliases), byref(name), byref(target)):
            self.aliases[name.value.decode()] = target.value.decode()

    @property
    def spec(self) -> str:
        """The canonical view spec, JSON text (docs/views.md)."""
        return library().tpv_view_json(self._handle.pointer).decode()

    def explain(self) -> str:
        """One line for each output: name, dtype, shape, bytes; then the totals."""
        lines = [f"{output.name}  {output.dtype}  {list(output.shape)}  {output.bytes} B"
                 for output in self.outputs.values()]
        lines += [f"{name}  is {target}" for name, target in self.aliases.items()]
        share = self.bytes / self.manifest.bytes if self.manifest.bytes else 1.0
        lines.append(f"{len(self.outputs)} tensors, {self.bytes} of {self.manifest.bytes} B ({share:.1%}), {self.zeros} B of "
                     f"padding, {self.records} records, {self.runs} runs, view {self.view_id}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Plan of {self.manifest.label}: {len(self.outputs)} tensors, {self.bytes} bytes>"
