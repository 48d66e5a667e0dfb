"""What the end of a program must look like, and waiting for it."""

import subprocess
import time
from contextlib import contextmanager


LIMIT_S = 300  # nothing here takes longer, on a loaded machine either; beyond it, something hangs
NEVER_S = 100_000  # a deadline that plays no part: whoever waits for it hangs


def failed(done: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 1 and exactly one line on stderr, with these words in it."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@contextmanager
def within(seconds: float):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def wait_for(condition, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return value
