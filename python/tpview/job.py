"""A running fetch."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Tuple, Union

from ._bindings import FetchOptions, FetchResult, byref, check, library
from ._handle import Handle
from ._memory import Memory, Tensors

if TYPE_CHECKING:
    from .plan import Plan
    from .source import Source

__all__ = ["Job", "Result", "Share"]

WAIT_SLICE_S = 0.1  # how long a wait may keep Python from its signal handlers


@dataclass(frozen=True)
class Share:
    """What one service gave: verified bytes, all bytes that came as messages, and how often it was asked."""

    address: str
    bytes: int
    wire_bytes: int
    attempts: int


@dataclass(frozen=True)
class Result:
    """How a fetch went.

    needed_bytes: of the dense form; wire_bytes: all that the services sent, trailers and greetings included.
    seconds:      from the start to the last verified byte.
    export:       "cold", "warm" (the source had nothing to gather) or "whole" (whole tensors were cut here).
    canonical:    whole tensors were fetched because the source could not cut the view.
    sources:      a Share for each service, in the order of connect's addresses.
    """

    label: str
    fetch_id: str
    needed_bytes: int
    wire_bytes: int
    chunks: int
    seconds: float
    export: str
    digests_checked: bool
    canonical: bool
    sources: Tuple[Share, ...] = ()

    @property
    def gigabytes_per_second(self) -> float:
        return self.needed_bytes / self.seconds / 1e9 if self.seconds else 0.0


class Job:
    """Made by Source.fetch. The lease at the source lives as long as the bytes move.

    Until the job is done nobody may read or write the destination, which the job keeps alive. close(), or the end of a
    `with`, cancels what is not done and returns when the memory is free again. wait and cancel may be called from any
    thread."""

    def __init__(self, source: "Source", connection: Any, plan: "Plan", options: FetchOptions,
                 memory: Union[Memory, Tensors], buffer: Any):
        self.plan, self.buffer = plan, buffer
        self._source = source
        self._memory: Union[Memory, Tensors, None] = memory
        self._result: Optional[Result] = None
        pointer = ctypes.c_void_p()
        start, where = ((library().tpv_fetch_job_start_tensors, memory.table) if isinstance(memory, Tensors) else
                        (library().tpv_fetch_job_start, memory.pointer))
        status = start(connection.pointer, plan.manifest._handle.pointer, plan._handle.pointer, byref(options), where,
                       byref(pointer))
        if status:
            source._give_back(connection, reusable=True)
        check(status, stage="fetch", peer=source.address)
        good = self._good = []  # has an item once the fetch has ended well

        def end(pointer: int) -> None:
            library().tpv_fetch_job_free(pointer)
            source._give_back(connection, reusable=bool(good))

        self._handle = Handle(pointer.value, end, "fetch")

    @property
    def done(self) -> bool:
        return self._result is not None or library().tpv_fetch_job_wait(self._handle.pointer, 0.0)

    @property
    def progress(self) -> tuple:
        """(bytes that have arrived, bytes of the dense form)."""
        if self._result is not None:
            return (self._result.needed_bytes, self._result.needed_bytes)
        moved, total = ctypes.c_uint64(), ctypes.c_uint64()
        library().tpv_fetch_job_progress(self._handle.pointer, byref(moved), byref(total))
        return (moved.value, total.value)

    def cancel(self) -> None:
        """Ask for the end: wait() then raises CancelledError, unless the fetch was about to end anyway."""
        library().tpv_fetch_job_cancel(self._handle.pointer)

    def wait(self, timeout: Optional[float] = None) -> Result:
        """Wait for the end, `timeout` seconds at most (None: as long as the fetch's deadline lets it run).

        Raises TimeoutError when it is not done by then (the job goes on); DeadlineError, PeerLost, DigestMismatch,
        RefusedError, CancelledError and the other subclasses of tpview.Error when the fetch failed. After a failure the
        destination's content is undefined."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.done:
            left = WAIT_SLICE_S if end is None else min(WAIT_SLICE_S, end - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"the fetch of {self.plan.manifest.label} is not done after {timeout:g} s")
            library().tpv_fetch_job_wait(self._handle.pointer, left)
        if self._result is None:
            raw = FetchResult()
            check(library().tpv_fetch_job_result(self._handle.pointer, byref(raw)), stage="fetch",
                  peer=self._source.address)
            self._result = Result(raw.artifact.decode(), raw.fetch_id.decode(), raw.needed_bytes, raw.wire_bytes,
                                  raw.chunks, raw.seconds, raw.export_kind.decode(), raw.digests_checked, raw.canonical,
                                  tuple(Share(address, share.bytes, share.wire_bytes, share.attempts)
                                        for address, share in zip(self._source.addresses, raw.sources)))
            self._good.append(True)
        return self._result

    def close(self) -> None:
        """Cancel what is not done and wait for its end. The destination is the caller's again."""
        self._handle.close()
        self._memory = None

    def __del__(self) -> None:
        """Ends the fetch before the attributes go, one after the other: the destination would be the first."""
        try:
            self._handle.close()
        except BaseException:  # it was never started, or the interpreter ends
            pass

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __reduce__(self):
        raise TypeError("a fetch cannot be pickled")
