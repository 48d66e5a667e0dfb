"""The processes of a round: started, killed, stopped and continued, and watched for their end."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

_ended = threading.Condition()


class Actor:
    """One process. Its output goes to files, so that nobody has to read while it runs; a thread of its own notes when it
    ends. hold: its input stays open until let_go()."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str], logs: Path, *, hold: bool = False):
        self.name = name
        self.output, self.errors = logs / f"{name}.out", logs / f"{name}.err"
        self.killed = False
        self.stopped = False
        self.continued: float | None = None  # when it last went on after a stop
        self.ended: float | None = None
        self.began = time.monotonic()
        with open(self.output, "w") as output, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE if hold else subprocess.DEVNULL,
                                            stdout=output, stderr=errors)
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def _watch(self) -> None:
        self.process.wait()
        with _ended:
            self.ended = time.monotonic()
            _ended.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def runs(self) -> bool:
        return self.ended is None

    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    def answered(self) -> str:
        return self.output.read_text(errors="replace")

    def let_go(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    def signal(self, number: int) -> bool:
        """False when it had ended before."""
        if not self.runs:
            return False
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.killed = True
        if number == signal.SIGSTOP:
            self.stopped = True
        if number == signal.SIGCONT:
            self.stopped = False
            self.continued = time.monotonic()
        return True


def wait_ended(actors: list[Actor], until: float) -> bool:
    """Until all of them have ended; False when `until` (time.monotonic) came first."""
    with _ended:
        while any(actor.runs for actor in actors):
            left = until - time.monotonic()
            if left <= 0:
                return False
            _ended.wait(left)
    return True


def end_all(actors: list[Actor]) -> None:
    """Kill what is left, stopped or not, and take it in."""
    for actor in actors:
        if actor.runs:
            actor.process.kill()
    for actor in actors:
        actor.watcher.join()
        actor.let_go()


def of_namespace(namespace: str) -> list[int]:
    """Pids of living processes that work on this lease table, whoever started them."""
    wanted = f"TPVIEW_NAMESPACE={namespace}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it has just ended, or is somebody else's
    return found
