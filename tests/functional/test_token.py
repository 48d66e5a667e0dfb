"""The bearer token: every path asks for it, only the whole of it is it, and its file is its owner's alone."""

import subprocess

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import failed

TOKEN = "correct-horse-battery-staple"
ROUTES = [("GET", "/metrics"), ("GET", "/v1/artifacts"), ("GET", "/v1/artifacts/qwen3/manifest"), ("GET", "/v1/leases"),
          ("POST", "/v1/fetch"), ("POST", "/v1/artifacts"), ("DELETE", "/v1/artifacts/qwen3@1"),
          ("DELETE", "/v1/leases/" + 32 * "0"), ("GET", "/nowhere"), ("PUT", "/v1/artifacts"), ("GET", "/healthz/"),
          ("GET", "/healthz/../metrics")]
# Each shares something with the token: its first bytes, all but one byte, its length, its letters.
WRONG = [None, "", "wrong", TOKEN[0], TOKEN[:-1], TOKEN + "x", TOKEN[:-1] + "f", "x" + TOKEN[1:], TOKEN.upper(),
         len(TOKEN) * TOKEN[0]]


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def service(tiny, start_service, token_file):
    return start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--token-file", token_file)


def headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("method, path", ROUTES, ids=map(" ".join, ROUTES))
def test_every_path_asks_for_it(service, control, method, path):
    """Whatever is asked, and in whatever words: nothing but the lack of the token is told."""
    for token in WRONG:
        status, answer = control(service.tcp).call(method, path, "{}" if method == "POST" else None, **headers(token))
        assert (status, answer["error"]["status"]) == (401, "permission"), (token, answer)
        assert "qwen3" not in str(answer)
    for authorization in (TOKEN, f"Basic {TOKEN}", f"Bearer  {TOKEN}", f"Bearer {TOKEN} {TOKEN}"):
        assert control(service.tcp).call(method, path, None, Authorization=authorization)[0] == 401
    assert control(service.tcp).call("GET", "/v1/artifacts", **headers(TOKEN))[0] == 200  # retired by none of these


@pytest.mark.parametrize("method, path", ROUTES[:4], ids=map(" ".join, ROUTES[:4]))
def test_it_opens_every_path(service, control, method, path):
    connection = control(service.tcp)
    connection.request(method, path, headers=headers(TOKEN))
    response = connection.getresponse()
    assert response.status == 200 and response.read()


def test_a_refusal_names_the_scheme(service, control):
    """RFC 9110, 11.6.1: a 401 has to say which one is wanted."""
    connection = control(service.tcp)
    connection.request("GET", "/v1/artifacts")
    response = connection.getresponse()
    assert response.status == 401 and response.getheader("WWW-Authenticate").startswith("Bearer")
    response.read()


def test_health_is_told_to_everybody(service, control):
    assert control(service.tcp).call("GET", "/healthz") == (200, {"status": "ok"})


def test_without_it_the_services_own_tools_say_what_is_missing(service, tpview, tiny, token_file, tmp_path):
    for command in (["ls", "--source", service.tcp], ["publish", "--source", service.tcp, f"a@1={tiny('qwen3')}"],
                    ["retire", "--source", service.tcp, "qwen3@1"], fetch_command(service.tcp, tmp_path / "view")):
        failed(tpview(*command), "token")
        assert tpview(*command, "--token-file", token_file).returncode in (0, 1)
    assert tpview("ls", "--source", service.tcp, "--token-file", token_file).returncode == 0


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o610])
def test_a_file_that_others_can_open_is_refused(tiny, build, environ, token_file, tpview, mode):
    token_file.chmod(mode)
    service = [str(build / "bin" / "tpviewd"), f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--token-file",
               str(token_file)]
    done = subprocess.run(service, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    failed(done, str(token_file), "chmod 600")
    failed(tpview("ls", "--source", "127.0.0.1:9", "--token-file", token_file), str(token_file), "chmod 600")


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "two\nlines\n", "\x01\n", "caf\u00e9\n", 4097 * "x"],
                         ids=["empty", "blank", "words", "lines", "control", "not ascii", "too long"])
def test_a_file_that_holds_no_token_is_refused(token_file, tpview, text):
    token_file.write_text(text)
    failed(tpview("ls", "--source", "127.0.0.1:9", "--token-file", token_file), str(token_file))
