"""tpview plan: what each rank needs, from shapes alone."""

import json
import subprocess

import pytest
from checkpoints.models import MODELS
from checkpoints.tensors import tensors_of
from conftest import LIMIT_S, ROOT
from models import TINY, TINY_MOE

GIB = 1 << 30


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """sparse(model): headers of the whole model, without data."""
    made = {}

    def get(model: str):
        if model not in made:
            made[model] = tmp_path_factory.mktemp("sparse") / model
            subprocess.run([str(ROOT / "scripts" / "make-checkpoint"), "--model", model, "--sparse", "--out",
                            str(made[model])], check=True, capture_output=True, timeout=LIMIT_S)
        return made[model]

    return get


@pytest.fixture
def plan(tpview):
    def get(checkpoint, tp_size: int, tp_rank: int = 0, *options) -> dict:
        done = tpview("plan", "--checkpoint", checkpoint, "--tp-size", tp_size, "--tp-rank", tp_rank, "--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return get


# Bytes for each rank: Hugging Face's index total divided by rule (replicated norms, kv heads held twice at tp 16).
@pytest.mark.parametrize("model, tensors, bytes_by_size", [
    ("qwen3-14b", 443, {1: 29_536_614_400, 2: 14_768_732_160, 4: 7_384_791_040, 8: 3_692_820_480}),
    ("qwen3-32b", 707, {1: 65_524_246_528, 2: 32_762_800_128, 4: 16_382_076_928, 8: 8_191_715_328, 16: 4_180_420_608}),
])
def test_full_models(sparse, plan, model, tensors, bytes_by_size):
    for tp_size, expected in bytes_by_size.items():
        for tp_rank in {0, tp_size - 1}:
            result = plan(sparse(model), tp_size, tp_rank)
            assert (result["tensors"], result["bytes"]) == (tensors, expected)


def test_qwen3_14b_in_gib(sparse, plan):
    sizes = [round(plan(sparse("qwen3-14b"), tp_size)["bytes"] / GIB, 3) for tp_size in (2, 4, 8)]
    assert sizes == [13.754, 6.878, 3.439]


def test_qwen3_14b_does_not_divide_by_16(sparse, tpview):
    done = tpview("plan", "--checkpoint", sparse("qwen3-14b"), "--tp-size", 16, "--tp-rank", 0)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "_proj" in done.stderr and "40" in done.stderr  # 40 heads


def test_fused_plan_has_the_same_bytes(sparse, plan):
    """4 of 7 matrices of a layer go into 2: 5 tensors become 2."""
    whole, fused = (plan(sparse("qwen3-14b"), 4, 1, *options) for options in ((), ("--fuse",)))
    assert fused["bytes"] == whole["bytes"]
    assert fused["tensors"] == whole["tensors"] - 3 * 40
    assert fused["view_id"] != whole["view_id"]


def test_what_stays_apart_of_a_fused_plan_is_told(tiny, tpview, tmp_path):
    """A plan that cuts no v_proj leaves q, k and v as they are, and says so in the table and in JSON."""
    rules = tmp_path / "plan.json"
    rules.write_text(json.dumps({"format": "tpview-plan-1", "default": "replicate", "tp_plan": {
        "**.q_proj": "colwise", "**.k_proj": "colwise", "**.gate_proj": "colwise", "**.up_proj": "colwise"}}))
    command = ("plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", 0, "--plan", rules, "--fuse")
    listed = json.loads(tpview(*command, "--json").stdout)["outputs"]
    apart = {output["name"] for output in listed if "not_fused" in output}
    assert apart == {f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(2) for part in "qk"}
    lines = tpview(*command).stdout.splitlines()
    assert {line.split()[0] for line in lines if "not fused: not all of its projections" in line} == apart


def test_groups_of_experts(tiny, plan, tpview, tmp_path):
    """Four experts for three groups: two, one and one. Each plan has an id of its own."""
    folder = tiny("qwen3_moe")
    whole = plan(folder, 2, 1, "--expert-tp-size", 1, "--expert-tp-rank", 0)
    parts = [plan(folder, 2, 1, "--ep-size", 3, "--ep-rank", group) for group in range(3)]
    names = [{output["name"] for output in part["outputs"]} for part in parts]
    held = [sorted({name.split(".experts.")[1].split(".")[0] for name in part if ".experts." in name}) for part in names]
    assert held == [["0", "1"], ["2"], ["3"]]
    assert set.union(*names) == {output["name"] for output in whole["outputs"]}
    assert len({part["view_id"] for part in (whole, *parts)}) == 4
    none = plan(folder, 2, 1, "--ep-size", 5, "--ep-rank", 4)
    assert not [output for output in none["outputs"] if ".experts." in output["name"]]
    done = tpview("plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", 0, "--ep-size", 2, "--ep-rank", 0)
    assert done.returncode == 1 and "no experts" in done.stderr


def test_fp8_plan_refuses_to_cut_a_block(sparse, plan, tpview):
    """17408 / 128 = 136 blocks: 17 for each of 8 ranks, 8.5 for 16 (and 40 heads do not divide)."""
    assert plan(sparse("qwen3-14b-fp8"), 8)["tensors"] == 723
    assert tpview("plan", "--checkpoint", sparse("qwen3-14b-fp8"), "--tp-size", 16, "--tp-rank", 0).returncode == 1


@pytest.mark.parametrize("kind", [*TINY, *TINY_MOE])
def test_ranks_together_hold_the_model(tiny, plan, kind):
    """Summed over the ranks, a view holds at least the model, and at tp 1 exactly what is sent of it."""
    folder = tiny(kind)
    total = 0
    for tp_rank in range(4):
        total += plan(folder, 4, tp_rank)["bytes"]
    assert total >= plan(folder, 1)["bytes"]


def test_view_id_depends_on_rank_and_not_on_values(tmp_path, plan):
    from models import write_tiny

    first, second = (write_tiny("qwen3", tmp_path / str(seed), seed=seed) for seed in (0, 1))
    ids = {plan(first, 4, tp_rank)["view_id"] for tp_rank in range(4)}
    assert len(ids) == 4
    assert plan(first, 4, 2)["view_id"] == plan(second, 4, 2)["view_id"]


def test_published_small_model_is_tied_once(sparse, plan):
    """Qwen2.5-0.5B has no lm_head: its name stands for the embeddings."""
    model = MODELS["qwen2.5-0.5b"]
    result = plan(sparse("qwen2.5-0.5b"), 2)
    assert result["tensors"] == len(tensors_of(model.config)) == 290


def test_transformers_own_plan(sparse, plan, tmp_path):
    """base_model_tp_plan and tp_plan of transformers, as they stand: 8 heads of keys and values over 16 ranks are cut
    through, where tpview's own plan gives each of them to two ranks."""
    rules = {f"model.layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"}
    rules |= {f"model.layers.*.mlp.{name}_proj": "colwise" for name in ("gate", "up")}
    rules |= {"model.layers.*.self_attn.o_proj": "rowwise", "model.layers.*.mlp.down_proj": "rowwise",
              "model.embed_tokens": "embedding_rowwise", "lm_head": "colwise_gather_output"}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(rules))
    own = plan(sparse("qwen3-14b"), 8, 3)
    assert plan(sparse("qwen3-14b"), 8, 3, "--plan", f"hf:{file}")["view_id"] == own["view_id"]
    shapes = {output["name"]: output["shape"]
              for output in plan(sparse("qwen3-14b"), 16, 15, "--plan", f"hf:{file}")["outputs"]}
    assert shapes["model.layers.39.self_attn.k_proj.weight"] == [64, 5120]


@pytest.mark.parametrize("text, reason", [
    ("{", "JSON"),
    ('{"layers.*.self_attn.q_proj": "sideways"}', 'unknown word "sideways"'),
    ('{"decoder.*.q_proj": "colwise"}', "matches no tensor of the checkpoint"),
])
def test_faults_of_transformers_plans_are_named(sparse, tpview, tmp_path, text, reason):
    file = tmp_path / "plan.json"
    file.write_text(text)
    done = tpview("plan", "--checkpoint", sparse("qwen3-14b"), "--tp-size", 2, "--tp-rank", 0, "--plan", f"hf:{file}")
    assert done.returncode == 1 and reason in done.stderr
    missing = tpview("plan", "--checkpoint", sparse("qwen3-14b"), "--tp-size", 2, "--tp-rank", 0, "--plan", "hf:none")
    assert missing.returncode == 1 and "cannot open none" in missing.stderr
