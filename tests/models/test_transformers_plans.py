"""transformers' plans as they stand: of the configuration alone, and as 4.57 wrote them."""

import json

import numpy as np
import pytest
from compare import UNMEASURED, difference
from expected import VOCABULARY, Checkpoint
from families import FAMILIES, VARIANTS
from results import CHECKPOINTS
from statement import Rank, columns, rows, stated, whole
from views import Request, cut

SIZES = (2, 4)


def _differences(build, checkpoint: Checkpoint, plan, due) -> list[str]:
    requests = [Request(size, rank, plan=f"hf:{plan}") for size in SIZES for rank in range(size)]
    views = cut(build, checkpoint.folder, requests)
    found = [view if isinstance(view, str) else difference(view, due(Rank(request.rank, request.size)))
             for request, view in zip(requests, views)]
    return [f"tp {request.size}, rank {request.rank}: {text}" for request, text in zip(requests, found) if text]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("gemma4", "llama4")])
def test_plan_of_the_configuration_alone(build, results, name):
    """base_model_tp_plan cuts the layers as the loader does; embeddings, which the model adds, and head stay whole. Two
    families have plans in several configurations."""
    if results[name]["kv4"]["hf"][2] == UNMEASURED:
        pytest.skip("transformers has no plan or cannot load by it")
    for variant in VARIANTS:
        checkpoint = Checkpoint(CHECKPOINTS / name / variant.name)
        plan = checkpoint.folder / "base_model_tp_plan.json"
        if not (rules := json.loads(plan.read_text())):
            continue

        def stays_whole(tensor: str) -> bool:
            return bool(VOCABULARY.fullmatch(tensor)) and not any(tensor.endswith(f"{rule}.weight") for rule in rules)

        def due(rank: Rank) -> dict[str, np.ndarray]:
            return {tensor: checkpoint.tensors[tensor] if stays_whole(tensor) else part
                    for tensor, part in checkpoint.by_transformers(rank).items()}

        assert not _differences(build, checkpoint, plan, due)


# base_model_tp_plan in transformers 4.57.1, and how it cuts what is on disk.
_ATTENTION = {"layers.*.self_attn.q_proj": "colwise", "layers.*.self_attn.k_proj": "colwise",
              "layers.*.self_attn.v_proj": "colwise", "layers.*.self_attn.o_proj": "rowwise"}
OLDER = {
    "mixtral": ({
        **_ATTENTION,
        "layers.*.block_sparse_moe.gate": "colwise_rep",
        "layers.*.block_sparse_moe.experts.*.w1": "colwise",
        "layers.*.block_sparse_moe.experts.*.w2": "rowwise",
        "layers.*.block_sparse_moe.experts.*.w3": "colwise",
    }, {r".*\.[qkv]_proj\.weight|.*\.w[13]\.weight|.*\.gate\.weight": rows(),
        r".*\.o_proj\.weight|.*\.w2\.weight": columns()}),
    "qwen3_moe": ({
        **_ATTENTION,
        "layers.*.mlp.experts.*.gate_proj": "colwise",
        "layers.*.mlp.experts.*.up_proj": "colwise",
        "layers.*.mlp.experts.*.down_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }, {r".*\.[qkv]_proj\.weight|.*\.(gate|up)_proj\.weight": rows(),
        r".*\.o_proj\.weight|.*\.down_proj\.weight": columns()}),
    "deepseek_v3": ({
        "layers.*.mlp.experts.*.gate_proj": "local_colwise",
        "layers.*.mlp.experts.*.up_proj": "local_colwise",
        "layers.*.mlp.experts.*.down_proj": "local_rowwise",
        "layers.*.mlp.experts.*": "local",
        "layers.*.mlp.shared_experts.gate_proj": "local_colwise",
        "layers.*.mlp.shared_experts.up_proj": "local_colwise",
        "layers.*.mlp.shared_experts.down_proj": "local_rowwise",
        "layers.*.mlp.shared_experts": "local",
        "layers.*.mlp.gate_proj": "local_colwise",
        "layers.*.mlp.up_proj": "local_colwise",
        "layers.*.mlp.down_proj": "local_rowwise",
        "layers.*.mlp": "gather",
    }, {r".*\.mlp\..*(gate|up)_proj\.weight": rows(), r".*\.mlp\..*down_proj\.weight": columns()}),
    "gpt_oss": ({
        **_ATTENTION,
        "layers.*.self_attn.sinks": "local_rowwise",
        "layers.*.mlp.experts": "gather",
        "layers.*.mlp.router": "ep_router",
        "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.gate_up_proj_bias": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj_bias": "grouped_gemm",
    }, {r".*\.[qkv]_proj\.\w+|.*\.sinks|.*\.experts\.\w+": rows(), r".*\.o_proj\.weight": columns()}),
}


@pytest.mark.parametrize("name", OLDER)
def test_plan_of_an_older_transformers(build, results, tmp_path, name):
    rules, cuts = OLDER[name]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(rules))
    for variant in VARIANTS:
        checkpoint = Checkpoint(CHECKPOINTS / name / variant.name)

        def due(rank: Rank) -> dict[str, np.ndarray]:
            return {tensor: (stated(cuts, tensor) or whole())(values, rank, variant)
                    for tensor, values in checkpoint.tensors.items()}

        assert not _differences(build, checkpoint, plan, due)
