"""Views move over net plugins that are not ours: one loaded by its path, and one that harms a message on its way."""

import json

import pytest
from conftest import LIMIT_S
from outcomes import NEVER_S


@pytest.fixture
def plugin(build):
    def get(name: str):
        file = build / name
        if not file.exists():
            pytest.fail(f"{file} is not built: run make tests", pytrace=False)
        return file

    return get


def fetch_command(source, out, *options) -> list:
    return ["fetch", "--source", source, "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 1, "--out", out, "--deadline",
            LIMIT_S - 10, "--chunk", "64K", *options]


@pytest.mark.parametrize("how", ["variable", "option"])
def test_plugin_by_path(tiny, start_service, tpview, check_view, plugin, tmp_path, how):
    """NCCL_NET_PLUGIN on both sides, or the service's --net; a plugin's own handles need the same plugin at both ends."""
    toy = plugin("tests/libtoynet.so")
    env = {"NCCL_NET_PLUGIN": str(toy)}
    if how == "variable":
        service = start_service(f"qwen3@1={tiny('qwen3')}", env=env)
    else:
        service = start_service(f"qwen3@1={tiny('qwen3')}", "--net", toy)
    done = tpview(*fetch_command(service.source, tmp_path / "view"), env=env)
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 2, 1, tmp_path / "view").returncode == 0


def test_different_plugins_at_both_ends(tiny, start_service, tpview, plugin, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}", env={"NCCL_NET_PLUGIN": str(plugin("tests/libtoynet.so"))})
    done = tpview(*fetch_command(service.source, tmp_path / "view", "--deadline", NEVER_S))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "view").exists()


def test_plugin_that_is_not_there(tiny, start_service, tpview, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    done = tpview(*fetch_command(service.source, tmp_path / "view"), env={"NCCL_NET_PLUGIN": "/nowhere/libnet.so"})
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "/nowhere/libnet.so" in done.stderr


@pytest.fixture
def pinning(plugin, tmp_path):
    """pinning(NAME): the environment of a program over a plugin that pins what it registers, and the lines of its log."""

    def make(name: str):
        log = tmp_path / f"{name}.pins"
        env = {"NCCL_NET_PLUGIN": str(plugin("tests/libpinnet.so")), "TEST_REAL_NET": str(plugin("lib/libnccl-net-tpview.so")),
               "TEST_PIN_LOG": str(log)}
        return env, lambda: log.read_text().splitlines()

    return make


@pytest.mark.parametrize("budget", ["1G", "1M"], ids=["held", "staged"])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_plugin_that_pins_memory(tiny, start_service, tpview, check_view, pinning, tmp_path, budget, tp_size):
    """It gets neither the checkpoint's mapping nor a file on a disk, as the kernel has it: chunks go by other memory, at
    both ends. The first fetch finds that out, the others know."""
    env, log = pinning("service")
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--budget", budget, env=env | {"TPVIEW_CHUNK_BYTES": "16K"})
    for where in (["--null"], ["--out", tmp_path / "view"], ["--shared"], ["--out", tmp_path / "again"]):
        done = tpview("fetch", "--source", service.source, "--artifact", "qwen3", "--tp-size", tp_size, "--tp-rank", tp_size - 1,
                      "--deadline", LIMIT_S - 10, "--comms", 4, "--no-fallback", *where, env=pinning("rank")[0])
        assert done.returncode == 0, (where, done.stderr)
        if "--out" in where:
            assert check_view(tiny("qwen3"), tp_size, tp_size - 1, where[1]).returncode == 0
    assert any(line.startswith("refused") for line in log()), "the checkpoint's mapping was never tried"


def test_a_region_is_registered_once_for_a_device(tiny, start_service, tpview, pinning):
    env, log = pinning("service")
    service = start_service(f"qwen3@1={tiny('qwen3')}", env=env)
    for _ in range(2):
        done = tpview("fetch", "--source", service.source, "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 1, "--null",
                      "--comms", 8, "--chunk", "64K", env=env | {"TEST_PIN_LOG": "/dev/null"})
        assert done.returncode == 0, done.stderr
    large = [line for line in log() if int(line.split()[1]) >= 1 << 20]
    assert large and len(large) <= 2 * len(set(large)), large


def start_corrupt(tiny, start_service, plugin, message: str):
    env = {"NCCL_NET_PLUGIN": str(plugin("tests/libcorruptnet.so")),
           "TEST_REAL_NET": str(plugin("lib/libnccl-net-tpview.so")),
           "TEST_CORRUPT_MESSAGE": message}
    return start_service(f"qwen3@1={tiny('qwen3')}", env=env)


@pytest.mark.parametrize("message", ["1", "10", "20"])
@pytest.mark.parametrize("options", [(), ("--chunk", "64M"), ("--comms", 3)])
def test_one_corrupt_message(tiny, start_service, tpview, plugin, check_view, tmp_path, message, options):
    """One bit of one message is flipped on its way: the chunk's digest tells, and that chunk is asked for again."""
    whole = "--chunk" in options
    service = start_corrupt(tiny, start_service, plugin, "1" if whole else message)
    done = tpview(*fetch_command(service.source, tmp_path / "view"), *options, "--json")
    assert done.returncode == 0 and "digest mismatch" in done.stderr
    assert check_view(tiny("qwen3"), 2, 1, tmp_path / "view").returncode == 0
    result = json.loads(done.stdout)
    assert [(share["bytes"], share["attempts"]) for share in result["sources"]] == [(result["needed_bytes"], 2)]
    twice = result["wire_bytes"] - result["needed_bytes"]
    assert 4096 <= twice <= (1.01 * result["needed_bytes"] if whole else 3 * 65536)


@pytest.mark.parametrize("message", ["1+", "10+"])
def test_corrupt_messages(tiny, start_service, tpview, plugin, tmp_path, message):
    """What never comes whole is no output."""
    service = start_corrupt(tiny, start_service, plugin, message)
    done = tpview(*fetch_command(service.source, tmp_path / "view"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "digest" in done.stderr
    assert list(tmp_path.glob("view*")) == []
