"""tpview leases --watch: one look after the other, with rates, until a signal."""

import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest
from conftest import LIMIT_S, fetch_command
from outcomes import NEVER_S, wait_for


@pytest.fixture
def slow_fetch(large, start_service, start_tpview, stop_in_mid_fetch, tmp_path):
    """A fetch that has begun and is stopped."""
    service = start_service(f"large@1={large}")
    process = start_tpview(*fetch_command(service.source, tmp_path / "view", artifact="large", tp_size=1, deadline=NEVER_S),
                           "--chunk", "4K")
    stop_in_mid_fetch(process)
    return process


def lines_of(process: subprocess.Popen, count: int) -> list[str]:
    return [process.stdout.readline() for _ in range(count)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_one_block_for_each_look(start_tpview, how):
    watch = start_tpview("leases", "--watch", "0.05")
    header, nothing, blank = lines_of(watch, 3)
    assert header.split()[0] == "lease" and nothing == "(no leases)\n" and blank == "\n"
    assert lines_of(watch, 3) == [header, nothing, blank]
    watch.send_signal(how)
    _, errors = watch.communicate(timeout=LIMIT_S)
    assert watch.returncode == 0 and errors == ""


def test_rate_is_that_between_two_looks(slow_fetch, start_tpview):
    watch = start_tpview("leases", "--watch=0.1", "--json")
    looks = []
    while len(looks) < 5:
        looks += json.loads(watch.stdout.readline())["leases"]
        slow_fetch.send_signal(signal.SIGCONT)
        time.sleep(0.05)  # some bytes move
        slow_fetch.send_signal(signal.SIGSTOP)
        assert slow_fetch.poll() is None, slow_fetch.communicate()
    for before, after in zip(looks, looks[1:]):
        rate = (after["bytes_done"] - before["bytes_done"]) / 1e9 / (after["age_s"] - before["age_s"])
        assert after["gb_per_s"] == pytest.approx(rate, rel=0.01)
    assert any(look["gb_per_s"] > 0 for look in looks[1:])

    def rates() -> list[float]:
        return [look["gb_per_s"] for look in json.loads(watch.stdout.readline())["leases"]]

    # Nothing moves any more: the rate falls to 0 while the mean stays.
    wait_for(lambda: rates() == [0], LIMIT_S, "a rate of 0")


def test_single_look_tells_the_mean(slow_fetch, tpview):
    (lease,) = json.loads(tpview("leases", "--json").stdout)["leases"]
    assert lease["gb_per_s"] == pytest.approx(lease["bytes_done"] / 1e9 / lease["age_s"], rel=0.01)


def test_terminal_is_redrawn(build, environ):
    master, slave = pty.openpty()
    watch = subprocess.Popen([str(build / "bin" / "tpview"), "leases", "--watch", "0.05"], env=environ,
                             stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    try:
        seen = b""
        while seen.count(b"\x1b[H") < 3:
            assert select.select([master], [], [], LIMIT_S)[0], seen
            seen += os.read(master, 65536)
        assert b"(no leases)" in seen and b"\x1b[J" in seen
        assert all(len(line) <= 80 + 8 for line in seen.replace(b"\r\n", b"\n").split(b"\n"))
        watch.send_signal(signal.SIGINT)
        assert watch.wait(LIMIT_S) == 0
    finally:
        watch.kill()
        watch.communicate()
        os.close(master)


def test_reader_that_has_enough(start_tpview):
    watch = start_tpview("leases", "--watch", "0.05")
    watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(LIMIT_S) == 0
    watch.stdout = None


@pytest.mark.parametrize("period", ["0", "-1", "soon", "1x"])
def test_bad_period(tpview, period):
    done = tpview("leases", f"--watch={period}")
    assert done.returncode == 2 and "--watch" in done.stderr
