"""When a fetch ends at the source, and what must not end it: seen by a rank that reads, stops, stays and leaves as the test
wants."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from models import write_tiny
from outcomes import LIMIT_S, NEVER_S, wait_for
from rank import Rank, ReportedError



@pytest.fixture
def serve(tiny, start_toy_service):
    """serve("--option", …); keyword `ttl`: its --lease-ttl, one that never passes unless the test is about it."""
    return lambda *options, ttl=NEVER_S: start_toy_service(f"qwen3@1={tiny('qwen3')}", "--lease-ttl", ttl, *options)


@pytest.fixture
def held(leases):
    """held(): the ids of the leases there are."""
    return lambda: {lease["lease_id"] for lease in leases()}


def received(rank) -> None:
    """Everything is with the rank and the source has said so; nothing is acknowledged."""
    list(rank.chunks())
    status, answer = rank.outcome()
    assert status == 200 and answer["bytes"] == rank.bytes, answer


def failed(rank, status: str, *words: str) -> None:
    _, answer = rank.outcome()
    assert answer["error"]["status"] == status, answer
    for word in words:
        assert word in answer["error"]["message"], answer


# ---- after the last byte ---------------------------------------------------------------------------------------------


def test_a_lease_is_held_until_its_own_connection_acknowledges_it(serve, start_rank, control, held):
    service = serve()
    one, other = start_rank(service, deadline_s=LIMIT_S), start_rank(service, tp_size=2, deadline_s=LIMIT_S)
    for rank in (one, other):
        received(rank)
    assert held() == {one.fetch_id, other.fetch_id}
    for connection in (other.control, control(service)):
        assert connection.call("DELETE", f"/v1/leases/{one.fetch_id}") == (200, {"ended": False})
    assert held() == {one.fetch_id, other.fetch_id}
    assert one.acknowledge() == {"ended": True}
    wait_for(lambda: held() == {other.fetch_id}, LIMIT_S, "the end of the acknowledged lease")
    assert one.acknowledge() == {"ended": False}
    assert other.acknowledge() == {"ended": True}
    wait_for(lambda: not held(), LIMIT_S, "the end of the other lease")


def test_the_next_fetch_of_a_connection_ends_the_one_before(serve, start_rank, held):
    service = serve()
    first = start_rank(service, deadline_s=LIMIT_S)
    received(first)
    assert held() == {first.fetch_id}
    second = start_rank(service, tp_size=2, deadline_s=LIMIT_S, on=first.control)
    wait_for(lambda: held() == {second.fetch_id}, LIMIT_S, "the end of the first lease")
    received(second)
    assert second.acknowledge() == {"ended": True}


def test_a_connection_that_closes_ends_its_lease(serve, start_rank, held):
    rank = start_rank(serve(), deadline_s=LIMIT_S)
    received(rank)
    assert held()
    rank.control.close()
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")


@pytest.mark.parametrize("deadline_s, ttl", [(10, NEVER_S), (None, 10)], ids=["deadline", "lease ttl"])
def test_a_lease_that_nobody_acknowledges_ends(serve, start_rank, held, deadline_s, ttl):
    rank = start_rank(serve(ttl=ttl), deadline_s=deadline_s)
    received(rank)
    assert held() == {rank.fetch_id}
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")


# ---- in mid-fetch ------------------------------------------------------------------------------------------------------


def test_a_rank_without_a_deadline_that_stops_reading(serve, start_rank, held):
    rank = start_rank(serve(ttl=1.5))
    failed(rank, "stale", "no byte moved", "1.5 s")
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")


def test_a_rank_without_a_deadline_that_reads_slowly(serve, start_rank):
    """Longer than the time without movement, in pieces: bytes that move keep the lease."""
    ttl, pieces = 8, 10
    rank = start_rank(serve(ttl=ttl), chunk=1 << 18)
    for index, _ in enumerate(rank.chunks()):
        if index < pieces:
            time.sleep(1.2 * ttl / pieces)  # the slowness itself
    assert index >= pieces
    status, answer = rank.outcome()
    assert status == 200, answer


def test_a_rank_that_passes_its_deadline(serve, start_rank, held):
    rank = start_rank(serve(), deadline_s=1)  # and reads nothing: the source stands still
    failed(rank, "deadline")
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_rank_whose_control_connection_goes(serve, start_rank, control, held, sockets, kind):
    """Its comms are open still, and nobody reads them: only the lost connection tells that it is gone."""
    service = serve("--listen", "127.0.0.1:0", "--unix", sockets / "x.sock")
    rank = start_rank(service, deadline_s=LIMIT_S, on=control(service.tcp if kind == "tcp" else service.unix))
    next(rank.chunks())
    assert held() == {rank.fetch_id}
    rank.control.close()
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")
    count = control(service).metric
    wait_for(lambda: count('fetches_finished_total{status="peer"}') == 1, LIMIT_S, "the count of the lost fetch")


def test_files_that_are_written_to_while_they_are_sent(start_toy_service, start_rank, held, tmp_path):
    """What was sent before and after does not belong together: no chunk is called good that was looked at after it, and
    those that were before do not make a good fetch."""
    folder = write_tiny("qwen3", tmp_path / "checkpoint", shard_bytes=1 << 30)
    rank = start_rank(start_toy_service(f"qwen3@1={folder}"), deadline_s=LIMIT_S)
    chunks = rank.chunks()
    next(chunks)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with suppress(ReportedError):
        list(chunks)
    failed(rank, "format", "model.safetensors")
    wait_for(lambda: not held(), LIMIT_S, "the end of the lease")


# ---- how many, and how long ----------------------------------------------------------------------------------------------


def test_as_many_fetches_as_are_allowed(serve, start_rank, held):
    service = serve("--max-fetches", 2)
    ranks = [start_rank(service, deadline_s=LIMIT_S) for _ in range(2)]
    for rank in ranks:
        rank.accept()
    failed(start_rank(service, deadline_s=LIMIT_S), "refused", "2 fetches")
    ranks[0].close()
    wait_for(lambda: held() == {ranks[1].fetch_id}, LIMIT_S, "the end of a fetch")
    third = start_rank(service, deadline_s=LIMIT_S)
    received(third)


def test_as_many_fetches_as_are_allowed_of_those_that_come_at_once(serve, start_rank, control, held):
    """Two places and sixteen requests that are sent before any is answered; those that are refused take no place."""
    service = serve("--max-fetches", 2, "--drain", 0.1)
    first = start_rank(service, deadline_s=LIMIT_S)
    list(first.chunks())
    assert first.outcome()[0] == 200
    first.acknowledge()
    for _ in range(3):
        wait_for(lambda: control(service).metric("fetches_active") == 0, LIMIT_S, "the end of the fetches before")
        ranks = [Rank(control(service), first.artifact_id, first.view, deadline_s=LIMIT_S) for _ in range(16)]
        for rank in ranks:
            rank.control.sock.setblocking(False)
        refused = set()

        def all_known() -> bool:
            for rank in ranks:
                try:
                    if rank not in refused and b" 503 " in rank.control.sock.recv(4096, socket.MSG_PEEK):
                        refused.add(rank)
                except BlockingIOError:
                    pass
            return len(refused) == 14

        wait_for(all_known, LIMIT_S, "the refusal of fourteen")
        taken = {rank.fetch_id for rank in ranks if rank not in refused}
        wait_for(lambda: held() == taken, LIMIT_S, "the leases of two")
        for rank in ranks:
            rank.close()


def test_a_service_that_ends_lets_fetches_finish(serve, start_rank, control, held, sockets):
    service = serve("--drain", NEVER_S, "--listen", "127.0.0.1:0", "--unix", sockets / "x.sock")
    rank, late = start_rank(service, deadline_s=LIMIT_S), control(service)
    assert late.call("GET", "/healthz")[0] == 200  # accepted before the end begins
    chunks = rank.chunks()
    next(chunks)
    service.process.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not Path(service.unix.removeprefix("unix:")).exists(), LIMIT_S, "the beginning of the end")
    with pytest.raises(ConnectionError):  # nobody waits in a queue that is not looked at any more
        control(service.tcp).call("GET", "/healthz")
    refused = Rank(late, rank.artifact_id, rank.view)
    failed(refused, "refused", "shutting down")
    refused.close()
    list(chunks)
    assert rank.outcome()[0] == 200
    assert rank.acknowledge() == {"ended": True}
    assert service.process.process.wait(LIMIT_S) == 0
    assert not held()


def test_a_service_that_ends_refuses_what_does_not_finish(serve, start_rank, held):
    service = serve("--drain", 0.3)
    rank = start_rank(service, deadline_s=LIMIT_S)
    next(rank.chunks())
    service.process.process.send_signal(signal.SIGTERM)
    failed(rank, "refused", "shutting down")
    assert service.process.process.wait(LIMIT_S) == 0
    assert not held()
