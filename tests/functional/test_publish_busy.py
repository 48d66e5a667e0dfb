"""A publication that takes long: one at a time, and none keeps a service from ending."""

import json
import signal
import struct

import pytest
from conftest import LIMIT_S
from outcomes import wait_for


@pytest.fixture
def endless(tmp_path):
    """A checkpoint whose digest takes long: 64 GiB that cost no disk."""
    entry = {"zeros": {"dtype": "U8", "shape": [64 << 30], "data_offsets": [0, 64 << 30]}}
    header = json.dumps(entry).encode()
    with open(tmp_path / "zeros.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (64 << 30))
    return tmp_path / "zeros.safetensors"


def test_one_at_a_time_and_none_beyond_the_end(tiny, endless, start_service, control):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    long, other = control(service), control(service)
    long.request("POST", "/v1/artifacts", json.dumps({"artifact": f"zeros@1={endless}"}))

    def refusal():
        """Until the long one has begun, the other is published and goes again."""
        status, answer = other.call("POST", "/v1/artifacts", json.dumps({"artifact": f"qwen3@2={tiny('qwen3')}"}))
        if status == 200:
            assert other.call("DELETE", "/v1/artifacts/qwen3@2")[0] == 200
            return None
        return answer

    answer = wait_for(refusal, LIMIT_S, "the refusal of a second publication")
    assert answer["error"]["status"] == "refused" and "another artifact is being published" in answer["error"]["message"]
    assert other.call("GET", "/healthz")[0] == 200
    service.process.process.send_signal(signal.SIGTERM)
    status, answer = long.answer()
    assert status >= 400 and "error" in answer, answer
    assert service.process.process.wait(LIMIT_S) == 0
