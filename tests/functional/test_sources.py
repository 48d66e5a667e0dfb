"""A fetch from several services: what one cannot give, another one gives, and no byte that came is asked for again."""

import json
import os
import signal
import subprocess

import pytest
from conftest import LIMIT_S
from outcomes import NEVER_S


@pytest.fixture
def two(large, start_service) -> list:
    return [start_service(f"large@1={large}"), start_service(f"large@1={large}")]


def sources(*services) -> list:
    return [word for service in services for word in ("--source", getattr(service, "source", service))]


def command(out, *more, artifact="large", deadline=LIMIT_S - 20) -> list:
    return ["fetch", *more, "--artifact", artifact, "--tp-size", 1, "--tp-rank", 0, "--out", out, "--deadline", deadline,
            "--json"]


def go_on(process: subprocess.Popen) -> tuple[str, str]:
    """Its output and its errors, at its end."""
    process.send_signal(signal.SIGCONT)
    return process.communicate(timeout=LIMIT_S)


def shares(result: dict) -> list:
    return [share["bytes"] for share in result["sources"]]


@pytest.mark.parametrize("options", [(), ("--comms", 4, "--chunk", "64K")])
def test_a_source_that_is_killed(large, two, start_tpview, stop_in_mid_fetch, check_view, tmp_path, options):
    """The other one gives the rest: right bytes, and hardly one of them twice."""
    process = start_tpview(*command(tmp_path / "view", *sources(*two), *options))
    stop_in_mid_fetch(process, 0.2, step_s=0.01)
    two[0].process.process.kill()
    output, errors = go_on(process)
    assert process.returncode == 0, errors
    result = json.loads(output)
    assert sum(shares(result)) == result["needed_bytes"] and min(shares(result)) > 0.1 * result["needed_bytes"], result
    assert result["wire_bytes"] <= 1.02 * result["needed_bytes"]
    assert two[0].source in errors and len(errors.splitlines()) == 1
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0
    assert [file.name for file in tmp_path.glob("view*")] == ["view"]


def test_a_source_that_stands_still(large, two, start_tpview, stop_in_mid_fetch, check_view, tmp_path):
    process = start_tpview(*command(tmp_path / "view", *sources(*two)), env={"TPVIEW_SOURCE_TIMEOUT": "10"})
    stop_in_mid_fetch(process, 0.2, step_s=0.01)
    os.kill(two[0].process.process.pid, signal.SIGSTOP)
    try:
        output, errors = go_on(process)
    finally:
        os.kill(two[0].process.process.pid, signal.SIGCONT)
    assert process.returncode == 0, errors
    assert min(shares(json.loads(output))) > 0 and "no byte came for 10 s" in errors
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0


def test_nobody_is_left(two, start_tpview, stop_in_mid_fetch, tmp_path):
    process = start_tpview(*command(tmp_path / "view", *sources(*two), deadline=NEVER_S))
    stop_in_mid_fetch(process, 0.2, step_s=0.01)
    for service in two:
        service.process.process.kill()
    output, errors = go_on(process)
    assert process.returncode == 1 and json.loads(output)["error"]["status"] == "peer"
    assert all(service.source in errors for service in two) and len(errors.splitlines()) == 1
    assert not list(tmp_path.glob("view*"))


def test_a_service_that_starts_again(large, start_service, start_tpview, stop_in_mid_fetch, check_view, sockets, tmp_path):
    """The only one, at the same address: what came stays, and the fetch goes on there when it is back in time."""
    path = sockets / "again.sock"
    first = start_service(f"large@1={large}", "--unix", path)
    process = start_tpview(*command(tmp_path / "view", *sources(first)))
    stop_in_mid_fetch(process, 0.2, step_s=0.01)
    first.process.process.kill()
    first.process.process.wait()
    start_service(f"large@1={large}", "--unix", path)
    output, errors = go_on(process)
    assert process.returncode == 0, errors
    result = json.loads(output)
    assert result["sources"][0]["attempts"] == 2 and result["wire_bytes"] <= 1.02 * result["needed_bytes"]
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0


def test_first_source_is_not_there(tiny, start_service, tpview, check_view, sockets, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    done = tpview(*command(tmp_path / "view", *sources(f"unix:{sockets}/nobody", service), artifact="qwen3"))
    assert done.returncode == 0, done.stderr
    assert [share["attempts"] for share in json.loads(done.stdout)["sources"]] == [0, 1]
    assert check_view(tiny("qwen3"), 1, 0, tmp_path / "view").returncode == 0


def test_another_version_is_never_taken(tiny, start_service, tpview, start_tpview, tmp_path):
    """Two services offer different content under one label: the second is no help, and says so."""
    one, other = start_service(f"m@1={tiny('qwen3')}"), start_service(f"m@1={tiny('llama')}")
    first = json.loads(tpview("ls", "--source", one.source, "--json").stdout)["artifacts"][0]["artifact_id"]
    done = tpview(*command(tmp_path / "view", *sources(one, other), artifact="m"))
    assert done.returncode == 0 and json.loads(done.stdout)["artifact_id"] == first
    done = tpview(*command(tmp_path / "view", *sources(one, other), artifact="m"), "--net", "/nowhere")
    assert done.returncode == 1
    one.process.stop()
    done = tpview(*command(tmp_path / "view", *sources(one, other), artifact="m"))
    assert done.returncode == 0 and json.loads(done.stdout)["artifact_id"] != first


def test_a_version_that_only_the_lost_source_had(large, tiny, start_service, start_tpview, stop_in_mid_fetch, tmp_path):
    one, other = start_service(f"large@1={large}"), start_service(f"large@1={tiny('qwen3')}")
    process = start_tpview(*command(tmp_path / "view", *sources(one, other)))
    stop_in_mid_fetch(process, 0.2, step_s=0.01)
    one.process.process.kill()
    _, errors = go_on(process)
    assert process.returncode == 1 and "no artifact with artifact_id" in errors and one.source in errors
    assert not list(tmp_path.glob("view*"))


@pytest.mark.parametrize("verb", ["publish", "retire"])
def test_changes_are_for_one_service(tiny, start_service, tpview, verb):
    services = [start_service(f"qwen3@1={tiny('qwen3')}") for _ in range(2)]
    what = f"qwen3@2={tiny('qwen3')}" if verb == "publish" else "qwen3@1"
    done = tpview(verb, *sources(*services), what)
    assert done.returncode == 2 and "one source" in done.stderr
    for service in services:
        assert len(json.loads(tpview("ls", "--source", service.source, "--json").stdout)["artifacts"]) == 1


def test_too_many_sources(tpview, tmp_path):
    done = tpview(*command(tmp_path / "view", *sources(*[f"unix:/{i}" for i in range(17)])))
    assert done.returncode == 2 and "16" in done.stderr
