"""What the end of a program must look like."""

import subprocess


def failed(done: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 1 and exactly one line on stderr, with these words in it."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
