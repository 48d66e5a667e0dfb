"""What a client of the control API may do: scopes of tokens, what may be published over TCP, where data may be sent."""

import shutil
import socket
import threading
import time

import pytest
from conftest import LIMIT_S, fetch_command
from control import call, error, fetch_request, handle, manifest, port_of_nobody, whole_tensor

RANK, ADMIN = "token-of-a-rank", "token-of-an-administrator"


@pytest.fixture
def tokens(tmp_path):
    """The options that let ranks fetch and administrators publish."""
    options = []
    for option, text in (("--token-file", RANK), ("--admin-token-file", ADMIN)):
        file = tmp_path / text
        file.write_text(text + "\n")
        file.chmod(0o600)
        options += [option, file]
    return options


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_scopes(tiny, start_service, tokens, tmp_path):
    """A rank's token looks and fetches; only an administrator's publishes and retires."""
    root = tmp_path / "models"
    shutil.copytree(tiny("qwen3"), root / "new")
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", *tokens, "--publish-root", root)
    publish = ("POST", "/v1/artifacts", {"artifact": f"qwen3@2={root}/new"})
    retire = ("DELETE", "/v1/artifacts/qwen3@2")
    for path in ("/v1/artifacts", "/v1/artifacts/qwen3/manifest", "/v1/leases", "/metrics"):
        assert call(service.tcp, "GET", path)[0] == 401
        assert call(service.tcp, "GET", path, token=RANK)[0] == 200
        assert call(service.tcp, "GET", path, token=ADMIN)[0] == 200
    for request in (publish, retire):
        assert call(service.tcp, *request)[0] == 401
        answer = call(service.tcp, *request, token=RANK)
        assert answer[0] == 403 and "--admin-token-file" in error(answer)
    assert len(call(service.tcp, "GET", "/v1/artifacts", token=RANK)[1].split(b'"version"')) == 2
    assert call(service.tcp, *publish, token=ADMIN)[0] == 200
    assert call(service.tcp, *retire, token=ADMIN)[0] == 200


def test_one_token_for_all(tiny, start_service, tokens, tpview, tmp_path):
    """With an administrator's token alone, nothing goes without it."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", *tokens[2:])
    assert call(service.tcp, "GET", "/v1/artifacts")[0] == 401
    assert call(service.tcp, "GET", "/v1/artifacts", token=RANK)[0] == 401
    done = tpview(*fetch_command(service.tcp, tmp_path / "view"), "--token-file", tokens[3])
    assert done.returncode == 0, done.stderr


def test_nobody_publishes_without_a_token(tiny, start_service, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--publish-root", tmp_path)
    assert call(service.tcp, "POST", "/v1/artifacts", {"artifact": f"qwen3@2={tmp_path}"})[0] == 403
    assert call(service.tcp, "DELETE", "/v1/artifacts/qwen3@1")[0] == 403


# ---- publishing over TCP ---------------------------------------------------------------------------------------------


def test_only_below_a_root(tiny, start_service, tokens, sockets, tmp_path):
    """Whether something is there or not shows only below a root; links and dots lead nowhere else."""
    root, other = tmp_path / "models", tmp_path / "models-of-others"
    for folder in (root, other):
        shutil.copytree(tiny("qwen3"), folder / "m")
    (root / "link").symlink_to(other / "m")
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--unix", sockets / "x.sock", *tokens,
                            "--publish-root", root)

    def publish(where, folder, version: str, token=ADMIN):
        return call(where, "POST", "/v1/artifacts", {"artifact": f"m@{version}={folder}"}, token=token)

    told = set()
    for folder in (other / "m", root / "link", root / ".." / "models-of-others" / "m", "/etc/passwd", "/nowhere", "/",
                   tmp_path, root / "nothing", str(root) + "-of-others/m"):
        answer = publish(service.tcp, folder, "1")
        assert answer[0] == 403
        told.add(error(answer))
    assert len(told) == 1 and "--publish-root" in told.pop()
    assert publish(service.tcp, root / "m", "1")[0] == 200
    assert publish(service.tcp, root / "." / "m" / ".." / "m", "2")[0] == 200
    assert publish(service.unix, other / "m", "3", token=None)[0] == 200


def test_no_root_no_publishing(tiny, start_service, tokens):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", *tokens)
    answer = call(service.tcp, "POST", "/v1/artifacts", {"artifact": f"qwen3@2={tiny('qwen3')}"}, token=ADMIN)
    assert answer[0] == 403 and "--publish-root" in error(answer)


def test_errors_quote_no_file(tiny, start_service, tokens, sockets, tmp_path):
    """Not a byte of it, as text or as a number; the log has the reason, and so has a client of the Unix socket."""
    secret = b"SECRET-1"
    root = tmp_path / "models"
    root.mkdir()
    files = {"plain": secret + b" and more\n" * 10,
             "header": (len(secret) + 20).to_bytes(8, "little") + b'{"' + secret + b'":{"dtype":"SECRET-1"}',
             "short": secret[:3]}
    for name, content in files.items():
        (root / name).write_bytes(content)
    (root / "folder").mkdir()
    (root / "folder" / "config.json").write_bytes(b'{"model_type": "' + secret)
    (root / "folder" / "model.safetensors").write_bytes(files["header"])
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--unix", sockets / "x.sock", *tokens,
                            "--publish-root", root)
    told = set()
    for name in [*files, "folder"]:
        definition = {"artifact": f"m@1={root}/{name}"}
        answer = call(service.tcp, "POST", "/v1/artifacts", definition, token=ADMIN)
        assert answer[0] in (400, 500), answer
        told.add(error(answer))
        assert error(call(service.unix, "POST", "/v1/artifacts", definition)) not in told
    assert len(told) == 1
    assert str(int.from_bytes(secret, "little")) in service.process.said()


# ---- where data is sent ----------------------------------------------------------------------------------------------


def ask(service, index, address: str, port: int, **fields):
    """A fetch with its data to `address`; the answer and how long it took."""
    view = whole_tensor(index, "model.norm.weight")
    begin = time.monotonic()
    answer = call(service.tcp, "POST", "/v1/fetch", fetch_request(index, view, [handle(address, port)], **fields), timeout=LIMIT_S)
    return answer, time.monotonic() - begin


def test_addresses_of_third_hosts(tiny, start_service):
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    index = manifest(service.tcp)
    for address in ("169.254.169.254", "192.0.2.1", "0.0.0.0"):
        answer, _ = ask(service, index, address, 80)
        assert answer[0] == 403 and address in error(answer) and "--allow-net" in error(answer)


def test_allowed_networks(tiny, start_service, tpview, tmp_path):
    """Those that are named, and no others but the rank's own address."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", "--allow-net", "192.0.2.0/24",
                            "--allow-net", "2001:db8::/32")
    index = manifest(service.tcp)
    assert ask(service, index, "127.0.0.2", 9)[0][0] == 403
    done = tpview(*fetch_command(service.tcp, tmp_path / "view"), env={"NCCL_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("network", ["10.0.0.0/33", "everywhere", "", "10.0.0.0/8,"])
def test_networks_that_are_none(tiny, run_tpviewd, network):
    done = run_tpviewd(f"qwen3@1={tiny('qwen3')}", "--allow-net", network)
    assert done.returncode == 2 and "--allow-net" in done.stderr and "10.1.0.0/16" in done.stderr


def test_ports_of_third_hosts_look_alike(tiny, start_service):
    """Closed, open and silent, open and talking: one answer, at one time."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    index = manifest(service.tcp)
    ended = threading.Event()

    def talk(server: socket.socket, banner: bytes) -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(banner)
            connection.close()

    with socket.create_server(("127.0.0.2", 0)) as silent, socket.create_server(("127.0.0.2", 0)) as talking, \
            port_of_nobody("127.0.0.2") as closed:
        ports = [silent.getsockname()[1], talking.getsockname()[1], closed]
        thread = threading.Thread(target=talk, args=(talking, b"SSH-2.0-OpenSSH_9.2p1\r\n" + b"x" * 64), daemon=True)
        thread.start()
        results: dict[int, tuple] = {}
        threads = [threading.Thread(target=lambda port=port: results.update({port: ask(service, index, "127.0.0.2", port)}))
                   for port in ports]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        ended.set()
        talking.shutdown(socket.SHUT_RDWR)
    answers = {result[0] for result in results.values()}
    assert len(results) == 3 and len(answers) == 1, results
    status, body = answers.pop()
    assert status == 502 and b"service's log" in body
    times = [result[1] for result in results.values()]
    assert min(times) >= 10, times


def test_own_address_is_told_at_once(tiny, start_service):
    """A rank that does not listen hears the reason, as it is about itself."""
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    index = manifest(service.tcp)
    with port_of_nobody() as port:
        answer, seconds = ask(service, index, "127.0.0.1", port)
    assert answer[0] == 502 and str(port) in error(answer) and seconds < 9
