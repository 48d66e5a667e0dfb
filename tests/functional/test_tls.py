"""TLS on the control API: who is trusted, who is refused and told why, and that nothing of the connections' care is lost."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import threading

import pytest
import tpview as package
from certificates import EXPIRED, NEW_KEY, NOT_YET, Authority, Certificate, openssl
from conftest import LIMIT_S, fetch_command
from control import connect
from models import write_many
from outcomes import NEVER_S, failed, wait_for

HERE = "subjectAltName=IP:127.0.0.1,DNS:localhost"
ABSENT = "/nonexistent/tpview"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An authority of the same name that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def server(authority):
    return authority.issue("server", HERE, "extendedKeyUsage=serverAuth")


@pytest.fixture(scope="module")
def client(authority):
    return authority.issue("client", "extendedKeyUsage=clientAuth")


@pytest.fixture
def start_tls(tiny, start_service, server):
    """start_tls("--option", …): a service with TLS; keyword `certificate`: another than the right one."""
    return lambda *options, certificate=None, **more: start_service(
        f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0", *(certificate or server).server(), *options, **more)


@pytest.fixture
def context(authority):
    return ssl.create_default_context(cafile=str(authority.pem))


def place(service) -> tuple[str, int]:
    host, _, port = service.tcp.removeprefix("https://").rpartition(":")
    return host, int(port)


@pytest.fixture
def ask(context):
    """ask(service, path, certificate): the status and body of an answer, and the connection for more."""
    with contextlib.ExitStack() as opened:
        def get(service, path: str, certificate=None, connection=None):
            if certificate:
                context.load_cert_chain(certificate.pem, certificate.key)
            if connection is None:
                connection = http.client.HTTPSConnection(*place(service), timeout=LIMIT_S, context=context)
                opened.callback(connection.close)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(), connection

        yield get


# ---- what is right ---------------------------------------------------------------------------------------------------


def test_every_command_works_over_it(tiny, start_tls, authority, tpview, check_view, tmp_path):
    tokens = {name: tmp_path / name for name in ("token", "admin")}
    for name, file in tokens.items():
        file.write_text(name)
        file.chmod(0o600)
    service = start_tls("--token-file", tokens["token"], "--admin-token-file", tokens["admin"], "--publish-root",
                        tiny("qwen3").parent)
    assert service.tcp.startswith("https://127.0.0.1:")
    trust = ("--tls-ca", authority.pem, "--token-file", tokens["token"])
    listed = tpview("ls", "--source", service.tcp, *trust)
    assert listed.returncode == 0 and "qwen3@1" in listed.stdout, listed.stderr
    assert tpview(*fetch_command(service.tcp, tmp_path / "view"), *trust).returncode == 0
    assert check_view(tiny("qwen3"), 2, 0, tmp_path / "view").returncode == 0
    administrate = ("--source", service.tcp, "--tls-ca", authority.pem, "--token-file", tokens["admin"])
    assert tpview("publish", *administrate, f"qwen3@2={tiny('qwen3')}").returncode == 0
    assert tpview("retire", *administrate, "qwen3@1").returncode == 0
    assert "qwen3@2" in tpview("ls", *administrate).stdout


def test_a_chain(start_tls, authority, tpview, tmp_path):
    """What is between our certificate and its authority stands behind it in the same file."""
    middle = Authority(tmp_path / "middle", above=authority)
    leaf = middle.issue("leaf", "subjectAltName=DNS:localhost")
    chain = tmp_path / "chain.pem"
    chain.write_text(leaf.pem.read_text() + middle.pem.read_text())
    service = start_tls(certificate=Certificate(chain, leaf.key))
    source = ("--source", f"https://localhost:{place(service)[1]}")
    assert tpview("ls", *source, "--tls-ca", authority.pem).returncode == 0
    service = start_tls(certificate=leaf)
    failed(tpview("ls", "--source", f"https://localhost:{place(service)[1]}", "--tls-ca", authority.pem), "no authority")


def test_a_certificate_that_signs_itself(start_tls, tpview, tmp_path):
    """As docs/control-api.md makes one: it is its own authority."""
    made = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    openssl("req", "-x509", *NEW_KEY, "-keyout", made.key, "-out", made.pem, "-days", 365, "-subj", "/CN=tpviewd", "-addext",
            "subjectAltName=IP:127.0.0.1")
    service = start_tls(certificate=made)
    assert tpview("ls", "--source", service.tcp, "--tls-ca", made.pem).returncode == 0
    failed(tpview("ls", "--source", f"https://localhost:{place(service)[1]}", "--tls-ca", made.pem), "for another host")


def test_perf(start_tls, authority, build, environ):
    service = start_tls()
    command = [str(build / "bin" / "tpview_perf"), "--source", service.tcp, "--artifact", "qwen3", "--tp-size", "2", "-n", "1",
               "-w", "0", "--tls-ca", str(authority.pem)]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr


def test_the_unix_socket_stays_as_it_is(start_tls, client, authority, sockets, tpview):
    service = start_tls("--unix", sockets / "plain.sock", "--tls-client-ca", authority.pem)
    assert tpview("ls", "--source", service.unix).returncode == 0
    failed(tpview("ls", "--source", service.tcp, "--tls-ca", authority.pem), "client certificate")


def test_python(start_tls, authority, client, build, monkeypatch, tmp_path):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))
    service = start_tls("--tls-client-ca", authority.pem)
    with package.connect(service.tcp, tls_ca=authority.pem, tls_cert=client.pem, tls_key=client.key) as source:
        plan = source.plan("qwen3", package.Layout.tp(rank=0, size=2))
        with source.fetch(plan, deadline=LIMIT_S) as job:
            assert job.wait().needed_bytes == plan.bytes
    with pytest.raises(package.PermissionDenied, match="no authority"):
        package.connect(service.tcp)
    with package.connect(service.tcp, tls_ca=authority.pem) as source, \
            pytest.raises(package.PermissionDenied, match="client certificate"):
        source.artifacts()
    with pytest.raises(package.NotFoundError, match=ABSENT):
        package.connect(service.tcp, tls_ca=ABSENT)
    for name, file in (("CA", authority.pem), ("CERT", client.pem), ("KEY", client.key)):
        monkeypatch.setenv(f"TPVIEW_TLS_{name}", str(file))
    with package.connect(service.tcp) as source:
        assert source.artifacts()[0]["name"] == "qwen3"


def test_the_environment_is_for_sources_with_tls(tiny, start_service, authority, build, monkeypatch):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))
    monkeypatch.setenv("TPVIEW_TLS_CA", str(authority.pem))
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    with package.connect(service.source) as source:
        assert source.artifacts()
    with pytest.raises(package.UsageError, match="https://"):
        package.connect(service.source, tls_ca=authority.pem)


# ---- a service that is not to be trusted -----------------------------------------------------------------------------


@pytest.mark.parametrize("extension, period, words", [
    (HERE, EXPIRED, ["expired", "renew"]),
    (HERE, NOT_YET, ["not valid yet", "clocks"]),
    ("subjectAltName=DNS:elsewhere", None, ["for another host", "subjectAltName"]),
    (f"{HERE}\nextendedKeyUsage=clientAuth", None, ["not good", "purpose"]),
], ids=["expired", "not yet", "other host", "client's"])
def test_a_bad_certificate_is_refused(start_tls, authority, tpview, tmp_path, extension, period, words):
    bad = authority.issue(tmp_path.name, extension, **({"period": period} if period else {}))
    service = start_tls(certificate=bad)
    done = tpview(*fetch_command(service.tcp, tmp_path / "view"), "--tls-ca", authority.pem)
    failed(done, service.tcp, *words)
    assert not (tmp_path / "view").exists()


def test_other_authorities_are_not_trusted(start_tls, stranger, tpview):
    """Neither the one of the same name nor those of the system."""
    service = start_tls()
    for trust in ((), ("--tls-ca", stranger.pem)):
        failed(tpview("ls", "--source", service.tcp, *trust), service.tcp, "no authority that is trusted", "--tls-ca")


def test_plain_to_tls_and_tls_to_plain(tiny, start_service, start_tls, authority, tpview):
    service = start_tls()
    failed(tpview("ls", "--source", service.tcp.removeprefix("https://")), "https://")
    plain = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", "127.0.0.1:0")
    failed(tpview("ls", "--source", f"https://{plain.tcp}", "--tls-ca", authority.pem), "does not speak TLS",
           "leave out https://", "--tls-cert")


def test_who_says_nothing_ends_with_the_deadline(authority, tpview):
    """A port that takes connections and never answers the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}"
        failed(tpview("ls", "--source", address, "--tls-ca", authority.pem, "--deadline", 0.5), "deadline", address)


# ---- clients ---------------------------------------------------------------------------------------------------------


def test_clients_need_a_certificate(start_tls, authority, stranger, client, ask, tpview):
    """One that is missing, or good for nothing, opens nothing but /healthz, and the answer says which it is."""
    service = start_tls("--tls-client-ca", authority.pem)
    usage = "extendedKeyUsage=clientAuth"
    wrong = {"a client certificate is needed": None,
             "no authority": stranger.issue("client", usage),
             "expired": authority.issue("old", usage, period=EXPIRED),
             "not valid yet": authority.issue("new", usage, period=NOT_YET),
             "lacks clientAuth": authority.issue("other", "extendedKeyUsage=serverAuth")}
    for words, certificate in wrong.items():
        shown = certificate.client() if certificate else ()
        failed(tpview("ls", "--source", service.tcp, "--tls-ca", authority.pem, *shown), words)
        for path in ("/v1/artifacts", "/v1/artifacts/qwen3/manifest", "/v1/leases", "/metrics", "/nowhere", "/healthz/"):
            status, body, _ = ask(service, path, certificate)
            assert status == 403 and words in body.decode() and b"qwen3" not in body, (path, body)
        assert ask(service, "/healthz", certificate)[:2] == (200, b'{"status":"ok"}')
    listed = tpview("ls", "--source", service.tcp, "--tls-ca", authority.pem, *client.client())
    assert listed.returncode == 0 and "qwen3@1" in listed.stdout
    assert ask(service, "/v1/artifacts", client)[0] == 200


def test_a_certificate_is_not_a_token(start_tls, authority, client, ask, tpview, tiny, tmp_path):
    """With both asked for, both are needed; without a token, a certificate may look and fetch and no more."""
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    mutual = ("--tls-client-ca", authority.pem)
    both = start_tls(*mutual, "--token-file", token)
    shown = ("--tls-ca", authority.pem, *client.client())
    failed(tpview("ls", "--source", both.tcp, *shown), "bearer token")
    failed(tpview("ls", "--source", both.tcp, "--tls-ca", authority.pem, "--token-file", token), "client certificate")
    assert tpview("ls", "--source", both.tcp, *shown, "--token-file", token).returncode == 0
    one = start_tls(*mutual, "--publish-root", tiny("qwen3").parent)
    assert tpview(*fetch_command(one.tcp, tmp_path / "view"), *shown).returncode == 0
    failed(tpview("publish", "--source", one.tcp, *shown, f"qwen3@2={tiny('qwen3')}"), "--admin-token-file")
    failed(tpview("retire", "--source", one.tcp, *shown, "qwen3@1"), "--admin-token-file")


def test_old_versions_are_refused(start_tls, context):
    service = start_tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="closed|EOF"), socket.create_connection(place(service), LIMIT_S) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(place(service), LIMIT_S) as plain:
        assert context.wrap_socket(plain, server_hostname="127.0.0.1").version() == "TLSv1.2"


def test_an_address_that_others_reach_is_guarded_by_client_certificates(run_tpviewd, server, authority):
    absent = f"a@1={ABSENT}"
    failed(run_tpviewd(absent, "--listen", "0.0.0.0:0", *server.server()), "--tls-client-ca")
    failed(run_tpviewd(absent, "--listen", "0.0.0.0:0", *server.server(), "--tls-client-ca", authority.pem), ABSENT)


# ---- files and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    (("--tls-cert", "$cert"), ["--tls-key"]),
    (("--tls-key", "$key"), ["--tls-cert"]),
    (("--tls-client-ca", "$ca"), ["--tls-cert"]),
], ids=["no key", "no certificate", "client authority alone"])
def test_options_that_lack_another(run_tpviewd, server, authority, options, words):
    files = {"$cert": server.pem, "$key": server.key, "$ca": authority.pem}
    done = run_tpviewd(f"a@1={ABSENT}", "--listen", "127.0.0.1:0", *(files.get(word, word) for word in options))
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    assert ABSENT not in done.stderr
    done = run_tpviewd(f"a@1={ABSENT}", *server.server())
    assert done.returncode == 2 and "--listen" in done.stderr, done.stderr


@pytest.fixture
def bad_files(authority, server, tmp_path):
    """name: (certificate, key, what is said), each wrong in one way."""
    other = authority.issue("pair")
    texts = {"empty": "", "text": "hello\n", "cut": server.pem.read_text()[:300] + "\n-----END CERTIFICATE-----\n"}
    files = {name: tmp_path / name for name in (*texts, "encrypted", "open")}
    for name, text in texts.items():
        files[name].write_text(text)
    openssl("pkey", "-in", server.key, "-aes256", "-passout", "pass:secret", "-out", files["encrypted"])
    files["open"].write_bytes(server.key.read_bytes())
    for file in files.values():
        if file.exists():
            file.chmod(0o600)
    files["open"].chmod(0o640)
    return {"absent certificate": (ABSENT, server.key, [ABSENT, "No such file"]),
            "absent key": (server.pem, ABSENT, [ABSENT, "No such file"]),
            "empty certificate": (files["empty"], server.key, ["empty", "BEGIN CERTIFICATE"]),
            "empty key": (server.pem, files["empty"], ["empty", "BEGIN PRIVATE KEY"]),
            "text": (files["text"], server.key, ["text", "BEGIN CERTIFICATE"]),
            "cut certificate": (files["cut"], server.key, ["cut", "certificate 1 cannot be read"]),
            "key for certificate": (server.key, server.key, ["BEGIN CERTIFICATE"]),
            "key with a pass phrase": (server.pem, files["encrypted"], ["pass phrase"]),
            "key of another": (server.pem, other.key, ["not the key"]),
            "key that others can read": (server.pem, files["open"], ["chmod 600"]),
            "folder": (tmp_path, server.key, [str(tmp_path)])}


def test_bad_files_are_told_before_anything_is_opened(bad_files, run_tpviewd, tpview):
    for certificate, key, words in bad_files.values():
        failed(run_tpviewd(f"a@1={ABSENT}/model", "--listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key), *words)
        failed(tpview("ls", "--source", "https://127.0.0.1:9", "--tls-cert", certificate, "--tls-key", key), *words)


def test_an_expired_certificate_is_warned_of(start_tls, authority):
    service = start_tls(certificate=authority.issue("past", HERE, period=EXPIRED))
    assert "past.pem: the certificate has expired" in service.process.said()


@pytest.mark.parametrize("arguments", [
    ("--source", "127.0.0.1:9", "--tls-ca", ABSENT),
    ("--source", "unix:/x", "--tls-cert", ABSENT, "--tls-key", ABSENT),
    ("--source", "127.0.0.1:9", "--tls-key", ABSENT),
    ("--source", "https://127.0.0.1:9", "--tls-cert", ABSENT),
    ("--source", "https://127.0.0.1:9", "--tls-key", ABSENT),
    ("--source", "https://127.0.0.1"),
    ("--source", "https://127.0.0.1:9/path"),
    ("--source", "https://user@127.0.0.1:9"),
    ("--source", "HTTPS://127.0.0.1:9"),
], ids=" ".join)
def test_wrong_command_lines(tpview, arguments):
    done = tpview("ls", *arguments)
    assert done.returncode == 2 and "see tpview ls --help" in done.stderr, done.stderr
    assert "https://" in done.stderr or "given together" in done.stderr, done.stderr
    assert "cannot open" not in done.stderr


# ---- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_is_kept(start_tls, ask):
    """One handshake for many requests."""
    service = start_tls()
    _, _, connection = ask(service, "/healthz")
    local = connection.sock.getsockname()
    for path in 20 * ("/healthz", "/v1/artifacts", "/v1/artifacts/qwen3/manifest", "/nowhere"):
        assert ask(service, path, connection=connection)[0] in (200, 404)
    assert connection.sock.getsockname() == local


def test_long_requests_and_answers(start_service, server, authority, ask, tpview, tmp_path):
    folder = write_many(tmp_path / "many")
    service = start_service(f"many@1={folder}", "--listen", "127.0.0.1:0", *server.server())
    status, manifest, _ = ask(service, "/v1/artifacts/many/manifest")
    assert status == 200 and len(json.loads(manifest)["tensors"]) == 20000
    (tmp_path / "plan").write_text(json.dumps({"format": "tpview-plan-1", "tp_plan": {"*": "replicate"}}))
    done = tpview(*fetch_command(service.tcp, tmp_path / "view", artifact="many", tp_size=1), "--tls-ca", authority.pem,
                  "--plan", tmp_path / "plan")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00", b"GET"], ids=["nothing", "half a hello", "no TLS"])
def test_a_handshake_that_does_not_end_is_closed(start_tls, said):
    service = start_tls("--idle-timeout", 0.5)
    with connect(service.tcp.removeprefix("https://")) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(said)
            while connection.recv(4096):  # an alert may come first
                pass


def test_handshakes_that_do_not_end_keep_nobody_out(start_tls, ask):
    service = start_tls("--idle-timeout", NEVER_S)
    with contextlib.ExitStack() as slow:
        for _ in range(500):
            slow.enter_context(connect(service.tcp.removeprefix("https://"))).sendall(b"\x16\x03\x01\x02\x00")
        assert ask(service, "/healthz")[0] == 200


def test_connections_that_idle_are_closed(start_tls, context):
    service = start_tls("--idle-timeout", 8)
    with socket.create_connection(place(service), LIMIT_S) as plain:
        connection = context.wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
            while connection.recv(4096):
                pass


@pytest.fixture
def start_fetch(authority, start_tpview, stop_in_mid_fetch):
    """start_fetch(service, out): a running fetch over TLS of which some bytes have moved."""
    def start(service, out):
        process = start_tpview(*fetch_command(service.tcp, out, artifact="large", tp_size=1, deadline=NEVER_S), "--chunk",
                               "64K", "--tls-ca", authority.pem)
        stop_in_mid_fetch(process)
        process.send_signal(signal.SIGCONT)
        return process

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_dies_holds_no_lease(large, start_service, server, start_fetch, leases, tmp_path, number):
    service = start_service(f"large@1={large}", "--listen", "127.0.0.1:0", *server.server())
    start_fetch(service, tmp_path / "view").send_signal(number)
    wait_for(lambda: not leases(), LIMIT_S, "the end of the lease")


def test_a_service_that_dies_is_told(large, start_service, server, start_fetch, tmp_path):
    service = start_service(f"large@1={large}", "--listen", "127.0.0.1:0", *server.server())
    process = start_fetch(service, tmp_path / "view")
    service.process.process.kill()
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1 and service.tcp in errors, errors


def test_many_at_once(start_tls, authority, tpview, tmp_path):
    service = start_tls()
    results: list = []

    def fetch(i: int) -> None:
        results.append(tpview(*fetch_command(service.tcp, tmp_path / str(i), tp_rank=i % 2), "--tls-ca", authority.pem))

    threads = [threading.Thread(target=fetch, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.returncode for done in results] == 16 * [0], [done.stderr for done in results]
