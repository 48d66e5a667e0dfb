"""What a rank wants of an artifact: a share by tensor-parallel rules, or slices given one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Iterable, Mapping, Optional, Sequence, Union

from .errors import UsageError

__all__ = ["Layout", "Slice"]

MAX_SIZE = 1024  # TPV_MAX_TP_SIZE


@dataclass(frozen=True)
class Slice:
    """A strided box of one tensor of the artifact, all in elements.

    tensor:  its name in the artifact.
    sizes:   steps along each dim of the box.
    strides: distance between steps in the tensor; None: those of the row-major tensor.
    offset:  of the first element in the tensor.
    to_strides, to_offset: the same in the output; None: those of the row-major output.
    """

    tensor: str
    sizes: Sequence[int]
    strides: Optional[Sequence[int]] = None
    offset: int = 0
    to_strides: Optional[Sequence[int]] = None
    to_offset: int = 0

    def _piece(self) -> dict:
        piece: dict = {"tensor": self.tensor, "sizes": list(self.sizes)}
        if self.strides is not None:
            piece["strides"] = list(self.strides)
        if self.offset:
            piece["offset"] = self.offset
        to: dict = {}
        if self.to_strides is not None:
            to["strides"] = list(self.to_strides)
        if self.to_offset:
            to["offset"] = self.to_offset
        if to:
            piece["to"] = to
        return piece


class Layout:
    """Made by Layout.tp or Layout.slices; says nothing of a version, so one serves all versions of a model."""

    def __init__(self, *, rank: int, size: int, fuse: bool, text: Optional[bytes], explicit: bool,
                 experts: tuple = (1, 0, 0, 0)):
        self.rank, self.size, self.fuse = rank, size, fuse
        self._text, self._explicit, self._experts = text, explicit, experts

    @classmethod
    def tp(cls, rank: int, size: int, *, fuse: bool = False, plan: Union[str, Mapping, None] = None, ep_rank: int = 0,
           ep_size: int = 1, expert_tp_rank: Optional[int] = None, expert_tp_size: Optional[int] = None) -> "Layout":
        """Rank `rank` of `size`, cut by the rules of the model's family, or by `plan`: a plan file's JSON text or the
        same as a dict (docs/views.md). `fuse`: q, k, v into qkv_proj and gate, up into gate_up_proj.

        With ep_size, the rank has the experts of group `ep_rank` of so many; an expert is then whole, or with
        expert_tp_size cut for rank `expert_tp_rank` of so many. Without ep_size, experts are cut as all else, unless
        expert_tp_size says for how many.

        Raises UsageError for a rank that is not below its size, or a size beyond 1024."""
        if (expert_tp_rank is None) != (expert_tp_size is None):
            raise UsageError("expert_tp_rank and expert_tp_size go together", stage="plan")
        for name, its, whole in (("", rank, size), ("ep_", ep_rank, ep_size),
                                 ("expert_tp_", expert_tp_rank or 0, 1 if expert_tp_size is None else expert_tp_size)):
            if not 0 < whole <= MAX_SIZE or not 0 <= its < whole:
                raise UsageError(f"{name}rank {its} of {whole}: expected 0 <= rank < size <= {MAX_SIZE}", stage="plan")
        text = json.dumps(plan).encode() if isinstance(plan, Mapping) else plan.encode() if plan is not None else None
        experts = (ep_size, ep_rank, expert_tp_size or 0, expert_tp_rank or 0)
        return cls(rank=rank, size=size, fuse=fuse, text=text, explicit=False, experts=experts)

    @classmethod
    def slices(cls, outputs: Iterable[tuple], *, rank: int = 0, size: int = 1) -> "Layout":
        """Outputs one by one, in dense order: each (name, dtype, shape, [Slice, ...]); dtype is a safetensors name such
        as "BF16", shape in elements. Every element of an output must be written by exactly one slice.

        rank and size are told to the source for its table of leases and decide nothing."""
        root = {"format": "tpview-view-1",
                "outputs": [{"name": name, "dtype": dtype, "shape": list(shape),
                             "pieces": [piece._piece() for piece in pieces]}
                            for name, dtype, shape, pieces in outputs]}
        if not root["outputs"]:
            raise UsageError("a layout of no outputs", stage="plan")
        return cls(rank=rank, size=size, fuse=False, text=json.dumps(root, separators=(",", ":")).encode(), explicit=True)
