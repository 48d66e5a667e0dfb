"""A rank under the test's hand: it speaks the control API and the wire (docs/control-api.md) by itself, over the test
plugin "Toy" (tests/nets/toynet.c), and so can do what no honest client does: stop reading, never acknowledge, vanish."""

import http.client
import json
import secrets
import socket
import struct
from collections.abc import Iterator

from outcomes import LIMIT_S

GREETING = struct.Struct("<IHHHHIQ16s")
TRAILER = struct.Struct("<IHHQQQ")
HANDLE_BYTES = 128


class Control(http.client.HTTPConnection):
    """One keep-alive connection to a service at "unix:PATH" or "HOST:PORT"."""

    def __init__(self, address: str):
        self.path = address.removeprefix("unix:") if address.startswith("unix:") else None
        host, _, port = ("localhost", "", "80") if self.path else address.rpartition(":")
        super().__init__(host.strip("[]"), int(port), timeout=LIMIT_S)

    def connect(self):
        if self.path is None:
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def answer(self) -> tuple[int, dict]:
        response = self.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else {}

    def metric(self, name: str) -> float:
        """A number of /metrics; `name` without "tpview_", with its labels."""
        self.request("GET", "/metrics")
        lines = self.getresponse().read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"tpview_{name} ")).rpartition(" ")[2])

    def call(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, dict]:
        self.request(method, path, body, headers)
        return self.answer()


class ReportedError(Exception):
    """What the source says in a trailer."""


class Rank:
    """A fetch that was asked for and moves only when the test says so. The kernel takes a few hundred KiB unread; beyond
    that the source stands still."""

    def __init__(self, control: Control, artifact_id: str, view: dict, *, deadline_s: float | None = None, chunk: int = 65536,
                 comms: int = 1, host: str = "test", ranges: list[tuple[int, int]] | None = None):
        self.control, self.artifact_id, self.view = control, artifact_id, view
        self.fetch_id = secrets.token_hex(16)
        self.listeners, handles = [], []
        for _ in range(comms):
            name = f"toy-{secrets.token_hex(12)}"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind("\0" + name)
            listener.listen(1)
            listener.settimeout(LIMIT_S)
            self.listeners.append(listener)
            handles.append((b"toynet\0\0" + name.encode()).ljust(HANDLE_BYTES, b"\0").hex())
        request = {"fetch_id": self.fetch_id, "artifact_id": artifact_id, "net": "Toy", "handles": handles,
                   "max_chunk_bytes": chunk, "view": view, "rank": {"host": host, "pid": 1, "tp_rank": 0, "tp_size": 1}}
        if ranges is not None:
            request["ranges"] = ranges
        if deadline_s is not None:
            request["deadline_ms"] = int(deadline_s * 1000)
        self.ranges = ranges
        self.comms: list[socket.socket] = []
        control.request("POST", "/v1/fetch", json.dumps(request), {"Content-Type": "application/json"})

    def accept(self) -> None:
        """Take the source's comms and their greetings."""
        for listener in self.listeners:
            comm, _ = listener.accept()
            comm.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", LIMIT_S, 0))
            self.comms.append(comm)
            _, _, number, _, _, self.chunk_bytes, self.bytes, fetch_id = GREETING.unpack(self._message(comm))
            assert number == len(self.comms) - 1 and fetch_id.hex() == self.fetch_id

    @staticmethod
    def _exactly(comm: socket.socket, count: int) -> bytes:
        data = bytearray(count)
        assert comm.recv_into(data, count, socket.MSG_WAITALL) == count, "the source closed the comm"
        return bytes(data)

    def _message(self, comm: socket.socket) -> bytes:
        return self._exactly(comm, int.from_bytes(self._exactly(comm, 8), "little"))

    def chunks(self) -> Iterator[bytes]:
        """The wanted chunks of the dense form, each with a good trailer."""
        self.accept()
        ranges = [(0, self.bytes)] if self.ranges is None else self.ranges
        wanted = sorted({chunk for begin, end in ranges for chunk in range(begin // self.chunk_bytes, -(-end // self.chunk_bytes))})
        for position, chunk in enumerate(wanted):
            comm = self.comms[position % len(self.comms)]
            data, trailer = self._message(comm), self._message(comm)
            _, _, status, number, length, _ = TRAILER.unpack(trailer[:TRAILER.size])
            if status:
                raise ReportedError(trailer[TRAILER.size:].decode())
            assert (number, length) == (chunk, len(data)), trailer
            yield data

    def receive(self) -> bytes:
        return b"".join(self.chunks())

    def outcome(self) -> tuple[int, dict]:
        """The source's answer to the fetch."""
        return self.control.answer()

    def acknowledge(self) -> dict:
        return self.control.call("DELETE", f"/v1/leases/{self.fetch_id}")[1]

    def close(self) -> None:
        for sock in (*self.listeners, *self.comms):
            sock.close()
        self.control.close()
