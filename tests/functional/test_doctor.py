"""tpview doctor: tells what is wrong with the host's life-cycle table, and puts it right on request only."""

import json
import mmap
import os
import signal
import struct
from pathlib import Path

import pytest
from outcomes import LIMIT_S, wait_for

EXPORT_ACTIVE_ONE = 1 << 32  # src/lifecycle/words.h


@pytest.fixture
def doctor(tpview):
    """doctor("--repair", …): (exit code, report)."""

    def run(*options) -> tuple[int, dict]:
        done = tpview("doctor", "--json", *options)
        assert done.stderr == "" and done.returncode in (0, 1)
        report = json.loads(done.stdout)
        assert report["healthy"] == (done.returncode == 0) == (report["findings"] == [])
        return done.returncode, report

    return run


@pytest.fixture
def table(environ) -> Path:
    return Path(f"/dev/shm/tpview-{environ['TPVIEW_NAMESPACE']}-{os.geteuid()}")


def kinds(report) -> list[str]:
    return [finding["kind"] for finding in report["findings"]]


def test_without_a_table(doctor, table):
    for options in ((), ("--repair",)):
        code, report = doctor(*options)
        assert code == 0 and report["table"] is None
    assert not table.exists()


def test_what_the_system_gives(doctor):
    import resource

    host = doctor()[1]["host"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert host["open_files"] == {"soft": soft, "hard": hard}
    system = os.statvfs("/dev/shm")
    assert host["shared_memory"]["bytes"] == system.f_blocks * system.f_frsize
    assert 0 < host["shared_memory"]["free_bytes"] <= host["shared_memory"]["bytes"]
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    assert not huge.exists() or f"[{host['hugepages']['transparent']}]" in huge.read_text()
    assert host["memory"]["bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_service_at_work(tiny, start_service, tpview, doctor, table):
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    assert tpview("fetch", "--source", service.source, "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 0,
                  "--null").returncode == 0
    wait_for(lambda: doctor()[1]["table"]["counters"]["leases_ended"] == 1, LIMIT_S, "the end of the lease")
    code, report = doctor()
    assert code == 0
    assert report["table"]["path"] == str(table)
    assert all(holder["alive"] for holder in report["table"]["processes"])
    text = tpview("doctor")
    assert text.returncode == 0 and "nothing is wrong" in text.stdout and str(table) in text.stdout


def test_killed_service(large, start_service, in_mid_fetch, doctor, tmp_path):
    service = start_service(f"large@1={large}")
    rank = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    pid = service.process.process.pid
    service.process.process.send_signal(signal.SIGKILL)
    service.process.process.wait()
    rank.communicate(timeout=LIMIT_S)
    for _ in range(2):  # looking alone changes nothing
        code, report = doctor()
        assert code == 1 and kinds(report) == ["dead_process"]
        assert str(pid) in report["findings"][0]["text"]
        assert report["table"]["leases"]["attached"] == 1
    code, report = doctor("--repair")
    assert code == 0 and report["repaired"] == []
    assert report["swept"]["leases_orphaned"] == 1 and report["swept"]["exports_freed"] == 1
    assert not any(report["table"]["exports"].values()) and not any(report["table"]["leases"].values())
    assert doctor()[0] == 0


def first_export_with(table: Path, word_of) -> None:
    """Overwrite the state word of the first export slot that is in use."""
    with open(table, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        # A header, an arbiter word for each slot, export slots, lease slots (src/lifecycle/layout.h).
        header, exports, export_bytes, leases, lease_bytes = struct.unpack_from("<5I", memory, 80)
        arbiters = sum((8 * slots + 63) // 64 * 64 for slots in (exports, leases))
        assert len(memory) == header + arbiters + exports * export_bytes + leases * lease_bytes
        for at in range(header + arbiters, header + arbiters + exports * export_bytes, export_bytes):
            (word,) = struct.unpack_from("<Q", memory, at)
            if word & 7:
                struct.pack_into("<Q", memory, at, word_of(word))
                return
    raise AssertionError("no export slot is in use")


@pytest.mark.parametrize("damage, says", [(lambda word: word + EXPORT_ACTIVE_ONE, "counts 1 leases and has 0"),
                                          (lambda word: word | 7, "state that does not exist")],
                         ids=["a lease too many", "no such state"])
def test_broken_invariant(large, start_service, in_mid_fetch, tpview, doctor, table, tmp_path, damage, says):
    """A dead service's table, so that nobody puts it right meanwhile."""
    service = start_service(f"large@1={large}")
    rank = in_mid_fetch(service.source, tmp_path / "view", deadline=LIMIT_S)
    rank.kill()
    rank.wait()
    wait_for(lambda: not any(doctor()[1]["table"]["leases"].values()), LIMIT_S, "the end of the lease")
    service.process.process.send_signal(signal.SIGKILL)
    service.process.process.wait()
    first_export_with(table, damage)
    code, report = doctor()
    assert code == 1 and "invariant" in kinds(report)
    assert any(says in finding["text"] for finding in report["findings"])
    assert says in tpview("doctor").stdout
    code, report = doctor("--repair")
    assert code == 0 and [finding["kind"] for finding in report["repaired"]] == ["invariant"]
    assert doctor()[0] == 0


def test_file_that_is_no_table(tpview, doctor, table):
    table.write_bytes(bytes(10000))
    table.chmod(0o600)
    code, report = doctor("--repair")
    assert code == 1 and kinds(report) == ["table"] and str(table) in report["findings"][0]["text"]
    table.chmod(0o644)
    assert "mode 0644" in tpview("doctor").stdout
