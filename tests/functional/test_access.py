"""Who may talk to a service: the Unix socket's mode, bearer tokens, addresses that are not loopback."""

import http.client
import json
import stat
import subprocess

import pytest
from conftest import LIMIT_S

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


def get(address: str, path: str, token: str | None = None) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=LIMIT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_unix_socket_is_the_owners_alone(tiny, start_service, sockets):
    start_service(f"qwen3@1={tiny('qwen3')}", "--unix", sockets / "x.sock")
    mode = (sockets / "x.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_token_is_asked_for_over_tcp(tiny, start_service, token_file):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--token-file", token_file)
    assert get(service.tcp, "/v1/artifacts", TOKEN)[0] == 200
    for wrong in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        status, body = get(service.tcp, "/v1/artifacts", wrong)
        assert status == 401 and b"qwen3" not in body


def test_fetch_with_and_without_token(tiny, start_service, token_file, tpview, check_view, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--token-file", token_file)
    fetch = ("fetch", "--source", service.tcp, "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 0, "--out",
             tmp_path / "v.safetensors")
    done = tpview(*fetch)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "token" in done.stderr
    assert not (tmp_path / "v.safetensors").exists()
    done = tpview(*fetch, "--token-file", token_file)
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "v.safetensors").returncode == 0


def test_other_addresses_need_a_token(tiny, build, environ):
    """0.0.0.0 without --token-file or --insecure is refused, and says which option is missing."""
    command = [str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", "--listen", "0.0.0.0:0"]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode in (1, 2) and "--token-file" in done.stderr and "ready" not in done.stdout


def test_other_addresses_with_insecure(tiny, start_service):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "0.0.0.0:0", "--insecure")
    port = service.tcp.rpartition(":")[2]
    assert get(f"127.0.0.1:{port}", "/v1/artifacts")[0] == 200


def test_control_api_answers_strangers_with_an_error(tiny, start_service):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    assert get(service.tcp, "/nowhere")[0] == 404
    assert get(service.tcp, "/v1/artifacts/nothing/manifest")[0] == 404
    status, body = get(service.tcp, "/v1/artifacts")
    assert status == 200 and json.loads(body)
    for body in (b"", b"{", b"[]", b"{}", b"\x00" * 100, b'{"artifact": 3}', b"[" * 100000, b"x" * (32 << 20)):
        host, _, port = service.tcp.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT_S)
        try:
            connection.request("POST", "/v1/fetch", body, {"Content-Type": "application/json"})
            assert 400 <= connection.getresponse().status < 500
        except (BrokenPipeError, ConnectionResetError):
            assert len(body) > 1 << 20  # too long to be listened to
        finally:
            connection.close()
    assert get(service.tcp, "/v1/artifacts")[0] == 200
