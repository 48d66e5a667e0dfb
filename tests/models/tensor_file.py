"""The safetensors format, read from bytes: as much of it as tiny float32 checkpoints and views have."""

import json
import struct

import numpy as np

_DTYPES = {"F32": np.dtype(np.float32)}


def _header(data: bytes) -> tuple[dict, int]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), 8 + length


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    header, base = _header(data)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            dtype = _DTYPES[entry["dtype"]]
            flat = np.frombuffer(data, dtype, count=(last - first) // dtype.itemsize, offset=base + first)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def read_aliases(data: bytes) -> dict[str, str]:
    """Of a view: names that stand for another tensor's bytes."""
    metadata = _header(data)[0].get("__metadata__", {})
    return json.loads(metadata.get("tpview.aliases", "{}"))
