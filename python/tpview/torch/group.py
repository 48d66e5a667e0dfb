"""Agreement among the ranks of a process group: all go on, or none does."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, TypeVar

import torch.distributed as dist

from ..errors import Error, PeerLost, PlanError
from .stages import Stages

__all__ = ["agree", "rank_and_size", "same", "together"]

T = TypeVar("T")


def rank_and_size(group: Optional[Any]) -> tuple:
    """(rank, size) in `group`, or in the default group; (0, 1) where torch.distributed is not in use."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def _gather(value: Any, group: Optional[Any]) -> List[Any]:
    rank, size = rank_and_size(group)
    if size == 1:
        return [value]
    values: List[Any] = [None] * size
    try:
        dist.all_gather_object(values, value, group=group)
    except RuntimeError as error:  # what torch raises for a lost rank and for its own time-out
        raise PeerLost(f"rank {rank}: the group lost a rank: {error}", stage="agree") from error
    return values


def agree(error: Optional[BaseException], group: Optional[Any], left: str = "") -> None:
    """Called by every rank, each with its own failure or None. Returns on all ranks or raises on all: a rank's own
    failure where there is one, elsewhere tpview.Error naming the first rank that failed. `left` says in what state a
    failure leaves things and what to do: it ends that Error's message and is a note of the rank's own failure."""
    failures = _gather(None if error is None else f"{type(error).__name__}: {error}", group)
    if error is not None:
        if left and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(left)
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise Error(f"rank {rank} failed, so no rank goes on: {failure}{left and '; ' + left}", stage="agree")


def together(stage: str, work: Callable[[], T], group: Optional[Any], stages: Stages, left: str = "") -> T:
    """Do it and come to the vote whatever happens: all ranks go on, or all raise (agree). What one rank may fail in and
    another not belongs in here, or the others wait for its vote as long as the group's time-out. `left`: as agree."""
    error: Optional[BaseException] = None
    done: Any = None
    try:
        done = stages.timed(stage, work)
    except Exception as caught:
        error = caught
    stages.timed("agree", lambda: agree(error, group, left))
    return done


def same(what: str, value: Any, group: Optional[Any]) -> None:
    """PlanError on every rank unless all give an equal value."""
    values = _gather(value, group)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise PlanError(f"the ranks differ in {what}: rank 0 has {values[0]}, rank {rank} has {other}", stage="agree")
