"""Requests that no client of ours sends: each is answered with what is wrong in it, and changes nothing."""

import copy
import json
import secrets

import pytest
from outcomes import LIMIT_S, wait_for
from rank import Rank

ID = 32 * "0"


@pytest.fixture
def service(tiny, start_toy_service):
    return start_toy_service(f"qwen3@1={tiny('qwen3')}")


@pytest.fixture
def good(service, start_rank, control) -> dict:
    """A request that is carried out, as the tests below change it; nobody listens at its handles any more."""
    sent = []

    class Recorder:
        def request(self, method, path, body, headers):
            sent.append(json.loads(body))

    rank = start_rank(service, deadline_s=LIMIT_S)
    list(rank.chunks())
    assert rank.outcome()[0] == 200
    rank.acknowledge()
    wait_for(lambda: control(service).metric("fetches_active") == 0, LIMIT_S, "the end of the fetch")
    recorded = Rank(Recorder(), rank.artifact_id, rank.view, deadline_s=LIMIT_S)
    for listener in recorded.listeners:
        listener.close()
    return sent[0]


def changed(request: dict, path: str, value) -> dict:
    """A copy with the member at "a.b.0" set, or removed for `...`."""
    request = copy.deepcopy(request)
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    at = request
    for part in way:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return request


HANDLE = 256 * "0"
WRONG = [
    *[(field, ..., field.removeprefix("rank.")) for field in ("view", "fetch_id", "artifact_id", "net", "handles", "rank", "rank.host", "rank.pid",
                                        "rank.tp_rank", "rank.tp_size")],
    *[(field, 3, field) for field in ("view", "fetch_id", "artifact_id", "net", "handles", "rank")],
    ("max_chunk_bytes", 1 << 63, "max_chunk_bytes"),
    ("surplus", 1, "surplus"), ("rank.surplus", 1, "surplus"), ("view.surplus", 1, "surplus"),
    *[("fetch_id", value, "fetch_id") for value in ("", 31 * "0", 33 * "0", 31 * "0" + "g", 31 * "0" + "A")],
    *[("artifact_id", value, "artifact_id") for value in ("", 31 * "0", 33 * "0", 31 * "0" + "G")],
    ("net", 64 * "x", "net"), ("net", "Toy\0", "net"),
    ("handles", [], "handles"), ("handles", 65 * [HANDLE], "handles"), ("handles", {}, "handles"),
    *[("handles.0", value, "handle") for value in ("", HANDLE[2:], HANDLE + "00", "g" + HANDLE[1:], 3, None)],
    *[("max_chunk_bytes", value, "max_chunk_bytes") for value in (0, -1, 4095, (64 << 20) + 1, 1 << 32, "4096", 4096.0, True)],
    *[("deadline_ms", value, "deadline_ms") for value in (0, -1, 1 << 62, "1", 1.5, None)],
    *[("rank.pid", value, "pid") for value in (0, -1, 1 << 31, "1")],
    *[("rank.tp_size", value, "tp_size") for value in (0, -1, 1 << 31)],
    *[("rank.tp_rank", value, "tp_rank") for value in (-1, 1, 1 << 31)],
    ("rank.host", 3, "host"),
    *[("ranges", value, "range") for value in (
        [], {}, 3, None, [3], [[]], [[1]], [[1, 2, 3]], [["1", 2]], [[0, 1.5]], [[-1, 2]], [[1, 1]], [[2, 1]],
        [[0, 2], [1, 3]], [[0, 2], [2, 3]], [[4, 5], [0, 1]], [[0, 1 << 62]], [[0, 1 << 63]],
        [[2 * i, 2 * i + 1] for i in range(16385)])],
    ("view.format", "tpview-view-2", "format"), ("view.outputs", 3, "array"), ("view.outputs.0.name", 3, "name"),
    ("view.outputs.0.pieces.0.tensor", "nothing", "nothing"),
]


@pytest.mark.parametrize("path, value, word", WRONG, ids=lambda value: repr(value)[:24])
def test_a_wrong_member_is_named(service, good, control, path, value, word):
    connection = control(service)
    started = connection.metric("fetches_started_total")
    status, answer = connection.call("POST", "/v1/fetch", json.dumps(changed(good, path, value)))
    assert 400 <= status < 500 and word in answer["error"]["message"], answer
    assert answer["error"]["status"] in ("format", "plan"), answer
    assert connection.metric("fetches_started_total") == started and connection.metric("fetches_active") == 0


def test_a_deadline_that_passes_before_the_first_byte_is_told_as_one(service, good, control):
    output = good["view"]["outputs"][0]
    outputs = [{**output, "name": f"{index}.{output['name']}"} for index in range(20000)]
    request = changed(changed(good, "view.outputs", outputs), "deadline_ms", 1)
    status, answer = control(service).call("POST", "/v1/fetch", json.dumps(request))
    assert answer["error"]["status"] == "deadline", answer
    wait_for(lambda: control(service).metric("fetches_active") == 0, LIMIT_S, "the end of the fetch")


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', "{}x", "\0", "\x80", 100_000 * "["],
                         ids=lambda body: repr(body)[:12])
def test_a_body_that_is_no_request(service, control, body):
    for path in ("/v1/fetch", "/v1/artifacts"):
        status, answer = control(service).call("POST", path, body.encode("latin-1"))
        assert (status, answer["error"]["status"]) == (400, "format"), answer


def test_a_member_twice(service, good, control):
    text = json.dumps(good)
    for again in (text[:-1] + f', "net": "{good["net"]}"}}', text[:-1] + ', "rank": {}}'):
        status, answer = control(service).call("POST", "/v1/fetch", again)
        assert (status, answer["error"]["status"]) == (400, "format"), answer


@pytest.mark.parametrize("change, status, word", [
    ({"net": "Socket"}, "refused", "Socket"),
    ({"artifact_id": ID}, "not_found", ID),
])
def test_what_is_not_to_be_had_here(service, good, control, change, status, word):
    _, answer = control(service).call("POST", "/v1/fetch", json.dumps({**good, **change}))
    assert answer["error"]["status"] == status and word in answer["error"]["message"], answer


def test_a_rank_that_is_not_there(service, good, control, leases):
    """The request is right and nobody listens: an error at once, and the lease is given back."""
    _, answer = control(service).call("POST", "/v1/fetch", json.dumps({**good, "fetch_id": secrets.token_hex(16)}))
    assert answer["error"]["status"] in ("peer", "net"), answer
    assert control(service).metric('fetches_finished_total{status="ok"}') == 1
    wait_for(lambda: leases() == [], LIMIT_S, "the end of the lease")


@pytest.mark.parametrize("artifact", [3, None, "", "m", "m@2", "m@2=", "@2=/tmp", "m@=/tmp", "m m@2=/tmp", "m@2/3=/tmp",
                                      "m@@2=/tmp", 96 * "m" + "@2=/tmp", "m@2=/nowhere", "m\n@2=/tmp", "m@2=/tmp\0"])
def test_a_definition_that_is_not_one(service, control, artifact):
    status, answer = control(service).call("POST", "/v1/artifacts", json.dumps({"artifact": artifact}))
    assert 400 <= status < 500, answer
    listed = control(service).call("GET", "/v1/artifacts")[1]["artifacts"]
    assert [(entry["name"], entry["version"]) for entry in listed] == [("qwen3", "1")]


@pytest.mark.parametrize("method, path", [
    ("GET", "/"), ("GET", "/v1"), ("GET", "/v1/artifact"), ("POST", "/v1/leases"), ("PUT", "/v1/artifacts"),
    ("DELETE", "/v1/artifacts"), ("POST", "/healthz"), ("GET", "/v1/artifacts/qwen3"), ("GET", "/v1/artifacts/qwen3/"),
    ("GET", "/v1/artifacts/qwen3/manifest/"), ("GET", "/v1/artifacts//manifest"), ("GET", "/v1/artifacts/qwen3@2/manifest"),
    ("GET", "/v1/artifacts/" + 200 * "x" + "/manifest"), ("DELETE", "/v1/artifacts/qwen3"), ("DELETE", "/v1/artifacts/"),
])
def test_a_path_that_is_not_there(service, control, method, path):
    status, answer = control(service).call(method, path)
    assert (status, answer["error"]["status"]) == (404, "not_found"), answer


def test_the_end_of_no_lease(service, control):
    for lease in (ID, "", "x", 300 * "0", "../artifacts/qwen3@1"):
        assert control(service).call("DELETE", f"/v1/leases/{lease}") == (200, {"ended": False})
