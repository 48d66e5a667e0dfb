"""Fixtures that start the built programs. TEST_BUILD names the build folder (default: build). Every test has a lease
table and a digest cache of its own, every program that it starts has a time limit, and none outlives it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(Path(__file__).resolve().parent), str(ROOT / "python")]

import service as programs  # noqa: E402
from checkpoints.models import MODELS, with_layers  # noqa: E402
from checkpoints.tensors import tensors_of  # noqa: E402
from checkpoints.writer import write_checkpoint  # noqa: E402
from models import write_tiny  # noqa: E402
from outcomes import LIMIT_S, wait_for  # noqa: E402
from rank import Control, Rank  # noqa: E402

# Under nohup or in the background of a script these are ignored, and would be in every program that is started here.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)  # ignored by us, but not by who comes out of an exec

# Settings of whoever runs the tests are none of theirs.
for _name in [name for name in os.environ if name.startswith(("TPVIEW_", "NCCL_"))]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def build() -> Path:
    folder = Path(os.environ.get("TEST_BUILD", ROOT / "build")).resolve()
    if not (folder / "bin" / "tpview").exists():
        pytest.fail(f"{folder}/bin/tpview is not built: run make tests", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[..., Path]:
    """tiny(kind, **changes): the folder of a tiny checkpoint, made once. Nobody may change it."""
    made: dict = {}

    def get(kind: str, **changes) -> Path:
        key = (kind, json.dumps(changes, sort_keys=True))
        if key not in made:
            made[key] = write_tiny(kind, tmp_path_factory.mktemp("checkpoints") / kind, **changes)
        return made[key]

    return get


@pytest.fixture
def environ(build, tmp_path, sockets) -> Iterator[dict[str, str]]:
    namespace = f"test-{os.getpid()}-{abs(hash(tmp_path)) % 10**6}"
    yield programs.environment(build, namespace, TPVIEW_CACHE_DIR=str(tmp_path / "cache"),
                               XDG_RUNTIME_DIR=str(sockets))
    programs.remove_lease_table(namespace)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has 108 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tpv-") as folder:
        yield Path(folder)


@dataclass
class Running:
    """A service and the way to it."""

    process: programs.Service
    unix: str | None
    tcp: str | None

    @property
    def source(self) -> str:
        return self.unix or self.tcp


@pytest.fixture
def start_service(build, environ, sockets) -> Iterator[Callable[..., Running]]:
    """start_service("NAME@VERSION=DIR", …, "--option", …): tpviewd on a Unix socket unless --listen is among the
    arguments, ready to serve. Keyword `env` adds variables, `prefix` a command in front."""
    running: list[programs.Service] = []

    def start(*arguments, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> Running:
        arguments = [str(argument) for argument in arguments]
        if "--listen" not in arguments and "--unix" not in arguments:
            arguments += ["--unix", str(sockets / f"{len(running)}.sock")]
        process = programs.Service(build, arguments, {**environ, **(env or {})}, prefix=prefix, ready_timeout=LIMIT_S)
        running.append(process)
        words = [word.strip(",;()") for word in process.ready.removeprefix(programs.READY).split()]
        unix = next((word for word in words if word.startswith("unix:")), None)
        tcp = next((word for word in words if not word.startswith("unix:") and word.rpartition(":")[2].isdecimal()), None)
        return Running(process, unix, tcp)

    yield start
    for process in running:
        process.kill()


@pytest.fixture
def run_tpviewd(build, environ) -> Callable[..., subprocess.CompletedProcess]:
    """run_tpviewd(argument, …): a service that must end by itself, because of its arguments."""

    def run(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([str(build / "bin" / "tpviewd"), *map(str, arguments)], env=environ, capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, timeout=LIMIT_S)

    return run


@pytest.fixture
def tpview(build, environ) -> Callable[..., subprocess.CompletedProcess]:
    """tpview(argument, …): run the tool to its end. Keyword `env` adds variables, `prefix` a command in front."""

    def run(*arguments, env: dict[str, str] | None = None, prefix: tuple[str, ...] = (),
            limit: float = LIMIT_S) -> subprocess.CompletedProcess:
        command = [*prefix, str(build / "bin" / "tpview"), *map(str, arguments)]
        return subprocess.run(command, env={**environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=limit)

    return run


@pytest.fixture
def start_tpview(build, environ) -> Iterator[Callable[..., subprocess.Popen]]:
    """As tpview, but returns the running process; its standard input is open with keyword `stdin=subprocess.PIPE`."""
    running: list[subprocess.Popen] = []

    def start(*arguments, env: dict[str, str] | None = None, stdin=subprocess.DEVNULL) -> subprocess.Popen:
        process = subprocess.Popen([str(build / "bin" / "tpview"), *map(str, arguments)], env={**environ, **(env or {})},
                                   stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def leases(build, environ) -> Callable[[], list[dict]]:
    return lambda: programs.leases(build, environ)


@pytest.fixture
def check_view() -> Callable[..., subprocess.CompletedProcess]:
    """check_view(checkpoint, tp_size, tp_rank, file, "--fuse"): the independent comparison."""

    def run(checkpoint, tp_size: int, tp_rank: int, file, *options) -> subprocess.CompletedProcess:
        command = [str(ROOT / "scripts" / "check-view"), "--checkpoint", str(checkpoint), "--tp-size", str(tp_size),
                   "--tp-rank", str(tp_rank), *options, str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)

    return run


def fetch_command(source, out, *, artifact="qwen3", tp_size=2, tp_rank=0, deadline=LIMIT_S - 10) -> list:
    return ["fetch", "--source", source, "--artifact", artifact, "--tp-size", tp_size, "--tp-rank", tp_rank, "--out", out,
            "--deadline", deadline]


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """650 MB that cost no disk: long enough on the wire to be interrupted."""
    config = with_layers(MODELS["qwen3-0.6b"].config, 1)
    folder = tmp_path_factory.mktemp("large") / "model"
    write_checkpoint(folder, config, tensors_of(config, stores_lm_head=True), sparse=True)
    return folder


@pytest.fixture
def stop_in_mid_fetch(leases) -> Callable[..., None]:
    """stop_in_mid_fetch(process, share): run a fetch in steps until more than this share of its bytes has moved, and not all,
    however fast the machine is, and leave it stopped: SIGCONT or a signal that ends it is next."""

    def run(process: subprocess.Popen, share: float = 0, step_s: float = 0.05) -> None:
        def moving():
            process.send_signal(signal.SIGCONT)
            time.sleep(step_s)
            process.send_signal(signal.SIGSTOP)
            assert process.poll() is None, process.communicate()
            return any(share * lease["bytes_total"] < lease["bytes_done"] < lease["bytes_total"] for lease in leases())

        wait_for(moving, LIMIT_S, "the middle of the fetch")

    return run


@pytest.fixture
def in_mid_fetch(start_tpview, stop_in_mid_fetch):
    """in_mid_fetch(source, out, deadline): a running fetch in small chunks of which some bytes have moved."""

    def start(source, out, deadline: float) -> subprocess.Popen:
        process = start_tpview(*fetch_command(source, out, artifact="large", tp_size=1, deadline=deadline), "--chunk", "64K")
        stop_in_mid_fetch(process)
        process.send_signal(signal.SIGCONT)
        return process

    return start


@pytest.fixture
def start_toy_service(start_service, build):
    """As start_service, over the test plugin "Toy" and with chunks as short as those of ranks under the test's hand."""
    plugin = build / "tests" / "libtoynet.so"
    return lambda *arguments, **more: start_service(*arguments, "--net", plugin, **{"env": {"TPVIEW_CHUNK_BYTES": "64K"}, **more})


@pytest.fixture
def control() -> Iterator[Callable[..., Control]]:
    """control(service): a connection to its control API."""
    made: list[Control] = []

    def connect(service: Running | str) -> Control:
        made.append(Control(service if isinstance(service, str) else service.source))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture
def start_rank(tpview, control) -> Iterator[Callable[..., Rank]]:
    """start_rank(service, artifact, tp_size, tp_rank, …): rank.Rank that has asked for its view, or for the spec `view`;
    keyword `on`: over that connection, else one of its own. The service is one of start_toy_service."""
    made: list[Rank] = []

    def start(service: Running, artifact="qwen3", tp_size=1, tp_rank=0, *, on: Control | None = None,
              view: dict | None = None, **more) -> Rank:
        if view is None:
            planned = tpview("plan", "--source", service.source, "--artifact", artifact, "--tp-size", tp_size, "--tp-rank",
                             tp_rank, "--json")
            assert planned.returncode == 0, planned.stderr
            view = json.loads(planned.stdout)["view"]
        listed = (on or control(service)).call("GET", f"/v1/artifacts/{artifact}/manifest")[1]
        made.append(Rank(on or control(service), listed["artifact_id"], view, **more))
        return made[-1]

    yield start
    for rank in made:
        rank.close()
