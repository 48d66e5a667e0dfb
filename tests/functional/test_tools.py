"""What the tools print for programs and their exit codes: 0 only when what was asked for was done."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import failed, wait_for


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


def failed_with(done: subprocess.CompletedProcess, options: tuple, *words: str) -> None:
    """Failed, which with --json is all that it prints."""
    failed(done, *words)
    if "--json" in options:
        message = json.loads(done.stdout)["error"]["message"]
        assert all(word in message for word in words), message


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


def planned(tpview, checkpoint: Path, rank: int) -> dict:
    return json_of(tpview("plan", "--checkpoint", checkpoint, "--tp-size", 2, "--tp-rank", rank, "--json"))


def folders_of_versions(checkpoint: Path) -> list[Path]:
    return list(checkpoint.parent.glob(f"{checkpoint.name}.perf-*"))


@pytest.fixture
def own(tiny, tmp_path) -> Path:
    """A checkpoint beside which others may be made."""
    return Path(shutil.copytree(tiny("qwen3"), tmp_path / "qwen3"))


def test_perf_of_all_kinds(start_service, run, tpview, own):
    service, before = start_service(f"qwen3@1={own}"), sorted(own.iterdir())
    rows = json_of(run("tpview_perf", *perf_command(service, "--cold", "--update", own, "--baseline", "--tp-rank", 1, "--json")))
    assert [row["trial"] for row in rows] == ["stream", "warm", "cold", "update", "whole"]
    plan = planned(tpview, own, 1)
    for row in rows:
        assert (row["tensors"], row["size"], row["type"], row["rounds"]) == (plan["tensors"], plan["bytes"], "BF16", 2)
        assert row["wrong"] == (None if row["trial"] == "stream" else 0)
        assert row["time_us"] == pytest.approx(sum(row["times_us"]) / 2, rel=1e-3) and min(row["times_us"]) > 0
        assert row["algbw_gb_per_s"] == pytest.approx(row["size"] / row["time_us"] / 1e3, rel=1e-3)
        assert row["busbw_gb_per_s"] == pytest.approx(row["algbw_gb_per_s"] * row["wire_per_needed"], rel=1e-3)
    by_kind = {row["trial"]: row for row in rows}
    assert by_kind["warm"]["per_stream"] == pytest.approx(by_kind["stream"]["time_us"] / by_kind["warm"]["time_us"], rel=1e-3)
    for kind, row in by_kind.items():
        assert row["first_us"] == 0 if kind == "stream" else 0 < row["first_us"] < row["time_us"]
        assert row["gap_p99_us"] == 0 if kind in ("stream", "whole") else 0 < row["gap_p99_us"] < row["time_us"]
    # A view that the service has never seen has to be prepared, and so has one of a version that was not there.
    assert by_kind["cold"]["gather_gb_per_s"] > 0 and by_kind["update"]["gather_gb_per_s"] > 0
    # Whole tensors are more than a rank needs: twice as much of all that is cut.
    assert by_kind["whole"]["wire_per_needed"] > 1.5 > 1.01 > by_kind["warm"]["wire_per_needed"] >= 1
    assert folders_of_versions(own) == [] and sorted(own.iterdir()) == before
    artifacts = json_of(tpview("ls", "--source", service.source, "--json"))["artifacts"]
    assert [(entry["name"], entry["version"]) for entry in artifacts] == [("qwen3", "1")]


def test_perf_of_ranks_at_once(start_service, run, tpview, tiny):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    text = run("tpview_perf", *perf_command(service, "--ranks", 3))
    lines = [line.split() for line in text.stdout.splitlines() if not line.startswith("#")]
    # Ranks 0 and 1, and 0 again.
    total = sum(planned(tpview, tiny("qwen3"), rank)["bytes"] for rank in (0, 1, 0))
    assert text.returncode == 0 and [(line[0], line[3], line[7]) for line in lines] == [(str(total), "warm", "0")]
    assert "ranks at once: 3" in text.stdout and "Out of bounds values : 0 OK" in text.stdout


def test_perf_of_cuts_and_sizes(start_service, run, tpview, tiny):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    whole = {cut: json_of(run("tpview_perf", *perf_command(service, "--view", cut, "--json")))[0] for cut in
             ("column", "row", "mixed")}
    plan = planned(tpview, tiny("qwen3"), 0)
    layers = sum(".o_proj." in name or ".down_proj." in name for name in (tensor["name"] for tensor in plan["outputs"]))
    assert whole["row"]["tensors"] == layers > 0
    assert 0 < whole["column"]["tensors"] < whole["mixed"]["tensors"] == plan["tensors"]
    assert whole["column"]["size"] + whole["row"]["size"] < whole["mixed"]["size"] == plan["bytes"]
    for cut in whole:
        rows = json_of(run("tpview_perf", *perf_command(service, "--view", cut, "-b", "4K", "-e", "1G", "-f", 8, "--json")))
        sizes = [row["size"] for row in rows]
        # Up to what there is, which ends it.
        assert sizes == sorted(sizes) and 2048 <= sizes[0] <= 4096 and sizes[-1] == whole[cut]["size"] < 4096 * 8 ** 6
        assert all(row["wrong"] == 0 for row in rows)
    done = run("tpview_perf", *perf_command(service, "--tp-size", 1, "--view", "row"))
    assert done.returncode == 2 and "no tensor" in done.stderr


def test_perf_fails(start_service, run, own, build):
    service = start_service(f"qwen3@1={own}")
    failed(run("tpview_perf", *perf_command(service, "--artifact", "another")), "another")
    # Bytes that go wrong on their way are noticed by digests, and without them by comparing.
    corrupt = {"NCCL_NET_PLUGIN": str(build / "tests" / "libcorruptnet.so"), "TEST_CORRUPT_MESSAGE": "3+",
               "TEST_REAL_NET": str(build / "lib" / "libnccl-net-tpview.so")}
    for options in [(), ("--json",)]:
        for kind, words in [(("-c", 0), "digest"), (("--no-digests",), "elements with wrong bytes")]:
            wrong = start_service(f"qwen3@1={own}", env=corrupt)
            failed_with(run("tpview_perf", *perf_command(wrong, *kind, *options)), options, words)
    # A version that cannot be made, and one that the service does not take, leave nothing behind.
    failed(run("tpview_perf", *perf_command(service, "--update", own.parent)), "no safetensors file")
    (own / "model.safetensors.index.json").write_text("{")
    failed(run("tpview_perf", *perf_command(service, "--update", own)), "new version")
    assert folders_of_versions(own) == [] and folders_of_versions(own.parent) == []
    service.process.stop()
    failed(run("tpview_perf", *perf_command(service)), service.source.removeprefix("unix:"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_perf_that_is_stopped_leaves_no_version(start_service, tpview, build, environ, own, number):
    """Nor does it ever offer one under the artifact's own name, which ranks may be asking for."""
    service = start_service(f"qwen3@1={own}")

    def labels() -> set:
        artifacts = json_of(tpview("ls", "--source", service.source, "--json"))["artifacts"]
        return {f"{entry['name']}@{entry['version']}" for entry in artifacts}

    with subprocess.Popen([str(build / "bin" / "tpview_perf"), *map(str, perf_command(service, "--update", own, "-n", 1000))],
                          env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as perf:
        try:
            offered = wait_for(lambda: labels() - {"qwen3@1"}, LIMIT_S, "a new version")
            assert {label.partition("@")[0] for label in offered} == {f"qwen3.perf-{perf.pid}"}
            perf.send_signal(number)
            errors = perf.communicate(timeout=LIMIT_S)[1]
        finally:
            perf.kill()
    assert perf.returncode == -number and "stop" in errors
    assert labels() == {"qwen3@1"} and folders_of_versions(own) == []


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
    failed_with(run("tpview_net_perf", *NET_PERF, "--net", "/nonexistent/libnet.so", *options), options, "/nonexistent/libnet.so")
    corrupt = (f"{build}/tests/libcorruptnet.so,TEST_CORRUPT_MESSAGE=3,"
               f"TEST_REAL_NET={build}/lib/libnccl-net-tpview.so")
    failed_with(run("tpview_net_perf", *NET_PERF, "--net", corrupt, *options), options, "wrong bytes")
    # Without the check nobody looks.
    assert run("tpview_net_perf", *NET_PERF, "--net", corrupt, "-c", 0, *options).returncode == 0
