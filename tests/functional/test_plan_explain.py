"""tpview plan --explain: the rule, the reason, the place of one tensor."""

import json

import pytest

Q, K, NORM = (f"model.layers.0.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm"))
FUSED = "model.layers.0.self_attn.qkv_proj.weight"


@pytest.fixture
def explain(tpview, tiny):
    def get(name: str, *options, rank: int = 1, size: int = 2):
        return tpview("plan", "--checkpoint", tiny("qwen3"), "--tp-size", size, "--tp-rank", rank, "--explain", name, *options)

    return get


@pytest.fixture
def facts(explain):
    def get(name: str, *options, **sizes) -> list[dict]:
        done = explain(name, "--json", *options, **sizes)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["name"] == name
        return result["tensors"]

    return get


def test_a_tensor_that_is_cut_by_heads(facts, explain):
    (tensor,) = facts(K)
    rows, columns = tensor["shape"]
    assert tensor["rule"] == {"pattern": "layers.*.self_attn.k_proj", "word": "colwise", "plan": "family qwen3"}
    assert "4 heads (num_key_value_heads" in tensor["why"] and "2 for each rank" in tensor["why"]
    assert (tensor["axis"], tensor["ranges"]) == (0, [[rows // 2, rows]])
    (output,) = tensor["outputs"]
    assert (output["name"], output["shape"]) == (K, [rows // 2, columns])
    assert output["pieces"] == [{"sizes": [rows // 2, columns], "strides": [columns, 1], "offset": rows // 2 * columns,
                                 "to": {"offset": 0, "strides": [columns, 1]}}]
    text = explain(K).stdout
    assert 'rule   "layers.*.self_attn.k_proj": colwise (family qwen3)' in text
    assert f"from   axis 0, {rows // 2} to {rows} of {rows}" in text
    assert f"to     {K}: BF16 [{rows // 2}, {columns}], there 0 to {rows // 2}; bytes {output['offset']} to " in text


def test_a_tensor_in_a_fused_output_and_the_output_itself(facts, explain):
    (query,), (key,) = facts(Q, "--fuse"), facts(K, "--fuse")
    assert {query["outputs"][0]["name"], key["outputs"][0]["name"]} == {FUSED}
    rows = query["shape"][0] // 2
    assert f"{FUSED}: BF16 [" in explain(K, "--fuse").stdout
    assert f"there {rows} to {rows + key['shape'][0] // 2};" in explain(K, "--fuse").stdout
    assert [tensor["tensor"] for tensor in facts(FUSED, "--fuse")] == [Q, K, K.replace("k_proj", "v_proj")]


def test_what_is_whole_says_why(facts, explain, tmp_path):
    (norm,) = facts(NORM)
    assert (norm["axis"], norm["ranges"], norm["why"]) == (None, [], '"replicate" leaves weights whole')
    assert "from   all of it" in explain(NORM).stdout
    (alone,) = facts(K, rank=0, size=1)
    assert alone["why"] == "with tp_size 1 every tensor is whole"
    plan = tmp_path / "plan.json"
    plan.write_text('{"format": "tpview-plan-1", "default": "replicate", "tp_plan": {"**.q_proj": "colwise"}}')
    (unmatched,) = facts(K, "--plan", plan)
    assert unmatched["rule"] is None and "no rule matches it" in unmatched["why"]


def test_experts_of_a_group(tpview, tiny):
    name = "model.layers.0.mlp.experts.3.down_proj.weight"

    def tensor(group: int) -> dict:
        done = tpview("plan", "--checkpoint", tiny("qwen3_moe"), "--tp-size", 2, "--tp-rank", 1, "--ep-size", 2, "--ep-rank",
                      group, "--explain", name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["tensors"][0]

    assert tensor(1)["why"] == "group 1 of 2 has experts [2, 4): experts are whole"
    assert [output["name"] for output in tensor(1)["outputs"]] == [name]
    assert tensor(0)["outputs"] == []


def test_an_output_of_a_number(facts, tmp_path):
    view = tmp_path / "view.json"
    view.write_text(json.dumps({"format": "tpview-view-1", "outputs": [
        {"name": "o", "dtype": "I64", "shape": [1], "pieces": [{"number": 7, "sizes": [1]}]}]}))
    assert facts("o", "--plan", view) == []


def test_a_rule_of_transformers_and_an_explicit_view(facts, tpview, tiny, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"model.layers.*.self_attn.k_proj": "colwise"}')
    (tensor,) = facts(K, "--plan", f"hf:{plan}")
    assert tensor["rule"] == {"pattern": "model.layers.*.self_attn.k_proj", "word": "colwise",
                              "plan": "transformers' plan", "disk": "layers.*.self_attn.k_proj"}
    done = tpview("plan", "--checkpoint", tiny("qwen3"), "--tp-size", 2, "--tp-rank", 1, "--json")
    plan.write_text(json.dumps(json.loads(done.stdout)["view"]))
    (spec,) = facts(K, "--plan", plan)
    assert spec["rule"] is None and spec["why"] == "the plan is an explicit view, which says so"
    assert spec["outputs"][0]["name"] == K and len(spec["outputs"][0]["pieces"]) == 1


@pytest.mark.parametrize("name, near", [
    ("layers.0.self_attn.k_proj", K),
    ("model.layer.0.self_attn.k_prj.weight", K),
    ("entirely different", None),
])
def test_an_unknown_name_is_an_error_with_those_near_it(explain, name, near):
    done = explain(name)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{name}: neither a tensor of the checkpoint nor an output of the view" in done.stderr
    assert (f"near it: {near}" in done.stderr) if near else ("near it" not in done.stderr)
