"""Where a service listens: one at a time at a path, and numbers that are ports."""

import signal
import socket
import subprocess

import pytest
from conftest import LIMIT_S
from control import call
from outcomes import wait_for


def make_stale(path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_two_starters_over_a_stale_socket(build, environ, tiny, sockets):
    """One of them serves, the other says who does; the end of the loser leaves the winner's socket alone."""
    path = sockets / "x.sock"
    command = [str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", "--unix", str(path)]
    for _ in range(5):
        make_stale(path)
        both = [subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for _ in range(2)]
        try:
            wait_for(lambda: any(one.poll() is not None for one in both), LIMIT_S, "the end of one of them")
            loser = next(one for one in both if one.poll() is not None)
            winner = both[1 - both.index(loser)]
            output, errors = loser.communicate(timeout=LIMIT_S)
            assert loser.returncode == 1 and "ready" not in output and "in use by a running service" in errors
            assert "ready" in winner.stdout.readline()
            assert call(f"unix:{path}", "GET", "/healthz")[0] == 200
            winner.send_signal(signal.SIGTERM)
            assert winner.wait(LIMIT_S) == 0
            assert not list(sockets.iterdir())
        finally:
            for one in both:
                one.kill()
                one.communicate()


def test_living_stranger_keeps_its_socket(tiny, run_tpviewd, sockets):
    """A socket whose owner knows no lock."""
    path = sockets / "x.sock"
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        done = run_tpviewd(f"qwen3@1={tiny('qwen3')}", "--unix", path)
        assert done.returncode == 1 and "in use by a running service" in done.stderr
    assert [file.name for file in sockets.iterdir()] == ["x.sock"]


@pytest.mark.parametrize("port", ["65536", "99999", "18446744073709551616", "-1", "1x", "", "7K"])
def test_ports_that_are_none(tiny, run_tpviewd, port):
    done = run_tpviewd(f"qwen3@1={tiny('qwen3')}", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2 and "0 to 65535" in done.stderr
