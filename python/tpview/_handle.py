"""Ownership of a C object by a Python one."""

from __future__ import annotations

import os
from typing import Callable, Optional

from .errors import UsageError


class Handle:
    """One C pointer, freed once: by close(), by the end of a `with`, or when the object goes.

    A handle belongs to the process that made it: a child after fork gets UsageError, never a crash, and frees nothing
    (the parent's threads and connections are not the child's). It cannot be pickled."""

    def __init__(self, pointer: int, free: Callable[[int], None], what: str):
        self._pointer: Optional[int] = pointer
        self._free, self._what, self._pid = free, what, os.getpid()

    @property
    def pointer(self) -> int:
        """The pointer for a call. UsageError after close() and in another process."""
        if self._pointer is None:
            raise UsageError(f"this {self._what} is closed")
        if os.getpid() != self._pid:
            raise UsageError(f"this {self._what} belongs to process {self._pid}: after a fork, make a new one")
        return self._pointer

    @property
    def closed(self) -> bool:
        return self._pointer is None

    def close(self) -> None:
        """Free it. A second call does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None and os.getpid() == self._pid:
            self._free(pointer)

    def __del__(self) -> None:
        try:
            self.close()
        except BaseException:  # at the end of the interpreter anything may be gone already
            pass

    def __reduce__(self):
        raise TypeError(f"a {self._what} cannot be pickled: make it in each process")
