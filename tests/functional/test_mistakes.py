"""Mistakes that a newcomer makes, and what each answer has to say: which thing is wrong, and what to do next. One line, the
right exit code, and the same as JSON under --json."""

import json
import os
import shutil
import socket
import subprocess

import pytest
from conftest import LIMIT_S

RANK = "--tp-size 4 --tp-rank 0"
FETCH = f"fetch --source $S --artifact qwen3 {RANK}"
PLAN = f"plan --checkpoint $M {RANK}"

# (command line, exit code, what the answer says). $S: a service's address; $M: its checkpoint; $D: a folder, with a file
# "text" that is no JSON, a plan "noformat" without a format, and a socket "dead.sock" that nobody listens on; $K: the
# folder of the service's socket.
TPVIEW = [
    ("", 2, ["Usage: tpview COMMAND"]),
    ("frobnicate", 2, ['"frobnicate"', "tpview --help"]),
    ("ftech", 2, ["did you mean fetch?", "tpview --help"]),
    ("help ftech", 2, ["did you mean fetch?"]),
    ("list", 2, ["unknown command", "tpview --help"]),
    ("fetch", 2, ["--out FILE, --null or --shared", "tpview fetch --help"]),
    ("ls", 1, ["tpviewd.sock", "no such socket", "tpviewd running"]),
    ("ls --source", 2, ["--source needs a value", "tpview ls --help"]),
    ("ls --souce $S", 2, ["--souce", "did you mean --source?", "tpview ls --help"]),
    ("ls -s $S", 2, ["-s", "tpview ls --help"]),
    ("ls $S", 2, ["unexpected argument", "$S"]),
    ("ls --source $K/0.sock", 2, ["$K/0.sock", "unix:PATH"]),
    ("ls --source unix:$D/none.sock", 1, ["unix:$D/none.sock", "no such socket", "tpviewd running"]),
    ("ls --source unix:$D/dead.sock", 1, ["unix:$D/dead.sock", "nobody listens", "tpviewd running"]),
    ("ls --source localhost", 2, ["localhost", "the port is missing", "HOST:PORT"]),
    ("ls --source localhost:1", 1, ["localhost:1", "nobody listens", "--listen localhost:1"]),
    ("ls --source http://localhost:7070", 2, ["http://localhost:7070", "leave out", "HOST:PORT"]),
    ("ls --source ::1:7070", 2, ["::1:7070", "brackets"]),
    ("ls --source localhost:99999", 2, ["localhost:99999"]),
    ("ls --source https://localhost", 2, ["https://localhost", "the port is missing"]),
    ("ls --source https://localhost:1", 1, ["https://localhost:1", "nobody listens", "--listen localhost:1"]),
    ("ls --source https://localhost:1 --tls-ca $D/none", 1, ["$D/none", "No such file or directory"]),
    ("ls --source https://localhost:1 --tls-ca $D/text", 1, ["$D/text", "BEGIN CERTIFICATE"]),
    ("ls --source localhost:1 --tls-ca $D/text", 2, ["localhost:1", "https://HOST:PORT", "tpview ls --help"]),
    ("ls --source https://localhost:1 --tls-cert $D/text", 2, ["$D/text", "private key", "together"]),
    (f"fetch --source $S --artifact qwen {RANK} --null", 1, ['"qwen"', "qwen3@1"]),
    (f"fetch --source $S --artifact qwen3@2 {RANK} --null", 1, ['"qwen3@2"', "qwen3@1"]),
    (f"fetch --source $S --artifact Qwen/Qwen3-8B {RANK} --null", 2, ["Qwen/Qwen3-8B", "NAME@VERSION"]),
    ("fetch --source $S --artifact qwen3 --tp-size 4 --tp-rank 4 --null", 2, ["tp_rank 4", "tp_size 4"]),
    ("fetch --source $S --artifact qwen3 --tp-size 3 --tp-rank 0 --null", 1, [".weight", "3"]),
    ("fetch --source $S --artifact qwen3 --tp-rank 0 --null", 2, ["--tp-size", "tpview fetch --help"]),
    ("fetch --source $S --artifact qwen3 --tp-size four --tp-rank 0 --null", 2, ["--tp-size", "four"]),
    (f"{FETCH}", 2, ["--out", "--null"]),
    (f"{FETCH} --out", 2, ["--out needs a value", "tpview fetch --help"]),
    (f"{FETCH} --out $D", 2, ["$D", "folder"]),
    (f"{FETCH} --out -", 2, ["--out -", "standard output", "./-"]),
    (f"{FETCH} --out $D/none/x.safetensors", 1, ["$D/none/x.safetensors", "No such file or directory"]),
    (f"{FETCH} --null --net foo", 1, ["foo", "libnccl-net-NAME.so"]),
    (f"{FETCH} --null --deadline 5s", 2, ["--deadline", "5s", "seconds"]),
    (f"{FETCH} --null --chunk 1MB", 2, ["--chunk", "1MB", "M"]),
    (f"{FETCH} --null --plan $D/none.json", 1, ["$D/none.json", "No such file or directory"]),
    (f"{PLAN} --plan $D/text", 1, ["$D/text", "JSON"]),
    (f"{PLAN} --plan $D/noformat", 1, ["$D/noformat", '"format" is missing', "tpview-plan-1"]),
    (f"plan --checkpoint $M/config.json {RANK}", 1, ["config.json", "no safetensors file"]),
    (f"plan --checkpoint $D {RANK}", 1, ["$D", ".safetensors"]),
    (f"plan --checkpoint $D/none {RANK}", 1, ["$D/none", "No such file or directory"]),
    (f"plan --checkpoint $M --source $S {RANK}", 2, ["--checkpoint", "--source", "not both"]),
    (f"verify --checkpoint $M {RANK}", 2, ["FILE.safetensors", "tpview verify --help"]),
    (f"verify --checkpoint $M {RANK} a b", 2, ["unexpected argument", "b"]),
    (f"verify --checkpoint $M {RANK} $D/none", 1, ["$D/none", "No such file or directory"]),
    ("publish --source $S qwen3@2", 2, ["NAME@VERSION=DIR"]),
    ("publish --source $S qwen3=/x", 2, ["NAME@VERSION=DIR"]),
    ("publish --source $S qwen3@1=$M", 2, ["qwen3@1", "already"]),
    ("publish --source $S qwen3@2=$D/none", 1, ["$D/none", "No such file or directory"]),
    ("retire --source $S qwen3", 1, ["NAME@VERSION", "there is qwen3@1"]),
    ("retire --source $S qwen3@2", 1, ['"qwen3@2"', "there is qwen3@1"]),
    ("retire --source $S qwen", 1, ['"qwen"', "there is qwen3@1"]),
    ("retire --source $S", 2, ["NAME@VERSION", "tpview retire --help"]),
    ("leases --watch x", 2, ["--watch", "x", "seconds"]),
    ("leases --source $S", 2, ["--source", "tpview leases --help"]),
    ("doctor --fix", 2, ["--fix", "tpview doctor --help"]),
    ("ls --source $S --token-file $D/none", 1, ["$D/none", "No such file or directory"]),
    ("ls --source $S --token-file $D/text", 1, ["$D/text", "chmod 600"]),
]
TPVIEWD = [
    ("", 2, ["NAME@VERSION=DIR", "tpviewd --help"]),
    ("$M", 2, ["NAME@VERSION=DIR"]),
    ("Qwen/Qwen3-8B@main=$M", 2, ["Qwen/Qwen3-8B@main", "NAME@VERSION=DIR"]),
    ("q@=$M", 2, ["q@", "NAME@VERSION=DIR"]),
    ("qwen3@1=$M --unix $K/0.sock", 1, ["$K/0.sock", "in use"]),
    ("qwen3@1=$M --unix $D/none/x.sock", 1, ["$D/none/x.sock", "No such file or directory"]),
    ("qwen3@1=$M --listen 0.0.0.0:0", 1, ["--token-file", "--insecure"]),
    ("qwen3@1=$M --listen 127.0.0.1:0 --tls-cert $D/text", 2, ["--tls-cert", "--tls-key", "tpviewd --help"]),
    ("qwen3@1=$M --tls-cert $D/text --tls-key $D/text", 2, ["--listen", "Unix socket"]),
    ("qwen3@1=$M --listen 127.0.0.1:0 --tls-cert $D/text --tls-key $D/text", 1, ["$D/text", "BEGIN CERTIFICATE"]),
    ("qwen3@1=$M --listen 7070", 2, ["7070", "HOST:PORT"]),
    ("qwen3@1=$M --listen 127.0.0.1:99999", 2, ["127.0.0.1:99999"]),
    ("qwen3@1=$D/none", 1, ["qwen3@1", "$D/none", "No such file or directory"]),
    ("qwen3@1=~/none", 1, ["qwen3@1", "~/none", "No such file or directory"]),
    ("qwen3@1=$M qwen3@1=$M", 2, ["qwen3@1", "twice"]),
    ("qwen3@1=$M --budget 10GB", 2, ["--budget", "10GB", "G"]),
    ("qwen3@1=$M --listne 127.0.0.1:0", 2, ["--listne", "did you mean --listen?", "tpviewd --help"]),
    ("qwen3@1=$M --token-file $D/text --listen 127.0.0.1:0", 1, ["$D/text", "chmod 600"]),
]
JARGON = ["curl", "localhost port", "getaddrinfo", "EAI_", "errno", "bad arguments", "not understood", "(null)", "ERR_"]


@pytest.fixture
def places(tiny, start_service, sockets) -> dict[str, str]:
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets / "dead.sock"))
    (sockets / "text").write_text("not json")
    (sockets / "noformat").write_text('{"tp_plan": {}}')
    return {"$S": service.source, "$M": str(tiny("qwen3")), "$D": str(sockets), "$K": str(sockets)}


def with_places(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


def answer(done: subprocess.CompletedProcess, code: int, words: list[str], places) -> str:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    for word in words:
        assert with_places(word, places) in done.stderr, done.stderr
    for word in JARGON:
        assert word not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("line, code, words", TPVIEW, ids=[line or "nothing" for line, _, _ in TPVIEW])
def test_tpview(tpview, places, line, code, words):
    command = with_places(line, places).split()
    told = answer(tpview(*command), code, words, places)
    if not command:
        return
    assert len(told.splitlines()) == 1 and told.startswith("tpview: "), told
    if "needs a value" in told:  # --json would be the value
        return
    done = tpview(*command, "--json")
    failure = json.loads(done.stdout)["error"]
    assert done.returncode == code and f"tpview: {failure['message']}\n" == done.stderr


@pytest.mark.parametrize("line, code, words", TPVIEWD, ids=[line or "nothing" for line, _, _ in TPVIEWD])
def test_tpviewd(build, environ, places, line, code, words):
    command = [str(build / "bin" / "tpviewd"), *with_places(line, places).split()]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    told = answer(done, code, words, places)
    assert len(told.splitlines()) == 1 and told.startswith("tpviewd: ") and done.stdout == "", told


@pytest.mark.parametrize("variable, value, words", [
    ("TPVIEW_COMMS", "0", ["TPVIEW_COMMS", "1 to 64"]), ("TPVIEW_DEBUG", "yes", ["TPVIEW_DEBUG", "WARN, INFO or TRACE"]),
    ("TPVIEW_LOG_FORMAT", "xml", ["TPVIEW_LOG_FORMAT", "text or json"]), ("TPVIEW_NAMESPACE", "a/b", ["TPVIEW_NAMESPACE"]),
])
def test_a_variable_with_a_wrong_value(tpview, variable, value, words):
    done = tpview("leases", env={variable: value})
    assert done.returncode in (1, 2)
    for word in [*words, "tpview --help-env"]:
        assert word in done.stderr, done.stderr


def test_a_variable_that_there_is_not(tpview):
    done = tpview("leases", env={"TPVIEW_COMS": "3"})
    assert done.returncode == 0 and "TPVIEW_COMS" in done.stderr and "--help-env" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_users_socket(places, environ, build):
    """Root may use any socket, so somebody else tries."""
    os.chmod(places["$K"], 0o755)
    tool = shutil.copy(build / "bin" / "tpview", places["$K"])  # the build folder may not be for others
    stranger = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    done = subprocess.run([*stranger, tool, "ls", "--source", places["$S"]], env=environ, capture_output=True, text=True,
                          timeout=LIMIT_S)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert places["$S"] in done.stderr and "permission" in done.stderr and "user that runs tpviewd" in done.stderr
