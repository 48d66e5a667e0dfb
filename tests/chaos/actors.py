"""The processes of a round: started, killed, stopped and continued, and watched for their end."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path


class Actor:
    """One process. Its output goes to files, so that nobody has to read while it runs. hold: its input stays open until
    let_go()."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str], logs: Path, *, hold: bool = False):
        self.name = name
        self.command = command
        self.output, self.errors = logs / f"{name}.out", logs / f"{name}.err"
        self.began = time.monotonic()
        with open(self.output, "w") as output, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE if hold else subprocess.DEVNULL,
                                            stdout=output, stderr=errors)
        self.descriptor = os.pidfd_open(self.process.pid)
        self.ended: float | None = None
        self.killed = False
        self.stopped = False
        self.continued: float | None = None  # when it last went on after a stop

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        return self.process.returncode

    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    def answered(self) -> str:
        return self.output.read_text(errors="replace")

    def let_go(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    def reap(self) -> bool:
        """True when it has ended."""
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
            os.close(self.descriptor)
            self.let_go()
        return self.ended is not None

    def signal(self, number: int) -> bool:
        """False when it had ended before."""
        if self.reap():
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


def wait(actors: list[Actor], until: float) -> None:
    """Until any of those that run has ended, or `until` (time.monotonic)."""
    poll = select.poll()
    running = [actor for actor in actors if not actor.reap()]
    for actor in running:
        poll.register(actor.descriptor, select.POLLIN)
    left = until - time.monotonic()
    if left > 0:
        poll.poll(max(1, left * 1000))
    for actor in running:
        actor.reap()


def end_all(actors: list[Actor]) -> None:
    """Kill what is left, stopped or not, and take it in."""
    for actor in actors:
        if not actor.reap():
            actor.process.kill()
    for actor in actors:
        actor.process.wait()
        actor.reap()


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
