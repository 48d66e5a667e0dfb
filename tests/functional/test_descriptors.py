"""The soft limit of descriptors is no limit to how many shards, versions and comms there may be: the hard one is."""

import pytest
from conftest import fetch_command
from outcomes import failed
from models import write_tiny

SOFT = 40  # stands for the 1024 that shells give
LIMITED = ("prlimit", f"--nofile={SOFT}:4096")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A checkpoint in more files than the soft limit lets a process open."""
    folder = write_tiny("qwen3", tmp_path_factory.mktemp("shards") / "model", shard_bytes=1, num_hidden_layers=6)
    assert len(list(folder.glob("*.safetensors"))) > SOFT
    return folder


def test_more_shards_than_the_soft_limit(shards, start_service, tpview, check_view, tmp_path):
    service = start_service(f"qwen3@1={shards}", prefix=LIMITED)
    limits = open(f"/proc/{service.process.process.pid}/limits").read()
    assert next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5] == ["4096", "4096"]
    assert tpview("publish", "--source", service.source, f"qwen3@2={shards}").returncode == 0
    done = tpview(*fetch_command(service.source, tmp_path / "view"), "--comms", 16, prefix=LIMITED)
    assert done.returncode == 0, done.stderr
    assert check_view(shards, 2, 0, tmp_path / "view").returncode == 0
    for command in (("plan",), ("verify", tmp_path / "view")):
        done = tpview(*command, "--checkpoint", shards, "--tp-size", 2, "--tp-rank", 0, prefix=LIMITED)
        assert done.returncode == 0, done.stderr


def test_too_few_for_the_comms(start_service, tiny, tpview, tmp_path):
    """The plugin waits for descriptors; the fetch does not do so to its deadline. What it takes to listen with all comms
    depends on the machine's interfaces: with the first limit that is enough for that, they cannot be accepted."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    command = (*fetch_command(service.source, tmp_path / "view"), "--comms", 16)
    for limit in range(16, 4096):
        done = tpview(*command, prefix=("prlimit", f"--nofile={limit}:{limit}"))
        if "Too many open files" not in done.stderr:
            break
        failed(done)
    failed(done, "file descriptors", f"limit of {limit}", "fewer comms than 16")
