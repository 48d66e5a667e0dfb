"""Every fault ends within the caller's deadline with exit code 1 and one line that names it, leaves no output file that
looks whole, and no lease."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from conftest import LIMIT_S, fetch_command
from control import port_of_nobody
from models import write_tiny
from outcomes import NEVER_S, failed, wait_for, within

SLACK_S = 60  # what a loaded machine may take beyond a deadline


def nothing_left(folder) -> bool:
    return not [file.name for file in folder.iterdir() if "view" in file.name]


def finished(process: subprocess.Popen, limit: float = LIMIT_S) -> subprocess.CompletedProcess:
    output, errors = process.communicate(timeout=limit)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


# ---- what was asked for --------------------------------------------------------------------------------------------


def test_unknown_artifact(tiny, start_service, tpview, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    for artifact in ("nothing", "qwen3@2"):
        failed(tpview(*fetch_command(service.source, tmp_path / "view", artifact=artifact)), artifact)
    assert nothing_left(tmp_path)


def test_rank_beyond_the_group(tiny, start_service, tpview, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    for tp_rank in (2, 3):
        for command in (fetch_command(service.source, tmp_path / "view", tp_rank=tp_rank),
                        ["plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", tp_rank]):
            done = tpview(*command)
            assert done.returncode == 2 and f"tp_rank {tp_rank}" in done.stderr, done
    assert nothing_left(tmp_path)


def test_size_that_does_not_divide(tiny, start_service, tpview, tmp_path):
    """8 heads and an inner size of 704 = 11 x 64 do not divide by 3; 16 ranks are more than heads."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    for tp_size in (3, 5, 16):
        failed(tpview(*fetch_command(service.source, tmp_path / "view", tp_size=tp_size)), ".weight", str(tp_size))
    assert nothing_left(tmp_path)


def test_quantisation_block_that_would_be_cut(start_service, tpview, tmp_path):
    """1920 = 15 blocks of 128, which do not divide by 2."""
    folder = write_tiny("qwen3-fp8", tmp_path / "checkpoint", intermediate_size=1920)
    service = start_service(f"qwen3@1={folder}")
    failed(tpview(*fetch_command(service.source, tmp_path / "view")), "_proj.weight", "128")
    assert nothing_left(tmp_path)


# ---- sources that do not answer ------------------------------------------------------------------------------------


def test_nobody_there(tpview, sockets, tmp_path):
    failed(tpview(*fetch_command(f"unix:{sockets}/nobody.sock", tmp_path / "view", deadline=NEVER_S)), "nobody.sock")
    with port_of_nobody() as port:
        failed(tpview(*fetch_command(f"127.0.0.1:{port}", tmp_path / "view", deadline=NEVER_S)), str(port))
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_silent_source(tpview, sockets, tmp_path, kind):
    """It takes the connection and says nothing."""
    if kind == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(sockets / "silent.sock"))
        server.listen()
        address = f"unix:{sockets}/silent.sock"
    else:
        server = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with server, within(2 + SLACK_S):
        failed(tpview(*fetch_command(address, tmp_path / "view", deadline=2)), address.removeprefix("unix:"), "deadline")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}xyz", b"\x00\xff" * 500,
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                                    b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"],
                         ids=["nothing", "not JSON", "noise", "empty object", "500", "endless"])
def test_source_that_talks_nonsense(tpview, tmp_path, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve():
            server.settimeout(0.1)
            while not stop.is_set():
                with suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(LIMIT_S)
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with within(5 + SLACK_S):
                failed(tpview(*fetch_command(f"127.0.0.1:{server.getsockname()[1]}", tmp_path / "view", deadline=5)))
        finally:
            stop.set()
            thread.join()
    assert nothing_left(tmp_path)


def test_stopped_service(tiny, start_service, tpview, tmp_path):
    """SIGSTOP before the fetch: the kernel still takes the connection."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    service.process.process.send_signal(signal.SIGSTOP)
    with within(2 + SLACK_S):
        failed(tpview(*fetch_command(service.source, tmp_path / "view", deadline=2)), "deadline")
    assert nothing_left(tmp_path)


# ---- in mid-fetch --------------------------------------------------------------------------------------------------


def test_source_is_killed(large, start_service, in_mid_fetch, tmp_path):
    service = start_service(f"large@1={large}")
    process = in_mid_fetch(service.source, tmp_path / "view", deadline=NEVER_S)
    service.process.process.send_signal(signal.SIGKILL)
    failed(finished(process))
    assert nothing_left(tmp_path)


def test_source_is_stopped(large, start_service, in_mid_fetch, tmp_path):
    service = start_service(f"large@1={large}")
    with within(20 + SLACK_S):
        process = in_mid_fetch(service.source, tmp_path / "view", deadline=20)
        service.process.process.send_signal(signal.SIGSTOP)
        failed(finished(process), "deadline")
    assert nothing_left(tmp_path)


def test_deadline_is_that_of_all_steps_together(large, start_service, start_tpview, leases, tmp_path):
    """The source stands still while it is asked for the manifest, goes on, stands still again in mid-fetch, and goes on when
    the time that was left for that is over, though it is less than the deadline."""
    service = start_service(f"large@1={large}")
    service.process.process.send_signal(signal.SIGSTOP)
    process = start_tpview(*fetch_command(service.source, tmp_path / "view", artifact="large", tp_size=1, deadline=4),
                           "--chunk", "64K")
    begin = time.monotonic()
    time.sleep(2.5)  # the pause itself
    service.process.process.send_signal(signal.SIGCONT)
    wait_for(lambda: leases() or process.poll() is not None, LIMIT_S, "the fetch's lease")
    service.process.process.send_signal(signal.SIGSTOP)
    time.sleep(max(0, begin + 4.5 - time.monotonic()))
    service.process.process.send_signal(signal.SIGCONT)
    failed(finished(process), "deadline")
    assert nothing_left(tmp_path)


def test_stopped_source_that_goes_on(large, start_service, in_mid_fetch, check_view, tmp_path):
    """A pause within the deadline is no fault."""
    service = start_service(f"large@1={large}")
    process = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    service.process.process.send_signal(signal.SIGSTOP)
    time.sleep(1)  # the pause itself
    service.process.process.send_signal(signal.SIGCONT)
    done = finished(process)
    assert done.returncode == 0, done.stderr
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_rank_is_ended(large, tiny, start_service, in_mid_fetch, leases, tpview, tmp_path, how):
    """The service gives the lease back and goes on serving; unless it was killed, the rank removes its file."""
    service = start_service(f"large@1={large}", f"qwen3@1={tiny('qwen3')}")
    process = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    process.send_signal(how)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode != 0
    wait_for(lambda: leases() == [], LIMIT_S, "the end of the lease")
    assert not (tmp_path / "view").exists()
    assert how == signal.SIGKILL or nothing_left(tmp_path)
    done = tpview(*fetch_command(service.source, tmp_path / "after"))
    assert done.returncode == 0, done.stderr


def test_service_is_asked_to_end_and_lets_a_fetch_finish(large, start_service, in_mid_fetch, check_view, tmp_path):
    service = start_service(f"large@1={large}", "--drain", NEVER_S)
    process = in_mid_fetch(service.source, tmp_path / "view", deadline=NEVER_S)
    service.process.process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 0, done.stderr
    assert service.process.process.wait(LIMIT_S) == 0
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0


def test_service_is_asked_to_end_and_refuses_what_is_left(large, start_service, in_mid_fetch, leases, tmp_path):
    """The rank stands still, so its fetch cannot finish in time; it hears why when it goes on."""
    service = start_service(f"large@1={large}", "--drain", 0.2)
    process = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    process.send_signal(signal.SIGSTOP)
    assert service.process.stop(LIMIT_S) == 0
    assert leases() == []
    process.send_signal(signal.SIGCONT)
    failed(finished(process), "shutting down")
    assert nothing_left(tmp_path)


def test_shard_is_truncated_while_served(start_service, tpview, tmp_path):
    """Bytes past the new end would raise SIGBUS; the rank must hear of it and the service must live."""
    folder = write_tiny("qwen3", tmp_path / "checkpoint", shard_bytes=1 << 30)
    service = start_service(f"qwen3@1={folder}")
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)
    failed(tpview(*fetch_command(service.source, tmp_path / "view")), "model.safetensors")
    assert nothing_left(tmp_path)
    assert tpview("ls", "--source", service.source).returncode == 0


# ---- the rank's own disk -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tpview-test", str(folder)], capture_output=True,
                             text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(tiny, start_service, tpview, small_disk):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    failed(tpview(*fetch_command(service.source, small_disk / "view", tp_size=1)), "space", str(small_disk))
    assert list(small_disk.iterdir()) == []


def test_folder_that_is_not_there(tiny, start_service, tpview, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    failed(tpview(*fetch_command(service.source, tmp_path / "nowhere" / "view")), "nowhere")


@pytest.mark.parametrize("shared", [False, True])
def test_output_that_would_replace_something_else(tpview, sockets, tmp_path, shared):
    """Told before the source is asked for anything: here there is none."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for name, word in (("folder", "a folder"), ("link", "a symbolic link"), ("fifo", "a FIFO")):
        done = tpview(*fetch_command(f"unix:{sockets}/nobody", tmp_path / name), *(["--shared"] if shared else []))
        assert done.returncode == 2, done.stderr
        assert f"{tmp_path / name} is {word}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["fifo", "folder", "link"]


# ---- how a service ends ----------------------------------------------------------------------------------------------


def test_end_of_an_idle_service(tiny, start_service, tpview, sockets, tmp_path):
    """SIGTERM: exit code 0, and neither its socket nor a lease nor a cached export is left in the table."""

    def table():
        table = json.loads(tpview("doctor", "--json").stdout)["table"]
        return {kind: {state: count for state, count in table[kind].items() if state != "free" and count}
                for kind in ("exports", "leases")} | {"processes": table["processes"]}

    service = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    assert tpview(*fetch_command(service.source, tmp_path / "view")).returncode == 0
    wait_for(lambda: not table()["leases"], LIMIT_S, "the end of the lease")
    assert table()["exports"] == {"ready": 1}
    assert service.process.stop(LIMIT_S) == 0
    assert not (sockets / "x.sock").exists()
    assert table() == {"exports": {}, "leases": {}, "processes": []}


def test_socket_of_a_dead_service_is_taken_over(tiny, start_service, tpview, sockets):
    first = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    first.process.process.kill()
    first.process.process.wait()
    second = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    assert tpview("ls", "--source", second.source).returncode == 0


def test_socket_of_a_living_service_is_not_taken(tiny, start_service, build, environ, sockets, tpview):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    done = subprocess.run([str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", "--unix", str(sockets / "x.sock")],
                          env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    failed(done, "x.sock")
    assert tpview("ls", "--source", service.source).returncode == 0
