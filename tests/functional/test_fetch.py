"""The main job: ranks fetch their views over a net plugin, and every byte is compared with an independent slicing."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import LIMIT_S, fetch_command
from models import TINY, TINY_MOE
from outcomes import NEVER_S, wait_for
from safetensors import safe_open

FIELDS = {"artifact", "artifact_id", "view_id", "tp_rank", "tp_size", "tensors", "needed_bytes", "wire_bytes", "chunks",
          "seconds", "gb_per_s", "export", "lease_id", "digests_checked", "out"}


@pytest.fixture
def fetch(tpview):
    """fetch(source, artifact, tp_size, tp_rank, out, option, …): the JSON result of a fetch that must succeed."""

    def run(source: str, artifact: str, tp_size: int, tp_rank: int, out, *options, **keywords) -> dict:
        done = tpview("fetch", "--source", source, "--artifact", artifact, "--tp-size", tp_size, "--tp-rank", tp_rank,
                      "--out", out, "--deadline", LIMIT_S - 10, "--json", *options, **keywords)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("fuse", [(), ("--fuse",)], ids=["as stored", "fused"])
@pytest.mark.parametrize("kind", [*TINY, *TINY_MOE])
def test_every_rank_of_every_size(tiny, start_service, fetch, check_view, tmp_path, kind, fuse):
    service = start_service(f"{kind}@1={tiny(kind)}")
    for tp_size in (1, 2, 4, 8):
        files = [tmp_path / f"{tp_size}-{tp_rank}.safetensors" for tp_rank in range(tp_size)]
        with ThreadPoolExecutor(tp_size) as pool:
            results = list(pool.map(lambda tp_rank: fetch(service.source, kind, tp_size, tp_rank, files[tp_rank],
                                                          "--chunk", "64K", *fuse), range(tp_size)))
        for tp_rank, result in enumerate(results):
            checked = check_view(tiny(kind), tp_size, tp_rank, files[tp_rank], "--json", *fuse)
            assert checked.returncode == 0, checked.stderr
            counted = json.loads(checked.stdout)
            assert (counted["tensors"], counted["bytes"]) == (result["tensors"], result["needed_bytes"])
            assert result["digests_checked"] is True


def test_result_says_what_was_done(tiny, start_service, fetch, tmp_path):
    service = start_service(f"qwen3@7={tiny('qwen3')}")
    result = fetch(service.source, "qwen3", 4, 1, tmp_path / "view.safetensors")
    assert FIELDS <= result.keys()
    assert (result["artifact"], result["tp_rank"], result["tp_size"]) == ("qwen3@7", 1, 4)
    assert result["seconds"] > 0 and result["gb_per_s"] == pytest.approx(
        result["needed_bytes"] / 1e9 / result["seconds"], rel=0.05)
    assert result["export"] in ("cold", "warm") and len(result["lease_id"]) == 32
    assert result["out"] == str(tmp_path / "view.safetensors")
    with safe_open(tmp_path / "view.safetensors", "np") as view:
        assert len(list(view.keys())) == result["tensors"]


def test_wire_bytes_are_hardly_more_than_needed(start_service, fetch, tpview, tmp_path):
    """0.2 % at most at tp 1 to 8 with chunks of the default size."""
    from checkpoints.models import MODELS, with_layers
    from checkpoints.tensors import tensors_of
    from checkpoints.writer import write_checkpoint

    config = {**with_layers(MODELS["qwen3-0.6b"].config, 2), "vocab_size": 16384}
    write_checkpoint(tmp_path / "checkpoint", config, tensors_of(config))
    service = start_service(f"model@1={tmp_path / 'checkpoint'}")
    for tp_size in (1, 2, 4, 8):
        for tp_rank in {0, tp_size - 1}:
            done = tpview("fetch", "--source", service.source, "--artifact", "model", "--tp-size", tp_size, "--tp-rank",
                          tp_rank, "--null", "--json")
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            assert 1 <= result["wire_bytes"] / result["needed_bytes"] <= 1.002


@pytest.mark.parametrize("comms, chunk", [(1, "4K"), (2, "16K"), (4, "4097"), (8, "1M"), (3, "64M")])
def test_comms_and_chunks(tiny, start_service, fetch, check_view, tmp_path, comms, chunk):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    file = tmp_path / "view.safetensors"
    result = fetch(service.source, "qwen3", 2, 1, file, "--comms", comms, "--chunk", chunk)
    assert check_view(tiny("qwen3"), 2, 1, file).returncode == 0
    if chunk == "4K":
        assert result["chunks"] >= result["needed_bytes"] // 4096


def test_newest_version_and_a_chosen_one(tiny, start_service, fetch, check_view, tmp_path):
    from models import write_tiny

    other = write_tiny("qwen3", tmp_path / "other", seed=5)
    service = start_service(f"qwen3@1={tiny('qwen3')}", f"qwen3@2={other}")
    file = tmp_path / "view.safetensors"
    assert fetch(service.source, "qwen3", 2, 0, file)["artifact"] == "qwen3@2"
    assert check_view(other, 2, 0, file).returncode == 0
    assert fetch(service.source, "qwen3@1", 2, 0, file)["artifact"] == "qwen3@1"
    assert check_view(tiny("qwen3"), 2, 0, file).returncode == 0
    assert check_view(other, 2, 0, file).returncode == 1


def test_same_view_twice(tiny, start_service, fetch, tmp_path):
    """Two ranks that ask for the same view get the same bytes; an existing file is replaced only by a whole one."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    files = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    files[1].write_text("something old")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda file: fetch(service.source, "qwen3", 4, 2, file), files))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert results[0]["view_id"] == results[1]["view_id"] and results[0]["lease_id"] != results[1]["lease_id"]


def test_artifact_id_depends_on_values_and_not_on_files(start_service, fetch, tmp_path):
    from models import write_tiny

    one = write_tiny("qwen3", tmp_path / "one", shard_bytes=1 << 30)
    split = write_tiny("qwen3", tmp_path / "split", shard_bytes=200 << 10)
    other = write_tiny("qwen3", tmp_path / "other", seed=1)
    service = start_service(f"one@1={one}", f"split@1={split}", f"other@1={other}")
    ids = {name: fetch(service.source, name, 1, 0, tmp_path / "v.safetensors")["artifact_id"]
           for name in ("one", "split", "other")}
    assert ids["one"] == ids["split"] != ids["other"]


def test_leases_end_with_the_fetch(large, start_service, start_tpview, stop_in_mid_fetch, leases, tmp_path):
    """Held from before the first byte, and given back by the time that nobody needs it."""
    service = start_service(f"large@1={large}")
    assert leases() == []
    process = start_tpview(*fetch_command(service.source, tmp_path / "view", artifact="large", tp_size=1, deadline=NEVER_S))
    stop_in_mid_fetch(process, step_s=0.01)
    (lease,) = leases()
    assert (lease["artifact"], lease["state"], lease["tp_rank"], lease["tp_size"]) == ("large@1", "attached", 0, 1)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    wait_for(lambda: leases() == [], LIMIT_S, "the end of the lease")


def test_ls_names_what_is_served(tiny, start_service, tpview):
    service = start_service(f"qwen3@1={tiny('qwen3')}", f"llama@4={tiny('llama')}")
    done = tpview("ls", "--source", service.source)
    assert done.returncode == 0 and "qwen3@1" in done.stdout and "llama@4" in done.stdout
    listed = json.loads(tpview("ls", "--source", service.source, "--json").stdout)
    assert "qwen3" in json.dumps(listed) and "llama" in json.dumps(listed)


def test_plan_of_a_service_is_that_of_its_checkpoint(tiny, start_service, tpview):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    size = ("--tp-size", 4, "--tp-rank", 3, "--json")
    remote = tpview("plan", "--source", service.source, "--artifact", "qwen3", *size)
    local = tpview("plan", "--checkpoint", tiny("qwen3"), *size)
    assert remote.returncode == 0, remote.stderr
    assert json.loads(remote.stdout)["view_id"] == json.loads(local.stdout)["view_id"]


def test_over_tcp_with_ipv6(tiny, start_service, fetch, check_view, tmp_path):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "[::1]:0")
    assert service.tcp and service.tcp.startswith("[::1]:")
    fetch(service.tcp, "qwen3", 2, 1, tmp_path / "view.safetensors")
    assert check_view(tiny("qwen3"), 2, 1, tmp_path / "view.safetensors").returncode == 0
