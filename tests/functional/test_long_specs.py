"""View specs that take seconds to check and compile: whoever asks for something short is served meanwhile."""

import json

from outcomes import wait_for

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


def test_long_specs_keep_nobody_waiting(tiny, start_toy_service, start_rank, control):
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}")
    manifest = control(service).call("GET", "/v1/artifacts/qwen3/manifest")[1]
    name, dtype, shape = widest(manifest)
    view = interleaved(name, dtype, *shape, outputs=-(-50_000 // shape[1]))
    view["outputs"][-1]["pieces"] = view["outputs"][-1]["pieces"][:-1]  # found out at the end, when all else is checked
    request = {"fetch_id": 32 * "0", "artifact_id": manifest["artifact_id"], "net": "Toy", "handles": [256 * "0"],
               "max_chunk_bytes": 65536, "view": view, "rank": {"host": "test", "pid": 1, "tp_rank": 0, "tp_size": 1}}
    body = json.dumps(request)
    long = [control(service) for _ in range(LONG)]
    for connection in long:
        connection.request("POST", "/v1/fetch", body)
    wait_for(lambda: sum(map(control(service).metric, ("fetches_active", "requests_refused_total"))) == LONG, 60,
             "the long specs to be read")
    for _ in range(3 * LONG):
        assert control(service).call("GET", "/healthz")[0] == 200
    rank = start_rank(service, tp_size=2, deadline_s=50)
    assert rank.receive()
    assert rank.outcome()[0] == 200
    rank.acknowledge()
    assert control(service).metric("requests_refused_total") <= LONG // 2, "the long specs went first"
    for connection in long:
        status, answer = connection.answer()
        assert status == 400 and "no piece writes elements" in answer["error"]["message"], answer
