"""tpview: fetch one tensor-parallel rank's slice of a model's weights over NCCL net plugins.

    with tpview.connect() as source:
        plan = source.plan("qwen3-14b@7", tpview.Layout.tp(rank=0, size=4, fuse=True))
        with source.fetch(plan, deadline=60) as job:
            result = job.wait()
            tensors = tpview.torch.tensors(plan, job.buffer)    # import tpview.torch first

Importing it loads neither torch nor numpy, and the C library only at the first use.
"""

from .errors import (CancelledError, DeadlineError, DigestMismatch, Error, FormatError, InternalError, LeaseLost,
                     NetError, NoSpaceError, NotFoundError, OutOfMemoryError, PeerLost, PermissionDenied, PlanError,
                     ProtocolError, RefusedError, SystemFailure, UnsupportedError, UsageError)
from .job import Job, Result, Share
from .layout import Layout, Slice
from .manifest import Manifest, TensorInfo
from .plan import Output, Plan
from .source import Source, connect

__version__ = "0.1.0"

__all__ = ["CancelledError", "DeadlineError", "DigestMismatch", "Error", "FormatError", "InternalError", "Job", "Layout",
           "LeaseLost", "Manifest", "NetError", "NoSpaceError", "NotFoundError", "Output", "OutOfMemoryError", "PeerLost",
           "PermissionDenied", "Plan", "PlanError", "ProtocolError", "RefusedError", "Result", "Share", "Slice", "Source",
           "SystemFailure", "TensorInfo", "UnsupportedError", "UsageError", "connect"]
