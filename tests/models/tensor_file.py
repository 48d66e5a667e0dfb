"""The safetensors format, read from and written to bytes: as much of it as tiny checkpoints and views have."""

import json
import struct
from dataclasses import dataclass

import numpy as np

# Floats that numpy does not have are read as their bytes.
_DTYPES = {"F32": np.float32, "F8_E4M3": np.uint8, "F8_E8M0": np.uint8, "U8": np.uint8, "I8": np.int8, "I32": np.int32,
           "I64": np.int64}


@dataclass(frozen=True)
class Stored:
    """A tensor with its dtype in the file."""

    dtype: str
    data: np.ndarray


def _header(data: bytes) -> tuple[dict, int]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), 8 + length


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    header, base = _header(data)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            flat = np.frombuffer(data, dtype, count=(last - first) // dtype.itemsize, offset=base + first)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def read_aliases(data: bytes) -> dict[str, str]:
    """Of a view: names that stand for another tensor's bytes."""
    metadata = _header(data)[0].get("__metadata__", {})
    return json.loads(metadata.get("tpview.aliases", "{}"))


def write_tensors(tensors: dict[str, Stored]) -> bytes:
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        part = np.ascontiguousarray(tensor.data).tobytes()
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.data.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
