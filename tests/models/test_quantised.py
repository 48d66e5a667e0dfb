"""Quantised weights: what a rank gets stands for its slice of the matrix that the whole stands for."""

import json

import numpy as np
import pytest
from quantise import FORMATS, GROUP, Format
from tensor_file import write_tensors
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
