"""A Unix socket is met where only its user can put one, and whoever listens there is asked for by the kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import service as programs
import tpview as python_tpview
from conftest import LIMIT_S
from outcomes import failed

SOMEBODY = 65534

# Bound by root, listened to as somebody else, whom the kernel then names (unix(7)). Prints what it was asked, one line each.
LISTENER = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
server.listen()
print("listening", flush=True)
body = b'{"artifacts":[]}'
while True:
    connection = server.accept()[0]
    asked = connection.recv(65536)
    print(asked[:40], flush=True)
    if asked:
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s" % (len(body), body))
    connection.close()
"""


@pytest.fixture(autouse=True)
def library(build, monkeypatch):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))


@pytest.fixture
def listen(sockets):
    """listen(uid): (address, process) of somebody who answers that there are no artifacts."""
    if os.geteuid() != 0:
        pytest.skip("being somebody else needs root")
    running = []

    def start(uid: int):
        path = sockets / f"{uid}.sock"
        process = subprocess.Popen([sys.executable, "-c", LISTENER, str(path), str(uid)], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "listening\n"
        return f"unix:{path}", process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_another_users_service_is_not_asked(listen, tpview, tmp_path):
    address, listener = listen(SOMEBODY)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("secret")
    done = tpview("ls", "--source", address, "--token-file", token)
    failed(done, f"user {SOMEBODY}")
    assert "--any-uid" in done.stderr and address in done.stderr
    assert listener.stdout.readline() == "b''\n"  # not a byte was sent
    with pytest.raises(python_tpview.PermissionDenied, match="any_uid"):
        python_tpview.connect(address)
    assert listener.stdout.readline() == "b''\n"
    done = tpview("ls", "--source", address, "--any-uid")
    assert done.returncode == 0, done.stderr
    assert listener.stdout.readline().startswith("b'GET /v1/artifacts")
    with python_tpview.connect(address, any_uid=True) as source:
        assert list(source.artifacts()) == []


def test_roots_own_service_is_asked(listen, tpview):
    address, _ = listen(0)
    assert tpview("ls", "--source", address).returncode == 0


def test_programs_meet_at_the_default_socket(build, environ, tiny, tpview, check_view, tmp_path, monkeypatch):
    runtime = Path(environ["XDG_RUNTIME_DIR"])
    failed(tpview("ls"), f"unix:{runtime}/tpviewd.sock")
    with programs.Service(build, [f"qwen3@1={tiny('qwen3')}"], environ, ready_timeout=LIMIT_S) as service:
        assert f"unix:{runtime}/tpviewd.sock " in service.ready
        assert [a["name"] for a in json.loads(tpview("ls", "--json").stdout)["artifacts"]] == ["qwen3"]
        done = tpview("fetch", "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 1, "--out", tmp_path / "view")
        assert done.returncode == 0, done.stderr
        assert check_view(tiny("qwen3"), 2, 1, tmp_path / "view").returncode == 0
        assert tpview("plan", "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 1).returncode == 0
        assert tpview("publish", f"qwen3@2={tiny('qwen3')}").returncode == 0
        assert tpview("retire", "qwen3@2").returncode == 0
        done = subprocess.run([str(build / "bin" / "tpview_perf"), "--artifact", "qwen3", "--tp-size", "2", "-n", "1"],
                              env=environ, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        monkeypatch.delenv("TPVIEW_SOURCE", raising=False)
        with python_tpview.connect() as source:
            assert len(source.artifacts()) == 1


def test_a_default_folder_of_everybody_is_refused(build, environ, tiny, run_tpviewd, tpview):
    runtime = Path(environ["XDG_RUNTIME_DIR"])
    runtime.chmod(0o777)
    failed(run_tpviewd(f"qwen3@1={tiny('qwen3')}"), str(runtime))
    failed(tpview("ls"), str(runtime))
