"""The service's export cache: reuse, expiry, shared gathers, budget, versions that come and go."""

import json
import subprocess

import pytest
from conftest import LIMIT_S
from outcomes import NEVER_S, wait_for


@pytest.fixture
def cache(tiny, start_service, sockets, control, tpview, tmp_path):
    """A service on a tiny checkpoint with options of the test's choice, and what one asks of it."""

    class Cache:
        def __init__(self, *options, chunk="4K"):
            path = sockets / f"cache{len(list(sockets.iterdir()))}.sock"
            self.service = start_service(f"m@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--unix", path, *options,
                                         env={"TPVIEW_CHUNK_BYTES": chunk})
            self.control = control(self.service)

        def metric(self, name: str) -> float:
            return self.control.metric(name)

        def wait(self, name: str, value: float) -> None:
            wait_for(lambda: self.metric(name) == value, LIMIT_S, f"{name} {value:g}")

        def command(self, rank=0, size=2, name="m", *more):
            return ("fetch", "--source", self.service.source, "--artifact", name, "--tp-size", size, "--tp-rank", rank,
                    "--out", tmp_path / f"{name}-{size}-{rank}", "--deadline", LIMIT_S, "--json", "--chunk", "4K", *more)

        def fetch(self, *arguments):
            done = tpview(*self.command(*arguments))
            assert done.returncode == 0, done.stderr
            self.wait("fetches_active", 0)  # the source's end of it: only now is everything counted, and its export free
            return json.loads(done.stdout)

    return Cache


def test_second_fetch_is_warm(cache):
    c = cache("--export-ttl", NEVER_S)
    assert [c.fetch()["export"], c.fetch()["export"]] == ["cold", "warm"]
    assert c.metric("gathers_started_total") == 1


def test_cold_again_after_its_time(cache, check_view, tiny, tmp_path):
    c = cache("--export-ttl", 0.5)
    assert c.fetch()["export"] == "cold"
    c.wait('exports_retired_total{reason="expired"}', 1)
    c.wait("budget_used_bytes", 0)
    assert c.fetch()["export"] == "cold"
    assert c.metric("gathers_started_total") == 2
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "m-2-0").returncode == 0


def test_looking_does_not_keep_an_export(cache):
    c = cache("--export-ttl", 1.5)
    c.fetch()

    def look():
        assert c.control.call("GET", "/v1/leases")[0] == 200
        return c.metric('exports_retired_total{reason="expired"}')

    wait_for(look, LIMIT_S, "the end of the export")


def test_eight_at_once_share_one_gather(cache, build, environ, check_view, tiny, tmp_path):
    c = cache()
    fetches = [subprocess.Popen([build / "bin/tpview", *map(str, c.command()[:-5]), "--deadline", str(LIMIT_S), "--chunk", "4K",
                                 "--out", tmp_path / f"view{i}"], env=environ, stdout=subprocess.DEVNULL) for i in range(8)]
    assert [fetch.wait(LIMIT_S) for fetch in fetches] == [0] * 8
    c.wait("fetches_active", 0)
    assert c.metric("gathers_started_total") == 1
    assert c.metric("exports_reused_total") == 7
    once = c.metric("bytes_gathered_total") + c.metric("bytes_direct_total")
    assert once + c.metric("bytes_reused_total") == c.metric("bytes_sent_total")
    assert once == c.metric("bytes_sent_total") / 8
    for i in range(8):
        assert check_view(tiny("qwen3"), 2, 0, tmp_path / f"view{i}").returncode == 0


def test_a_fetch_that_waits_for_another_s_gather_is_told_cold(start_toy_service, start_rank, control, tiny):
    """Its export was there, but not its chunks: the first rank stands still after a few of them."""
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}")
    first = start_rank(service, tp_size=2)
    first.accept()
    for export in ("cold", "warm"):
        rank = start_rank(service, tp_size=2)
        rank.receive()
        status, answer = rank.outcome()
        assert (status, answer["export"]) == (200, export)
        rank.acknowledge()
    wait_for(lambda: control(service).metric("exports_reused_total") == 2, LIMIT_S, "the count of both")


def test_without_room_a_fetch_still_works(cache, check_view, tiny, tmp_path):
    c = cache("--budget", "64K")
    for _ in range(2):
        assert c.fetch(1, 4)["export"] == "cold"
    assert c.metric('exports_retired_total{reason="uncached"}') == 2
    assert c.metric("budget_peak_bytes") <= 64 << 10
    assert check_view(tiny("qwen3"), 4, 1, tmp_path / "m-4-1").returncode == 0


def test_many_versions_and_ranks_stay_within_the_budget(cache, tiny, tpview):
    probe = cache()
    probe.fetch(0, 8)
    budget = 7 * int(probe.metric("budget_used_bytes"))
    c = cache("--budget", budget)
    def of_version(version: int):
        return tiny("qwen3", vocab_size=1024 + 512 * version)

    for version in range(2, 12):
        done = tpview("publish", "--source", c.service.source, f"m@{version}={of_version(version)}")
        assert done.returncode == 0, done.stderr
        for rank in range(8):
            assert c.fetch(rank, 8)["artifact"] == f"m@{version}"
    assert 0 < c.metric("budget_peak_bytes") <= budget
    # Half of the budget keeps three of a version's eight: five made room, three went with the next version.
    c.wait('exports_retired_total{reason="superseded"}', 3 * 9)
    assert c.metric('exports_retired_total{reason="room"}') == 5 * 10
    assert c.metric('exports_retired_total{reason="uncached"}') == 0


def test_a_new_version_and_the_end_of_the_old(cache, tiny, tpview):
    c = cache()
    assert c.fetch()["artifact"] == "m@1"
    assert tpview("publish", "--source", c.service.source, f"m@2={tiny('qwen3-odd-vocabulary')}").returncode == 0
    assert c.fetch()["artifact"] == "m@2"
    c.wait('exports_retired_total{reason="superseded"}', 1)
    done = tpview("retire", "--source", c.service.source, "m@2")
    assert done.returncode == 0, done.stderr
    c.wait('exports_retired_total{reason="withdrawn"}', 1)
    assert c.fetch()["artifact"] == "m@1"
    done = tpview(*c.command(0, 2, "m@2"))
    assert done.returncode == 1 and "m@2" in done.stderr
    assert tpview("retire", "--source", c.service.source, "m@2").returncode == 1


def test_publish_is_for_those_who_are_trusted(cache, tiny, tpview):
    c = cache()
    done = tpview("publish", "--source", c.service.tcp, f"m@2={tiny('qwen3')}")
    assert done.returncode == 1 and "Unix socket" in done.stderr
    done = tpview("retire", "--source", c.service.tcp, "m@1")
    assert done.returncode == 1 and "Unix socket" in done.stderr
    done = tpview("publish", "--source", c.service.source, f"m@1={tiny('qwen3')}")
    assert done.returncode == 2 and "already" in done.stderr
    done = tpview("publish", "--source", c.service.source, "m@2=/nowhere")
    assert done.returncode == 1 and "/nowhere" in done.stderr


def test_ranks_that_take_chunks_of_any_size_share_one_export(cache, check_view, tiny, tmp_path):
    """The source's chunks are a power of two, the longest that the rank takes; what was gathered for one suits all."""
    c = cache(chunk="1M")
    first = c.fetch(0, 2, "m", "--chunk", "64K")
    assert first["export"] == "cold"
    once = c.metric("bytes_gathered_total")
    assert once > 0
    for chunk, length in (("64M", 1 << 20), ("1M", 1 << 20), ("1000000", 1 << 19), ("64K", 1 << 16), ("4097", 4096), ("4K", 4096)):
        fetched = c.fetch(0, 2, "m", "--chunk", chunk)
        assert fetched["chunks"] == -(-first["needed_bytes"] // length)
        assert check_view(tiny("qwen3"), 2, 0, tmp_path / "m-2-0").returncode == 0
    assert c.metric("bytes_gathered_total") == once
    assert c.metric("gathers_started_total") == 1
    for chunk in ("1M", "1000000", "64K", "4K"):
        assert c.fetch(0, 2, "m", "--chunk", chunk)["export"] == "warm"


def test_whole_tensors_when_the_source_cannot_hold_a_view(cache, check_view, tiny, tmp_path, tpview, control):
    c = cache("--budget", "4K")
    done = tpview(*c.command(1, 4))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["canonical"] and result["export"] == "whole" and result["artifact"] == "m@1"
    assert result["wire_bytes"] > 2 * result["needed_bytes"]
    assert "whole tensors" in done.stderr and "staging" in done.stderr
    assert check_view(tiny("qwen3"), 4, 1, tmp_path / "m-4-1").returncode == 0
    tensors = control(c.service.source).call("GET", "/v1/artifacts/m/manifest")[1]["tensors"]
    assert [share["attempts"] for share in result["sources"]] == [1 + len(tensors)]  # the view, then each tensor
    assert [share["wire_bytes"] for share in result["sources"]] == [result["wire_bytes"]]
    c.wait('fetches_finished_total{status="no_memory"}', 1)
    done = tpview(*c.command(1, 4, "m", "--no-fallback"))
    assert done.returncode == 1 and "staging" in done.stderr
