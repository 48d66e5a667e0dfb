"""The Python package against a running service."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref

import numpy
import pytest
import tpview
import tpview.numpy
from conftest import ROOT
from outcomes import wait_for
from safetensors.numpy import load_file


@pytest.fixture(autouse=True)
def library(build, monkeypatch):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))


@pytest.fixture
def source(start_service, tiny):
    running = start_service(f"qwen3@1={tiny('qwen3-float32')}", f"qwen3@2={tiny('qwen3-float32', num_hidden_layers=1)}")
    with tpview.connect(running.source, timeout=20) as source:
        yield source


def values_of(folder) -> dict:
    values: dict = {}
    for shard in sorted(folder.glob("*.safetensors")):
        values.update(load_file(shard))
    return values


def fetched(source, plan, **options) -> dict:
    with source.fetch(plan, deadline=30, **options) as job:
        job.wait()
        return {name: array.copy() for name, array in tpview.numpy.tensors(plan, job.buffer).items()}


def test_a_manifest_is_the_checkpoints_index(source, tiny):
    manifest = source.manifest("qwen3@1")
    values = values_of(tiny("qwen3-float32"))
    assert {name: info.shape for name, info in manifest.items()} == {name: array.shape for name, array in values.items()}
    assert manifest.bytes == sum(array.nbytes for array in values.values())
    assert (manifest.label, manifest.version, manifest["model.norm.weight"].dtype) == ("qwen3@1", "1", "F32")


def test_without_a_version_the_newest_is_meant_and_an_exact_one_is_never_another(source):
    assert source.manifest("qwen3").label == "qwen3@2"
    assert source.manifest("qwen3", version=1).label == "qwen3@1"
    for call in (lambda: source.manifest("qwen3@3"), lambda: source.manifest("qwen3", 3), lambda: source.manifest("gpt")):
        with pytest.raises(tpview.NotFoundError) as caught:
            call()
        assert caught.value.stage == "manifest" and caught.value.peer == source.address
    with pytest.raises(tpview.UsageError):
        source.manifest("qwen3@1", 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_get_their_slices(source, tiny, rank):
    plan = source.plan("qwen3@1", tpview.Layout.tp(rank, 2))
    values = values_of(tiny("qwen3-float32"))
    got = fetched(source, plan)
    assert set(got) == set(values)
    for name, array in values.items():
        axis = 1 if "o_proj" in name or "down_proj" in name else None if "norm" in name else 0
        wanted = array if axis is None else numpy.split(array, 2, axis)[rank]
        numpy.testing.assert_array_equal(got[name], wanted, err_msg=name)


def test_a_token_file_that_others_can_read_is_refused_like_the_tools_do(start_service, tiny, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("secretOfManyCharacters\n")
    token.chmod(0o600)
    running = start_service(f"qwen3@1={tiny('qwen3-float32')}", "--listen", "127.0.0.1:0", "--token-file", token)
    with tpview.connect(running.tcp, token_file=token) as source:
        assert source.manifest("qwen3@1").label == "qwen3@1"
    token.chmod(0o640)
    with pytest.raises(tpview.PermissionDenied, match="chmod 600"):
        tpview.connect(running.tcp, token_file=token)
    monkeypatch.setenv("TPVIEW_TOKEN_FILE", str(token))
    with pytest.raises(tpview.PermissionDenied, match="chmod 600"):
        tpview.connect(running.tcp)


def test_tensors_of_the_caller_are_filled_where_they_lie(source, tiny):
    """Transposed, reversed, every second element, and one dense; nothing between the elements is touched."""
    values = values_of(tiny("qwen3-float32"))
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight",
             "model.layers.0.self_attn.q_norm.weight"]
    shapes = [values[name].shape for name in names]
    plan = source.plan("qwen3@1", tpview.Layout.slices([(name, "F32", shape, [tpview.Slice(name, shape)])
                                                        for name, shape in zip(names, shapes)]))
    memory = [numpy.full(shapes[0][::-1], 7, numpy.float32), numpy.full(shapes[1], 7, numpy.float32),
              numpy.full(2 * shapes[2][0], 7, numpy.float32), numpy.full(shapes[3], 7, numpy.float32)]
    into = dict(zip(names, (memory[0].T, memory[1][::-1], memory[2][::2], memory[3])))
    with source.fetch(plan, into=into, deadline=30, chunk_bytes=4096) as job:
        job.wait()
    for name in names:
        numpy.testing.assert_array_equal(into[name], values[name], err_msg=name)
    assert (memory[2][1::2] == 7).all()


def test_tensors_that_do_not_fit_are_refused_before_anything_moves(source):
    manifest = source.manifest("qwen3@1")
    names = ["model.norm.weight", "model.layers.0.input_layernorm.weight"]
    shape = manifest[names[0]].shape
    plan = manifest.plan(tpview.Layout.slices([(name, "F32", shape, [tpview.Slice(name, shape)]) for name in names]))
    block = numpy.zeros((2, *shape), numpy.float32)
    good = dict(zip(names, block))
    frozen = numpy.zeros(shape, numpy.float32)
    frozen.setflags(write=False)
    for wrong, words in [({names[0]: good[names[0]]}, "does not"), ({**good, "x": block[0]}, "no such output"),
                         ({**good, names[1]: block[0].astype(numpy.float64)}, "float64"),
                         ({**good, names[1]: block[:, :1]}, "F32"), ({**good, names[1]: block[0]}, "overlap"),
                         ({**good, names[1]: frozen}, "read-only"), ({**good, names[1]: [1.0]}, "type list"),
                         ({**good, names[1]: block[0].astype(">f4")}, "F32|byte order")]:
        with pytest.raises(tpview.UsageError, match=words):
            source.fetch(plan, into=wrong)
    with pytest.raises(tpview.Error, match="stride 0"):
        source.fetch(plan, into={**good, names[1]: numpy.lib.stride_tricks.as_strided(block[1], shape, (0,))})
    with source.fetch(plan, into=good, deadline=30) as job:
        job.wait()
    assert (block != 0).any()


def test_slices_given_one_by_one(source, tiny):
    values = values_of(tiny("qwen3-float32"))["model.layers.0.mlp.up_proj.weight"]
    rows, columns = values.shape
    plan = source.plan("qwen3@1", tpview.Layout.slices([
        ("transposed", "F32", (columns, 3), [
            tpview.Slice("model.layers.0.mlp.up_proj.weight", (columns, 3), (1, columns), 5 * columns)])]))
    numpy.testing.assert_array_equal(fetched(source, plan)["transposed"], values[5:8].T)


def test_every_kind_of_destination(source):
    plan = source.plan("qwen3@1", tpview.Layout.tp(0, 4))
    wanted = fetched(source, plan)
    array = numpy.zeros(plan.bytes + 3, numpy.uint8)
    for into in (bytearray(plan.bytes), array, (array.ctypes.data, array.nbytes, array)):
        with source.fetch(plan, into=into, deadline=30) as job:
            job.wait()
        buffer = array if isinstance(into, tuple) else into
        for name, got in tpview.numpy.tensors(plan, buffer).items():
            numpy.testing.assert_array_equal(got, wanted[name])


def test_bad_destinations_and_numbers_are_refused_before_anything_is_asked_for(source):
    plan = source.plan("qwen3@1", tpview.Layout.tp(0, 4))
    room = numpy.zeros((plan.bytes, 2), numpy.uint8)
    bad = [{"into": bytes(plan.bytes)}, {"into": bytearray(plan.bytes - 1)}, {"into": room[:, 0]}, {"into": "memory"},
           {"into": (1 << 70, plan.bytes, None)}, {"into": (0, plan.bytes, None)}, {"into": (4096, -1, None)},
           {"into": (4096, plan.bytes)}, {"comms": 65}, {"comms": -1}, {"comms": 1 << 32}, {"chunk_bytes": 1},
           {"chunk_bytes": (1 << 64) + 4096}, {"deadline": 0}, {"deadline": -1}]
    for options in bad:
        with pytest.raises(tpview.UsageError):
            source.fetch(plan, **options)
    for rank, size in ((2, 2), (-1, 2), (0, 0), (0, 1025), (1 << 32, 1 << 33)):
        with pytest.raises(tpview.UsageError):
            tpview.Layout.tp(rank, size)
    for options in ({"ep_size": 0}, {"ep_rank": 1}, {"ep_size": 2, "ep_rank": 2}, {"expert_tp_size": 2},
                    {"expert_tp_rank": 2, "expert_tp_size": 2}, {"ep_size": 1025}):
        with pytest.raises(tpview.UsageError):
            tpview.Layout.tp(0, 1, **options)
    for options in ({"ep_size": 2, "ep_rank": 1}, {"ep_size": 2, "expert_tp_rank": 1, "expert_tp_size": 2}):
        with pytest.raises(tpview.PlanError, match="no experts"):
            source.plan("qwen3@1", tpview.Layout.tp(0, 1, **options))
    with pytest.raises(tpview.PlanError) as caught:
        source.plan("qwen3@1", tpview.Layout.tp(0, 3))
    assert caught.value.stage == "plan"


def test_a_buffer_cannot_be_resized_while_it_is_fetched_into(source):
    plan = source.plan("qwen3@1", tpview.Layout.tp(0, 4))
    memory = bytearray(plan.bytes)
    with source.fetch(plan, into=memory, deadline=30) as job:
        with pytest.raises(BufferError):
            memory.extend(b"more")
        job.wait()
    del job
    memory.extend(b"more")


def test_connections_are_kept_and_jobs_run_side_by_side(source):
    plans = [source.plan("qwen3@1", tpview.Layout.tp(rank, 4)) for rank in range(4)]
    for _ in range(2):
        jobs = [source.fetch(plan, deadline=30) for plan in plans]
        for job in jobs:
            assert job.wait().label == "qwen3@1"
            assert job.progress == (job.plan.bytes, job.plan.bytes) and job.done
            job.close()
        assert len(source._idle) <= 5
    source.close()
    with pytest.raises(tpview.UsageError):
        source.artifacts()


def test_a_source_that_is_not_there():
    for address in ("unix:/nonexistent/socket", "127.0.0.1:1"):
        with pytest.raises(tpview.PeerLost) as caught:
            tpview.connect(address)
        assert isinstance(caught.value, ConnectionError) and caught.value.peer == address
    with pytest.raises(tpview.UsageError):
        tpview.connect("nonsense")


@pytest.fixture
def slow(start_service, large):
    """A source and the plan of a view that is long enough to be interrupted."""
    running = start_service(f"large@1={large}")
    with tpview.connect(running.source) as source:
        yield running, source, source.plan("large", tpview.Layout.tp(0, 1))


def begin(source, plan, **options):
    """A job of which some bytes have moved."""
    job = source.fetch(plan, comms=1, chunk_bytes=4096, **options)
    wait_for(lambda: job.progress[0] > 0, 30, "the fetch's first bytes")
    return job


def test_cancelling_frees_the_memory_and_the_lease(slow, leases):
    _, source, plan = slow
    job = begin(source, plan)
    with pytest.raises(TimeoutError):
        job.wait(0.01)
    job.cancel()
    with pytest.raises(tpview.CancelledError) as caught:
        job.wait(30)
    assert caught.value.stage == "fetch"
    job.close()
    wait_for(lambda: not leases(), 30, "the end of the lease")


def test_leaving_the_block_ends_a_running_fetch(slow, leases):
    _, source, plan = slow
    with begin(source, plan):
        assert leases()
    wait_for(lambda: not leases(), 30, "the end of the lease")


def test_a_dropped_job_ends_before_its_memory_goes(slow, leases):
    """While its source delivers nothing, too."""
    running, source, plan = slow
    job = begin(source, plan)
    ended = []
    free = job._handle._free
    job._handle._free = lambda pointer: (free(pointer), ended.append("fetch"))
    memory = weakref.ref(job.buffer, lambda _: ended.append("memory"))
    os.kill(running.process.process.pid, signal.SIGSTOP)
    try:
        del job
        assert ended == ["fetch", "memory"] and memory() is None
    finally:
        os.kill(running.process.process.pid, signal.SIGCONT)
    wait_for(lambda: not leases(), 30, "the end of the lease")
    # One that never began says so, and nothing else when it goes.
    with pytest.raises(TypeError):
        tpview.Job()


def test_a_deadline_and_a_killed_source(slow):
    running, source, plan = slow
    with pytest.raises(tpview.DeadlineError) as caught, source.fetch(plan, comms=1, chunk_bytes=4096, deadline=0.05) as job:
        job.wait()
    assert isinstance(caught.value, TimeoutError)
    with begin(source, plan, deadline=30) as job:
        running.process.process.kill()
        with pytest.raises(tpview.PeerLost) as caught:
            job.wait(30)
    assert caught.value.peer == source.address


@pytest.mark.parametrize("form", [list, ",".join])
def test_a_fetch_goes_on_at_the_next_source(start_service, large, form):
    running = [start_service(f"large@1={large}") for _ in range(2)]
    with tpview.connect(form([one.source for one in running])) as source:
        plan = source.plan("large", tpview.Layout.tp(0, 1))
        with begin(source, plan, deadline=120) as job:
            running[0].process.process.kill()
            result = job.wait(120)
            assert [share.address for share in result.sources] == [one.source for one in running]
            assert sum(share.bytes for share in result.sources) == plan.bytes and result.sources[1].bytes > 0
            assert result.wire_bytes <= 1.02 * plan.bytes
            got = bytes(memoryview(job.buffer)[:plan.bytes])
        with source.fetch(plan, deadline=120) as whole:  # by the one that is left alone
            assert whole.wait().sources[0].attempts == 0
            assert bytes(memoryview(whole.buffer)[:plan.bytes]) == got


def test_addresses_of_no_source():
    for address in ([], [""], 17 * ["unix:/nobody"], ["unix:/nobody", "what"]):
        with pytest.raises((tpview.UsageError, tpview.PeerLost)):
            tpview.connect(address)


def interrupt_a_wait(thread: int):
    """Once that thread is in Job.wait."""
    wait_for(lambda: sys._current_frames()[thread].f_code is tpview.Job.wait.__code__, 30, "the wait")
    os.kill(os.getpid(), signal.SIGINT)


def test_interrupting_a_wait(slow):
    """Ctrl-C gets through while a thread waits for a stopped source."""
    running, source, plan = slow
    # Ignored where the tests run in the background (nohup).
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with begin(source, plan) as job:
        os.kill(running.process.process.pid, signal.SIGSTOP)
        try:
            interrupter = threading.Thread(target=interrupt_a_wait, args=(threading.get_ident(),))
            with pytest.raises(KeyboardInterrupt):
                interrupter.start()
                job.wait(60)
            interrupter.join()
        finally:
            os.kill(running.process.process.pid, signal.SIGCONT)
            signal.signal(signal.SIGINT, before)


def test_handles_stay_in_their_process(source):
    plan = source.plan("qwen3@1", tpview.Layout.tp(0, 1))
    for thing in (source, plan.manifest._handle, plan._handle):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            source.fetch(plan)
        except tpview.UsageError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fetched(source, plan)


def test_importing_is_light_and_a_wrong_library_is_told(build, tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "TPVIEW_LIBRARY": str(tmp_path / "libtpview.so")}
    script = ("import sys, tpview\nassert not {'torch', 'numpy'} & set(sys.modules)\n"
              "try: tpview.connect('unix:/x')\nexcept tpview.UnsupportedError as error: print(error)\n")
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "cannot load" in done.stdout and "TPVIEW_LIBRARY" in done.stdout, done
    environ["TPVIEW_LIBRARY"] = str(build / "lib" / "libnccl-net-tpview.so")
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert "has no tpv_version" in done.stdout, done


def test_many_fetches_leak_nothing(source):
    plan = source.plan("qwen3@1", tpview.Layout.tp(0, 4))
    memory = bytearray(plan.bytes)

    def round_trip():
        with source.fetch(plan, into=memory, deadline=30) as job:
            job.wait()

    for _ in range(5):
        round_trip()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        round_trip()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, 60, "the end of all descriptors")
