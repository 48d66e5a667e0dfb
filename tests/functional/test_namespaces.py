"""Service and rank on two hosts: network namespaces with a virtual cable between them, IPv4 and IPv6."""

import os
import subprocess

import pytest
from conftest import LIMIT_S
from outcomes import failed, wait_for

# Each host's first interface, which leads nowhere: a cable between two ends of its own.
ASIDE = ("10.211.8.1", "10.211.9.1")
ADDRESSES = {"IPv4": ("10.211.7.1", "10.211.7.2", 24), "IPv6": ("fd5a:7::1", "fd5a:7::2", 64)}
TOKEN = "a-token-of-this-test"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout


def wait_for_carrier(name: str) -> None:
    """The kernel tells an interface's carrier up to a second after both ends are up."""
    wait_for(lambda: "LOWER_UP" in (shown := ip("-n", name, "link", "show", "veth0")) and "NO-CARRIER" not in shown, LIMIT_S,
             f"the carrier of {name}")


@pytest.fixture
def hosts():
    """The names of two network namespaces, connected by veth0 in each."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    names = [f"tpview-{os.getpid()}-{side}" for side in ("source", "rank")]
    made: list[str] = []
    try:
        for name in names:
            try:
                ip("netns", "add", name)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', error)}")
            made.append(name)
        for name, address in zip(names, ASIDE):
            ip("-n", name, "link", "add", "aside0", "type", "veth", "peer", "name", "aside1")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "aside0")
            ip("-n", name, "link", "set", "aside0", "up")
            ip("-n", name, "link", "set", "aside1", "up")
        ip("-n", names[0], "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for index, name in enumerate(names):
            for addresses in ADDRESSES.values():
                # Without duplicate detection, an IPv6 address can be used at once.
                nodad = ("nodad",) if ":" in addresses[0] else ()
                ip("-n", name, "address", "add", f"{addresses[index]}/{addresses[2]}", "dev", "veth0", *nodad)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "veth0", "up")
        for name in names:
            wait_for_carrier(name)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=LIMIT_S)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_fetch_from_another_host(hosts, tiny, start_service, tpview, check_view, tmp_path, family):
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    source, _, _ = ADDRESSES[family]
    listen = f"[{source}]:0" if family == "IPv6" else f"{source}:0"
    env = {"NCCL_SOCKET_IFNAME": "veth0", "NCCL_SOCKET_FAMILY": "AF_INET6" if family == "IPv6" else "AF_INET"}
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", listen, "--token-file", tmp_path / "token", env=env,
                            prefix=("ip", "netns", "exec", hosts[0]))
    done = tpview("fetch", "--source", service.tcp, "--artifact", "qwen3", "--tp-size", 4, "--tp-rank", 3, "--out",
                  tmp_path / "view", "--token-file", tmp_path / "token", "--deadline", LIMIT_S - 10, "--comms", 2, env=env,
                  prefix=("ip", "netns", "exec", hosts[1]))
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 4, 3, tmp_path / "view").returncode == 0


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_interface_that_reaches_the_source_carries_the_data(hosts, tiny, start_service, tpview, check_view, tmp_path,
                                                                family):
    """Both hosts have another interface first. The user's own choice counts more."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    source, rank, _ = ADDRESSES[family]
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", f"[{source}]:0" if family == "IPv6" else f"{source}:0",
                            "--token-file", tmp_path / "token", env={"TPVIEW_DEBUG": "INFO"},
                            prefix=("ip", "netns", "exec", hosts[0]))

    def fetch(**env):
        return tpview("fetch", "--source", service.tcp, "--artifact", "qwen3", "--tp-size", 4, "--tp-rank", 3, "--out",
                      tmp_path / "view", "--token-file", tmp_path / "token", "--deadline", LIMIT_S - 10, "--comms", 2, env=env,
                      prefix=("ip", "netns", "exec", hosts[1]))

    done = fetch(NCCL_SOCKET_IFNAME="aside0")
    failed(done, ASIDE[1], rank, "NCCL_SOCKET_IFNAME")
    wait_for(lambda: "aside0" in service.process.said(), LIMIT_S, "the log line of what failed")
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 4, 3, tmp_path / "view").returncode == 0
    wait_for(lambda: "device veth0" in service.process.said(), LIMIT_S, "the log line of the device")


def test_cable_is_pulled_before_the_fetch(hosts, tiny, start_service, tpview, tmp_path):
    """Packets vanish without an answer: the deadline ends the wait, long before the kernel gives up."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    service = start_service(f"qwen3@1={tiny('qwen3')}", "--listen", f"{ADDRESSES['IPv4'][0]}:0", "--token-file",
                            tmp_path / "token", prefix=("ip", "netns", "exec", hosts[0]))
    ip("-n", hosts[0], "link", "set", "veth0", "down")
    done = tpview("fetch", "--source", service.tcp, "--artifact", "qwen3", "--tp-size", 4, "--tp-rank", 3, "--out",
                  tmp_path / "view", "--token-file", tmp_path / "token", "--deadline", 3, limit=60,
                  prefix=("ip", "netns", "exec", hosts[1]))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.glob("view*")) == []
