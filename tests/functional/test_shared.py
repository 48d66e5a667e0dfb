"""Ranks of one host that ask for the same view share one fetch, whoever of them dies, and find it again for its time."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from conftest import LIMIT_S
from outcomes import NEVER_S, failed, wait_for
from rank import Control


def command(service, *options, artifact="qwen3", tp_size=2, tp_rank=0, deadline=LIMIT_S - 10) -> list:
    return ["fetch", "--source", service.source, "--artifact", artifact, "--tp-size", tp_size, "--tp-rank", tp_rank,
            "--shared", "--json", "--deadline", deadline, *options]


def slow(service, *options, deadline=LIMIT_S - 10) -> list:
    """A fetch that is long enough to be met in its middle."""
    return command(service, "--chunk", "64K", *options, artifact="large", tp_size=1, deadline=deadline)


@pytest.fixture
def serve(start_service, tiny):
    """serve("NAME@VERSION=DIR", …)"""
    return lambda *artifacts: start_service(*(artifacts or (f"qwen3@7={tiny('qwen3')}",)))


def started(service) -> int:
    """How many fetches the service has begun."""
    with closing(Control(service.source)) as connection:
        return int(connection.metric("fetches_started_total"))


@pytest.fixture
def share(tpview):
    """share(service, option, …): the JSON result of a shared fetch that must succeed."""

    def run(service, *options, **keywords) -> dict:
        done = tpview(*command(service, *options, **keywords))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def files(environ):
    """files(): the shared views of this test's table in shared memory."""
    return lambda: sorted(Path("/dev/shm").glob(f"tpview-{environ['TPVIEW_NAMESPACE']}-{os.geteuid()}.*"))


@pytest.fixture
def holding(start_tpview):
    """holding(service, option, …): a process that holds a view, and its result."""

    def start(service, *options, **keywords) -> tuple[subprocess.Popen, dict]:
        process = start_tpview(*command(service, "--hold", *options, **keywords), stdin=subprocess.PIPE)
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        return process, json.loads("".join(lines))

    return start


@pytest.fixture
def fetching(start_tpview, stop_in_mid_fetch):
    """fetching(service, option, …): a process in the middle of its fetch: some bytes have moved, and it is stopped; go_on() or
    a signal that ends it is next."""

    def start(service, *options, **keywords) -> subprocess.Popen:
        process = start_tpview(*slow(service, *options, **keywords))
        stop_in_mid_fetch(process)
        return process

    return start


@pytest.fixture
def waiting(start_tpview, tpview):
    """waiting(service, option, …): a process that waits for another's fetch, as the table counts it."""

    def waits() -> int:
        return json.loads(tpview("doctor", "--json").stdout)["table"]["counters"]["exports_coalesced"]

    def start(service, *options, **keywords) -> subprocess.Popen:
        before = waits()
        process = start_tpview(*slow(service, *options, **keywords))

        def is_counted():
            assert process.poll() is None, process.communicate()
            return waits() > before

        wait_for(is_counted, LIMIT_S, "the wait")
        return process

    return start


def finished(process: subprocess.Popen) -> subprocess.CompletedProcess:
    output, errors = process.communicate(timeout=LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def go_on(process: subprocess.Popen) -> subprocess.Popen:
    process.send_signal(signal.SIGCONT)
    return process


def no_lease_is_left(leases) -> None:
    """The source ends its own a moment after the rank's command has ended."""
    wait_for(lambda: leases() == [], LIMIT_S, "the end of the leases")


def result(process: subprocess.Popen) -> dict:
    done = finished(process)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- sharing ---------------------------------------------------------------------------------------------------------


def test_equal_requests_at_the_same_time_are_one_fetch(serve, share, tiny, check_view, files, leases, tmp_path):
    service = serve()
    outs = [tmp_path / f"{index}.safetensors" for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda out: share(service, "--out", out), outs))
    assert started(service) == 1
    assert [entry["export"] for entry in results].count("cold") == 1
    assert [entry["fetched"] for entry in results].count(True) == 1
    assert len({entry["path"] for entry in results}) == 1 and len({entry["lease_id"] for entry in results}) == 8
    assert all(entry["shared"] and entry["digests_checked"] and entry["artifact"] == "qwen3@7" for entry in results)
    assert sum(entry["wire_bytes"] > 0 for entry in results) == 1
    assert check_view(tiny("qwen3"), 2, 0, outs[0]).returncode == 0
    assert len({out.read_bytes() for out in outs}) == 1
    no_lease_is_left(leases)
    assert files() == [Path(results[0]["path"])]
    assert files()[0].stat().st_mode & 0o7777 == 0o600


def test_the_shared_file_is_a_safetensors_file(serve, share, tiny, tpview, check_view):
    path = share(serve())["path"]
    assert check_view(tiny("qwen3"), 2, 0, path).returncode == 0
    assert tpview("verify", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", 0, path).returncode == 0


def test_second_is_warm_and_after_its_time_cold_again(serve, share, files):
    service = serve()
    first, second = share(service, tp_rank=1), share(service, tp_rank=1)
    assert (first["export"], second["export"]) == ("cold", "warm")
    assert second["path"] == first["path"] and not second["waited"] and second["source_export"] is None
    assert started(service) == 1
    old = share(service, "--ttl", 1)
    # Whoever looks at the table after its time takes the file away; here, another view's rank does.
    wait_for(lambda: share(service, tp_rank=1) and Path(old["path"]) not in files(), LIMIT_S, "the end of the view")
    assert files() == [Path(first["path"])]
    again = share(service)
    assert again["export"] == "cold" and again["path"] != old["path"]
    assert started(service) == 3


def test_time_to_live_from_the_environment(serve, tpview, share, files):
    service = serve()
    done = tpview(*command(service), env={"TPVIEW_SHARED_TTL": "1"})
    assert done.returncode == 0, done.stderr
    old = json.loads(done.stdout)["path"]
    wait_for(lambda: share(service, tp_rank=1) and Path(old) not in files(), LIMIT_S, "the end of the view")


def test_two_views_side_by_side(serve, share, tiny, check_view, files, tmp_path):
    service = serve()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda index: share(service, "--out", tmp_path / str(index), tp_rank=index % 2), range(4)))
    assert started(service) == 2 and len(files()) == 2
    assert results[0]["path"] == results[2]["path"] != results[1]["path"] == results[3]["path"]
    for index in range(4):
        assert check_view(tiny("qwen3"), 2, index % 2, tmp_path / str(index)).returncode == 0


def test_a_new_version_is_another_view(start_service, share, tiny, check_view, tmp_path):
    from models import write_tiny

    other = write_tiny("qwen3", tmp_path / "other", seed=5)
    service = start_service(f"qwen3@1={tiny('qwen3')}", f"qwen3@2={other}")
    old, new = share(service, artifact="qwen3@1"), share(service, artifact="qwen3@2")
    assert (old["export"], new["export"]) == ("cold", "cold") and old["view_id"] == new["view_id"]
    assert check_view(tiny("qwen3"), 2, 0, old["path"]).returncode == 0
    assert check_view(other, 2, 0, new["path"]).returncode == 0


# ---- holding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["input", signal.SIGTERM, signal.SIGINT])
def test_held_until_input_ends_or_a_signal(serve, holding, leases, how):
    process, held = holding(serve(), tp_rank=1)
    # The source's own may be listed a moment longer.
    lease, = wait_for(lambda: len(found := leases()) == 1 and found, LIMIT_S, "the end of the source's lease")
    assert lease["lease_id"] == held["lease_id"] and lease["artifact"] == "qwen3@7"
    assert (lease["pid"], lease["tp_rank"], lease["tp_size"], lease["host"]) == (process.pid, 1, 2, "")
    assert lease["state"] == "attached" and lease["bytes_done"] == lease["bytes_total"] == held["needed_bytes"]
    if how == "input":
        process.stdin.close()
        process.stdin = None
    else:
        process.send_signal(how)
    done = finished(process)
    assert (done.returncode, done.stderr) == (0, "")
    no_lease_is_left(leases)


def test_a_held_view_outlives_its_time(serve, share, holding, files):
    service = serve()
    process, held = holding(service, "--ttl", 1)
    # Another view with the same time comes and goes meanwhile.
    other = share(service, "--ttl", 1, tp_rank=1)["path"]
    wait_for(lambda: share(service)["path"] and Path(other) not in files(), LIMIT_S, "the end of the other view")
    assert Path(held["path"]) in files() and share(service)["path"] == held["path"]


def test_a_killed_holder_finds_it_again(serve, share, holding, leases, files):
    service = serve()
    process, held = holding(service)
    process.kill()
    process.wait()
    again = share(service)
    assert (again["export"], again["path"]) == ("warm", held["path"])
    assert started(service) == 1
    no_lease_is_left(leases)


def test_found_again_without_its_service_having_to_send(serve, share, holding, tiny, start_service):
    """A restarted rank asks another service of the same artifact: nothing is fetched."""
    service = serve()
    process, held = holding(service)
    process.kill()
    process.wait()
    service.process.kill()
    other = serve()
    assert share(other)["path"] == held["path"] and started(other) == 0


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_waiter_takes_over_from_a_killed_fetcher(large, serve, fetching, waiting, files, check_view):
    service = serve(f"large@1={large}")
    fetcher = fetching(service)
    waiters = [waiting(service) for _ in range(3)]
    assert files() == []  # no name before it is whole
    fetcher.kill()
    fetcher.wait()
    results = [result(waiter) for waiter in waiters]
    assert [entry["fetched"] for entry in results].count(True) == 1 and any(entry["waited"] for entry in results)
    assert len({entry["path"] for entry in results}) == 1 and len(files()) == 1
    assert started(service) == 2
    assert check_view(large, 1, 0, results[0]["path"]).returncode == 0


def test_nothing_is_left_of_a_killed_fetcher(large, tiny, serve, fetching, share, files, leases):
    service = serve(f"large@1={large}", f"qwen3@1={tiny('qwen3')}")
    fetcher = fetching(service)
    fetcher.kill()
    fetcher.wait()
    assert files() == []
    no_lease_is_left(leases)
    assert share(service)["export"] == "cold"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_waiter_goes_on_when_the_fetcher_is_asked_to_end(large, serve, fetching, waiting, how):
    service = serve(f"large@1={large}")
    fetcher, waiter = fetching(service), waiting(service)
    fetcher.send_signal(how)
    go_on(fetcher)
    failed(finished(fetcher), "cancelled")
    assert result(waiter)["fetched"]
    assert started(service) == 2


def test_a_waiter_can_be_ended(large, serve, fetching, waiting):
    service = serve(f"large@1={large}")
    fetcher, waiter = fetching(service), waiting(service)
    waiter.send_signal(signal.SIGTERM)
    failed(finished(waiter), "cancelled")
    assert result(go_on(fetcher))["fetched"]
    assert started(service) == 1


# ---- deadlines and failures --------------------------------------------------------------------------------------------


def test_a_waiter_has_its_own_deadline(large, serve, fetching, tpview):
    service = serve(f"large@1={large}")
    fetcher = fetching(service)
    failed(tpview(*slow(service, deadline=10)), "deadline passed", "another process")
    assert result(go_on(fetcher))["fetched"]
    assert started(service) == 1


def test_a_fetchers_deadline_is_not_the_waiters(large, serve, fetching, waiting, files):
    service = serve(f"large@1={large}")
    fetcher, waiter = fetching(service, deadline=20), waiting(service)
    service.process.process.send_signal(signal.SIGSTOP)
    failed(finished(go_on(fetcher)), "deadline passed")
    assert waiter.poll() is None and files() == []
    service.process.process.send_signal(signal.SIGCONT)
    assert result(waiter)["fetched"]


def test_a_deadline_is_not_that_of_those_who_come_after(large, serve, fetching, share):
    service = serve(f"large@1={large}")
    fetcher = fetching(service, deadline=20)
    service.process.process.send_signal(signal.SIGSTOP)
    failed(finished(go_on(fetcher)), "deadline passed")
    service.process.process.send_signal(signal.SIGCONT)
    assert share(service, artifact="large", tp_size=1)["fetched"]


def test_a_failure_is_the_waiters_too(large, serve, fetching, waiting, files):
    service = serve(f"large@1={large}")
    fetcher, waiter = fetching(service, deadline=NEVER_S), waiting(service, deadline=NEVER_S)
    service.process.process.kill()
    failed(finished(go_on(fetcher)))
    failed(finished(waiter), "preparing this view failed", "peer")
    assert files() == []


def test_full_shared_memory(serve, tpview, share):
    """A folder of its own with room for the table and half a view: an error at once, and nothing was asked for."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small /dev/shm needs root")
    mount = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=7m none /dev/shm && exec "$@"', "sh")
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    service = serve()
    failed(tpview(*command(service), prefix=mount), "/dev/shm", "No space left")
    assert started(service) == 0
    assert share(service)["export"] == "cold"


@pytest.mark.parametrize("how", ["removed", "truncated", "other bytes", "open to others", "a link"])
def test_a_file_that_somebody_touched_is_fetched_anew(serve, share, tiny, check_view, files, tmp_path, how):
    service = serve()
    path = Path(share(service)["path"])
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, 100)
    elif how == "other bytes":
        path.write_bytes(bytes(path.stat().st_size))
    elif how == "open to others":
        path.chmod(0o644)
    else:
        (tmp_path / "elsewhere").write_bytes(path.read_bytes())
        (tmp_path / "elsewhere").chmod(0o600)
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    again = share(service)
    assert again["fetched"] and again["path"] != str(path) and started(service) == 2
    assert check_view(tiny("qwen3"), 2, 0, again["path"]).returncode == 0
    assert files() == [Path(again["path"])]


def test_files_of_a_table_that_was_removed_go(serve, share, files, environ):
    """Such as by an operator, or the table of an earlier boot: the next fetch cleans up."""
    service = serve()
    old = share(service)["path"]
    Path(f"/dev/shm/tpview-{environ['TPVIEW_NAMESPACE']}-{os.geteuid()}").unlink()
    new = share(service)
    assert new["export"] == "cold" and files() == [Path(new["path"])] != [Path(old)]


# ---- the C interface ---------------------------------------------------------------------------------------------------

OPEN = r"""
#include <stdio.h>
#include <string.h>
#include "tpview/tpview.h"
#define TRY(call) do { if ((call) != TPV_OK) { fprintf(stderr, "%s\n", tpv_error_message()); return 1; } } while (0)
int main(int argc, char **argv) {
    tpv_source_t *source;
    tpv_artifact_t *artifact;
    tpv_view_t *view;
    tpv_shared_t *shared[2];
    tpv_shared_result_t result[2];
    (void)argc;
    TRY(tpv_source_open(argv[1], NULL, &source));
    TRY(tpv_source_artifact(source, "qwen3", 300, &artifact));
    TRY(tpv_view_plan(artifact, &(tpv_plan_options_t){.tp_size = 2}, &view));
    tpv_shared_options_t options = {.fetch = {.deadline_s = 300}, .name = "qwen3@7"};
    for (int i = 0; i < 2; i++)
        TRY(tpv_shared_open(source, artifact, view, &options, &shared[i], &result[i]));
    size_t bytes = tpv_view_stats(view).bytes;
    const void *data = tpv_shared_data(shared[0]);
    printf("%d %d %d %d %s\n", result[0].fetched, result[1].fetched, (int)((size_t)data % 64),
           memcmp(data, tpv_shared_data(shared[1]), bytes), tpv_shared_path(shared[1]));
    tpv_shared_close(shared[1]); /* the other mapping stays */
    fwrite(data, 1, bytes, stderr);
    tpv_shared_close(shared[0]);
    tpv_shared_close(NULL);
    options.fetch.no_digests = true;
    if (tpv_shared_open(source, artifact, view, &options, &shared[0], &result[0]) != TPV_ERR_ARGUMENT || shared[0]) return 2;
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    tpv_source_close(source);
    return 0;
}
"""


def test_from_c(serve, build, environ, leases, tmp_path):
    (tmp_path / "open.c").write_text(OPEN)
    root = Path(__file__).resolve().parents[2]
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Werror", f"-I{root}/include", str(tmp_path / "open.c"),
                    f"-L{build}/lib", "-ltpview", "-o", str(tmp_path / "open")], check=True, timeout=LIMIT_S)
    done = subprocess.run([str(tmp_path / "open"), serve().source], env=environ, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[:1000]
    fetched, again, misaligned, differs, path = done.stdout.decode().split()
    assert (fetched, again, misaligned, differs) == ("1", "0", "0", "0")
    assert Path(path).read_bytes().endswith(done.stderr) and len(done.stderr) > 10**6
    no_lease_is_left(leases)
