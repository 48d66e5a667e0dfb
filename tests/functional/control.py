"""The control API spoken by hand: requests as bytes, so that a test can say what no client would."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from outcomes import LIMIT_S


def connect(address: str, *, source: str | None = None, timeout: float = LIMIT_S) -> socket.socket:
    """A connection to "unix:PATH" or "HOST:PORT", from the local address `source`."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout, (source, 0) if source else None)


def send(connection: socket.socket, method: str, path: str, body=None, token: str | None = None) -> None:
    """Send a request; `body` is bytes, or a value that goes as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: tpview\r\nContent-Length: {len(data)}\r\n"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    connection.sendall(head.encode() + b"\r\n" + data)


def receive(connection: socket.socket) -> tuple[int, bytes]:
    """The status and body of the answer; EOFError when the connection closes first."""
    stream = connection.makefile("rb")
    status, length = stream.readline(), 0
    if not status:
        raise EOFError("closed without an answer")
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return int(status.split()[1]), stream.read(length)


def call(address: str, method: str, path: str, body=None, token: str | None = None, **options) -> tuple[int, bytes]:
    with connect(address, **options) as connection:
        send(connection, method, path, body, token)
        return receive(connection)


def error(answer: tuple[int, bytes]) -> str:
    """The message of an answer that must be an error."""
    assert answer[0] >= 400, answer
    return json.loads(answer[1])["error"]["message"]


def manifest(address: str, artifact: str = "qwen3", token: str | None = None) -> dict:
    status, body = call(address, "GET", f"/v1/artifacts/{artifact}/manifest", token=token)
    assert status == 200, body
    return json.loads(body)


def whole_tensor(index: dict, name: str) -> dict:
    """The view of one whole tensor."""
    dtype, shape = index["tensors"][name]
    return {"format": "tpview-view-1",
            "outputs": [{"name": name, "dtype": dtype, "shape": shape, "pieces": [{"tensor": name, "sizes": shape}]}]}


@contextmanager
def port_of_nobody(host: str = "127.0.0.1") -> Iterator[int]:
    """A TCP port that refuses connections: it is taken, so that nobody else gets it, and nobody listens."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        yield taken.getsockname()[1]


def handle(host: str, port: int) -> str:
    """A handle of our net plugin for an IPv4 address where somebody may or may not listen (plugin/setup/handle.h)."""
    data = bytearray(128)
    data[0:8] = b"TPVHANDL"
    struct.pack_into("<HHI", data, 8, 3, 1, 0)
    data[16:32] = os.urandom(16)
    struct.pack_into("<HH4s", data, 32, 4, port, socket.inet_aton(host))
    return bytes(data).hex()


def fetch_request(index: dict, view: dict, handles: list[str], **fields) -> dict:
    return {"fetch_id": os.urandom(16).hex(), "artifact_id": index["artifact_id"], "view": view, "net": "TPView",
            "handles": handles, "max_chunk_bytes": 1 << 20,
            "rank": {"host": "elsewhere", "pid": 1, "tp_rank": 0, "tp_size": 1}, **fields}
