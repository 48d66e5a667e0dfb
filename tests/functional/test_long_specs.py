"""View specs that take seconds to check and compile: whoever asks for something short is served meanwhile."""

import http.client
import json
import signal

import pytest
from outcomes import LIMIT_S, wait_for

LONG = 12  # more than there are threads of any kind at the service


def interleaved(name: str, dtype: str, rows: int, columns: int, outputs: int) -> dict:
    """Every column is a piece of its own, and they come in another order: each piece reaches over the whole output."""
    pieces = [{"tensor": name, "sizes": [rows, 1], "strides": [columns, 1], "offset": column,
               "to": {"strides": [columns, 1], "offset": (column + 1) % columns}} for column in range(columns)]
    return {"format": "tpview-view-1",
            "outputs": [{"name": f"{index}", "dtype": dtype, "shape": [rows, columns], "pieces": pieces} for index in range(outputs)]}


def widest(manifest: dict) -> tuple[str, str, list[int]]:
    name, (dtype, shape) = max(((name, tensor) for name, tensor in manifest["tensors"].items() if len(tensor[1]) == 2),
                               key=lambda item: item[1][1][1])
    return name, dtype, shape


@pytest.fixture
def serve(tiny, start_toy_service):
    return lambda *options: start_toy_service(f"qwen3@1={tiny('qwen3')}", *options)


@pytest.fixture
def long_request(control):
    """long_request(service, good, …): the text of a request with a long spec, one that is found out at its end unless it is
    `good`; keywords add fields."""

    def make(service, *, good: bool, **fields) -> str:
        manifest = control(service).call("GET", "/v1/artifacts/qwen3/manifest")[1]
        name, dtype, shape = widest(manifest)
        view = interleaved(name, dtype, *shape, outputs=-(-50_000 // shape[1]))
        if not good:
            view["outputs"][-1]["pieces"] = view["outputs"][-1]["pieces"][:-1]
        return json.dumps({"fetch_id": 32 * "0", "artifact_id": manifest["artifact_id"], "net": "Toy", "handles": [256 * "0"],
                           "max_chunk_bytes": 65536, "view": view,
                           "rank": {"host": "test", "pid": 1, "tp_rank": 0, "tp_size": 1}, **fields})

    return make


@pytest.fixture
def ask(control):
    """ask(service, *bodies): the connections on which they were asked for, all of them read by the service."""

    def start(service, *bodies: str):
        connections = [control(service) for _ in bodies]
        for connection, body in zip(connections, bodies, strict=True):
            connection.request("POST", "/v1/fetch", body)
        count = control(service).metric
        wait_for(lambda: count("fetches_active") + count("requests_refused_total") >= len(bodies), LIMIT_S, "the long specs to be read")
        return connections

    return start


def is_found_out(answer: tuple[int, dict]) -> bool:
    return answer[0] == 400 and "no piece writes elements" in answer[1]["error"]["message"]


def test_long_specs_keep_nobody_waiting(serve, long_request, ask, start_rank, control):
    service = serve()
    long = ask(service, *LONG * [long_request(service, good=False)])
    for _ in range(3 * LONG):
        assert control(service).call("GET", "/healthz")[0] == 200
    rank = start_rank(service, tp_size=2, deadline_s=LIMIT_S)
    assert rank.receive()
    assert rank.outcome()[0] == 200
    rank.acknowledge()
    assert control(service).metric("requests_refused_total") <= LONG // 2, "the long specs went first"
    for connection in long:
        answer = connection.answer()
        assert is_found_out(answer), answer


def test_long_specs_whose_clients_are_gone_are_not_compiled(serve, long_request, ask, control):
    """What was compiled is a fetch that was started; the one at hand when the last client went may still become one."""
    service = serve()
    count = control(service).metric
    long = ask(service, *LONG * [long_request(service, good=True)])
    for connection in long:
        connection.close()
    compiled = count("fetches_started_total")
    wait_for(lambda: count("fetches_active") == 0, LIMIT_S, "the end of all")
    assert count("fetches_started_total") <= compiled + 1


def test_a_deadline_counts_from_the_arrival_of_its_request(serve, long_request, ask):
    """The second waits behind the first for longer than it has; it is not looked at any more."""
    service = serve()
    first, second = ask(service, long_request(service, good=False), long_request(service, good=False, deadline_ms=1))
    status, answer = second.answer()
    assert answer["error"]["status"] == "deadline", (status, answer)
    assert is_found_out(first.answer())


def test_a_service_that_ends_compiles_no_queued_specs(serve, long_request, ask, control):
    """All but the one at hand are refused."""
    service = serve("--drain", 0.01)
    count = control(service).metric
    long = ask(service, *LONG * [long_request(service, good=False)])
    found_out = count("requests_refused_total")
    service.process.process.send_signal(signal.SIGTERM)
    answers = []
    for connection in long:
        try:
            answers.append(connection.answer())
        except (http.client.HTTPException, OSError):  # the service was gone before it could say so
            continue
    assert service.process.process.wait(LIMIT_S) == 0
    assert sum(map(is_found_out, answers)) <= found_out + 2, answers
    for status, answer in answers:
        assert is_found_out((status, answer)) or "shutting down" in answer["error"]["message"], answer
