"""Containers that share /dev/shm and not their pids, as the containers of a pod do: a lease table outlives them."""

import os
import signal
import subprocess

import pytest
from conftest import LIMIT_S, fetch_command

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")


@pytest.fixture(autouse=True)
def containers():
    try:
        subprocess.run([*CONTAINER, "true"], check=True, capture_output=True, timeout=LIMIT_S)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no pid namespace can be made here: {getattr(error, 'stderr', error)}")


def end(container, how) -> None:
    """End it with everything in it; its first process is the one child of unshare."""
    pid = int(open(f"/proc/{container.process.process.pid}/task/{container.process.process.pid}/children").read())
    os.kill(pid, how)
    container.process.process.wait(LIMIT_S)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_container_finds_its_predecessors_table(tiny, start_service, tpview, sockets, tmp_path, how):
    offer = f"qwen3@1={tiny('qwen3')}"
    for _ in range(3):
        service = start_service(offer, prefix=CONTAINER)
        done = tpview(*fetch_command(service.source, tmp_path / "view"), "--shared", prefix=CONTAINER)
        # Not in the service's container: it would use another's table.
        assert done.returncode == 1 and "TPVIEW_NAMESPACE" in done.stderr
        assert "pid namespace" in done.stderr
        end(service, how)
    service = start_service(offer)  # and the host itself
    done = tpview(*fetch_command(service.source, tmp_path / "view"), "--shared")
    assert done.returncode == 0, done.stderr


def test_views_of_an_ended_container_are_given_back(tiny, start_service, tpview, environ, tmp_path):
    service = start_service(f"qwen3@1={tiny('qwen3')}", env={"TPVIEW_NAMESPACE": environ["TPVIEW_NAMESPACE"] + "-s"})
    fetch = fetch_command(service.source, tmp_path / "view")

    def left() -> set[str]:
        return {name for name in os.listdir("/dev/shm") if name.startswith(f"tpview-{environ['TPVIEW_NAMESPACE']}-{os.geteuid()}.")}

    done = tpview(*fetch, "--shared", prefix=CONTAINER)
    assert done.returncode == 0, done.stderr
    first = left()
    assert len(first) == 1
    done = tpview("doctor")
    assert done.returncode == 1 and "--repair" in done.stdout
    assert left() == first
    done = tpview("doctor", "--repair")
    assert done.returncode == 0 and "replaced" in done.stdout
    assert left() == set()
    done = tpview(*fetch, "--shared", prefix=CONTAINER)
    assert done.returncode == 0, done.stderr
    assert len(left()) == 1
    assert tpview("leases").returncode == 0
