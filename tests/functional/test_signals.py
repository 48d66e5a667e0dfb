"""Signals end programs at once and in order: nothing that looks whole, no socket and no lease is left."""

import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import NEVER_S, wait_for


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_fetch_from_a_silent_source(start_tpview, sockets, tmp_path, how):
    """It takes the connection and says nothing: one signal is enough."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sockets / "silent.sock"))
        server.listen()
        process = start_tpview(*fetch_command(f"unix:{sockets}/silent.sock", tmp_path / "view", deadline=NEVER_S))
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1)
            process.send_signal(how)
            assert process.wait(LIMIT_S) != 0
    assert not list(tmp_path.glob("view*"))


def start_ignoring(build, environ, arguments) -> subprocess.Popen:
    """With SIGHUP ignored, as nohup does."""
    return subprocess.Popen([str(build / "bin" / arguments[0]), *map(str, arguments[1:])], env=environ,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))


def test_hangup_that_was_ignored_stays_so(build, environ, tiny, sockets):
    process = start_ignoring(build, environ, ["tpviewd", f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock"])
    try:
        assert "ready" in process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = int(re.search(r"^SigIgn:\s+(\w+)$", status, re.MULTILINE)[1], 16)  # proc(5)
        assert ignored & 1 << signal.SIGHUP - 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.communicate()


def test_service_ends_at_hangup(tiny, start_service, sockets):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    service.process.process.send_signal(signal.SIGHUP)
    assert service.process.process.wait(LIMIT_S) == 0
    assert not list(sockets.iterdir())


def test_second_signal_waits_for_no_fetch(large, start_service, in_mid_fetch, leases, sockets, tmp_path):
    """The first lets fetches finish for as long as --drain says; the second ends that, and all the same in order."""
    service = start_service(f"large@1={large}", "--unix", sockets / "x.sock", "--drain", NEVER_S)
    rank = in_mid_fetch(service.source, tmp_path / "view", deadline=NEVER_S)
    rank.send_signal(signal.SIGSTOP)
    try:
        process = service.process.process
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not (sockets / "x.sock").exists(), LIMIT_S, "the end of listening")
        time.sleep(0.2)  # not a condition: it must still be there
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        assert not leases() and not list(sockets.iterdir())
    finally:
        rank.send_signal(signal.SIGCONT)
    assert rank.wait(LIMIT_S) == 1
    assert not list(tmp_path.glob("view*"))
