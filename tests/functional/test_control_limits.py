"""What clients of the control API may take: connections, time, memory."""

import contextlib
import json
import re
import resource
import socket
import time

import pytest
from conftest import LIMIT_S, fetch_command
from control import call, connect, error, fetch_request, handle, manifest, port_of_nobody, receive, send, whole_tensor
from models import write_many
from outcomes import NEVER_S, wait_for

MIB = 1 << 20


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("needs 4096 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def peak_bytes(service) -> int:
    status = open(f"/proc/{service.process.process.pid}/status").read()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def resident_bytes(service) -> int:
    status = open(f"/proc/{service.process.process.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def metric(service, name: str) -> float:
    text = call(service.source, "GET", "/metrics")[1].decode()
    return float(re.search(rf"^tpview_{name} (\S+)$", text, re.MULTILINE)[1])


# ---- connections and time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.9"])
def test_slow_clients_keep_nobody_out(tiny, start_service, many_descriptors, source):
    """1,100 clients that never finish their requests; somebody else, or one of their own address, is answered."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--idle-timeout", NEVER_S)
    with contextlib.ExitStack() as slow:
        for _ in range(1100):
            connection = slow.enter_context(connect(service.tcp, source="127.0.0.1"))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        for _ in range(3):
            assert call(service.tcp, "GET", "/healthz", source=source)[0] == 200


def is_closed(connection: socket.socket, said: bytes = b"") -> bool:
    """After saying that, and waiting for it."""
    try:
        connection.sendall(said)
        return connection.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):
        return True


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX: ", b"GET"])
@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_connection_without_a_request_is_closed(tiny, start_service, said, where):
    options = ("--listen", "127.0.0.1:0") if where == "tcp" else ()
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--idle-timeout", 0.5, *options)
    with connect(service.source) as connection:
        assert is_closed(connection, said)


def test_connection_that_drips_is_closed(tiny, start_service):
    """A byte now and then is no request."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--idle-timeout", 0.5)
    with connect(service.source) as connection:
        deadline = time.monotonic() + LIMIT_S
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                time.sleep(0.05)


def test_connection_between_requests_is_kept_and_then_closed(tiny, start_service):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--idle-timeout", 8)
    with connect(service.source) as connection:
        for _ in range(4):
            send(connection, "GET", "/healthz")
            assert receive(connection)[0] == 200
            time.sleep(2.5)  # longer than the timeout, all of them together
        assert is_closed(connection)


def test_fetch_outlasts_the_idle_timeout(tiny, start_toy_service, start_rank, control):
    """Nothing is asked for on its control connection meanwhile."""
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}", "--idle-timeout", 4)
    rank = start_rank(service, deadline_s=LIMIT_S)
    chunks = rank.chunks()
    next(chunks)
    idle = control(service)
    assert idle.call("GET", "/healthz")[0] == 200
    assert is_closed(idle.sock)  # which began to idle after the rank
    assert list(chunks) and rank.outcome()[0] == 200


def test_keepalive_of_control_connections(tiny, start_service):
    """A host that has gone without a word is noticed: its connection has a timer."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    port = int(service.tcp.rpartition(":")[2])
    with connect(service.tcp) as connection:
        send(connection, "GET", "/healthz")
        assert receive(connection)[0] == 200
        mine = connection.getsockname()[1]
        wanted = (f":{port:04X}", f":{mine:04X}")

        def timers() -> list[str]:
            rows = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
            return [row[5][:3] for row in rows if row[1].endswith(wanted[0]) and row[2].endswith(wanted[1])]

        # proc(5): 2 is the keepalive timer. Until the answer is acknowledged, the one to send it again runs.
        wait_for(lambda: timers() == ["02:"], LIMIT_S, "the keepalive timer")


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [b"{},", b"[],", b"1,", b'"",', b'{"a":1},'])
@pytest.mark.parametrize("place", [b'{"view":[', b'{"view":{"outputs":[', b'{"view":{"aliases":[', b'{"handles":[', b"["])
def test_body_of_small_values(tiny, start_service, item, place):
    """A few bytes of text would cost a hundred of tree."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    call(service.source, "GET", "/healthz")
    before, size = resident_bytes(service), 16 * MIB
    body = place + item * (size // len(item)) + b"1]" + b"}" * (place.count(b"{"))
    answer = call(service.source, "POST", "/v1/fetch", body)
    assert answer[0] == 400 and error(answer)
    assert peak_bytes(service) - before <= 4 * len(body)


@pytest.mark.parametrize("item", [b"[],", b"{},", b"1,"])
@pytest.mark.parametrize("rights", ["Unix socket", "fetch token"])
def test_publish_body_of_small_values(tiny, start_service, tmp_path, item, rights):
    """The same of those who may publish, and of those who may not."""
    token = tmp_path / "token"
    token.write_text("rank\n")
    token.chmod(0o600)
    remote = rights == "fetch token"
    service = start_service(f"qwen3@1={tiny('qwen3')}", *(("--listen", "127.0.0.1:0", "--token-file", token) if remote else ()))
    call(service.source, "GET", "/healthz")
    before, size = resident_bytes(service), 16 * MIB
    body = b'{"artifact":[' + item * (size // len(item)) + b"1]}"
    answer = call(service.source, "POST", "/v1/artifacts", body, token="rank" if remote else None)
    assert answer[0] == (403 if remote else 400) and error(answer)
    assert peak_bytes(service) - before <= 4 * len(body)


def big_view(index: dict, number: int, names: int = 8000) -> dict:
    view = whole_tensor(index, "model.norm.weight")
    view["aliases"] = {f"{number:04d}-{i:07d}-" + "n" * 900: "model.norm.weight" for i in range(names)}
    return view


def test_views_count_against_the_budget(tiny, start_service):
    """Each view that was asked for stays for a while: with what it takes, and only while there is room."""
    budget = 64 * MIB
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--budget", budget)
    index = manifest(service.source)
    before = resident_bytes(service)
    with port_of_nobody() as port:
        for number in range(12):
            request = fetch_request(index, big_view(index, number), [handle("127.0.0.1", port)])
            assert call(service.source, "POST", "/v1/fetch", request)[0] >= 500
            assert metric(service, "budget_used_bytes") <= budget
    assert metric(service, "budget_used_bytes") >= 8 * MIB  # the last one at least
    assert metric(service, "budget_peak_bytes") <= budget
    # Without a bound it is more than four times the budget; the allocator keeps some of what was freed.
    assert resident_bytes(service) - before <= 3 * budget


def test_bodies_count_against_the_budget(tiny, start_service, tpview, tmp_path):
    """While they are read, and not after."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--budget", 8 * MIB, "--idle-timeout", NEVER_S)
    half = b'{"view":"' + b"x" * MIB
    with contextlib.ExitStack() as clients:
        taken = []
        for _ in range(2):
            connection = clients.enter_context(connect(service.source))
            connection.sendall(b"POST /v1/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + half)
            taken.append(connection)
        wait_for(lambda: metric(service, "budget_used_bytes") >= 2 * MIB, LIMIT_S, "two bodies in the budget")
        answer = call(service.source, "POST", "/v1/fetch", b"x" * 8 * MIB)
        assert answer[0] == 503 and "too long, or too many" in error(answer)
    wait_for(lambda: metric(service, "budget_used_bytes") == 0, LIMIT_S, "the end of the bodies")
    assert metric(service, "budget_peak_bytes") <= 8 * MIB
    done = tpview(*fetch_command(service.source, tmp_path / "view"))
    assert done.returncode == 0, done.stderr


def test_a_manifest_is_in_memory_once(start_service, many_descriptors, tmp_path):
    """However many clients have asked for it and do not read."""
    service = start_service(f"many@1={write_many(tmp_path / 'many', 50000)}", "--idle-timeout", NEVER_S)
    size = len(call(service.source, "GET", "/v1/artifacts/many/manifest")[1])
    assert size >= 2 * MIB
    before = resident_bytes(service)
    with contextlib.ExitStack() as clients:
        asked = [clients.enter_context(connect(service.source)) for _ in range(100)]
        for connection in asked:
            send(connection, "GET", "/v1/artifacts/many/manifest")
        for connection in asked:
            assert connection.recv(1) == b"H"  # the answer is on its way
        assert resident_bytes(service) - before <= 10 * size
    assert len(call(service.source, "GET", "/v1/artifacts/many/manifest")[1]) == size


def test_a_manifest_outlives_its_artifact(start_service, tpview, tmp_path):
    """Who reads it when the artifact is retired reads it to its end."""
    service = start_service(f"many@1={write_many(tmp_path / 'many', 50000)}")
    with connect(service.source) as connection:
        send(connection, "GET", "/v1/artifacts/many/manifest")
        connection.recv(1, socket.MSG_PEEK)
        assert tpview("retire", "--source", service.source, "many@1").returncode == 0
        status, body = receive(connection)
    assert status == 200 and len(json.loads(body)["tensors"]) == 50000


def test_body_of_the_longest_length(tiny, start_service):
    """64 MiB are read, a byte more is told; the service lives on."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    answer = call(service.source, "POST", "/v1/fetch", b" " * (64 * MIB))
    assert answer[0] == 400 and "expected an object" in error(answer)
    answer = call(service.source, "POST", "/v1/fetch", b" " * (64 * MIB + 1))
    assert answer[0] == 503 and "too long" in error(answer)
    assert call(service.source, "GET", "/healthz")[0] == 200
