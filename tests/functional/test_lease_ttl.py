"""A fetch whose rank takes no byte ends after --lease-ttl, from its first moment on, whatever the numbers are."""

import socket

import pytest
from conftest import LIMIT_S, fetch_command
from control import connect, fetch_request, handle, manifest, receive, send, whole_tensor
from outcomes import failed, wait_for

YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.fixture
def silent():
    """A port where the kernel takes connections and nobody answers, as for a stopped rank."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("deadline_ms", [None, YEAR_MS])
def test_rank_that_takes_no_byte(tiny, start_service, tpview, leases, tmp_path, silent, deadline_ms):
    """Its slot and its lease are free again, also when it asked for a year; an honest rank is served."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--lease-ttl", 0.5, "--max-fetches", 2)
    index = manifest(service.source)
    view = whole_tensor(index, "model.norm.weight")
    fields = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
    connections = [connect(service.source) for _ in range(2)]
    try:
        for connection in connections:
            send(connection, "POST", "/v1/fetch", fetch_request(index, view, [handle("127.0.0.1", silent)], **fields))
        for connection in connections:
            status, body = receive(connection)
            assert status == 409 and b"no byte moved for 0.5 s" in body
        wait_for(lambda: not leases(), LIMIT_S, "the leases' end")
        # On a loaded machine half a second may pass without a byte for an honest rank as well.
        wait_for(lambda: tpview(*fetch_command(service.source, tmp_path / "view")).returncode == 0, LIMIT_S, "an honest fetch")
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("option", ["--lease-ttl", "--export-ttl", "--drain"])
def test_long_times(tiny, start_service, tpview, tmp_path, option):
    """The longest that is taken works; what cannot be counted is told, not wrapped around."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", option, "1e9")
    for out in ("a", "b"):
        done = tpview(*fetch_command(service.source, tmp_path / out))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", ["--lease-ttl", "--export-ttl", "--drain"])
@pytest.mark.parametrize("value", ["1e10", "1e300", "inf", "nan", "0", "-1", "", "5s"])
def test_times_out_of_bounds(run_tpviewd, tiny, option, value):
    done = run_tpviewd(f"qwen3@1={tiny('qwen3')}", option, value)
    assert done.returncode == 2 and option in done.stderr and "1000000000" in done.stderr


@pytest.mark.parametrize("deadline", ["31535999", "31536001", "1e9"])
def test_long_deadlines(tiny, start_service, tpview, tmp_path, deadline):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    done = tpview(*fetch_command(service.source, tmp_path / "view", deadline=deadline))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("deadline", ["1e-9", "0.001"])
def test_short_deadlines(tiny, start_service, tpview, tmp_path, deadline):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    failed(tpview(*fetch_command(service.source, tmp_path / "view", deadline=deadline)), "deadline")


@pytest.mark.parametrize("length", [1, 63, 64])
def test_host_names(tiny, start_service, tpview, leases, silent, length):
    """Linux lets a host name have 64 bytes."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    index = manifest(service.source)
    request = fetch_request(index, whole_tensor(index, "model.norm.weight"), [handle("127.0.0.1", silent)])
    request["rank"]["host"] = "n" * length
    with connect(service.source) as connection:
        send(connection, "POST", "/v1/fetch", request)
        assert wait_for(leases, LIMIT_S, "the lease")[0]["host"] == "n" * length
