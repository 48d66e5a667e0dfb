"""Expert parallelism: which experts a rank gets, and what of each, stated in numpy."""

import json
import re

import numpy as np
import pytest
from tensor_file import Stored, write_tensors
from views import Request, View, cut

HIDDEN, INNER, VOCABULARY = 64, 96, 128
EP_SIZES = (1, 2, 3, 4, 8)


def _mixtral(experts: int) -> dict[str, tuple]:
    layer = "model.layers.0.block_sparse_moe"
    shapes = {f"{layer}.gate.weight": (experts, HIDDEN)}
    for expert in range(experts):
        shapes |= {f"{layer}.experts.{expert}.{name}.weight": shape
                   for name, shape in (("w1", (INNER, HIDDEN)), ("w2", (HIDDEN, INNER)), ("w3", (INNER, HIDDEN)))}
    return shapes


def _qwen3_moe(experts: int) -> dict[str, tuple]:
    layer = "model.layers.0"
    return {f"{layer}.mlp.gate.weight": (experts, HIDDEN), f"{layer}.self_attn.q_norm.weight": (16,),
            f"{layer}.self_attn.k_norm.weight": (16,),
            f"{layer}.mlp.experts.gate_up_proj": (experts, 2 * INNER, HIDDEN),
            f"{layer}.mlp.experts.down_proj": (experts, HIDDEN, INNER)}


def _gpt_oss(experts: int) -> dict[str, tuple]:
    layer = "model.layers.0"
    shapes = {f"{layer}.self_attn.sinks": (8,), f"{layer}.mlp.router.weight": (experts, HIDDEN)}
    for name, rows, columns in (("gate_up_proj", 2 * INNER, HIDDEN), ("down_proj", HIDDEN, INNER)):
        shapes |= {f"{layer}.mlp.experts.{name}_blocks": (experts, rows, columns // 32, 16),
                   f"{layer}.mlp.experts.{name}_scales": (experts, rows, columns // 32),
                   f"{layer}.mlp.experts.{name}_bias": (experts, rows)}
    return shapes


MODELS = {"mixtral": _mixtral, "qwen3_moe": _qwen3_moe, "gpt_oss": _gpt_oss}
# What a rank of several gets inside of an expert: the axis from the end, and how many parts it is cut in first.
INSIDE = {r"\.w[13]\.weight": (-2, 1), r"\.w2\.weight|experts\.down_proj": (-1, 1), r"experts\.gate_up_proj": (-2, 2)}


def _write(folder, model: str, experts: int) -> dict[str, np.ndarray]:
    layer = "model.layers.0"
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN),
              "model.norm.weight": (HIDDEN,), f"{layer}.input_layernorm.weight": (HIDDEN,),
              f"{layer}.post_attention_layernorm.weight": (HIDDEN,)}
    shapes |= {f"{layer}.self_attn.{name}_proj.weight": (128, HIDDEN) for name in "qkv"}
    shapes |= {f"{layer}.self_attn.o_proj.weight": (HIDDEN, 128)} | MODELS[model](experts)
    rng = np.random.default_rng(experts)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith(("_blocks", "_scales")):
            tensors[name] = Stored("U8", rng.integers(0, 256, shape).astype(np.uint8))
        else:
            tensors[name] = Stored("F32", rng.random(shape, np.float32))
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(write_tensors(tensors))
    config = {"model_type": model, "num_hidden_layers": 1, "hidden_size": HIDDEN, "num_attention_heads": 8,
              "num_key_value_heads": 8, "head_dim": 16, "architectures": ["ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return {name: tensor.data for name, tensor in tensors.items()}


def _inside(name: str, tensor: np.ndarray, rank: int, size: int) -> np.ndarray:
    for pattern, (axis, parts) in INSIDE.items():
        if re.search(pattern, name):
            return np.concatenate([np.split(part, size, axis)[rank] for part in np.split(tensor, parts, axis)], axis)
    raise AssertionError(name)


def _expected(whole: dict, experts: int, group: tuple[int, int], ranks: tuple[int, int]) -> dict[str, np.ndarray]:
    """Of the tensors of experts: the groups have runs of neighbours, the first ones an expert more."""
    held = np.array_split(np.arange(experts), group[0])[group[1]]
    expected = {}
    for name, tensor in whole.items():
        if ".experts." not in name:
            continue
        number = re.search(r"\.experts\.(\d+)\.", name)
        if number and int(number[1]) in held:
            expected[name] = _inside(name, tensor, ranks[1], ranks[0]) if ranks[0] > 1 else tensor
        if not number and len(held):
            expected[name] = _inside(name, tensor[held], ranks[1], ranks[0]) if ranks[0] > 1 else tensor[held]
    return expected


def _check(view: View | str, rest: View, expected: dict):
    assert isinstance(view, View), view
    others = {name: tensor for name, tensor in rest.tensors.items() if ".experts." not in name}
    assert view.tensors.keys() == expected.keys() | others.keys()
    for name, tensor in (others | expected).items():
        np.testing.assert_array_equal(view.tensors[name], tensor, name)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("experts", [4, 6])
@pytest.mark.parametrize("size", [1, 2])
def test_each_group_has_its_experts_whole(build, tmp_path, model, experts, size):
    """Also with more groups than experts: some then have none. What is no expert's is cut for tp_size as ever."""
    whole = _write(tmp_path, model, experts)
    groups = [(groups, group) for groups in EP_SIZES[1:] for group in range(groups)]
    rank = size - 1
    rest, *views = cut(build, tmp_path, [Request(size, rank)] + [Request(size, rank, experts=group) for group in groups])
    for group, view in zip(groups, views):
        _check(view, rest, _expected(whole, experts, group, (1, 0)))


@pytest.mark.parametrize("model", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_experts_are_cut_for_ranks_of_their_own(build, tmp_path, model, groups):
    whole = _write(tmp_path, model, 4)
    cases = [((groups, group), (ranks, rank)) for group in range(groups) for ranks in (1, 2, 4) for rank in range(ranks)]
    rest, *views = cut(build, tmp_path, [Request(2, 1)] + [Request(2, 1, experts=group, expert_ranks=ranks)
                                                           for group, ranks in cases])
    for (group, ranks), view in zip(cases, views):
        _check(view, rest, _expected(whole, 4, group, ranks))


def test_without_groups_nothing_changes(build, tmp_path):
    _write(tmp_path, "mixtral", 4)
    plain, told = cut(build, tmp_path, [Request(2, 1), Request(2, 1, expert_ranks=(2, 1))])
    _check(told, plain, {name: tensor for name, tensor in plain.tensors.items() if ".experts." in name})


def test_a_plan_that_divides_experts_itself(build, tmp_path):
    """transformers' grouped_gemm cuts a stack by tp_size; with groups of experts they are what divides it."""
    whole = _write(tmp_path, "gpt_oss", 4)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "tpview-plan-1", "default": "replicate", "tp_plan": {
        f"layers.*.mlp.experts.{name}": "grouped_gemm" for name in ("gate_up_proj", "down_proj")}}))
    rest, *views = cut(build, tmp_path, [Request(2, 1, plan=str(plan))] + [
        Request(2, 1, plan=str(plan), experts=(4, group)) for group in range(4)])
    _check(rest, rest, _expected(whole, 4, (2, 1), (1, 0)))
    for group, view in enumerate(views):
        _check(view, rest, _expected(whole, 4, (4, group), (1, 0)))


def _refused(build, folder, request: Request, reason: str):
    (answer,) = cut(build, folder, [request])
    assert isinstance(answer, str) and reason in answer, answer


def test_what_cannot_be_divided(build, tmp_path):
    whole = _write(tmp_path, "mixtral", 4)
    _refused(build, tmp_path, Request(1, 0, experts=(2, 2)), "ep_rank 2 is out of range: expected less than ep_size 2")
    _refused(build, tmp_path, Request(1, 0, experts=(2000, 0)), "ep_size 2000 is out of range: expected at most 1024")
    _refused(build, tmp_path, Request(1, 0, expert_ranks=(2, 3)), "expert_tp_rank 3 is out of range")
    _refused(build, tmp_path, Request(2, 0, experts=(2, 0), expert_ranks=(5, 0)), "do not divide by tp_size 5")
    tensors = {name: Stored("F32", tensor) for name, tensor in whole.items() if ".experts.1." not in name}
    (tmp_path / "model.safetensors").write_bytes(write_tensors(tensors))
    _refused(build, tmp_path, Request(1, 0, experts=(2, 0)),
             "model.layers.0.block_sparse_moe.experts.3 is there, but only 3 experts in all")
    tensors = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    (tmp_path / "model.safetensors").write_bytes(write_tensors(tensors))
    _refused(build, tmp_path, Request(1, 0, experts=(2, 0)), "ep_size 2: the checkpoint has no experts")
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"format": "tpview-plan-1", "default": "replicate", "tp_plan": {"**.q_proj": "colwise"}}))
    for size, expert_size in ((4, 1), (1, 2)):
        _refused(build, tmp_path, Request(size, 0, plan=str(rules), expert_ranks=(expert_size, 0)),
                 f"expert_tp_size {expert_size}: the checkpoint has no experts")
    # What no rule cuts is whole only where nothing is cut: at expert_tp_size 2, too, it must be told.
    tensors = {name: Stored("F32", tensor) for name, tensor in whole.items()}
    odd = "model.layers.0.block_sparse_moe.experts.{}.w4.weight"
    tensors |= {odd.format(expert): tensors[odd.format(expert).replace("w4", "w1")] for expert in range(4)}
    (tmp_path / "model.safetensors").write_bytes(write_tensors(tensors))
    for ranks in (Request(2, 0), Request(1, 0, expert_ranks=(2, 0))):
        _refused(build, tmp_path, ranks, "w4.weight: no rule of the plan matches it")
    view = tmp_path / "view.json"
    view.write_text(json.dumps({"format": "tpview-view-1", "outputs": []}))
    _refused(build, tmp_path, Request(1, 0, plan=str(view), experts=(2, 0)), "expected neither ep_size nor")
