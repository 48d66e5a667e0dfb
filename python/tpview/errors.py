"""What tpview raises: one class for each kind of cause, each also one of Python's own where there is a fitting one."""

from __future__ import annotations

from typing import Optional

__all__ = ["CancelledError", "DeadlineError", "DigestMismatch", "Error", "FormatError", "InternalError", "LeaseLost",
           "NetError", "NoSpaceError", "NotFoundError", "OutOfMemoryError", "PeerLost", "PermissionDenied", "PlanError", "ProtocolError",
           "RefusedError", "SystemFailure", "UnsupportedError", "UsageError"]


class Error(Exception):
    """Base of all. str() is one line for a person: what failed, on which object, why, and what was expected.

    status: the C library's name of the cause, such as "deadline".
    stage:  what was being done: "load", "connect", "manifest", "plan", "fetch", "verify"; "" when unknown.
    peer:   the address of the source that took part, or None.
    tensor: the tensor it is about, or None.
    """

    status = "internal"

    def __init__(self, message: str, *, stage: str = "", peer: Optional[str] = None, tensor: Optional[str] = None):
        super().__init__(message)
        self.stage, self.peer, self.tensor = stage, peer, tensor


class UsageError(Error, ValueError):
    """An argument out of its documented range."""

    status = "argument"


class NotFoundError(Error, LookupError):
    """No such artifact, version, tensor or file."""

    status = "not_found"


class FormatError(Error, ValueError):
    """A file or message that does not follow its format."""

    status = "format"


class PlanError(Error, ValueError):
    """The wanted slices cannot be cut as asked: uneven, missing, overlapping, or a rule is missing."""

    status = "plan"


class UnsupportedError(Error, NotImplementedError):
    """A capability that the plugin, the source or this build does not have."""

    status = "unsupported"


class SystemFailure(Error, OSError):
    """The operating system refused; the message has its words."""

    status = "system"


class OutOfMemoryError(Error, MemoryError):
    """Memory or a configured budget is used up."""

    status = "no_memory"


class NoSpaceError(Error, OSError):
    """A disk or shared memory is full."""

    status = "no_space"


class NetError(Error, OSError):
    """The net plugin reported a failure of this host."""

    status = "net"


class PeerLost(Error, ConnectionError):
    """The source cannot be reached, closed, died or reported a failure of its own."""

    status = "peer"


class ProtocolError(Error, ConnectionError):
    """The other end sent what the protocol does not allow."""

    status = "protocol"


class DigestMismatch(Error, ValueError):
    """Bytes arrived, but not the ones that were sent, or a file differs from the view."""

    status = "digest"


class DeadlineError(Error, TimeoutError):
    """The caller's deadline passed."""

    status = "deadline"


class RefusedError(Error, ConnectionError):
    """The source is closing, draining or at a configured limit."""

    status = "refused"


class LeaseLost(Error, ConnectionError):
    """The lease or export belongs to an earlier generation: ask again."""

    status = "stale"


class PermissionDenied(Error, PermissionError):
    """A token, an owner or a file mode forbids it."""

    status = "permission"


class CancelledError(Error):
    """The caller or an operator asked for the end."""

    status = "cancelled"


class InternalError(Error, RuntimeError):
    """A broken promise inside tpview: please report it."""

    status = "internal"


def _subclasses(base: type) -> dict:
    return {kind.status: kind for kind in base.__subclasses__()}


BY_STATUS = _subclasses(Error)


def error_of(status: str, message: str, **where) -> Error:
    """The exception for a status name of the C library; an unknown one (a newer library's) is an InternalError."""
    return BY_STATUS.get(status, InternalError)(message, **where)
