"""libtpview.so through ctypes: the structures, and one row a function with its C prototype above.

ctypes converts integers without a range check (they wrap) and knows nothing of ownership, so nothing here is for
callers: the modules above check ranges, keep memory alive and free handles.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint,
                    c_uint32, c_uint64, c_void_p)
from pathlib import Path
from typing import Optional

from .errors import UnsupportedError, error_of

ABI_VERSION = 4  # TPV_ABI_VERSION of include/tpview/tpview.h that the tables below were written for
MAX_DIMS = 8  # TPV_MAX_DIMS
MAX_SOURCES = 16  # TPV_MAX_SOURCES


class Tensor(Structure):
    """tpv_tensor_t"""

    _fields_ = [("name", c_char_p), ("dtype", c_int), ("dims", c_uint32), ("shape", c_uint64 * MAX_DIMS),
                ("bytes", c_uint64), ("shard", c_uint32), ("offset", c_uint64)]


class PlanOptions(Structure):
    """tpv_plan_options_t"""

    _fields_ = [("tp_size", c_uint32), ("tp_rank", c_uint32), ("fuse", c_bool), ("plan", c_char_p),
                ("plan_length", c_size_t), ("ep_size", c_uint32), ("ep_rank", c_uint32),
                ("expert_tp_size", c_uint32), ("expert_tp_rank", c_uint32)]


class Output(Structure):
    """tpv_output_t"""

    _fields_ = [("name", c_char_p), ("dtype", c_int), ("dims", c_uint32), ("shape", c_uint64 * MAX_DIMS),
                ("offset", c_uint64), ("bytes", c_uint64)]


class ViewStats(Structure):
    """tpv_view_stats_t"""

    _fields_ = [("bytes", c_uint64), ("zeros", c_uint64), ("outputs", c_uint64), ("records", c_uint64),
                ("runs", c_uint64)]


class SourceOptions(Structure):
    """tpv_source_options_t"""

    _fields_ = [("token", c_char_p), ("tls_ca", c_char_p), ("tls_cert", c_char_p), ("tls_key", c_char_p),
                ("any_uid", c_bool)]


class FetchOptions(Structure):
    """tpv_fetch_options_t; `progress` stays NULL, so that no Python code runs on the fetch's thread"""

    _fields_ = [("net", c_char_p), ("comms", c_uint32), ("chunk_bytes", c_uint64), ("workers", c_int32),
                ("no_digests", c_bool), ("no_sync", c_bool),
                ("no_fallback", c_bool), ("tp_rank", c_uint32), ("tp_size", c_uint32), ("deadline_s", c_double),
                ("progress", c_void_p), ("progress_user", c_void_p)]


class Destination(Structure):
    """tpv_destination_t"""

    _fields_ = [("data", c_void_p), ("strides", c_int64 * MAX_DIMS)]


class FetchShare(Structure):
    """tpv_fetch_share_t"""

    _fields_ = [("bytes", c_uint64), ("wire_bytes", c_uint64), ("attempts", c_uint32)]


class FetchResult(Structure):
    """tpv_fetch_result_t"""

    _fields_ = [("needed_bytes", c_uint64), ("wire_bytes", c_uint64), ("chunks", c_uint64),
                ("seconds", c_double), ("first_seconds", c_double), ("gap_p99_seconds", c_double),
                ("fetch_id", c_char * 33), ("artifact", c_char * 128), ("export_kind", c_char * 8),
                ("digests_checked", c_bool), ("canonical", c_bool), ("source_count", c_uint32),
                ("sources", FetchShare * MAX_SOURCES)]


STRUCTURES = {"tpv_tensor_t": Tensor, "tpv_plan_options_t": PlanOptions, "tpv_output_t": Output,
              "tpv_view_stats_t": ViewStats, "tpv_source_options_t": SourceOptions,
              "tpv_fetch_options_t": FetchOptions, "tpv_destination_t": Destination, "tpv_fetch_share_t": FetchShare,
              "tpv_fetch_result_t": FetchResult}

STATUS = c_int  # tpv_status_t

# (name, result, arguments), each below its prototype in include/tpview.
PROTOTYPES = [
    # const char *tpv_version(void);
    ("tpv_version", c_char_p, []),
    # uint32_t tpv_abi_version(void);
    ("tpv_abi_version", c_uint32, []),
    # const char *tpv_status_name(tpv_status_t status);
    ("tpv_status_name", c_char_p, [STATUS]),
    # const char *tpv_error_message(void);
    ("tpv_error_message", c_char_p, []),
    # const char *tpv_dtype_name(tpv_dtype_t dtype);
    ("tpv_dtype_name", c_char_p, [c_int]),
    # tpv_status_t tpv_artifact_open(const char *path, tpv_artifact_t **artifact);
    ("tpv_artifact_open", STATUS, [c_char_p, POINTER(c_void_p)]),
    # void tpv_artifact_close(tpv_artifact_t *artifact);
    ("tpv_artifact_close", None, [c_void_p]),
    # size_t tpv_artifact_tensor_count(const tpv_artifact_t *artifact);
    ("tpv_artifact_tensor_count", c_size_t, [c_void_p]),
    # const tpv_tensor_t *tpv_artifact_tensor(const tpv_artifact_t *artifact, size_t index);
    ("tpv_artifact_tensor", POINTER(Tensor), [c_void_p, c_size_t]),
    # uint64_t tpv_artifact_bytes(const tpv_artifact_t *artifact);
    ("tpv_artifact_bytes", c_uint64, [c_void_p]),
    # const char *tpv_artifact_index_digest(const tpv_artifact_t *artifact);
    ("tpv_artifact_index_digest", c_char_p, [c_void_p]),
    # const char *tpv_artifact_id(const tpv_artifact_t *artifact);
    ("tpv_artifact_id", c_char_p, [c_void_p]),
    # tpv_status_t tpv_artifact_digest(tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress, void *user);
    ("tpv_artifact_digest", STATUS, [c_void_p, c_uint, c_void_p, c_void_p]),
    # tpv_status_t tpv_view_plan(const tpv_artifact_t *artifact, const tpv_plan_options_t *options, tpv_view_t **view);
    ("tpv_view_plan", STATUS, [c_void_p, POINTER(PlanOptions), POINTER(c_void_p)]),
    # tpv_status_t tpv_view_from_json(const tpv_artifact_t *artifact, const char *json, size_t length, tpv_view_t **view);
    ("tpv_view_from_json", STATUS, [c_void_p, c_char_p, c_size_t, POINTER(c_void_p)]),
    # void tpv_view_free(tpv_view_t *view);
    ("tpv_view_free", None, [c_void_p]),
    # const char *tpv_view_json(const tpv_view_t *view);
    ("tpv_view_json", c_char_p, [c_void_p]),
    # const char *tpv_view_id(const tpv_view_t *view);
    ("tpv_view_id", c_char_p, [c_void_p]),
    # tpv_view_stats_t tpv_view_stats(const tpv_view_t *view);
    ("tpv_view_stats", ViewStats, [c_void_p]),
    # size_t tpv_view_output_count(const tpv_view_t *view);
    ("tpv_view_output_count", c_size_t, [c_void_p]),
    # const tpv_output_t *tpv_view_output(const tpv_view_t *view, size_t index);
    ("tpv_view_output", POINTER(Output), [c_void_p, c_size_t]),
    # bool tpv_view_alias(const tpv_view_t *view, size_t index, const char **name, const char **target);
    ("tpv_view_alias", c_bool, [c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_char_p)]),
    # tpv_status_t tpv_source_open(const char *address, const tpv_source_options_t *options, tpv_source_t **source);
    ("tpv_source_open", STATUS, [c_char_p, POINTER(SourceOptions), POINTER(c_void_p)]),
    # tpv_status_t tpv_source_add(tpv_source_t *source, const char *address, const tpv_source_options_t *options);
    ("tpv_source_add", STATUS, [c_void_p, c_char_p, POINTER(SourceOptions)]),
    # void tpv_source_close(tpv_source_t *source);
    ("tpv_source_close", None, [c_void_p]),
    # tpv_status_t tpv_source_get(tpv_source_t *source, const char *path, double deadline_s, char **json);
    ("tpv_source_get", STATUS, [c_void_p, c_char_p, c_double, POINTER(c_void_p)]),
    # tpv_status_t tpv_source_artifact(tpv_source_t *source, const char *name, double deadline_s, tpv_artifact_t **artifact);
    ("tpv_source_artifact", STATUS, [c_void_p, c_char_p, c_double, POINTER(c_void_p)]),
    # tpv_status_t tpv_source_publish(tpv_source_t *source, const char *definition, double deadline_s);
    ("tpv_source_publish", STATUS, [c_void_p, c_char_p, c_double]),
    # tpv_status_t tpv_source_retire(tpv_source_t *source, const char *label, double deadline_s);
    ("tpv_source_retire", STATUS, [c_void_p, c_char_p, c_double]),
    # tpv_status_t tpv_fetch_job_start(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view, const tpv_fetch_options_t *options, void *destination, tpv_fetch_job_t **job);
    ("tpv_fetch_job_start", STATUS, [c_void_p, c_void_p, c_void_p, POINTER(FetchOptions), c_void_p, POINTER(c_void_p)]),
    # tpv_status_t tpv_fetch_job_start_tensors(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view, const tpv_fetch_options_t *options, const tpv_destination_t *destinations, tpv_fetch_job_t **job);
    ("tpv_fetch_job_start_tensors", STATUS, [c_void_p, c_void_p, c_void_p, POINTER(FetchOptions), POINTER(Destination), POINTER(c_void_p)]),
    # bool tpv_fetch_job_wait(tpv_fetch_job_t *job, double timeout_s);
    ("tpv_fetch_job_wait", c_bool, [c_void_p, c_double]),
    # void tpv_fetch_job_progress(const tpv_fetch_job_t *job, uint64_t *bytes_done, uint64_t *bytes_total);
    ("tpv_fetch_job_progress", None, [c_void_p, POINTER(c_uint64), POINTER(c_uint64)]),
    # void tpv_fetch_job_cancel(tpv_fetch_job_t *job);
    ("tpv_fetch_job_cancel", None, [c_void_p]),
    # tpv_status_t tpv_fetch_job_result(const tpv_fetch_job_t *job, tpv_fetch_result_t *result);
    ("tpv_fetch_job_result", STATUS, [c_void_p, POINTER(FetchResult)]),
    # void tpv_fetch_job_free(tpv_fetch_job_t *job);
    ("tpv_fetch_job_free", None, [c_void_p]),
]


def library_path() -> Path:
    """TPVIEW_LIBRARY if set, else the library that came with this package, else what the loader finds by name."""
    given = os.environ.get("TPVIEW_LIBRARY")
    if given:
        return Path(given)
    bundled = Path(__file__).resolve().parent / "lib" / "libtpview.so"
    return bundled if bundled.exists() else Path("libtpview.so")


def _load() -> ctypes.CDLL:
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))  # releases the GIL around every call
    except OSError as error:
        raise UnsupportedError(f"cannot load {path}: {error}; build the project (make) and set TPVIEW_LIBRARY to "
                               "build/lib/libtpview.so, or install the package", stage="load") from None
    for name, result, arguments in PROTOTYPES:
        try:
            function = getattr(library, name)
        except AttributeError:
            raise UnsupportedError(f"{path} has no {name}: it is older than this package", stage="load") from None
        function.restype, function.argtypes = result, arguments
    found = library.tpv_abi_version()
    if found != ABI_VERSION:
        raise UnsupportedError(f"{path} has ABI version {found}, this package wants {ABI_VERSION}: install library and "
                               "package of one release", stage="load")
    return library


_library: Optional[ctypes.CDLL] = None


def library() -> ctypes.CDLL:
    """The library, loaded at the first use. Two threads that load it at once get the same one from the loader."""
    global _library
    if _library is None:
        _library = _load()
    return _library


def check(status: int, **where) -> None:
    """Raise what `status` stands for, with the calling thread's message. `where` as in errors.Error."""
    if status == 0:
        return
    name = library().tpv_status_name(status).decode()
    message = library().tpv_error_message().decode("utf-8", "replace")
    raise error_of(name, message or name, **where)


def take_text(pointer: c_void_p) -> str:
    """The text that the library allocated with malloc, freed here."""
    try:
        return ctypes.cast(pointer, c_char_p).value.decode()
    finally:
        _libc.free(pointer)


_libc = ctypes.CDLL(None)
_libc.free.restype, _libc.free.argtypes = None, [c_void_p]

__all__ = ["Destination", "FetchOptions", "FetchResult", "PlanOptions", "byref", "check", "library", "take_text"]
