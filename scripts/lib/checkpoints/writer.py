"""Writes checkpoints as transformers' save_pretrained lays them out.

Format: safetensors (https://github.com/huggingface/safetensors, README "Format"): u64 little-endian header length, JSON
header padded with spaces to a multiple of 8, data. Within a file, tensors come by falling element size, then by name, as
safetensors' serialize() orders them."""

import json
import os
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .tensors import DTYPE_BITS, Tensor
from .values import block_values, blocks, rows_and_columns

RECORD = "generator.json"  # how a checkpoint was made; readers of checkpoints do not look at it
INDEX = "model.safetensors.index.json"


class CheckpointError(Exception):
    """One line for the user."""


@dataclass(frozen=True)
class Shard:
    name: str
    tensors: list[Tensor]  # in the file's order

    def header(self) -> bytes:
        entries: dict = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                                    "data_offsets": [offset, offset + tensor.bytes]}
            offset += tensor.bytes
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @property
    def data_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


def shards_of(tensors: list[Tensor], shard_bytes: int) -> list[Shard]:
    """Fill one file after the other, none above shard_bytes unless a single tensor is."""
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.bytes
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    order = lambda tensor: (-DTYPE_BITS[tensor.dtype], tensor.name)
    return [Shard(name, sorted(group, key=order)) for name, group in zip(names, groups)]


def write_checkpoint(out: Path, config: dict, tensors: list[Tensor], *, seed: int = 0, shard_bytes: int = 4 << 30,
                     sparse: bool = False, force: bool = False, reuse: bool = False, record: dict | None = None,
                     progress: Callable[[int, int], None] | None = None) -> bool:
    """Write config.json, the tensors and their index into the folder `out`, which appears only when it is whole.

    sparse: headers and sizes only, no data byte. force: replace a checkpoint that is there. reuse: leave one that was
    made in exactly this way; returns False then. record: what else is to be noted of the making."""
    shards = shards_of(tensors, shard_bytes)
    record = {**(record or {}), "seed": seed, "shard_bytes": shard_bytes, "sparse": sparse}
    total = sum(tensor.bytes for tensor in tensors)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is not a folder")
    if out.is_dir() and any(out.iterdir()):
        if reuse and _holds(out, config, shards, record):
            return False
        if not force:
            raise CheckpointError(f"{out} is not empty: choose another folder, or --force to replace the checkpoint in it")
        _remove_checkpoint(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if not sparse and total > free:
        raise CheckpointError(f"{out} needs {total:,} bytes and its disk has {free:,} free")

    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        _write_shards(partial, shards, seed, sparse, progress, total)
        if len(shards) > 1:
            weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
            _write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
        _write_json(partial / RECORD, record)
        _write_json(partial / "config.json", config)
        if out.is_dir() and any(out.iterdir()):  # strangers' files stay
            for file in partial.iterdir():
                file.replace(out / file.name)
            partial.rmdir()
        else:
            partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return True


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _holds(out: Path, config: dict, shards: list[Shard], record: dict) -> bool:
    """Whether `out` has this very checkpoint: the same record, config and headers, and files of the right size."""
    try:
        if json.loads((out / RECORD).read_text()) != record or json.loads((out / "config.json").read_text()) != config:
            return False
        for shard in shards:
            header = shard.header()
            with open(out / shard.name, "rb") as file:
                if file.read(len(header)) != header:
                    return False
                if os.fstat(file.fileno()).st_size != len(header) + shard.data_bytes:
                    return False
    except (OSError, ValueError):
        return False
    return {file.name for file in out.glob("*.safetensors")} == {shard.name for shard in shards}


def _remove_checkpoint(out: Path) -> None:
    for pattern in ("*.safetensors", INDEX, "config.json", RECORD):
        for file in out.glob(pattern):
            file.unlink()


def _write_shards(folder: Path, shards: list[Shard], seed: int, sparse: bool,
                  progress: Callable[[int, int], None] | None, total: int) -> None:
    """numpy and pwrite work outside of Python's lock, so threads fill blocks side by side, a bounded number at once."""
    workers = max(1, min(8, os.cpu_count() or 1))
    done = 0
    lock = threading.Lock()

    def write_block(file: int, offset: int, tensor: Tensor, first: int, count: int) -> None:
        nonlocal done
        data = memoryview(block_values(tensor, seed, first, count)).cast("B")
        written = 0
        while written < len(data):
            written += os.pwrite(file, data[written:], offset + written)
        with lock:
            done += len(data)
            if progress:
                progress(done, total)

    with ThreadPoolExecutor(workers) as pool:
        for shard in shards:
            header = shard.header()
            with open(folder / shard.name, "wb") as file:
                file.write(header)
                file.flush()
                file.truncate(len(header) + shard.data_bytes)
                if sparse:
                    continue
                waiting: deque = deque()
                try:
                    offset = len(header)
                    for tensor in shard.tensors:
                        row_bytes = rows_and_columns(tensor)[1] * DTYPE_BITS[tensor.dtype] // 8
                        for first, count in blocks(tensor):
                            if len(waiting) >= 2 * workers:
                                waiting.popleft().result()
                            waiting.append(pool.submit(write_block, file.fileno(), offset + first * row_bytes,
                                                       tensor, first, count))
                        offset += tensor.bytes
                    while waiting:
                        waiting.popleft().result()
                finally:  # nobody may write into the descriptor once it is closed
                    for future in waiting:
                        future.cancel()
                    for future in waiting:
                        if not future.cancelled():
                            future.exception()


class ProgressBar:
    """A bar on a terminal's stderr, at most ten times a second; nothing elsewhere. Callers take turns."""

    def __init__(self, stream, label: str):
        self.stream, self.label = stream, label
        self.start = time.monotonic()
        self.drawn = 0.0
        self.wanted = stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.wanted or (now - self.drawn < 0.1 and done < total):
            return
        self.drawn = now
        filled = 30 * done // max(1, total)
        rate = done / 1e9 / max(now - self.start, 1e-9)
        self.stream.write(f"\r{self.label} [{'#' * filled}{'.' * (30 - filled)}] {done / 1e9:.2f}/{total / 1e9:.2f} GB "
                          f"{rate:.2f} GB/s")
        if done >= total:
            self.stream.write("\n")
        self.stream.flush()
