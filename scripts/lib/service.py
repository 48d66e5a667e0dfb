"""Runs the built programs: a service that is waited for and always ended, and the command line tool."""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

READY = "tpviewd: ready"


class ServiceError(Exception):
    """The service did not do what was asked; the message ends with what it said."""


def environment(build: Path, namespace: str, **more: str) -> dict[str, str]:
    """The environment for programs of `build`: its libraries first, and a lease table and a digest cache of their own."""
    libraries = [str(build / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "TPVIEW_NAMESPACE": namespace, **more}


def remove_lease_table(namespace: str) -> None:
    for file in Path("/dev/shm").glob(f"tpview-{namespace}-*"):
        file.unlink(missing_ok=True)


class Service:
    """tpviewd with the given arguments, from its start to its end. Use as a context manager.

    Its ready line is in `ready`; everything it says is in `said()`."""

    def __init__(self, build: Path, arguments: list[str], environ: dict[str, str], *, prefix: tuple[str, ...] = (),
                 ready_timeout: float = 60):
        self.log = tempfile.TemporaryFile("w+", prefix="tpviewd-")
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen([*prefix, str(build / "bin" / "tpviewd"), *arguments], env=environ,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.output: list[str] = []
        try:
            self.ready = self._wait_ready(ready_timeout)
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _wait_ready(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ServiceError(f"tpviewd was not ready after {timeout:g} s:\n{self.said()}") from None
            if line is None:
                status = self.process.wait()
                raise ServiceError(f"tpviewd ended with exit code {status} before it was ready:\n{self.said()}")
            self.output.append(line)
            if line.startswith(READY):
                return line

    def said(self) -> str:
        while True:
            try:
                line = self.lines.get_nowait()
            except queue.Empty:
                break
            if line is not None:
                self.output.append(line)
        self.log.seek(0)
        return "\n".join([*self.output, self.log.read()]).strip()

    def stop(self, timeout: float = 30) -> int:
        """Ask for the end with SIGTERM and return the exit code. ServiceError if it does not come in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServiceError(f"tpviewd did not end within {timeout:g} s of SIGTERM:\n{self.said()}") from None

    def kill(self) -> None:
        """End it at once, also when it is stopped, and release everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)
        self.process.stdout.close()
        self.log.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *exception) -> None:
        self.kill()


def leases(build: Path, environ: dict[str, str]) -> list[dict]:
    """The live leases of the namespace, as `tpview leases --json` gives them."""
    done = subprocess.run([str(build / "bin" / "tpview"), "leases", "--json"], env=environ, capture_output=True,
                          text=True, timeout=300)
    if done.returncode:
        raise ServiceError(f"tpview leases failed with exit code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)["leases"]
