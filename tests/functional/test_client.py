"""The client against a source of the test's making: what it asks, what it believes, and how it ends."""

import json
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import NEVER_S, failed, wait_for, within
from rank import GREETING, Control

LOADED_S = 300  # what a whole fetch in small chunks may take on a loaded machine
SLACK_S = 60  # what a loaded machine may take beyond a deadline


TRUE = "the true one"  # in an answer of a FakeSource: what the true source said


class FakeSource:
    """Has one artifact's true manifest and answers POST /v1/fetch with `answer`: (HTTP code, body), or None for nothing.
    First before(request) may do something, and with `relay`, a connection to the true source, that is asked for what is
    then in `request`. With `deaf`, no DELETE is answered; `deleted` is set when one came. The requests it got are in
    `fetches`."""

    def __init__(self, manifest: bytes, answer, relay: Control | None, before, deaf: bool):
        self.fetches: list[dict] = []
        self.deleted = threading.Event()
        self.end = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, code: int, body: bytes):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.reply(200, manifest)

            def do_DELETE(self):
                fake.deleted.set()
                if deaf:
                    fake.end.wait(LIMIT_S)
                    return
                self.reply(200, b"{}")

            def do_POST(self):
                request = self.rfile.read(int(self.headers["Content-Length"]))
                fake.fetches.append(json.loads(request))
                true: dict = {}
                if before is not None:
                    before(fake.fetches[-1])
                if relay is not None:
                    status, true = relay.call("POST", "/v1/fetch", json.dumps(fake.fetches[-1]))
                    assert status == 200, true
                if answer is None:
                    fake.end.wait(LIMIT_S)
                    return
                code, body = answer
                if isinstance(body, dict) and body.get("view_id") == TRUE:
                    body = {**body, "view_id": true["view_id"]}
                self.reply(code, body if isinstance(body, bytes) else json.dumps(body).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self):
        self.end.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def fake(tiny, start_service, control):
    """fake(answer, …): a FakeSource of the artifact "qwen3"; fake.true is the address of the true one."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    connection = control(service)
    connection.request("GET", "/v1/artifacts/qwen3/manifest")
    manifest = connection.getresponse().read()
    made: list[FakeSource] = []

    def start(answer, *, relay: bool = False, before=None, deaf: bool = False) -> FakeSource:
        made.append(FakeSource(manifest, answer, control(service) if relay else None, before, deaf))
        return made[-1]

    start.true = service.source
    yield start
    for source in made:
        source.close()


def error(status: str, message: str = "because") -> dict:
    return {"error": {"status": status, "message": message}}


# ---- what it asks ------------------------------------------------------------------------------------------------------


def test_the_source_is_told_who_asks_and_how_long(fake, tpview, tmp_path):
    source = fake((503, error("refused")))
    command = fetch_command(source.address, tmp_path / "view", tp_size=4, tp_rank=3, deadline=20)
    failed(tpview(*command, "--comms", 3, "--chunk", "8K"), "because")
    (asked,) = source.fetches
    assert 0 < asked["deadline_ms"] <= 20000
    assert (asked["rank"]["tp_rank"], asked["rank"]["tp_size"], asked["max_chunk_bytes"]) == (3, 4, 8192)
    assert asked["rank"]["host"] == os.uname().nodename and asked["rank"]["pid"] > 0
    assert len(asked["handles"]) == len(set(asked["handles"])) == 3


def test_without_a_deadline_none_is_told(fake, tpview):
    source = fake((503, error("refused")))
    failed(tpview("fetch", "--source", source.address, "--artifact", "qwen3", "--tp-size", 1, "--tp-rank", 0, "--null"))
    assert "deadline_ms" not in source.fetches[0]


def test_every_fetch_has_an_id_of_its_own(fake, tpview, tmp_path):
    source = fake((503, error("refused")))
    for _ in range(3):
        failed(tpview(*fetch_command(source.address, tmp_path / "view")))
    assert len({asked["fetch_id"] for asked in source.fetches}) == 3
    assert len({handle for asked in source.fetches for handle in asked["handles"]}) == 3


@pytest.mark.parametrize("name", ["a/b", "../x", "a b", "a?b", "a%41", "x" * 201, "a\nb"])
def test_a_name_that_no_artifact_has_is_not_sent(fake, tpview, tmp_path, name):
    done = tpview(*fetch_command("127.0.0.1:9", tmp_path / "view", artifact=name))
    assert done.returncode == 2 and "NAME@VERSION" in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_proxy_is_asked(fake, tpview, tmp_path):
    source = fake((503, error("refused")))
    env = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    failed(tpview(*fetch_command(source.address, tmp_path / "view"), env=env), "because")


# ---- what it believes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [{}, {"export": "warm"}, {"artifact": "qwen3@1"}, {"export": 1, "artifact": "qwen3@1"},
                                    {"export": "warm", "artifact": "qwen3@1"},
                                    {"export": "x" * 8, "artifact": "qwen3@1", "view_id": TRUE},
                                    {"export": "warm", "artifact": "x" * 128, "view_id": TRUE},
                                    b"", b"{", b"[]", b'{"export":"warm","export":"warm","artifact":"a"}'],
                         ids=lambda answer: repr(answer)[:40])
def test_an_answer_that_is_not_of_this_api(fake, tpview, tmp_path, answer):
    """Every byte came, and still: who answers so is no source."""
    source = fake((200, answer), relay=True)
    failed(tpview(*fetch_command(source.address, tmp_path / "view")), source.address, "not of this API")
    assert list(tmp_path.glob("view*")) == []


def test_a_relayed_fetch_with_a_true_answer(fake, tpview, check_view, tiny, tmp_path):
    source = fake((200, {"export": "warm", "artifact": "x" * 96, "view_id": TRUE}), relay=True)
    done = tpview(*fetch_command(source.address, tmp_path / "view"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifact"] == "x" * 96
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0


def test_a_source_that_sent_another_view(fake, tpview, tmp_path):
    source = fake((200, {"export": "warm", "artifact": "qwen3@1", "view_id": "0" * 32}), relay=True)
    failed(tpview(*fetch_command(source.address, tmp_path / "view")), source.address, "0" * 32, "was asked for")
    assert list(tmp_path.glob("view*")) == []


def test_a_source_cannot_write_to_the_terminal(fake, tpview, tmp_path):
    """Neither in its answer nor in the reason of an error."""
    evil = "x\x1b[2J\x9b\u202e"
    source = fake((200, {"export": evil[:5], "artifact": evil, "view_id": TRUE}), relay=True)
    for options in ((), ("--json",)):
        done = tpview(*fetch_command(source.address, tmp_path / "view"), *options)
        assert done.returncode == 0 and "x?[2J" in done.stdout and "\x1b" not in done.stdout + done.stderr, done
    assert json.loads(done.stdout)["artifact"] == "x?[2J?????"
    source = fake((503, error("refused", evil)))
    failed(tpview(*fetch_command(source.address, tmp_path / "view")), "x?[2J?????")


def test_a_source_that_says_it_sent_and_did_not(fake, tpview, tmp_path):
    source = fake((200, {"export": "warm", "artifact": "qwen3@1"}))
    with within(2 + SLACK_S):
        failed(tpview(*fetch_command(source.address, tmp_path / "view", deadline=2)), "deadline", source.address)
    assert list(tmp_path.glob("view*")) == []


@pytest.mark.parametrize("code, body, words", [
    (404, error("not_found", "no such thing"), ["no such thing"]),
    (400, error("a status of the future", "something new"), ["something new"]),
    (500, b"", ["HTTP 500", "is it tpviewd?"]),
    (500, b"<html>", ["HTTP 500", "is it tpviewd?"]),
    (500, {"error": "no object"}, ["HTTP 500", "is it tpviewd?"]),
    (302, b"", ["HTTP 302", "is it tpviewd?"]),
])
def test_an_error_is_passed_on_with_its_source(fake, tpview, tmp_path, code, body, words):
    source = fake((code, body))
    with within(SLACK_S):
        failed(tpview(*fetch_command(source.address, tmp_path / "view")), source.address, *words)
    assert len(source.fetches) == 1
    assert list(tmp_path.glob("view*")) == []


@pytest.mark.parametrize("status, again", [("no_memory", True), ("unsupported", True), ("refused", False),
                                           ("deadline", False), ("permission", False), ("peer", False)])
def test_whole_tensors_only_for_what_the_source_cannot_do(fake, tpview, tmp_path, status, again):
    """The second request is for one whole tensor; it fails as well, and that is the end."""
    source = fake((503, error(status)))
    done = tpview(*fetch_command(source.address, tmp_path / "view"))
    assert done.returncode == 1 and ("whole tensor" in done.stderr) == again
    assert [len(asked["view"]["outputs"]) for asked in source.fetches][1:] == [1] * again
    failed(tpview(*fetch_command(source.address, tmp_path / "view"), "--no-fallback"), "because")
    assert len(source.fetches) == 1 + again + 1


@pytest.mark.parametrize("status", ["no_memory", "unsupported"])
def test_no_whole_tensors_when_the_next_source_has_given_all(fake, tpview, check_view, tiny, tmp_path, status):
    """One cannot cut the view, the other one can."""
    first = fake((503, error(status)))
    done = tpview(*fetch_command(first.address, tmp_path / "view"), "--source", fake.true, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not result["canonical"] and [share["attempts"] for share in result["sources"]] == [1, 1], result
    assert len(first.fetches) == 1
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0


def test_no_whole_tensors_when_the_fetch_ends_for_another_reason(fake, start_tpview, tmp_path):
    """One cannot cut the view; at the other one something ends the fetch that is no source's doing."""
    first, second = fake((503, error("unsupported"))), fake(None)
    process = start_tpview(*fetch_command(first.address, tmp_path / "view", deadline=LIMIT_S), "--source", second.address)
    wait_for(lambda: second.fetches, LIMIT_S, "the request to the second source")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1 and "cancelled" in errors and "whole tensor" not in errors, errors
    assert len(first.fetches) == len(second.fetches) == 1


def test_whole_tensors_count_from_the_call(fake, start_service, tiny, tpview, tmp_path):
    """What was asked in vain before is a part of the fetch: its time and its attempts."""
    first = fake((503, error("unsupported")), before=lambda _: time.sleep(1))
    small = start_service(f"qwen3@1={tiny('qwen3')}", "--budget", "4K")
    done = tpview(*fetch_command(first.address, tmp_path / "view"), "--source", small.source, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["canonical"] and 1 <= result["first_seconds"] <= result["seconds"], result
    assert len(first.fetches) == 1 and [share["attempts"] > 1 for share in result["sources"]] == [False, True]
    assert [share["attempts"] for share in result["sources"]][0] == 1


@pytest.fixture
def give_another_view(fake, tpview, tmp_path):
    """For FakeSource's `before`: asks the true source for the other rank's view, which is as long."""
    recorder = fake((503, error("refused")))
    failed(tpview(*fetch_command(recorder.address, tmp_path / "view", tp_rank=1)), "because")

    def change(request: dict) -> None:
        request["view"] = recorder.fetches[0]["view"]
        request.pop("view_id", None)

    return change


@pytest.mark.parametrize("answer", [{"export": "warm", "artifact": "qwen3@1", "view_id": TRUE}, {"export": "warm"}],
                         ids=lambda answer: "-".join(answer))
def test_nothing_is_kept_of_another_view(fake, give_another_view, tpview, check_view, tiny, tmp_path, answer):
    """Every byte came from the first source, each with a good digest, but of what was not asked for."""
    first = fake((200, answer), relay=True, before=give_another_view)
    done = tpview(*fetch_command(first.address, tmp_path / "view"), "--source", fake.true, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0
    assert [share["bytes"] for share in result["sources"]] == [0, result["needed_bytes"]]
    assert [share["attempts"] for share in result["sources"]] == [1, 1]


def test_the_source_is_told_the_view_it_has_to_understand(fake, give_another_view, tpview, control, tmp_path):
    """So that one that understands another view refuses before its first byte."""
    asked = fake((503, error("refused")))
    failed(tpview(*fetch_command(asked.address, tmp_path / "view")), "because")
    (request,) = asked.fetches
    told = request["view_id"]
    give_another_view(request)
    status, answer = control(fake.true).call("POST", "/v1/fetch", json.dumps({**request, "view_id": told}))
    assert status == 503 and answer["error"]["status"] == "refused" and told in answer["error"]["message"], answer


def test_what_this_process_lacks_is_no_reason_to_ask_another_source(fake, tpview, tmp_path):
    """No thread can be made for the workers: that is not the source's doing, and no other one can help."""
    second = fake((503, error("refused")))
    limit = ("bash", "-c", 'ulimit -s $((1 << 37)); exec "$@"', "limited")  # no stack of this size fits in memory
    command = fetch_command(fake.true, tmp_path / "view")
    done = tpview(*command, "--workers", 2, "--chunk", "4K", "--source", second.address, prefix=limit)
    failed(done, "thread")
    assert second.fetches == [], done.stderr


def test_control_bytes_in_the_name_of_a_source(fake, tpview, tmp_path):
    """They get neither to the terminal nor into the JSON, which would be none."""
    name = os.fsencode(tmp_path / "no") + b"\x1b[2J\xff.sock"
    command = fetch_command(fake.true, tmp_path / "view")
    done = tpview(*command, "--source", "unix:" + os.fsdecode(name), "--json")
    assert done.returncode == 0, done.stderr
    shares = json.loads(done.stdout)["sources"]
    assert [share["attempts"] for share in shares] == [1, 0]
    assert shares[1]["address"].endswith("no?[2J?.sock")


BITS = {"BF16": 16}


def test_a_broken_comm_is_explained_by_the_source(fake, tpview, build, tmp_path):
    """The comm breaks first; the source's word about the cause comes a moment later, and is what the user is told."""

    def break_comm(request: dict) -> None:
        outputs = request["view"]["outputs"]
        total = sum(prod(output["shape"]) * BITS[output["dtype"]] // 8 for output in outputs)
        greeting = GREETING.pack(0x47565054, 1, 0, 1, 0, request["max_chunk_bytes"], total, bytes.fromhex(request["fetch_id"]))
        name = bytes.fromhex(request["handles"][0])[8:].split(b"\0")[0]
        with socket.socket(socket.AF_UNIX) as comm:
            comm.connect(b"\0" + name)
            comm.sendall(len(greeting).to_bytes(8, "little") + greeting)
        time.sleep(0.1)  # the moment itself

    source = fake((503, error("refused", "the service is shutting down")), before=break_comm)
    env = {"NCCL_NET_PLUGIN": str(build / "tests" / "libtoynet.so")}
    failed(tpview(*fetch_command(source.address, tmp_path / "view"), env=env), source.address, "shutting down")


def test_a_source_that_never_answers_a_fetch(fake, tpview, tmp_path):
    source = fake(None)
    with within(1 + SLACK_S):
        failed(tpview(*fetch_command(source.address, tmp_path / "view", deadline=1)), "deadline", source.address)
    assert list(tmp_path.glob("view*")) == []


def test_a_source_that_stands_still_before_it_is_told_that_all_came(fake, tpview, check_view, tiny, tmp_path):
    """The bytes are whole: the fetch waits for no more than TPVIEW_SOURCE_TIMEOUT."""
    source = fake((200, {"export": "warm", "artifact": "qwen3@1", "view_id": TRUE}), relay=True, deaf=True)
    command = fetch_command(source.address, tmp_path / "view", deadline=NEVER_S)
    done = tpview(*command, env={"TPVIEW_SOURCE_TIMEOUT": "10"})
    assert done.returncode == 0 and "cannot acknowledge" in done.stderr and source.deleted.is_set(), done.stderr
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0


def test_an_interrupt_ends_the_wait_for_that_source(fake, start_tpview, check_view, tiny, tmp_path):
    source = fake((200, {"export": "warm", "artifact": "qwen3@1", "view_id": TRUE}), relay=True, deaf=True)
    command = fetch_command(source.address, tmp_path / "view", deadline=NEVER_S)
    process = start_tpview(*command, env={"TPVIEW_SOURCE_TIMEOUT": str(NEVER_S)})
    assert source.deleted.wait(LIMIT_S), process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0


def test_no_wait_for_that_source_when_another_one_is_asked(fake, give_another_view, tpview, check_view, tiny, tmp_path):
    source = fake((200, {}), relay=True, before=give_another_view, deaf=True)
    command = fetch_command(source.address, tmp_path / "view", deadline=NEVER_S)
    done = tpview(*command, "--source", fake.true, env={"TPVIEW_SOURCE_TIMEOUT": str(NEVER_S)})
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0


# ---- into a file -------------------------------------------------------------------------------------------------------


def test_two_fetches_into_one_file(large, start_service, in_mid_fetch, tpview, check_view, tmp_path):
    """The second is refused before anything moves, and harms neither the first nor its file."""
    service = start_service(f"large@1={large}")
    first = in_mid_fetch(service.source, tmp_path / "view", deadline=NEVER_S)
    failed(tpview(*fetch_command(service.source, tmp_path / "view", artifact="large", tp_size=1)), "another fetch",
           str(tmp_path / "view"))
    assert first.poll() is None
    output, errors = first.communicate(timeout=LOADED_S)
    assert first.returncode == 0, errors
    assert [file.name for file in tmp_path.glob("view*")] == ["view"]
    assert check_view(large, 1, 0, tmp_path / "view").returncode == 0


def test_what_a_killed_fetch_left_is_taken_over(large, tiny, start_service, in_mid_fetch, tpview, check_view, tmp_path):
    """Longer than what comes after: nothing of it may stay."""
    service = start_service(f"large@1={large}", f"qwen3@1={tiny('qwen3')}")
    first = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    first.kill()
    first.wait()
    assert (tmp_path / "view.partial").exists()
    done = tpview(*fetch_command(service.source, tmp_path / "view"))
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.glob("view*")] == ["view"]
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0
