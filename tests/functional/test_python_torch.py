"""The PyTorch side of the Python package: tensors, recorded slices, loading and updating in a group of ranks."""

import contextlib
import os
import textwrap

import pytest
import tpview
from control import port_of_nobody
from rank_group import run_ranks
from tpview.manifest import TensorInfo

torch = pytest.importorskip("torch")

import tpview.torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


@pytest.fixture(autouse=True)
def library(build, monkeypatch):
    monkeypatch.setenv("TPVIEW_LIBRARY", str(build / "lib" / "libtpview.so"))


def values_of(folder) -> dict:
    values: dict = {}
    for shard in sorted(folder.glob("*.safetensors")):
        values.update(load_file(shard))
    return values


@pytest.fixture
def source(start_service, tiny):
    running = start_service(f"qwen3@1={tiny('qwen3')}", f"qwen3@2={tiny('qwen3', num_hidden_layers=1)}",
                            f"tied@1={tiny('qwen3-tied')}", f"fp8@1={tiny('qwen3-fp8')}")
    with tpview.connect(running.source, timeout=20) as source:
        yield source


@pytest.mark.parametrize("name, kind", [("qwen3", "qwen3"), ("fp8", "qwen3-fp8")])
def test_tensors_share_the_destination_and_have_the_files_values(source, tiny, name, kind):
    plan = source.plan(f"{name}@1", tpview.Layout.tp(0, 1))
    memory = tpview.torch.empty(plan)
    with source.fetch(plan, into=memory, deadline=30) as job:
        job.wait()
    got, wanted = tpview.torch.tensors(plan, memory), values_of(tiny(kind))
    assert set(got) == set(wanted)
    for key, tensor in wanted.items():
        assert got[key].dtype == tensor.dtype and got[key].shape == tensor.shape
        assert torch.equal(got[key].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), key
    assert got["model.norm.weight"].untyped_storage().data_ptr() == memory.untyped_storage().data_ptr()


def test_an_alias_is_the_very_tensor(source):
    plan = source.plan("tied", tpview.Layout.tp(0, 2))
    memory = tpview.torch.empty(plan)
    with source.fetch(plan, into=memory, deadline=30) as job:
        job.wait()
    got = tpview.torch.tensors(plan, memory)
    assert got["lm_head.weight"] is got["model.embed_tokens.weight"]


# ---- recording ----

MANIFEST = {"q": TensorInfo("q", "F32", (8, 4), 128), "k": TensorInfo("k", "F32", (4, 4), 64),
            "v": TensorInfo("v", "F32", (4,), 16)}


def fresh(values):
    """A loader may change what it is given."""
    return ((name, tensor.clone()) for name, tensor in values.items())


def replay(load, parameters_of):
    """What load() leaves in the parameters with real tensors, and what the recording of it leaves."""
    values = {name: torch.arange(info.bytes // 4, dtype=torch.float32).reshape(info.shape) + 100 * index
              for index, (name, info) in enumerate(MANIFEST.items())}
    wanted, target = parameters_of("cpu"), parameters_of("cpu")
    load(wanted)(fresh(values))
    absent = parameters_of("meta")
    recorded = tpview.torch.record(load(absent), MANIFEST, absent)
    fetched = {name: torch.as_strided(values[tensor], box.sizes, box.strides, box.offset).contiguous()
               for (tensor, box), name in recorded.sources().items()}
    fetched.update({name: values[name].clone() for name in recorded.whole})
    recorded.install(fetched, target, load(target))
    for name, tensor in wanted.items():
        assert torch.equal(target[name], tensor), name
    return recorded


def one(shape):
    return lambda device: {"p": torch.zeros(shape, device=device), "o": torch.zeros(shape, device=device)}


def loader(**by_name):
    """A loader that calls by_name[tensor's name](parameters, tensor)."""

    def load(parameters):
        def load_weights(tensors):
            for name, tensor in tensors:
                if name in by_name:
                    by_name[name](parameters, tensor)
        return load_weights
    return load


PURE = {
    "narrow": ((4, 4), lambda p, t: p["p"].copy_(t.narrow(0, 4, 4))),
    "index": ((2, 3), lambda p, t: p["p"].copy_(t[2:8:3, 1:])),
    "assigned": ((4, 4), lambda p, t: p["p"].__setitem__(slice(1, 3), t[5:7])),
    "chunk and transpose": ((4, 4), lambda p, t: p["p"].copy_(t.chunk(2)[1].t())),
    "reshape": ((2, 16), lambda p, t: p["p"].copy_(t.view(2, 4, 4).flatten(1))),
    "permute": ((4, 2, 4), lambda p, t: p["p"].copy_(t.view(2, 4, 4).permute(1, 0, 2))),
    "contiguous": ((4, 8), lambda p, t: p["p"].data.copy_(t.t().contiguous())),
    "same dtype": ((8, 4), lambda p, t: p["p"].copy_(t.to(torch.float32).detach().clone())),
    "split": ((2, 4), lambda p, t: p["p"].copy_(torch.split(t, [2, 6])[0])),
    "expand": ((3, 4), lambda p, t: p["p"].copy_(t[0].expand(3, 4))),
    "twice": ((8, 4), lambda p, t: (p["p"].copy_(t), p["o"].copy_(t))),
}


@pytest.mark.parametrize("shape, copy", PURE.values(), ids=PURE)
def test_views_are_recorded(shape, copy):
    recorded = replay(loader(q=copy), one(shape))
    assert not recorded.whole and recorded.copies and recorded.unused == ["k", "v"]


NEEDS_VALUES = {
    "arithmetic": lambda p, t: p["p"].copy_(t + 1),
    "in place": lambda p, t: p["p"].copy_(t.mul_(2)),
    "changed by an operator": lambda p, t: p["p"].copy_(doubled(t)),
    "changed in part": lambda p, t: (t.__setitem__(0, 7.0), p["p"].copy_(t)),
    "changed through a view": lambda p, t: (t[2:4].zero_(), p["p"].copy_(t)),
    "another dtype": lambda p, t: p["p"].copy_(t.to(torch.bfloat16)),
    "concatenated": lambda p, t: p["p"].copy_(torch.cat([t[4:], t[:4]])),
    "broadcast": lambda p, t: p["p"].copy_(t[:1]),
    "a value": lambda p, t: p["p"].fill_(float(t.sum())),
    "reordered copy viewed": lambda p, t: p["p"].copy_(t.t().contiguous().view(8, 4)),
    "out": lambda p, t: (torch.neg(t, out=t), p["p"].copy_(t)),
    "indexed by a list": lambda p, t: p["p"].copy_(t[[7, 6, 5, 4, 3, 2, 1, 0]]),
}


def doubled(tensor):
    tensor *= 2
    return tensor


@pytest.mark.parametrize("copy", NEEDS_VALUES.values(), ids=NEEDS_VALUES)
def test_what_needs_values_is_loaded_whole(copy):
    recorded = replay(loader(q=copy, k=lambda p, t: p["o"].__setitem__(slice(0, 4), t)), one((8, 4)))
    assert recorded.whole == ["q"]
    assert [record.tensor for record in recorded.copies] == ["k"]


def test_a_parameter_that_is_not_there_any_more_or_smaller_is_told_before_anything_changes():
    parameters = one((8, 4))("meta")
    recorded = tpview.torch.record(loader(q=lambda p, t: p["p"].copy_(t), k=lambda p, t: p["o"][:4].copy_(t))(parameters),
                                   MANIFEST, parameters)
    fetched = {name: torch.ones(box.sizes) for (_, box), name in recorded.sources().items()}
    for target in ({"o": torch.zeros(8, 4)}, {"p": torch.zeros(7, 4), "o": torch.zeros(8, 4)}):
        with pytest.raises(tpview.PlanError) as caught:
            recorded.install(fetched, target)
        assert caught.value.tensor == "q" and not target["o"].any()


# ---- loading ----

def shard(values: dict, rank: int, size: int) -> dict:
    def cut(name, tensor):
        axis = 1 if "o_proj" in name or "down_proj" in name else None if "norm" in name else 0
        return tensor if axis is None else tensor.chunk(size, axis)[rank].contiguous()
    return {name: cut(name, tensor) for name, tensor in values.items()}


@pytest.mark.parametrize("staging", ["host", "none"])
def test_a_dict_of_tensors_is_filled(source, tiny, staging):
    wanted = values_of(tiny("qwen3"))
    model = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    loaded = tpview.torch.load_weight_remote(model, source, "qwen3@1", deadline=30, staging=staging)
    assert loaded.label == "qwen3@1" and set(loaded.stages) == {"plan", "fetch", "agree", "install"}
    for name, tensor in wanted.items():
        assert torch.equal(model[name], tensor), name


@pytest.mark.parametrize("staging", ["host", "none"])
def test_a_fused_loader_is_followed_without_a_rule(source, tiny, staging):
    """Rank 1 of 2 of an engine that fuses q, k, v and leaves out the head."""
    wanted = values_of(tiny("qwen3"))
    size, rank = 2, 1
    layers = [f"model.layers.{layer}.self_attn." for layer in range(2)]
    share = {part: wanted[layers[0] + f"{part}_proj.weight"].shape[0] // size for part in "qkv"}
    columns = wanted[layers[0] + "q_proj.weight"].shape[1]
    model = {layer + "qkv": torch.zeros(sum(share.values()), columns, dtype=torch.bfloat16) for layer in layers}

    def load_weights(tensors):
        offsets = {"q": 0, "k": share["q"], "v": share["q"] + share["k"]}
        for name, tensor in tensors:
            layer, _, last = name.partition("self_attn.")
            if last[1:] != "_proj.weight" or last[0] not in share:
                continue
            part = last[0]
            model[layer + "self_attn.qkv"].narrow(0, offsets[part], share[part]).copy_(
                tensor.narrow(0, rank * share[part], share[part]))

    loaded = tpview.torch.load_weight_remote(model, source, "qwen3@1", load_weights=load_weights, deadline=30, staging=staging)
    assert loaded.result.needed_bytes == sum(tensor.nbytes for tensor in model.values()) and not loaded.whole
    for layer in layers:
        parts = [wanted[layer + f"{part}_proj.weight"].chunk(size)[rank] for part in "qkv"]
        assert torch.equal(model[layer + "qkv"], torch.cat(parts))
    update = tpview.torch.update_weight_remote
    with pytest.raises(tpview.UsageError):
        update(model, source, "qwen3", version=1, load_weights=load_weights)
    assert update(model, source, "qwen3", version=1, load_weights=load_weights, recorded=loaded.recorded,
                  deadline=30).recorded is loaded.recorded


def test_without_staging_only_what_must_be_is_copied(source, tiny, monkeypatch):
    """A transposed parameter and a part of one are written where they lie; two outputs for one storage are not, and the
    one that the model's loader writes last is what remains."""
    wanted = values_of(tiny("qwen3"))
    up, norm, other = "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"
    rows, columns = wanted[up].shape
    model = {"up": torch.zeros(columns, rows, dtype=torch.bfloat16), "norm": torch.zeros_like(wanted[norm])}

    def load_weights(tensors):
        for name, tensor in tensors:
            if name == up:
                model["up"].t()[:rows // 2].copy_(tensor[rows // 2:])
            elif name in (norm, other):
                model["norm"].copy_(tensor)

    into = []
    fetch = source.fetch
    monkeypatch.setattr(source, "fetch", lambda plan, **options: into.append(options["into"]) or fetch(plan, **options))
    loaded = tpview.torch.load_weight_remote(model, source, "qwen3@1", load_weights=load_weights, deadline=30, staging="none")
    assert torch.equal(model["up"].t()[:rows // 2], wanted[up][rows // 2:]) and not model["up"].t()[rows // 2:].any()
    last = [copy.tensor for copy in loaded.recorded.copies if copy.parameter == "norm"][-1]
    assert torch.equal(model["norm"], wanted[last])
    memory = {tensor.untyped_storage().data_ptr() for tensor in into[0].values()}
    assert len(into[0]) == 3 and model["up"].data_ptr() in memory and model["norm"].data_ptr() not in memory


@pytest.mark.parametrize("staging", ["host", "none"])
def test_of_two_writes_to_one_place_the_later_counts(source, tiny, staging):
    """The first tensor has a place of its own before the one that it shares with the second."""
    wanted = values_of(tiny("qwen3"))
    first, second = "model.layers.0.input_layernorm.weight", "model.norm.weight"
    assert not torch.equal(wanted[first], wanted[second])
    model = {name: torch.zeros_like(wanted[second]) for name in ("one", "both")}

    def load_weights(tensors):
        given = {name: tensor for name, tensor in tensors if name in (first, second)}
        model["one"].copy_(given[first])
        model["both"].copy_(given[first])
        model["both"].copy_(given[second])

    tpview.torch.load_weight_remote(model, source, "qwen3@1", load_weights=load_weights, deadline=30, staging=staging)
    assert torch.equal(model["one"], wanted[first]) and torch.equal(model["both"], wanted[second])


@pytest.mark.parametrize("staging", ["host", "none"])
def test_parameters_that_share_memory_are_filled_once(source, tiny, staging, monkeypatch):
    """A tied head is one place, which is written where it lies."""
    model = {name: torch.zeros_like(tensor) for name, tensor in values_of(tiny("qwen3-tied")).items()}
    embedding = model["model.embed_tokens.weight"]
    model["lm_head.weight"] = embedding.detach()
    into = []
    fetch = source.fetch
    monkeypatch.setattr(source, "fetch", lambda plan, **options: into.append(options["into"]) or fetch(plan, **options))
    tpview.torch.load_weight_remote(model, source, "tied@1", deadline=30, staging=staging)
    for name, tensor in values_of(tiny("qwen3-tied")).items():
        assert torch.equal(model[name], tensor), name
    assert staging == "host" or any(tensor.data_ptr() == embedding.data_ptr() for tensor in into[0].values())


def test_an_update_is_never_without_staging(source):
    with pytest.raises(tpview.UsageError):
        tpview.torch.update_weight_remote({}, source, "qwen3", version=1, staging="none")
    with pytest.raises(tpview.UsageError):
        tpview.torch.load_weight_remote({}, source, "qwen3@1", staging="device")


def test_models_that_do_not_fit_are_refused_and_stay_as_they_were(source, tiny):
    wanted = values_of(tiny("qwen3"))
    fits = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    norm = "model.norm.weight"
    for wrong in ({**fits, norm: torch.zeros(7, dtype=torch.bfloat16)}, {**fits, norm: torch.zeros(320)},
                  {name: tensor for name, tensor in fits.items() if name != norm},
                  {**fits, "extra.weight": torch.zeros(3)}):
        with pytest.raises(tpview.PlanError) as caught:
            tpview.torch.load_weight_remote(wrong, source, "qwen3@1", deadline=30)
        assert caught.value.tensor in (norm, "extra.weight")
        assert not any(tensor.any() for tensor in wrong.values())
    with pytest.raises(tpview.NotFoundError):
        tpview.torch.update_weight_remote(fits, source, "qwen3", version=9)


def test_a_trainers_tensors_are_offered_from_its_memory(source):
    """As they were when it was published, though they change at once; of dtypes of 1 to 8 bytes, strided and tied."""
    torch.manual_seed(1)
    block = torch.randn(6, 10)
    state = {"f8": torch.randn(3).to(torch.float8_e4m3fn), "bf16": torch.randn(5, 7).to(torch.bfloat16),
             "odd": torch.arange(3, dtype=torch.uint8), "i64": torch.arange(4), "strided": block.t()[::2], "none": torch.empty(0, 4),
             "scalar": torch.tensor(2.5)}
    wanted = {name: tensor.clone() for name, tensor in state.items()}
    state["tied"] = state["bf16"]
    identity = tpview.torch.publish_state_dict(source, "trained@1", state)
    block.zero_()
    assert identity == source.manifest("trained@1").artifact_id
    loaded = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    tpview.torch.load_weight_remote(loaded, source, "trained@1", layout=tpview.Layout.slices([
        (name, info.dtype, info.shape, [tpview.Slice(name, info.shape)]) for name, info in source.manifest("trained@1").items()]))
    for name, tensor in wanted.items():
        ours, theirs = (value.contiguous().flatten().view(torch.uint8) for value in (loaded[name], tensor))
        assert torch.equal(ours, theirs), name
    with pytest.raises(tpview.UsageError):
        tpview.torch.publish_state_dict(source, "trained@1", state)
    with pytest.raises(tpview.UsageError):
        tpview.torch.publish_state_dict(source, "trained@2", {})
    source.retire("trained@1")


def test_publishing_leaves_no_descriptor_and_a_service_that_sees_another_process_is_told(source, monkeypatch, tmp_path):
    def kept() -> list:
        links = []
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(entry.path))
        return [link for link in links if "memfd:tpview" in link]

    tensors = {"a": torch.arange(4)}
    tpview.torch.publish_state_dict(source, "trained@1", tensors)
    assert not kept()
    # As if the service's process of that number were another one, with a checkpoint of its own at that descriptor.
    publish = source.publish
    other = tmp_path / "model.safetensors"
    for theirs in ({"b": torch.arange(4)}, {"a": torch.arange(1, 5)}):
        save_file(theirs, other)
        with monkeypatch.context() as patch:
            patch.setattr(source, "publish", lambda label, path, **options: publish(label, other, **options))
            with pytest.raises(tpview.PeerLost, match="pid namespace"):
                tpview.torch.publish_state_dict(source, "trained@2", tensors)
        with pytest.raises(tpview.NotFoundError):
            source.manifest("trained@2")
    assert not kept()
    # What cannot be compared is not offered either, and the caller gets the cause.
    def lost(label):
        raise tpview.PeerLost("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(source, "manifest", lost)
        with pytest.raises(tpview.PeerLost, match="no answer"):
            tpview.torch.publish_state_dict(source, "trained@2", tensors)
    with pytest.raises(tpview.NotFoundError):
        source.manifest("trained@2")
    assert tpview.torch.publish_state_dict(source, "trained@2", tensors) == source.manifest("trained@1").artifact_id


RANK = textwrap.dedent("""
    import os, sys, torch, torch.distributed as dist, tpview, tpview.torch
    rank, size, store, source, version, fail = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:7]
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size)
    connected = tpview.connect(source)
    plan = connected.plan("qwen3@1", tpview.Layout.tp(rank, size))
    model = {name: torch.zeros(o.shape, dtype=tpview.torch.dtype_of(o.dtype)) for name, o in plan.outputs.items()}
    tpview.torch.load_weight_remote(model, connected, "qwen3@1", deadline=30)
    before = {name: tensor.clone() for name, tensor in model.items()}
    try:
        # With fail, rank 1 has no time: no rank may take the version.
        deadline = 1e-9 if fail == "fail" and rank == 1 else 30
        wanted = version if fail != "differ" or rank == 0 else "1"
        tpview.torch.update_weight_remote(model, connected, "qwen3", version=wanted, deadline=deadline)
        print("updated", flush=True)
    except tpview.Error as error:
        print(type(error).__name__, error, flush=True)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.items())
    torch.save(model, f"{store}.{rank}")
    dist.destroy_process_group()
""")


def run_group(source, tmp_path, version, fail) -> list[str]:
    return [out.strip() for out in run_ranks(RANK, 2, tmp_path, source.address, version, fail)]


@pytest.fixture
def versions(start_service, tiny):
    """Two versions of one model with different values."""
    running = start_service(f"qwen3@1={tiny('qwen3')}", f"qwen3@2={tiny('qwen3', seed=7)}")
    with tpview.connect(running.source, timeout=20) as source:
        yield source


def test_a_group_loads_and_updates(versions, tiny, tmp_path):
    assert run_group(versions, tmp_path, "2", "no") == ["updated", "updated"]
    wanted = values_of(tiny("qwen3", seed=7))
    for rank in range(2):
        got = torch.load(tmp_path / f"store.{rank}")
        for name, tensor in shard(wanted, rank, 2).items():
            assert torch.equal(got[name], tensor), name


def test_when_one_rank_fails_no_rank_takes_the_version(versions, tmp_path):
    said = run_group(versions, tmp_path, "2", "fail")
    assert said[0].startswith("Error rank 1 failed") and said[1].startswith("DeadlineError"), said


def test_ranks_that_mean_different_versions_are_told(versions, tmp_path):
    said = run_group(versions, tmp_path, "2", "differ")
    assert all(line.startswith("PlanError the ranks differ") for line in said), said


ALONE = textwrap.dedent("""
    import datetime, sys, torch, torch.distributed as dist, tpview, tpview.torch
    rank, size, store, address, nobody = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size,
                            timeout=datetime.timedelta(seconds=200))
    info = tpview.connect(address).manifest("qwen3@1")["model.norm.weight"]
    model = {"norm": torch.zeros(info.shape, dtype=torch.bfloat16)}
    calls = 0

    def load_weights(tensors):
        # Takes it whole, so that it is called again with values, which rank 1 fails over.
        global calls
        calls += 1
        for name, tensor in tensors:
            if name == "model.norm.weight":
                if calls > 1 and rank == 1:
                    raise ValueError("no room")
                model["norm"].copy_(tensor + 1)

    wrong = {"source": nobody} if rank == 1 else {}
    for options in (wrong, {"staging": "elsewhere" if rank == 1 else "host"}, {"load_weights": load_weights}):
        try:
            tpview.torch.load_weight_remote(model, **{"source": address, "artifact": "qwen3@1", "deadline": 30, "strict": False,
                                                      "load_weights": load_weights, **options})
            print("loaded", flush=True)
        except Exception as error:
            print(type(error).__name__, error, *getattr(error, "__notes__", ()), flush=True)
        calls = 0
    dist.barrier()
    dist.destroy_process_group()
""")


def test_what_fails_on_one_rank_alone_ends_the_call_on_all(versions, tmp_path):
    """A rank that does not reach the source, one with a wrong argument, one whose loader fails over the values."""
    with port_of_nobody() as port:
        zero, one = (out.splitlines()[-3:] for out in run_ranks(ALONE, 2, tmp_path, versions.address, f"127.0.0.1:{port}"))
    for said, cause in zip(one, ("PeerLost", "UsageError", "ValueError")):
        assert said.startswith(cause), one
    assert all(said.startswith("Error rank 1 failed, so no rank goes on: ") for said in zero), zero
    # Only while they install have weights changed.
    wanted = [False, False, True]
    assert [said.endswith("load them anew on all ranks") for said in zero] == wanted, zero
    if hasattr(BaseException, "add_note"):  # a rank's own failure has it as a note: Python 3.11
        assert [said.endswith("load them anew on all ranks") for said in one] == wanted, one
