"""Who gets the memory that a service may take: staging that is given back, fetches that wait for it, and which exports go
when room is needed."""

import signal

import pytest
from outcomes import LIMIT_S, wait_for
from rank import Rank

CHUNK = 8192  # four of them are the staging of one fetch: all that a budget of 64 KiB keeps for it


@pytest.fixture
def small(tiny, start_toy_service):
    """A service that caches no export of the tiny checkpoint and has staging for one fetch in chunks of CHUNK."""
    return lambda *options: start_toy_service(f"qwen3@1={tiny('qwen3')}", "--budget", 8 * CHUNK, *options)


@pytest.fixture
def ask(small, start_rank):
    """ask(service): rank 0 of 2, whose view has to be gathered."""
    return lambda service, **more: start_rank(service, tp_size=2, chunk=CHUNK, **{"deadline_s": 50, **more})


def whole(rank) -> bytes:
    data = rank.receive()
    status, answer = rank.outcome()
    assert status == 200, answer
    rank.acknowledge()
    return data


def wait_metric(control, service, name: str, value: float) -> None:
    connection = control(service)
    wait_for(lambda: connection.metric(name) == value, LIMIT_S, f"{name} {value:g}")


# ---- staging -----------------------------------------------------------------------------------------------------------


def test_staging_is_given_back(small, ask, control):
    """Whole, cancelled and lost fetches alike: ten of them, each with all the staging there is."""
    service = small()
    data = whole(ask(service))
    for index in range(9):
        rank = ask(service)
        if index % 3 == 0:
            assert whole(rank) == data
            continue
        next(rank.chunks())
        (rank.close if index % 3 == 1 else rank.control.close)()
    wait_metric(control, service, "fetches_active", 0)
    wait_metric(control, service, "budget_used_bytes", 0)
    assert 0 < control(service).metric("budget_peak_bytes") <= 8 * CHUNK


@pytest.fixture
def taken(small, ask, control):
    """(service, holders): two ranks that have all of its staging and read no further; holders[i]() reads the rest."""
    service = small("--drain", 0.3)
    ranks = [ask(service), ask(service)]
    chunks = [rank.chunks() for rank in ranks]
    first = [next(of) for of in chunks]
    wait_metric(control, service, "budget_used_bytes", 8 * CHUNK)

    def rest(index: int) -> bytes:
        data = first[index] + b"".join(chunks[index])
        assert ranks[index].outcome()[0] == 200
        ranks[index].acknowledge()
        return data

    return service, [lambda: rest(0), lambda: rest(1)]


@pytest.fixture
def waiter(taken, ask, control):
    """waiter(): a third rank, whose fetch waits."""

    def start():
        rank = ask(taken[0])
        wait_metric(control, taken[0], "fetches_active", 3)
        return rank

    return start


def test_a_fetch_waits_its_turn_for_staging(taken, waiter, control):
    service, holders = taken
    rank = waiter()
    data = [holders[0](), whole(rank), holders[1]()]
    assert data[0] == data[1] == data[2]
    assert control(service).metric("budget_peak_bytes") == 8 * CHUNK


def test_a_fetch_that_waits_for_staging_has_its_deadline(taken, ask, control):
    rank = ask(taken[0], deadline_s=1)
    _, answer = rank.outcome()
    assert answer["error"]["status"] == "deadline", answer
    wait_metric(control, taken[0], "fetches_active", 2)


def test_a_rank_may_leave_while_it_waits_for_staging(taken, waiter, control, leases):
    rank = waiter()
    wait_for(lambda: rank.fetch_id in [lease["lease_id"] for lease in leases()], LIMIT_S, "its lease")
    rank.control.close()
    wait_metric(control, taken[0], 'fetches_finished_total{status="peer"}', 1)
    wait_for(lambda: rank.fetch_id not in [lease["lease_id"] for lease in leases()], LIMIT_S, "the end of its lease")


def test_a_service_may_end_while_a_fetch_waits_for_staging(taken, waiter):
    rank = waiter()
    taken[0].process.process.send_signal(signal.SIGTERM)
    _, answer = rank.outcome()
    assert answer["error"]["status"] == "refused", answer
    assert taken[0].process.process.wait(LIMIT_S) == 0


def test_staging_beyond_the_share_is_refused_at_once(tiny, start_toy_service, start_rank):
    """Half of the budget is kept for staging: who needs more would wait for what may never be free."""
    service = start_toy_service(f"qwen3@1={tiny('qwen3')}", "--budget", 6 * CHUNK)
    rank = start_rank(service, tp_size=2, chunk=CHUNK, deadline_s=LIMIT_S)
    _, answer = rank.outcome()
    assert answer["error"]["status"] == "no_memory" and str(3 * CHUNK) in answer["error"]["message"], answer


# ---- which exports go --------------------------------------------------------------------------------------------------


@pytest.fixture
def export_of(tiny, start_toy_service, start_rank, control):
    """export_of(budget): a function (artifact, size, rank) that fetches and tells "cold" or "warm", and its service. Two
    artifacts, "a" and "b", have exports of equal sizes."""

    def start(*options):
        wide = {"intermediate_size": 8192}  # exports are counted in huge pages: several
        a, b = (tiny("qwen3", **wide, seed=seed) for seed in (0, 1))
        service = start_toy_service(f"a@1={a}", f"b@1={b}", *options)

        def export(artifact: str, tp_size: int, tp_rank: int, *, others: int = 0) -> str:
            rank = start_rank(service, artifact, tp_size, tp_rank, deadline_s=LIMIT_S)
            list(rank.chunks())
            status, answer = rank.outcome()
            assert status == 200, answer
            rank.acknowledge()
            wait_metric(control, service, "fetches_active", others)  # an export in use cannot go
            return answer["export"]

        return service, export

    return start


@pytest.fixture
def bytes_of(export_of, control):
    """bytes_of(size): what the export of one rank takes of the budget."""

    def measure(tp_size: int) -> int:
        service, export = export_of()
        export("a", tp_size, 0)
        return int(control(service).metric("budget_used_bytes"))

    return measure


def test_equal_requests_at_once_are_one_export(export_of, start_rank, control):
    """Asked for before any is answered, over connections of their own."""
    service, export = export_of()
    assert export("a", 2, 0) == "cold"
    first = start_rank(service, "a", 2, 1, deadline_s=LIMIT_S)
    ranks = [Rank(control(service), first.artifact_id, first.view, deadline_s=LIMIT_S) for _ in range(11)]
    data = whole(first)
    for rank in ranks:
        assert whole(rank) == data
        rank.close()
    assert control(service).metric("gathers_started_total") == 2
    assert control(service).metric("exports_reused_total") == 11


def test_the_longest_unmoved_export_goes(export_of, bytes_of, control):
    """Room for two: the third takes the place of the one that was not asked for again, and of no other."""
    budget = 5 * bytes_of(2)  # half of it is kept for staging
    service, export = export_of("--budget", budget)
    assert [export("a", 2, 0), export("a", 2, 1), export("a", 2, 0)] == ["cold", "cold", "warm"]
    assert export("b", 2, 0) == "cold"
    assert control(service).metric('exports_retired_total{reason="room"}') == 1
    assert export("a", 2, 0) == "warm"
    assert export("a", 2, 1) == "cold"
    assert control(service).metric("budget_peak_bytes") <= budget


def test_no_export_goes_that_does_not_have_to(export_of, bytes_of, control):
    """A small export that is older than a large one stays when the large one's place is what it takes."""
    small, large = bytes_of(8), bytes_of(2)
    assert 2 * small < large
    service, export = export_of("--budget", 2 * (large + small + small // 2))
    assert [export("a", 8, 0), export("a", 2, 0), export("b", 2, 0)] == ["cold"] * 3
    assert control(service).metric('exports_retired_total{reason="room"}') == 1
    assert [export("a", 8, 0), export("b", 2, 0)] == ["warm"] * 2


def test_none_goes_for_one_that_cannot_be_kept(export_of, bytes_of, control):
    service, export = export_of("--budget", 3 * bytes_of(8))
    assert [export("a", 8, 0), export("a", 2, 0)] == ["cold", "cold"]
    assert export("a", 8, 0) == "warm"
    assert control(service).metric('exports_retired_total{reason="room"}') == 0


def test_exports_in_use_stay_and_none_goes_in_vain(export_of, bytes_of, start_rank, control):
    """The large one that is being read keeps its place, so another large one would not fit even without the small one."""
    small, large = bytes_of(8), bytes_of(2)
    service, export = export_of("--budget", 2 * (large + small + small // 2))
    assert export("a", 8, 0) == "cold"
    reader = start_rank(service, "a", 2, 0, deadline_s=LIMIT_S)
    chunks = reader.chunks()
    next(chunks)
    assert [export("a", 2, 1, others=1), export("a", 2, 1, others=1)] == ["cold", "cold"]  # without a place of its own
    assert control(service).metric('exports_retired_total{reason="room"}') == 0
    assert export("a", 8, 0, others=1) == "warm"
    list(chunks)
    assert reader.outcome()[0] == 200
    reader.acknowledge()
    wait_metric(control, service, "fetches_active", 0)
    assert [export("a", 8, 0), export("a", 2, 0)] == ["warm", "warm"]


def test_every_export_of_an_older_version_goes_with_its_last_reader(export_of, start_rank, tiny, tpview, control):
    """Those that nobody reads at once, the one that is being read afterwards; other models keep theirs."""
    service, export = export_of()
    assert [export("a", 2, 0), export("a", 2, 1), export("b", 2, 0)] == ["cold"] * 3
    reader = start_rank(service, "a", 4, 0, deadline_s=LIMIT_S)
    chunks = reader.chunks()
    next(chunks)
    done = tpview("publish", "--source", service.source, f"a@2={tiny('qwen3', vocab_size=2048)}")
    assert done.returncode == 0, done.stderr
    superseded = 'exports_retired_total{reason="superseded"}'
    wait_metric(control, service, superseded, 2)
    list(chunks)
    assert reader.outcome()[0] == 200
    reader.acknowledge()
    wait_metric(control, service, superseded, 3)
    assert [export("b", 2, 0), export("a", 2, 0), export("a", 2, 0)] == ["warm", "cold", "warm"]
    assert control(service).metric(superseded) == 3


def test_a_retired_artifact_is_read_to_the_end_and_not_found_again(export_of, start_rank, tpview, control):
    service, export = export_of()
    reader = start_rank(service, "a", 2, 0, deadline_s=LIMIT_S)
    chunks = reader.chunks()
    next(chunks)
    assert tpview("retire", "--source", service.source, "a@1").returncode == 0
    late = Rank(control(service), reader.artifact_id, reader.view)
    _, answer = late.outcome()
    late.close()
    assert answer["error"]["status"] == "not_found", answer
    list(chunks)
    assert reader.outcome()[0] == 200
    reader.acknowledge()
    wait_metric(control, service, 'exports_retired_total{reason="withdrawn"}', 1)
