"""A view-export service (tpviewd) as Python sees it."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import threading
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from ._bindings import MAX_SOURCES, FetchOptions, SourceOptions, byref, check, library, take_text
from ._handle import Handle
from ._memory import allocate, memory_of, tensors_of
from .errors import NotFoundError, PermissionDenied, UsageError
from .job import Job
from .layout import Layout
from .manifest import Manifest
from .plan import Plan

__all__ = ["Source", "connect"]

MAX_COMMS = 64  # TPV_MAX_COMMS
MIN_CHUNK, MAX_CHUNK = 4096, 64 << 20  # TPV_MIN_CHUNK, TPV_MAX_CHUNK


def _token(token: Optional[str], token_file: Union[str, os.PathLike, None]) -> Optional[str]:
    if token is not None and token_file is not None:
        raise UsageError("token and token_file: give one of them", stage="connect")
    if token is not None:
        return token
    if token_file is None:
        token_file = os.environ.get("TPVIEW_TOKEN_FILE")
    if not token_file:
        return None
    with open(token_file) as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise PermissionDenied(f"{token_file} can be read by others: chmod 600 it", stage="connect")
        return file.read().strip()


def _tls_options(addresses: Sequence[str], **files: Union[str, os.PathLike, None]) -> Dict[str, Optional[bytes]]:
    """The environment is for all sources of a process, also for those without TLS."""
    if any(address.startswith("https://") for address in addresses):
        files = {name: file or os.environ.get(f"TPVIEW_{name.upper()}") for name, file in files.items()}
    return {name: os.fsencode(file) if file else None for name, file in files.items()}


def connect(address: Union[str, Sequence[str], None] = None, *, timeout: float = 30.0, token: Optional[str] = None,
            token_file: Union[str, os.PathLike, None] = None, tls_ca: Union[str, os.PathLike, None] = None,
            tls_cert: Union[str, os.PathLike, None] = None, tls_key: Union[str, os.PathLike, None] = None,
            any_uid: bool = False) -> "Source":
    """Name a source and see that it answers.

    address: "unix:PATH", "HOST:PORT", "[v6]:PORT", or "https://HOST:PORT" for TLS; several of them, in a list or with commas
             in between, name services that serve the same artifacts: when one is lost, a fetch goes on at the next and
             asks for what is missing. None: the environment's TPVIEW_SOURCE, or else the socket at which this user's
             tpviewd is by default.
    timeout: seconds that each request but a fetch may take, this one included.
    token, token_file: the bearer token or the file that has it; neither: the file that TPVIEW_TOKEN_FILE names, if any.
    tls_ca: file of the authorities that may have signed the source's certificate; None: TPVIEW_TLS_CA, or else those that
        this host trusts.
    tls_cert, tls_key: files of our own certificate and its key, for a source that asks for one; None: TPVIEW_TLS_CERT and
        TPVIEW_TLS_KEY, if any. All three are for https:// alone.
    any_uid: for "unix:", trust whoever listens there, not this user and root alone.

    Raises UsageError for another form of address, PeerLost when nobody answers there, PermissionDenied (also
    for a certificate or a user that is not to be trusted), DeadlineError; for a file of TLS also NotFoundError and FormatError."""
    if address is None:
        address = os.environ.get("TPVIEW_SOURCE") or None
    addresses = [part for part in address.split(",") if part] if isinstance(address, str) else list(address or ())
    if address is not None and not 0 < len(addresses) <= MAX_SOURCES:
        raise UsageError(f"{len(addresses)} addresses: expected 1 to {MAX_SOURCES}", stage="connect")
    source = Source(addresses, timeout=timeout, token=_token(token, token_file),
                    tls=_tls_options(addresses, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key), any_uid=any_uid)
    try:
        source._get("/healthz", stage="connect")
    except BaseException:
        source.close()
        raise
    return source


class Source:
    """Made by connect. Any thread may call it; each fetch has a connection of its own to each service, kept for the next
    one. addresses: of the services; address: them with commas in between.

    Closing it leaves running jobs alone: each ends by its own."""

    def __init__(self, addresses: Sequence[str], *, timeout: float, token: Optional[str], tls: Dict[str, Optional[bytes]],
                 any_uid: bool):
        if not timeout > 0:
            raise UsageError(f"a timeout of {timeout} s: expected more than 0", stage="connect")
        self.addresses, self.timeout = tuple(addresses) or ("default socket",), timeout
        self.address = ",".join(self.addresses)
        self._first = addresses[0].encode() if addresses else None
        self._options = SourceOptions(token=token.encode() if token is not None else None, any_uid=any_uid, **tls)
        self._lock = threading.Lock()
        self._idle: List[Handle] = []  # under the lock
        self._closed = False  # under the lock

    # ---- connections ----

    def _take(self) -> Handle:
        with self._lock:
            if self._closed:
                raise UsageError(f"source {self.address} is closed", stage="connect")
            while self._idle:
                handle = self._idle.pop()
                if handle._pid == os.getpid():
                    return handle
        pointer = ctypes.c_void_p()
        check(library().tpv_source_open(self._first, byref(self._options), byref(pointer)), stage="connect",
              peer=self.address)
        handle = Handle(pointer.value, library().tpv_source_close, "connection")
        try:
            for address in self.addresses[1:]:
                check(library().tpv_source_add(handle.pointer, address.encode(), byref(self._options)), stage="connect",
                      peer=address)
        except BaseException:
            handle.close()
            raise
        return handle

    def _give_back(self, handle: Handle, *, reusable: bool) -> None:
        with self._lock:
            if reusable and not self._closed:
                self._idle.append(handle)
                return
        handle.close()

    def _call(self, function: str, *arguments: Any, stage: str) -> None:
        handle, good = self._take(), False
        try:
            status = getattr(library(), function)(handle.pointer, *arguments)
            check(status, stage=stage, peer=self.address)
            good = True
        finally:
            self._give_back(handle, reusable=good)

    def _get(self, path: str, *, stage: str) -> Any:
        text = ctypes.c_void_p()
        self._call("tpv_source_get", path.encode(), self.timeout, byref(text), stage=stage)
        return json.loads(take_text(text))

    # ---- what it offers ----

    def artifacts(self) -> List[dict]:
        """What the source offers, one dict each: name, version, artifact_id, index_digest, tensors, bytes."""
        return self._get("/v1/artifacts", stage="manifest")["artifacts"]

    def manifest(self, name: str, version: Union[str, int, None] = None) -> Manifest:
        """The index of "NAME", its newest version, or of "NAME@VERSION" (or `version`): that version or NotFoundError,
        never another one."""
        name, at, within = name.partition("@")
        if at and version is not None and str(version) != within:
            raise UsageError(f"{name}@{within} with version {version}: which one?", stage="manifest", peer=self.address)
        label = f"{name}@{within}" if at else f"{name}@{version}" if version is not None else self._newest(name)
        pointer = ctypes.c_void_p()
        self._call("tpv_source_artifact", label.encode(), self.timeout, byref(pointer), stage="manifest")
        return Manifest(pointer.value, label, self.address)

    def _newest(self, name: str) -> str:
        versions = [offer["version"] for offer in self.artifacts() if offer["name"] == name]
        if not versions:
            raise NotFoundError(f"source {self.address} does not offer {name}", stage="manifest", peer=self.address)
        return f"{name}@{max(versions, key=functools.cmp_to_key(_compare_versions))}"

    def plan(self, artifact: Union[str, Manifest], layout: Layout, *, version: Union[str, int, None] = None) -> Plan:
        """manifest(artifact, version).plan(layout); a Manifest is used as it is."""
        manifest = artifact if isinstance(artifact, Manifest) else self.manifest(artifact, version)
        return manifest.plan(layout)

    # ---- fetching ----

    def fetch(self, plan: Plan, *, into: Any = None, deadline: Optional[float] = None, comms: int = 0,
              chunk_bytes: int = 0, digests: bool = True, fallback: bool = True, net: Optional[str] = None) -> Job:
        """Begin to fetch the dense form of `plan` and return at once.

        into:        where to: an object with a writable C-contiguous buffer, a contiguous CPU torch tensor, or
                     (pointer, bytes, keep_alive), with at least plan.bytes bytes, for the dense form; or a mapping with
                     a CPU torch tensor or numpy array for each output, of its dtype and shape and with any strides,
                     whose elements are written as they arrive. None: new memory, as job.buffer.
        deadline:    seconds from now for the whole fetch; None: none.
        comms:       parallel comms, 1 to 64; 0: TPVIEW_COMMS.
        chunk_bytes: the longest chunk to take, 4 KiB to 64 MiB; 0: TPVIEW_CHUNK_BYTES.
        digests:     compare each chunk's digest.
        fallback:    fetch whole tensors and cut them here when the source cannot cut or hold the view.
        net:         a net plugin's name or path; None: NCCL_NET_PLUGIN, else tpview's own.

        Raises UsageError; what the fetch itself meets comes from Job.wait."""
        if not 0 <= comms <= MAX_COMMS:
            raise UsageError(f"{comms} comms: expected 1 to {MAX_COMMS}, or 0", stage="fetch")
        if chunk_bytes and not MIN_CHUNK <= chunk_bytes <= MAX_CHUNK:
            raise UsageError(f"chunks of {chunk_bytes} bytes: expected {MIN_CHUNK} to {MAX_CHUNK}, or 0", stage="fetch")
        if deadline is not None and not deadline > 0:
            raise UsageError(f"a deadline of {deadline} s: expected more than 0", stage="fetch")
        if into is None:
            buffer, memory = allocate(plan.bytes)
        elif isinstance(into, Mapping):
            buffer, memory = into, tensors_of(into, plan)
        else:
            buffer, memory = into, memory_of(into, plan.bytes)
        options = FetchOptions(net.encode() if net else None, comms, chunk_bytes, 0, not digests, False, not fallback,
                               plan.layout.rank, plan.layout.size, deadline or 0.0, None, None)
        return Job(self, self._take(), plan, options, memory, buffer)

    # ---- publishing ----

    def publish(self, label: str, folder: Union[str, os.PathLike], *, timeout: Optional[float] = None) -> None:
        """Have the source offer "NAME@VERSION" from a folder or file of its host; returns when it does. The digest may
        take minutes: `timeout` (None: this source's). Raises UsageError for a label that is taken."""
        self._call("tpv_source_publish", f"{label}={os.fspath(folder)}".encode(), timeout or self.timeout, stage="publish")

    def retire(self, label: str) -> None:
        """Have the source stop offering "NAME@VERSION"; fetches in flight end as usual."""
        self._call("tpv_source_retire", label.encode(), self.timeout, stage="publish")

    def close(self) -> None:
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for handle in idle:
            handle.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Source {self.address}>"

    def __reduce__(self):
        raise TypeError("a source cannot be pickled: connect in each process")


def _compare_versions(a: str, b: str) -> int:
    return _strverscmp(os.fsencode(a), os.fsencode(b))


_strverscmp = ctypes.CDLL(None).strverscmp  # the order in which the source looks for its newest version
_strverscmp.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
