"""A rank that asks for some bytes of its view gets the chunks that have them, and no other."""

import os
import shutil

import pytest
from outcomes import LIMIT_S, wait_for
from rank import ReportedError

CHUNK = 4096


@pytest.fixture
def service(tiny, start_toy_service):
    return start_toy_service(f"qwen3@1={tiny('qwen3')}")


@pytest.fixture
def whole(service, start_rank) -> bytes:
    rank = start_rank(service, deadline_s=LIMIT_S)
    data = rank.receive()
    assert rank.outcome()[0] == 200 and rank.acknowledge() == {"ended": True}
    wait_for(lambda: rank.control.metric("fetches_active") == 0, LIMIT_S, "its end")
    return data


@pytest.mark.parametrize("comms", [1, 3])
@pytest.mark.parametrize("ranges", [
    [(0, 1)], [(4095, 4097)], [(1, 2), (4, 5), (8191, 8192)], [(0, 4096), (12288, 16385), (20000, 20001)],
    [(4096 * 2 * i, 4096 * 2 * i + 1) for i in range(8)], [(-1, 0)], [(5000, 0)],
])
def test_chunks_of_ranges(service, whole, start_rank, leases, comms, ranges):
    size = len(whole)
    ranges = [(begin % size, end or size) for begin, end in ranges]  # 0: the end
    rank = start_rank(service, deadline_s=LIMIT_S, comms=comms, chunk=CHUNK, ranges=ranges)
    got = rank.receive()
    wanted = [i for i in range(-(-size // CHUNK)) if any(b < (i + 1) * CHUNK and e > i * CHUNK for b, e in ranges)]
    assert got == b"".join(whole[i * CHUNK:(i + 1) * CHUNK] for i in wanted)
    status, answer = rank.outcome()
    assert status == 200 and answer["bytes"] == len(got) and answer["chunks"] == len(wanted), answer
    moved = [(lease["bytes_done"], lease["bytes_total"]) for lease in leases() if lease["lease_id"] == rank.fetch_id]
    assert moved == [(len(got), len(got))]
    rank.acknowledge()


def test_as_many_ranges_as_may_be(service, whole, start_rank):
    """All are read before the view's length is looked at; the numbers are those of terabytes."""
    ranges = [(10**12 + 2 * i, 10**12 + 2 * i + 1) for i in range(16384)]
    status, answer = start_rank(service, ranges=ranges).outcome()
    assert status == 400 and str(len(whole)) in answer["error"]["message"], answer


def test_a_range_behind_the_view(service, whole, start_rank, leases):
    status, answer = start_rank(service, ranges=[(0, len(whole) + 1)]).outcome()
    assert status == 400 and answer["error"]["status"] == "format" and str(len(whole)) in answer["error"]["message"], answer
    wait_for(lambda: not leases(), LIMIT_S, "no lease")


def test_a_chunk_is_good_only_while_its_file_is(large, tmp_path, start_toy_service, start_rank):
    """A rank keeps chunks of a fetch that it never hears the end of: none may be of a file that was written to."""
    folder = tmp_path / "model"
    shutil.copytree(large, folder, copy_function=lambda a, b: os.system(f"cp --sparse=always '{a}' '{b}'"))
    service = start_toy_service(f"large@1={folder}")
    rank = start_rank(service, "large", deadline_s=LIMIT_S)
    got = 0
    with pytest.raises(ReportedError, match="model.*safetensors"):
        for data in rank.chunks():
            if not got:
                os.utime(next(folder.glob("*.safetensors")), (1, 1))
            got += len(data)
    assert got < rank.bytes / 2
    assert rank.outcome()[0] >= 400
    wait_for(lambda: rank.control.metric("fetches_active") == 0, LIMIT_S, "its end")
