"""tpview.transformers against transformers' own loader: the same parameters and logits, from fewer bytes."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import tpview
from conftest import ROOT
from control import port_of_nobody
from rank_group import run_ranks
from tpview.manifest import TensorInfo

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tpview.transformers  # noqa: E402

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
         "num_key_value_heads": 4, "vocab_size": 512, "head_dim": 16, "max_position_embeddings": 64, "dtype": "float32"}
CONFIGS = {
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, tie_word_embeddings=False),
    "llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SMALL, sliding_window=16),
}


@pytest.fixture(autouse=True)
def library(build, monkeypatch):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(kind): a checkpoint with random weights as transformers writes it."""
    made: dict = {}

    def folder(kind: str):
        if kind not in made:
            torch.manual_seed(3)
            model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
            made[kind] = tmp_path_factory.mktemp(kind)
            model.save_pretrained(made[kind])
        return made[kind]

    return folder


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(24).reshape(1, 24) * 7 % 512).logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_rank_gets_the_model_of_the_files(start_service, folders, kind, tmp_path):
    running = start_service(f"m@1={folders(kind)}")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(folders(kind))
    with tpview.connect(running.source, timeout=20) as source:
        got = tpview.transformers.from_pretrained(transformers.AutoModelForCausalLM, source, "m@1", config=folders(kind),
                                                  deadline=60)
    assert type(got) is type(wanted) and got.tpview_loaded.label == "m@1"
    theirs = wanted.state_dict()
    ours = got.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert torch.equal(logits_of(got), logits_of(wanted))
    # It is a model like any other: it can be saved, and that has every tensor.
    got.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.items())


RANK = textwrap.dedent("""
    import sys, torch, torch.distributed as dist, transformers, tpview, tpview.transformers
    rank, size, store, address, *folders = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size)
    parallel = lambda: transformers.DistributedConfig(tp_size=size)
    cls = transformers.AutoModelForCausalLM
    local = lambda tensor: tensor.to_local() if hasattr(tensor, "to_local") else tensor
    tokens = torch.arange(24).reshape(1, 24) * 7 % 512
    with tpview.connect(address) as source:
        for number, folder in enumerate(folders):
            wanted = cls.from_pretrained(folder, distributed_config=parallel())
            got = tpview.transformers.from_pretrained(cls, source, f"m{number}@1", config=folder, deadline=60,
                                                      distributed_config=parallel())
            theirs = wanted.state_dict()
            for name, tensor in got.state_dict().items():
                assert torch.equal(local(tensor), local(theirs.pop(name))), (folder, name)
            assert not theirs
            with torch.no_grad():
                assert torch.equal(local(got(tokens).logits), local(wanted(tokens).logits)), folder
            print(got.tpview_loaded.result.needed_bytes, got.tpview_loaded.artifact_bytes, flush=True)
    dist.barrier()
    dist.destroy_process_group()
""")


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_get_what_transformers_would_have_read(start_service, folders, size, tmp_path):
    running = start_service(*(f"m{number}@1={folders(kind)}" for number, kind in enumerate(CONFIGS)))
    for out in run_ranks(RANK, size, tmp_path, running.source, *map(folders, CONFIGS)):
        for needed, whole in (map(int, line.split()) for line in out.splitlines()[-len(CONFIGS):]):
            assert needed < 0.9 * whole, "each rank fetches its share only"


UPDATES = textwrap.dedent("""
    import os, sys, time, torch, torch.distributed as dist, transformers, tpview, tpview.transformers
    rank, size, store, address, folder, again = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size)
    with tpview.connect(address) as source:
        model = tpview.transformers.from_pretrained(
            transformers.AutoModelForCausalLM, source, "m@1", config=folder, deadline=60,
            distributed_config=transformers.DistributedConfig(tp_size=size))
        descriptors = []
        for turn in range(int(again)):
            tpview.transformers.update_pretrained(model, source, "m", version=1 + turn % 2, deadline=60)
            descriptors.append(len(os.listdir("/proc/self/fd")))
        end = time.monotonic() + 60  # what is closed by a thread may take its time
        while len(os.listdir("/proc/self/fd")) > descriptors[1] and time.monotonic() < end:
            time.sleep(0.05)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    print(*descriptors, flush=True)
    dist.barrier()
    dist.destroy_process_group()
""")


def test_many_updates_leave_nothing_behind(start_service, environ, folders, tmp_path, monkeypatch):
    def shared() -> set:
        return {name for name in os.listdir("/dev/shm") if environ["TPVIEW_NAMESPACE"] in name}

    monkeypatch.setenv("TPVIEW_NAMESPACE", environ["TPVIEW_NAMESPACE"])
    running = start_service(f"m@1={folders('qwen3')}", f"m@2={folders('qwen3')}")
    before = shared()
    for out in run_ranks(UPDATES, 2, tmp_path, running.source, folders("qwen3"), 20):
        descriptors = [int(count) for count in out.split()[-21:]]
        assert descriptors[-1] <= descriptors[1], descriptors
    assert shared() == before


def test_an_update_takes_the_version_that_is_named(start_service, folders, tmp_path):
    running = start_service(f"m@1={folders('llama')}", f"other@1={folders('qwen3')}")
    newer = transformers.AutoModelForCausalLM.from_pretrained(folders("llama"))
    with torch.no_grad():
        for parameter in newer.parameters():
            parameter.mul_(1.5)
    newer.save_pretrained(tmp_path / "2")
    with tpview.connect(running.source, timeout=20) as source:
        model = tpview.transformers.from_pretrained(transformers.AutoModelForCausalLM, source, "m@1", config=folders("llama"))
        places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        source.publish("m@2", tmp_path / "2")
        update = tpview.transformers.prefetch_update(model, source, "m", version=2)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert update.install().label == "m@2" == model.tpview_loaded.label
        for name, tensor in newer.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor) and model.state_dict()[name].data_ptr() == places[name]
        with pytest.raises(tpview.UsageError):
            update.install()
        for version, artifact, error in ((3, "m", tpview.NotFoundError), (1, "other", tpview.PlanError)):
            with pytest.raises(error):
                tpview.transformers.update_pretrained(model, source, artifact, version=version)
        with pytest.raises(tpview.UsageError):
            tpview.transformers.update_pretrained(newer, source, "m", version=2)


class WithMore(transformers.LlamaForCausalLM):
    """A model with a parameter of no axis, and a head and a buffer that no checkpoint of the family has and whose absence is
    no news to the class."""

    _keys_to_ignore_on_load_missing = ["value_head", "seen"]

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.value_head = torch.nn.Linear(config.hidden_size, 1)
        self.register_buffer("seen", torch.zeros(3))


def test_a_scalar_is_a_tensor_like_any_other(start_service, tmp_path):
    wanted = WithMore(CONFIGS["llama"]())
    with torch.no_grad():
        wanted.scale.fill_(2.5)
        wanted.seen.fill_(4.0)
    wanted.save_pretrained(tmp_path / "1")
    running = start_service(f"m@1={tmp_path / '1'}", f"m@2={tmp_path / '1'}")
    got = tpview.transformers.from_pretrained(WithMore, running.source, "m@1", config=tmp_path / "1", deadline=60)
    theirs = wanted.state_dict()
    assert got.scale.shape == () and got.scale.item() == 2.5
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in got.state_dict().items())
    with torch.no_grad():
        for tensor in got.state_dict().values():
            tensor.zero_()
    tpview.transformers.update_pretrained(got, running.source, "m", version=2, deadline=60)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in got.state_dict().items())


def test_an_update_leaves_what_the_artifact_does_not_have(start_service, folders):
    running = start_service(f"m@1={folders('llama')}", f"m@2={folders('llama')}")
    model = tpview.transformers.from_pretrained(WithMore, running.source, "m@1", config=folders("llama"), deadline=60)
    assert type(pickle.loads(pickle.dumps(model))) is type(model) is WithMore
    with torch.no_grad():
        model.scale.fill_(7.0)
        model.value_head.weight.fill_(3.0)
        model.value_head.bias.fill_(5.0)
        model.seen.fill_(9.0)
        model.model.norm.weight.zero_()
    tpview.transformers.update_pretrained(model, running.source, "m", version=2, deadline=60)
    assert model.scale.item() == 7.0
    for tensor, trained in ((model.value_head.weight, 3.0), (model.value_head.bias, 5.0), (model.seen, 9.0)):
        assert bool((tensor == trained).all())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders("llama")).state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("index", [[0, 2], torch.tensor([1, 0]), (slice(None), [3]), torch.arange(8) > 3], ids=str)
def test_elements_that_are_no_slice_are_refused(index):
    slices = tpview.transformers._Slices({})
    lazy = tpview.transformers._Lazy(TensorInfo("w", "F32", (8, 4), 128), slices)
    with pytest.raises(tpview.UnsupportedError, match="w: .*load this model from its files") as caught:
        lazy[index]
    assert caught.value.tensor == "w" and not slices.names


@pytest.mark.parametrize("index", [slice(2, 6), (slice(None), slice(1, 3)), 3, (..., 0), slice(0, 8, 2), None], ids=str)
def test_slices_have_the_shape_that_torch_gives_them(index):
    lazy = tpview.transformers._Lazy(TensorInfo("w", "F32", (8, 4), 128), tpview.transformers._Slices({}))
    assert lazy[index].shape == torch.zeros(8, 4)[index].shape


ALONE = textwrap.dedent("""
    import datetime, sys, torch.distributed as dist, transformers, tpview, tpview.transformers
    rank, size, store, address, nobody, folder = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size,
                            timeout=datetime.timedelta(seconds=200))
    parallel = transformers.DistributedConfig(tp_size=size)
    wrongs = ({"source": nobody}, {"config": folder + "-missing"}, {"device_map": "cpu"})
    for wrong in wrongs:
        try:
            tpview.transformers.from_pretrained(transformers.AutoModelForCausalLM, **{
                "source": address, "artifact": "m@1", "config": folder, "deadline": 60, "distributed_config": parallel,
                **(wrong if rank == 1 else {})})
            print("loaded", flush=True)
        except Exception as error:
            print(type(error).__name__, str(error).replace("\\n", " "), flush=True)
    dist.barrier()
    dist.destroy_process_group()
""")


def test_what_fails_on_one_rank_alone_ends_the_call_on_all(start_service, folders, tmp_path):
    """A rank that does not reach the source, one without the configuration, one with a wrong argument."""
    running = start_service(f"m@1={folders('qwen3')}")
    with port_of_nobody() as port:
        zero, one = (out.splitlines()[-3:] for out in run_ranks(ALONE, 2, tmp_path, running.source, f"127.0.0.1:{port}",
                                                                folders("qwen3")))
    assert one[0].startswith("PeerLost") and one[2].startswith("UsageError") and one[1].startswith("OSError"), one
    assert all(said.startswith("Error rank 1 failed, so no rank goes on: ") for said in zero), zero


def test_what_fails_is_told(start_service, folders):
    running = start_service(f"m@1={folders('qwen3')}")
    load = tpview.transformers.from_pretrained
    cls = transformers.AutoModelForCausalLM
    with pytest.raises(tpview.NotFoundError):
        load(cls, running.source, "m@2", config=folders("qwen3"))
    with pytest.raises(tpview.UsageError):
        load(cls, running.source, "m@1", config=folders("qwen3"), state_dict={})
    with pytest.raises(tpview.UsageError, match="Linear: expected a model class"):
        load(torch.nn.Linear, running.source, "m@1", config=folders("qwen3"))
    other = transformers.AutoConfig.from_pretrained(folders("qwen3"))
    other.hidden_size = 32
    with pytest.raises(RuntimeError, match="size mismatch|mismatch"):
        load(cls, running.source, "m@1", config=other)


def run_example(name: str, *arguments, launcher=()) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, ROOT / "python" / "examples" / name, *map(str, arguments)], env=environ,
                          timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_tensor_parallel_loading(start_service, folders):
    running = start_service(f"m@1={folders('qwen3')}")
    said = run_example("load_tp.py", running.source, "m@1", folders("qwen3"),
                       launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"))
    assert [line.split(",")[0] for line in said.splitlines() if line.startswith("rank ")] == [
        f"rank {rank}: m@1" for rank in range(4)]
    wanted = transformers.AutoModelForCausalLM.from_pretrained(folders("qwen3")).generate(
        torch.arange(1, 9).reshape(1, 8), max_new_tokens=8, do_sample=False, pad_token_id=0)[0, 8:]
    assert said.splitlines()[-1].split()[1:] == [str(token) for token in wanted.tolist()]


def test_the_example_of_updates_while_groups_generate(start_service, folders, tmp_path):
    """It compares every parameter with the version's files after each update, so a mixture of versions ends it."""
    running = start_service(f"m@1={folders('qwen3')}")
    said = run_example("rl_update.py", running.source, "m", folders("qwen3"), "--folder", tmp_path, "--versions", 5,
                       "--pause", 0.2)
    lines = said.splitlines()
    assert lines[-1] == "2 groups of 2 have version 5"
    for group in range(2):
        taken = [[line.split()[4] for line in lines if line.startswith(f"group {group} rank {rank}:")] for rank in range(2)]
        assert taken[0] == taken[1] and taken[0][-1] == "m@5"
