"""Views move over net plugins that are not ours: one loaded by its path, and one that harms a message on its way."""

import pytest
from conftest import LIMIT_S


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
    done = tpview(*fetch_command(service.source, tmp_path / "view", "--deadline", 10))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "view").exists()


def test_plugin_that_is_not_there(tiny, start_service, tpview, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    done = tpview(*fetch_command(service.source, tmp_path / "view"), env={"NCCL_NET_PLUGIN": "/nowhere/libnet.so"})
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "/nowhere/libnet.so" in done.stderr


@pytest.mark.parametrize("message", [3, 10, 20])
def test_corrupt_message(tiny, start_service, tpview, plugin, tmp_path, message):
    """One bit of one message is flipped on its way: the chunk's digest tells, and no output file is left."""
    env = {"NCCL_NET_PLUGIN": str(plugin("tests/libcorruptnet.so")),
           "TEST_REAL_NET": str(plugin("lib/libnccl-net-tpview.so")),
           "TEST_CORRUPT_MESSAGE": str(message)}
    service = start_service(f"qwen3@1={tiny('qwen3')}", env=env)
    done = tpview(*fetch_command(service.source, tmp_path / "view"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "digest" in done.stderr
    assert list(tmp_path.glob("view*")) == []
