"""Where a service may listen: what counts as open to other hosts, what stands in a socket's place, and who of several
starters gets it."""

import fcntl
import os
import select
import socket
import subprocess
import time

import pytest
from conftest import LIMIT_S
from outcomes import failed

STARTERS = 6


@pytest.fixture
def refused(tiny, build, environ):
    """refused(option, …): how a service ends that must not become ready."""

    def run(*options) -> subprocess.CompletedProcess:
        done = subprocess.run([str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", *map(str, options)], env=environ,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
        assert "ready" not in done.stdout
        return done

    return run


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "126.255.255.255", "128.0.0.1", "[::]", "[2001:db8::1]", "[::2]",
                                  "[fe80::1]", ""])
def test_what_other_hosts_reach_needs_a_token(refused, host):
    failed(refused("--listen", f"{host}:0"), "--token-file", "--insecure")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "[::1]"])
def test_loopback_does_not(tiny, start_service, control, host):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", f"{host}:0")
    assert control(service.tcp).call("GET", "/healthz")[0] == 200


def test_localhost_is_of_both_families(tiny, start_service, control, refused):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "localhost:0")
    addresses = [word for word in service.process.ready.split() if ":" in word and word.rpartition(":")[2].isdecimal()]
    port = service.tcp.rpartition(":")[2]
    assert addresses == [f"127.0.0.1:{port}", f"[::1]:{port}"]
    for address in (*addresses, f"localhost:{port}"):
        assert control(address).call("GET", "/healthz")[0] == 200
    # One family's port being taken is told, and nothing of the other is left.
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        failed(refused("--listen", f"localhost:{port}"), f"localhost:{port}", "in use")
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "dangling link", "fifo"])
def test_what_is_no_socket_is_left_alone(refused, sockets, kind):
    path = sockets / "x.sock"
    (sockets / "file").write_text("mine")
    {"file": lambda: path.write_text("mine"), "folder": path.mkdir, "link to a file": lambda: path.symlink_to(sockets / "file"),
     "dangling link": lambda: path.symlink_to(sockets / "nothing"), "fifo": lambda: os.mkfifo(path)}[kind]()
    before = path.lstat()
    done = refused("--unix", path)
    assert done.returncode == 2 and str(path) in done.stderr and "not a socket" in done.stderr
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (sockets / "file").read_text() == "mine"


def test_a_path_too_long_for_a_socket(refused, sockets):
    done = refused("--unix", sockets / (108 * "x"))
    assert done.returncode == 2 and "107" in done.stderr


@pytest.fixture
def stale(sockets):
    """A socket that a dead service has left."""
    path = sockets / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def test_what_a_dead_service_left_is_taken_over(tiny, start_service, sockets, control):
    path = sockets / "x.sock"
    first = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", path)
    first.process.process.kill()
    first.process.process.wait()
    assert sorted(entry.name for entry in sockets.iterdir()) == ["x.sock", "x.sock.lock"]
    second = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", path)
    assert control(second.source).call("GET", "/healthz")[0] == 200
    second.process.stop()
    assert list(sockets.iterdir()) == []


def test_nobody_takes_a_socket_whose_lock_is_held(refused, stale):
    """Its holder is about to replace the old socket by its own, which must not be taken away again."""
    before = stale.lstat().st_ino
    with open(f"{stale}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed(refused("--unix", stale), str(stale), "in use")
    assert stale.lstat().st_ino == before


def test_one_of_several_starters_gets_a_stale_socket(tiny, build, environ, stale, control):
    command = [str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", "--unix", str(stale)]
    starters = [subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True) for _ in range(STARTERS)]
    try:
        # Each says that it is ready, or ends.
        lines, deadline = {}, time.monotonic() + LIMIT_S
        while len(lines) < STARTERS:
            silent = {starter.stdout: starter for starter in starters if starter not in lines}
            spoke = select.select(list(silent), [], [], max(0.0, deadline - time.monotonic()))[0]
            assert spoke, "neither ready nor ended"
            lines.update({silent[stream]: stream.readline() for stream in spoke})
        ready = [starter for starter, line in lines.items() if line]
        assert len(ready) == 1
        for starter in starters:
            if starter not in ready:
                assert starter.wait(LIMIT_S) == 1 and "in use" in starter.stderr.read()
        assert control(f"unix:{stale}").call("GET", "/healthz")[0] == 200
    finally:
        for starter in starters:
            starter.kill()
            starter.communicate()
