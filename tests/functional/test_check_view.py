"""scripts/check-view must itself be right: slices cut by hand pass, and any wrong byte, shape, name or rank does not."""

import json
import struct

import numpy as np
import pytest

from models import config_of
from checkpoints.tensors import tensors_of
from checkpoints.values import block_values, blocks


def source(kind: str, **changes) -> dict[str, np.ndarray]:
    """The values of a tiny checkpoint as the generator makes them, without reading a file."""
    config, extra = config_of(kind, **changes)
    tensors = {}
    for tensor in tensors_of(config, **extra):
        values = np.concatenate([block_values(tensor, 0, first, count) for first, count in blocks(tensor)])
        tensors[tensor.name] = (tensor.dtype, values.reshape(tensor.shape))
    return tensors


def write(path, tensors: dict) -> None:
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rank_1_of_4(kind: str = "qwen3") -> dict:
    """Written out by hand for the sizes of models.py: 8 heads and 4 kv heads of 32, hidden 320, inner 704, 1024 words."""
    view = {}
    for name, (dtype, values) in source(kind).items():
        if "embed_tokens" in name or "lm_head" in name:
            values = values[256:512]
        elif "q_proj" in name:
            values = values[64:128]
        elif "k_proj" in name or "v_proj" in name:
            values = values[32:64]
        elif "o_proj" in name:
            values = values[:, 64:128]
        elif "gate_proj" in name or "up_proj" in name:
            values = values[176:352]
        elif "down_proj" in name:
            values = values[:, 176:352]
        view[name] = (dtype, values)
    return view


def test_slices_cut_by_hand_are_equal(tiny, check_view, tmp_path):
    view = rank_1_of_4()
    write(tmp_path / "view.safetensors", view)
    done = check_view(tiny("qwen3"), 4, 1, tmp_path / "view.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] and result["tensors"] == len(view)
    assert result["bytes"] == sum(values.nbytes for _, values in view.values())


def test_fused_slices_cut_by_hand_are_equal(tiny, check_view, tmp_path):
    view = rank_1_of_4()
    for layer in range(2):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        for target, members in ((f"{attention}.qkv_proj", [f"{attention}.{one}_proj" for one in "qkv"]),
                                (f"{mlp}.gate_up_proj", [f"{mlp}.gate_proj", f"{mlp}.up_proj"])):
            parts = [view.pop(f"{member}.weight")[1] for member in members]
            view[f"{target}.weight"] = ("BF16", np.concatenate(parts))
    write(tmp_path / "view.safetensors", view)
    done = check_view(tiny("qwen3"), 4, 1, tmp_path / "view.safetensors", "--fuse")
    assert done.returncode == 0, done.stderr
    assert check_view(tiny("qwen3"), 4, 1, tmp_path / "view.safetensors").returncode == 1


def test_replicated_heads_and_padded_words(tiny, check_view, tmp_path):
    """Rank 5 of 8 has kv head 2 (4 heads, two ranks each); 1001 words are padded to 1024, and rank 7 has the zeros."""
    for rank in (5, 7):
        view = {}
        for name, (dtype, values) in source("qwen3-odd-vocabulary").items():
            if "embed_tokens" in name or "lm_head" in name:
                values = values[128 * rank : 128 * rank + 128]
                values = np.concatenate([values, np.zeros((128 - len(values), 320), np.uint16)])
            elif "q_proj" in name:
                values = values[32 * rank : 32 * rank + 32]
            elif "k_proj" in name or "v_proj" in name:
                values = values[32 * (rank // 2) : 32 * (rank // 2) + 32]
            elif "o_proj" in name:
                values = values[:, 32 * rank : 32 * rank + 32]
            elif "gate_proj" in name or "up_proj" in name:
                values = values[88 * rank : 88 * rank + 88]
            elif "down_proj" in name:
                values = values[:, 88 * rank : 88 * rank + 88]
            view[name] = (dtype, values)
        write(tmp_path / "view.safetensors", view)
        done = check_view(tiny("qwen3-odd-vocabulary"), 8, rank, tmp_path / "view.safetensors")
        assert done.returncode == 0, done.stderr


DOWN = "model.layers.1.mlp.down_proj.weight"


def one_bit(view):
    dtype, values = view[DOWN]
    view[DOWN] = (dtype, values.copy())
    view[DOWN][1][319, 175] ^= 1


def shifted_by_one(view):
    view[DOWN] = ("BF16", source("qwen3")[DOWN][1][:, 177:353])


def transposed(view):
    view[DOWN] = ("BF16", view[DOWN][1].T)


def other_dtype(view):
    view[DOWN] = ("F16", view[DOWN][1])


def missing(view):
    del view[DOWN]


def renamed(view):
    view[DOWN + "s"] = view.pop(DOWN)


def other_layer(view):
    view[DOWN] = view[DOWN.replace("layers.1", "layers.0")]


@pytest.mark.parametrize("harm", [one_bit, shifted_by_one, transposed, other_dtype, missing, renamed, other_layer])
def test_a_wrong_view_is_named(tiny, check_view, tmp_path, harm):
    view = rank_1_of_4()
    harm(view)
    write(tmp_path / "view.safetensors", view)
    done = check_view(tiny("qwen3"), 4, 1, tmp_path / "view.safetensors")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and DOWN in done.stderr
    if harm is one_bit:
        assert "element [319, 175]" in done.stderr


def test_one_tensor_too_many(tiny, check_view, tmp_path):
    write(tmp_path / "view.safetensors", {**rank_1_of_4(), "stranger": ("U8", np.zeros(3, np.uint8))})
    done = check_view(tiny("qwen3"), 4, 1, tmp_path / "view.safetensors")
    assert done.returncode == 1 and "stranger" in done.stderr


def test_another_rank_is_not_equal(tiny, check_view, tmp_path):
    write(tmp_path / "view.safetensors", rank_1_of_4())
    for rank in (0, 2, 3):
        assert check_view(tiny("qwen3"), 4, rank, tmp_path / "view.safetensors").returncode == 1


def test_what_cannot_be_read(tiny, check_view, tmp_path):
    (tmp_path / "empty.safetensors").touch()
    for file in ("nowhere.safetensors", "empty.safetensors"):
        done = check_view(tiny("qwen3"), 4, 1, tmp_path / file)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and file in done.stderr
    assert check_view(tiny("qwen3"), 4, 4, tmp_path / "x.safetensors").returncode == 2
