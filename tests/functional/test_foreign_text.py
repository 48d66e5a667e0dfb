"""Names, hosts and paths that others chose: none reaches a terminal, a log line or JSON as it is. And output that cannot be
written is a failure."""

import json
import os
import re
import subprocess

import pytest
from conftest import LIMIT_S
from outcomes import failed, wait_for

EVIL = "h\ntpview 1 WARN forged\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028end"
SHOWN = "h?tpview 1 WARN forged?[2J?]0;owned???31m??????end"
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z tpview \d+ (WARN|INFO|TRACE) [^\x00-\x1f\x7f-\x9f\u2028-\u202e]*")


def lines_of(service) -> list[str]:
    return [line for line in service.process.said().split("\n") if not line.startswith("tpviewd: ready")]


def test_a_host_name_from_the_wire(tiny, start_toy_service, start_rank, tpview):
    """It stands in the lease table and in the log, in one line of each."""
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}", env={"TPVIEW_DEBUG": "INFO"})
    rank = start_rank(service, host=EVIL, deadline_s=LIMIT_S)
    next(rank.chunks())
    table = tpview("leases").stdout
    assert SHOWN in table and len(table.splitlines()) == 2
    (lease,) = json.loads(tpview("leases", "--json").stdout)["leases"]
    assert lease["host"] == SHOWN
    answer = rank.control.__class__(service.source).call("GET", "/v1/leases")[1]
    assert answer["leases"][0]["host"] == SHOWN
    rank.close()
    wait_for(lambda: SHOWN in service.process.said(), LIMIT_S, "the log line of the fetch's end")
    for line in lines_of(service):
        assert LOG_LINE.fullmatch(line), line


def test_log_lines_as_json(tiny, start_toy_service, start_rank, control):
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}", env={"TPVIEW_DEBUG": "INFO", "TPVIEW_LOG_FORMAT": "json"})
    rank = start_rank(service, host='a "quoted\\" host', deadline_s=LIMIT_S)
    rank.accept()
    assert control(service).call("GET", "/no%0awhere%22")[0] == 404
    rank.close()
    wait_for(lambda: "quoted" in service.process.said(), LIMIT_S, "the log line of the fetch's end")
    entries = [json.loads(line) for line in lines_of(service)]
    assert {tuple(entry) for entry in entries} == {("time", "level", "pid", "message")}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"]) for entry in entries)
    assert {entry["pid"] for entry in entries} == {service.process.process.pid}
    assert {entry["level"] for entry in entries} <= {"WARN", "INFO"}
    assert any('a "quoted\\" host' in entry["message"] for entry in entries)
    assert any('/no?where"' in entry["message"] for entry in entries)


def test_a_tensor_name_from_a_file(tpview, tmp_path):
    """As a table with nothing to obey; in JSON it is escaped, and so still the name."""
    name = "a\x1b[31m\x9bb"
    header = json.dumps({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "plan.json").write_text(json.dumps({"format": "tpview-plan-1", "tp_plan": {}, "default": "replicate"}))
    command = ("plan", "--checkpoint", tmp_path / "x.safetensors", "--tp-size", 1, "--tp-rank", 0, "--plan",
               tmp_path / "plan.json")
    done = tpview(*command)
    assert done.returncode == 0, done.stderr
    assert "a?[31m??b" in done.stdout and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    raw = tpview(*command, "--json").stdout
    assert "\x1b" not in raw and json.loads(raw)["outputs"][0]["name"] == name


@pytest.fixture
def latin(tmp_path) -> bytes:
    """A path that is not UTF-8."""
    return os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.safetensors"


def test_a_path_that_is_not_utf8(tiny, start_service, build, environ, latin):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    rank = [b"--tp-size", b"2", b"--tp-rank", b"0"]
    tool = os.fsencode(build / "bin" / "tpview")

    def run(*arguments: bytes) -> subprocess.CompletedProcess:
        return subprocess.run([tool, *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)

    fetch = [b"fetch", b"--source", service.source.encode(), b"--artifact", b"qwen3", *rank]
    verify = [b"verify", b"--checkpoint", os.fsencode(tiny("qwen3")), *rank]
    shown = "caf??[31m.safetensors"
    for command in (fetch + [b"--out", latin], verify + [latin]):
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout.decode("ascii")
        done = run(*command, b"--json")
        result = json.loads(done.stdout)
        assert done.returncode == 0 and result.get("out", result.get("file")).endswith(shown)
    assert os.path.exists(latin)
    os.truncate(latin, 5)
    for command in (verify + [latin], fetch + [b"--out", latin + b"/x"], verify + [b"/nowhere/\xff"]):
        done = run(*command, b"--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["message"] in done.stderr.decode("ascii")


def test_a_namespace_that_is_not_utf8(build, environ):
    done = subprocess.run([str(build / "bin" / "tpview"), "doctor", "--json"],
                          env={**{os.fsencode(k): os.fsencode(v) for k, v in environ.items()}, b"TPVIEW_NAMESPACE": b"\xff\x1b"},
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["findings"] and "\x1b" not in json.dumps(report, ensure_ascii=False)
    assert b"\x1b" not in done.stderr


# ---- output that is lost -------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tiny, start_service, build, tmp_path) -> dict[str, list[str]]:
    """Everything that prints, with arguments that make it succeed."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    tool, rank = [str(build / "bin" / "tpview")], ["--tp-size", "2", "--tp-rank", "0"]
    fetch = [*tool, "fetch", "--source", service.source, "--artifact", "qwen3", *rank]
    plain = {
        "ls": [*tool, "ls", "--source", service.source],
        "plan": [*tool, "plan", "--checkpoint", str(tiny("qwen3")), *rank],
        "fetch": [*fetch, "--out", str(tmp_path / "view")],
        "shared": [*fetch, "--shared"],
        "leases": [*tool, "leases"], "doctor": [*tool, "doctor"], "help": [*tool, "help"], "help fetch": [*tool, "help", "fetch"],
        "help env": [*tool, "--help-env"], "version": [*tool, "--version"],
        "tpviewd": [str(build / "bin" / "tpviewd"), "--help"], "tpviewd version": [str(build / "bin" / "tpviewd"), "--version"],
        "perf": [str(build / "bin" / "tpview_perf"), "--help"], "net perf": [str(build / "bin" / "tpview_net_perf"), "--help"],
    }
    json_too = {f"{name} json": [*command, "--json"] for name, command in plain.items()
                if name in ("ls", "plan", "fetch", "shared", "leases", "doctor")}
    return {**plain, **json_too}


def test_a_full_device(commands, environ):
    for command in commands.values():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True,
                                  timeout=LIMIT_S)
        failed(subprocess.CompletedProcess(command, done.returncode, "", done.stderr), "cannot write the output")


def test_a_reader_that_had_enough(commands, environ):
    """As with `| head -1`: no failure, and nothing to say."""
    for name, command in commands.items():
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True,
                              timeout=LIMIT_S)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "") or name.startswith(("tpviewd", "perf", "net")), (name, done)
