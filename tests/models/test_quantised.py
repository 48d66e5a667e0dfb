"""Quantised weights: what a rank gets stands for its slice of the matrix that the whole stands for."""

import json

import numpy as np
import pytest
from quantise import FORMATS, GROUP, Format
from tensor_file import Stored, write_tensors
from views import Request, cut

ROWS, COLUMNS = 128, 256
SIZES = (1, 2, 4)
AXES = {"colwise": -2, "rowwise": -1, "grouped_gemm": 0}


def _prefix(form: Format) -> str:
    return "model.layers.0.mlp.experts.m" if form.stack else "model.layers.0.mlp.m"


def _name(form: Format, part: str) -> str:
    return _prefix(form) + (f"_{part}" if part else "") if form.stack else f"{_prefix(form)}.{part}"


def _write(folder, form: Format, rows: int = ROWS, columns: int = COLUMNS, without=()):
    made = form.make(np.random.default_rng(rows * columns), rows, columns)
    folder.mkdir(exist_ok=True)
    tensors = {_name(form, part): tensor for part, tensor in made.items() if part not in without}
    (folder / "model.safetensors").write_bytes(write_tensors(tensors))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": form.config}))
    return {part: tensor.data for part, tensor in made.items()}


def _plan(folder, rules: dict, default: str = "error"):
    path = folder / "plan.json"
    path.write_text(json.dumps({"format": "tpview-plan-1", "tp_plan": rules, "default": default}))
    return str(path)


def _cut(build, folder, plan: str, size: int) -> list[dict | str]:
    answers = cut(build, folder, [Request(size, rank, False, plan) for rank in range(size)])
    return [answer if isinstance(answer, str) else answer.tensors for answer in answers]


def _parts(form: Format, tensors: dict) -> dict[str, np.ndarray]:
    behind = len(_prefix(form)) + 1
    return {name[behind:]: tensor for name, tensor in tensors.items()}


CASES = [(name, word) for name, form in FORMATS.items() for word in form.words]


@pytest.mark.parametrize("name, word", CASES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", ["", ".*"])
def test_a_slice_stands_for_its_part_of_the_matrix(build, tmp_path, name, word, size, pattern):
    form = FORMATS[name]
    whole = form.value(_write(tmp_path, form))
    pattern = {"": "", ".*": "*" if form.stack else ".*"}[pattern]
    plan = _plan(tmp_path, {f"layers.*.mlp.{'experts.' if form.stack else ''}m{pattern}": word})
    parts = np.split(whole, size, AXES[word])
    for rank, tensors in enumerate(_cut(build, tmp_path, plan, size)):
        assert isinstance(tensors, dict), tensors
        np.testing.assert_array_equal(form.value(_parts(form, tensors)), parts[rank])


@pytest.mark.parametrize("size", SIZES)
def test_a_bias_goes_with_the_rows(build, tmp_path, size):
    form = FORMATS["gptq_4"]
    bias = _write(tmp_path, form)["bias"]
    for word in form.words:
        views = _cut(build, tmp_path, _plan(tmp_path, {"layers.*.mlp.m": word}), size)
        for rank, tensors in enumerate(views):
            expected = np.split(bias, size)[rank] if word == "colwise" else bias
            np.testing.assert_array_equal(_parts(form, tensors)["bias"], expected)


@pytest.mark.parametrize("bias", ["rowwise", "local_packed_rowwise", "replicate"])
def test_a_bias_named_in_full_is_whole_under_rowwise(build, tmp_path, bias):
    form = FORMATS["gptq_4"]
    made = _write(tmp_path, form)
    for rank, tensors in enumerate(_cut(build, tmp_path, _plan(tmp_path, {
            "layers.*.mlp.m": "rowwise", "layers.*.mlp.m.bias": bias}), 2)):
        np.testing.assert_array_equal(_parts(form, tensors)["bias"], made["bias"])
        np.testing.assert_array_equal(_parts(form, tensors)["qweight"], np.split(made["qweight"], 2)[rank])
    for answer in _cut(build, tmp_path, _plan(tmp_path, {
            "layers.*.mlp.m": "colwise", "layers.*.mlp.m.bias": bias}), 2):
        assert isinstance(answer, str) and "parameters of a quantised module are cut together" in answer, answer


@pytest.mark.parametrize("name, word", CASES)
def test_the_shape_that_a_rule_asks_for_is_that_of_the_weight(build, tmp_path, name, word):
    form = FORMATS[name]
    whole = form.value(_write(tmp_path, form))
    other = "rowwise" if word == "colwise" else "colwise"
    plan = _plan(tmp_path, {f"layers.*.mlp.{'experts.' if form.stack else ''}m": [
        {"word": other, "shape": [COLUMNS, None]}, {"word": word, "shape": [ROWS, None if name == "gguf" else COLUMNS]}]})
    for rank, tensors in enumerate(_cut(build, tmp_path, plan, 2)):
        assert isinstance(tensors, dict), tensors
        np.testing.assert_array_equal(form.value(_parts(form, tensors)), np.split(whole, 2, AXES[word])[rank])


def test_weight_shape_has_what_the_file_says_of_the_axis_that_is_not_cut(build, tmp_path):
    """100 inputs of 4 bits are in 13 words, which could hold 104."""
    rng = np.random.default_rng(7)
    made = {"weight_packed": Stored("I32", rng.integers(0, 2**31, (ROWS, 13)).astype(np.int32)),
            "weight_scale": Stored("F32", rng.random((ROWS, 4), np.float32)),
            "weight_shape": Stored("I64", np.array([ROWS, 100], np.int64))}
    form = FORMATS["packed_4"]
    (tmp_path / "model.safetensors").write_bytes(write_tensors({_name(form, part): made[part] for part in made}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": form.config}))
    for tensors in _cut(build, tmp_path, _plan(tmp_path, {"layers.*.mlp.m": "colwise"}), 4):
        np.testing.assert_array_equal(_parts(form, tensors)["weight_shape"], [ROWS // 4, 100])


@pytest.mark.parametrize("default", ["error", "replicate"])
def test_scales_of_heads_of_several_projections_in_one(build, tmp_path, default):
    """Of six heads each, so that shares of all rows end where scales do, which are those of the keys alone."""
    heads, width = 6, 16
    name = "model.layers.0.self_attn.qkv_proj"
    rng = np.random.default_rng(8)
    tensors = {f"{name}.weight": Stored("F8_E4M3", rng.integers(0, 127, (3 * heads * width, 64)).astype(np.uint8)),
               f"{name}.weight_scale": Stored("F32", rng.random((3 * heads * width, 1), np.float32)),
               f"{name}.k_scale": Stored("F32", rng.random(heads, np.float32))}
    (tmp_path / "model.safetensors").write_bytes(write_tensors(tensors))
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "llama", "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": width,
        "hidden_size": 64}))
    for answer in _cut(build, tmp_path, _plan(tmp_path, {"layers.*.self_attn.qkv_proj": "colwise"}, default), 2):
        if default == "error":
            assert answer == (f"{name}.k_scale: cannot be cut with {name}.weight: that is several projections in one, "
                              "and whose heads its 6 numbers are of is not known")
            continue
        for part, tensor in tensors.items():
            np.testing.assert_array_equal(answer[part], tensor.data)


def _qwen3_vl_moe(folder, hidden: int, inner: int, published: bool, quantised: bool) -> dict[str, np.ndarray]:
    """Stacks of experts [experts, out, in] as transformers 5 writes them, or [experts, in, out] as published."""
    layer = "model.language_model.layers.0"
    shapes = {"model.language_model.embed_tokens.weight": (64, hidden), "lm_head.weight": (64, hidden),
              "model.language_model.norm.weight": (hidden,), f"{layer}.input_layernorm.weight": (hidden,),
              f"{layer}.post_attention_layernorm.weight": (hidden,), f"{layer}.mlp.gate.weight": (2, hidden)}
    shapes |= {f"{layer}.self_attn.{name}_proj.weight": (64, hidden) for name in "qkv"}
    shapes |= {f"{layer}.self_attn.o_proj.weight": (hidden, 64)}
    rng = np.random.default_rng(9)
    tensors = {name: Stored("F32", rng.random(shape, np.float32)) for name, shape in shapes.items()}
    for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        shape = (2, columns, rows) if published else (2, rows, columns)
        codes = rng.integers(0, 127, shape).astype(np.uint8)
        tensors[f"{layer}.mlp.experts.{name}"] = Stored("F8_E4M3" if quantised else "U8", codes)
        if quantised:
            scale = rng.random((2, shape[1] // GROUP, shape[2] // GROUP), np.float32)
            tensors[f"{layer}.mlp.experts.{name}_scale_inv"] = Stored("F32", scale)
    (folder / "model.safetensors").write_bytes(write_tensors(tensors))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "qwen3_vl_moe", "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]} if quantised else {},
        "text_config": {"num_hidden_layers": 1, "hidden_size": hidden, "moe_intermediate_size": inner, "num_experts": 2,
                        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}}))
    return {name: tensor.data for name, tensor in tensors.items() if ".experts." in name}


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("hidden, inner", [(128, 64), (64, 128), (192, 64), (64, 64)])
def test_stacks_of_experts_in_either_order(build, tmp_path, hidden, inner, published, quantised):
    """Where shapes do not tell the order of both stacks, the words for the wrong one do not fit them together."""
    whole = _qwen3_vl_moe(tmp_path, hidden, inner, published, quantised)
    for rank, tensors in enumerate(_cut(build, tmp_path, "-", 2)):
        if published and hidden in (inner, 2 * inner):
            stack, axis, word = ("down_proj", 2, "half") if hidden == inner else ("gate_up_proj", 1, "twice")
            assert isinstance(tensors, str), f"rank {rank} has a slice"
            assert tensors.startswith(f"model.language_model.layers.0.mlp.experts.{stack}: axis {axis} has "), tensors
            assert f"not {word} the" in tensors
            assert tensors.endswith("give a plan file with packed_rowwise for gate_up_proj and colwise for down_proj")
            continue
        assert isinstance(tensors, dict), tensors
        for name, tensor in whole.items():
            axis, parts = (1, 2) if "gate_up" in name else (2, 1)
            axis = 3 - axis if published else axis
            expected = np.concatenate([np.split(part, 2, axis)[rank] for part in np.split(tensor, parts, axis)], axis)
            np.testing.assert_array_equal(tensors[name], expected, name)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_stacks_of_experts_that_are_modules(build, tmp_path, published, quantised):
    """NAME.weight with as many inputs as inner units: the shape of down_proj says nothing of its order."""
    size, name = 64, "model.layers.0.mlp.experts"
    rng = np.random.default_rng(10)
    tensors = {}
    for stack, rows in (("gate_up_proj", 2 * size), ("down_proj", size)):
        shape = (2, size, rows) if published else (2, rows, size)
        tensors[f"{name}.{stack}.weight"] = Stored("F8_E4M3", rng.integers(0, 127, shape).astype(np.uint8))
        if quantised:
            scale = rng.random((2, shape[1] // GROUP, shape[2] // GROUP), np.float32)
            tensors[f"{name}.{stack}.weight_scale_inv"] = Stored("F32", scale)
    (tmp_path / "model.safetensors").write_bytes(write_tensors(tensors))
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "llama", "quantization_config": {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}}))
    plan = _plan(tmp_path, {"layers.*.mlp.experts.gate_up_proj": "packed_colwise",
                            "layers.*.mlp.experts.down_proj": "rowwise"})
    for rank, answer in enumerate(_cut(build, tmp_path, plan, 2)):
        if published:
            assert isinstance(answer, str), f"rank {rank} has a slice"
            assert answer.startswith(f"{name}.down_proj.weight: axis 2 has 64 steps, which are not half the 64"), answer
            continue
        assert isinstance(answer, dict), answer
        np.testing.assert_array_equal(answer[f"{name}.down_proj.weight"],
                                      np.split(tensors[f"{name}.down_proj.weight"].data, 2, 2)[rank])
        halves = np.split(tensors[f"{name}.gate_up_proj.weight"].data, 2, 1)
        np.testing.assert_array_equal(answer[f"{name}.gate_up_proj.weight"],
                                      np.concatenate([np.split(half, 2, 1)[rank] for half in halves], 1))


@pytest.mark.parametrize("word", ["colwise", "rowwise"])
def test_padded_scales_of_nvfp4_are_not_those_of_int4(build, tmp_path, word):
    """Of 64 rows, padded to 128: as if two rows were in a byte."""
    form = FORMATS["nvfp4"]
    made = form.make(np.random.default_rng(11), 64, COLUMNS)
    scale = made["weight_scale"].data
    made["weight_scale"] = Stored("F8_E4M3", np.concatenate([scale, np.zeros_like(scale)]))
    (tmp_path / "model.safetensors").write_bytes(write_tensors({_name(form, part): made[part] for part in made}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": form.config}))
    for answer in _cut(build, tmp_path, _plan(tmp_path, {"layers.*.mlp.m": word}), 2):
        assert isinstance(answer, str), "a slice"
        assert answer.endswith("how the bytes of model.layers.0.mlp.m.weight are packed is not known"), answer


# What has an edge inside of a pack or a group, or is a format that cannot be cut; and the end of the reason.
REFUSED = [
    ("fp8_block", "colwise", 3 * GROUP, COLUMNS, "an edge inside of a quantisation block of 32 rows (tp_size 2)"),
    ("mxfp8", "rowwise", ROWS, 3 * GROUP, "an edge inside of a quantisation block of 32 columns (tp_size 2)"),
    ("int8_group", "rowwise", ROWS, GROUP, "an edge inside of a quantisation block of 32 columns (tp_size 2)"),
    ("packed_4_zero_points", "colwise", 8, COLUMNS, "an edge inside of a pack of 8 rows (tp_size 2)"),
    ("gptq_4", "colwise", 96 + 8, COLUMNS, "an edge inside of a pack of 8 rows (tp_size 2)"),
    ("gptq_4", "rowwise", ROWS, 3 * GROUP, "an edge inside of a quantisation block of 32 columns (tp_size 2)"),
    ("gptq_4_ordered", "rowwise", ROWS, 40, "an edge inside of a pack of 8 columns (tp_size 2)"),
    ("awq", "colwise", 8, COLUMNS, "an edge inside of a pack of 8 rows (tp_size 2)"),
    ("nvfp4", "rowwise", ROWS, 48, "an edge inside of a quantisation block of 16 columns (tp_size 2)"),
    ("int4_rows", "colwise", 2, COLUMNS, "an edge inside of a pack of 2 rows (tp_size 2)"),
    ("mxfp4", "rowwise", ROWS, 3 * GROUP, "an edge inside of a pack of 32 columns (tp_size 2)"),
    ("gguf", "rowwise", ROWS, COLUMNS, "how long its blocks are tells the value of qweight_type, and no value is read "
     "for a plan"),
]


@pytest.mark.parametrize("name, word, rows, columns, reason", REFUSED)
def test_what_cannot_be_cut_is_refused_or_whole(build, tmp_path, name, word, rows, columns, reason):
    form = FORMATS[name]
    made = _write(tmp_path, form, rows, columns)
    rule = {f"layers.*.mlp.{'experts.' if form.stack else ''}m": word}
    for answer in _cut(build, tmp_path, _plan(tmp_path, rule), 2):
        assert isinstance(answer, str)
        assert answer.startswith(_prefix(form))
        assert answer.endswith(reason)
    for answer in _cut(build, tmp_path, _plan(tmp_path, rule, "replicate"), 2):
        parts = _parts(form, answer)
        assert parts.keys() == made.keys()
        for part, tensor in parts.items():
            np.testing.assert_array_equal(tensor, made[part])
