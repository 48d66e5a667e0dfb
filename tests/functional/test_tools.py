"""What the tools print for programs and their exit codes: 0 only when what was asked for was done."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import failed


@pytest.fixture
def run(build, environ):
    """run("tpview_perf", argument, …): the tool to its end. Keyword `env` adds variables."""

    def start(program: str, *arguments, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return subprocess.run([str(build / "bin" / program), *map(str, arguments)], env={**environ, **(env or {})},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)

    return start


def json_of(done: subprocess.CompletedProcess):
    """Its output is one JSON value and nothing else."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- ls, leases, verify ------------------------------------------------------------------------------------------------


def test_ls(start_service, tpview, tiny):
    service = start_service(f"a@1={tiny('qwen3')}", f"b@2={tiny('llama')}")
    entries = {f"{entry['name']}@{entry['version']}": entry
               for entry in json_of(tpview("ls", "--source", service.source, "--json"))["artifacts"]}
    assert set(entries) == {"a@1", "b@2"} and all(entry["tensors"] > 0 for entry in entries.values())
    text = tpview("ls", "--source", service.source)
    assert text.returncode == 0 and [line.split()[0] for line in text.stdout.splitlines()] == ["artifact", "a@1", "b@2"]


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_ls_without_a_service(tpview, sockets, options):
    done = tpview("ls", "--source", f"unix:{sockets}/none.sock", *options)
    failed(done, "none.sock")
    assert "artifacts" not in done.stdout


@pytest.mark.parametrize("options", [(), ("--json",), ("--watch", "0.01"), ("--watch", "0.01", "--json")], ids=" ".join)
def test_leases_of_a_table_that_cannot_be_used(tpview, environ, options):
    table = Path(f"/dev/shm/tpview-{environ['TPVIEW_NAMESPACE']}-{os.geteuid()}")
    table.write_bytes(bytes(4096))
    table.chmod(0o600)
    done = tpview("leases", *options)
    failed(done, table.name)
    if "--json" in options:
        assert json.loads(done.stdout)["error"]["status"] == "format"
    else:
        assert done.stdout == ""


def test_leases_without_a_table(tpview):
    assert json_of(tpview("leases", "--json")) == {"leases": []}
    text = tpview("leases")
    assert text.returncode == 0 and "(no leases)" in text.stdout


def test_verify_json(start_service, tpview, tiny, tmp_path):
    service, file = start_service(f"qwen3@1={tiny('qwen3')}"), tmp_path / "view \"1\".safetensors"
    plan = json_of(tpview("plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", 1, "--json"))
    assert tpview(*fetch_command(service.source, file, tp_rank=1)).returncode == 0
    command = ("verify", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--json", file, "--tp-rank")
    assert json_of(tpview(*command, 1)) == {"file": str(file), "tp_rank": 1, "tp_size": 2, "tensors": plan["tensors"],
                                            "bytes": plan["bytes"], "same": True}
    assert tpview(*command, 0).returncode == 1


# ---- tpview_perf -------------------------------------------------------------------------------------------------------


def perf_command(service, *options) -> list:
    return ["--source", service.source, "--artifact", "qwen3", "--tp-size", 2, "-n", 2, "-w", 0, "--chunk", "64K", *options]


def test_perf(start_service, run, tpview, tiny):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    rows = json_of(run("tpview_perf", *perf_command(service, "--json")))
    assert [row["tp_rank"] for row in rows] == [0, 1]
    for row in rows:
        plan = json_of(tpview("plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", row["tp_rank"], "--json"))
        assert (row["tensors"], row["bytes"]) == (plan["tensors"], plan["bytes"])
        assert row["stream_gb_per_s"] > 0 and row["fetch_gb_per_s"] > 0 and row["wire_per_needed"] >= 1
        assert row["ratio"] == pytest.approx(row["fetch_gb_per_s"] / row["stream_gb_per_s"], rel=1e-3)
    text = run("tpview_perf", *perf_command(service, "--tp-rank", 1))
    lines = [line.split() for line in text.stdout.splitlines() if not line.startswith("#")]
    assert text.returncode == 0 and [line[:3] for line in lines] == [["1", str(rows[1]["tensors"]), str(rows[1]["bytes"])]]


def test_perf_fails(start_service, run, tiny, build):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    failed(run("tpview_perf", *perf_command(service, "--artifact", "another")), "another")
    # Bytes that go wrong on their way: the stream does not look at them, the fetch does.
    corrupt = {"NCCL_NET_PLUGIN": str(build / "tests" / "libcorruptnet.so"), "TEST_CORRUPT_MESSAGE": "3",
               "TEST_REAL_NET": str(build / "lib" / "libnccl-net-tpview.so")}
    for options in [(), ("--json",)]:
        wrong = start_service(f"qwen3@1={tiny('qwen3')}", env=corrupt)
        failed(run("tpview_perf", *perf_command(wrong, *options)), "digest")
    service.process.stop()
    failed(run("tpview_perf", *perf_command(service)), service.source.removeprefix("unix:"))


# ---- tpview_net_perf ---------------------------------------------------------------------------------------------------

NET_PERF = ("-b", "4K", "-e", "8K", "-n", 16, "--rounds", 2, "--no-nccl", "--no-ucx")


def test_net_perf(run):
    rows = json_of(run("tpview_net_perf", *NET_PERF, "--net", "tpview", "--net", "tpview,TPVIEW_NET_LOCAL=0", "--json"))
    assert [(row["size"], row["messages"]) for row in rows] == [(4096, 16), (8192, 16)]
    for row in rows:
        assert len(row["results"]) == 5  # two plugins, bare TCP over 1, 2 and 4 connections
        for result in row["results"]:
            assert "lost" not in result and result["wrong"] == 0 and len(result["rounds"]) == 2 and min(result["rounds"]) > 0
        assert row["results"][0]["per_tcp"] > 0
    text = run("tpview_net_perf", *NET_PERF)
    assert text.returncode == 0 and "Out of bounds values : 0 OK" in text.stdout
    assert [line.split()[0] for line in text.stdout.splitlines() if not line.startswith("#")] == ["4096", "8192"]


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_net_perf_fails(run, build, options):
    failed(run("tpview_net_perf", *NET_PERF, "--net", "/nonexistent/libnet.so", *options), "/nonexistent/libnet.so")
    corrupt = (f"{build}/tests/libcorruptnet.so,TEST_CORRUPT_MESSAGE=3,"
               f"TEST_REAL_NET={build}/lib/libnccl-net-tpview.so")
    failed(run("tpview_net_perf", *NET_PERF, "--net", corrupt, *options), "wrong bytes")
    # Without the check nobody looks.
    assert run("tpview_net_perf", *NET_PERF, "--net", corrupt, "-c", 0, *options).returncode == 0
