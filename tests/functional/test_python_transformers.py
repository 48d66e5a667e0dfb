"""tpview.transformers against transformers' own loader: the same parameters and logits, from fewer bytes."""

import os
import subprocess
import sys
import textwrap

import pytest
import tpview
from conftest import ROOT

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
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
               "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    ranks = [subprocess.Popen([sys.executable, script, str(rank), str(size), tmp_path / "store", running.source,
                               *map(folders, CONFIGS)], env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(size)]
    try:
        ended = [rank.communicate(timeout=500) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (out, errors) in zip(ranks, ended):
        assert rank.returncode == 0, errors
        for needed, whole in (map(int, line.split()) for line in out.splitlines()[-len(CONFIGS):]):
            assert needed < 0.9 * whole, "each rank fetches its share only"


def test_what_fails_is_told(start_service, folders):
    running = start_service(f"m@1={folders('qwen3')}")
    load = tpview.transformers.from_pretrained
    cls = transformers.AutoModelForCausalLM
    with pytest.raises(tpview.NotFoundError):
        load(cls, running.source, "m@2", config=folders("qwen3"))
    with pytest.raises(tpview.UsageError):
        load(cls, running.source, "m@1", config=folders("qwen3"), state_dict={})
    other = transformers.AutoConfig.from_pretrained(folders("qwen3"))
    other.hidden_size = 32
    with pytest.raises(RuntimeError, match="size mismatch|mismatch"):
        load(cls, running.source, "m@1", config=other)
